# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""From queries to answers on one recommender: checks, defaults, and one call for queries that fit together."""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import replace

from gr4ad.tokenization.user_history import HISTORY_FEATURES

from .live_model import Served
from .recommender import Recommender
from .request_types import Answer, RecommendQuery, Refusal, UnknownItemError

logger = logging.getLogger(__name__)


def filled(recommender: Recommender, query: RecommendQuery, top_k: int) -> RecommendQuery | Refusal:
    """The query with its defaults filled in, `top_k` among them; widths may stay open. Or, if the model cannot use it,
    a refusal that names the field, what was received, what is allowed and the remedy."""
    user, tokenizer = query.user, recommender.tokenizer
    most = (query.beam_widths or recommender.beam_widths)[-1]
    length = min(top_k, most) if query.top_k is None else query.top_k
    if not 1 <= length <= most:
        detail = (
            f"`top_k` must be in 1..{most}, the last beam width. Received: {length}. Ask for fewer items, or name "
            "wider `beam_widths`."
        )
        return Refusal(422, detail, "top_k")
    for name in (feature.name for feature in HISTORY_FEATURES):
        if vars(user)[name] is not None and name not in recommender.features:
            detail = f"{recommender.name!r} was trained without `{name}` of histories. Leave it out."
            return Refusal(422, detail, name)
    new = next((event for event in user.events or () if event not in tokenizer.event_places), None)
    if new is not None:
        detail = f"`events` holds {ascii(new)}; allowed are {tokenizer.allowed_events}. Use one of these."
        return Refusal(422, detail, "events")
    for name in user.user_features:
        if name not in tokenizer.user_features:
            known = ", ".join(tokenizer.user_features) or "none"
            detail = f"`user_features` names {ascii(name)}; {recommender.name!r} knows {known}. Leave it out."
            return Refusal(422, detail, "user_features")
    try:
        if query.max_per_account is not None:
            recommender.check_max_per_account(query.max_per_account)
        recommender.known_places([user])
    except UnknownItemError as error:
        return Refusal(422, str(error), "history")
    except ValueError as error:
        return Refusal(422, str(error), "max_per_account")
    exclude = recommender.weights.exclude_history if query.exclude_history is None else query.exclude_history
    return replace(query, top_k=length, exclude_history=exclude)


def group_of(query: RecommendQuery) -> Hashable:
    """Queries with the same group fit in one call of the recommender, and waste at most half of its rows: all run as
    many as the widest of them."""
    widths = query.beam_widths
    return None if widths is None else tuple(width.bit_length() for width in widths), query.max_per_account


def answer_together(served: Served, queries: Sequence[RecommendQuery]) -> list[Answer]:
    """Answers filled queries of one group, each with its widths, with one call."""
    recommender = served.recommender
    name, unit = recommender.name, recommender.tokenizer.value_unit
    return [
        Answer(
            ranked,
            query.beam_widths or (),
            name,
            unit,
            served.version,
            served.changes,
            unknown=recommender.unknown_items(query),
        )
        for query, ranked in zip(queries, recommender.rank(queries), strict=True)
    ]


def answer_each(
    served: Served, queries: Sequence[tuple[RecommendQuery, Sequence[int] | None]], top_k: int
) -> list[Answer | Refusal]:
    """One answer a query, in their order: what is wrong with one, or goes wrong with it, leaves the others untouched.

    Args:
        queries: Each with the widths that were chosen for it; those that it names itself come first, and the
            artifact's are used where there are neither.
        top_k: Default of queries that name none.
    """
    recommender = served.recommender
    answers: dict[int, Answer | Refusal] = {}
    groups: dict[Hashable, list[tuple[int, RecommendQuery]]] = {}
    for place, (given, chosen) in enumerate(queries):
        query = filled(recommender, given, top_k)
        if isinstance(query, Refusal):
            answers[place] = query
            continue
        widths = tuple(query.beam_widths or chosen or recommender.beam_widths)
        groups.setdefault(group_of(query), []).append((place, replace(query, beam_widths=widths)))
    waiting = list(groups.values())
    while waiting:
        group = waiting.pop()
        places, ready = zip(*group, strict=True)
        try:
            answers.update(zip(places, answer_together(served, ready), strict=True))
        except Exception as error:
            if len(group) == 1:
                answers[places[0]] = failure(error)
            else:
                logger.warning("A step of %d requests failed (%r); answering them one by one.", len(group), error)
                waiting.extend([part] for part in group)
    return [answers[place] for place in range(len(queries))]


def failure(error: BaseException) -> Refusal:
    """What a client is told of an error: not what failed inside, which is for the log."""
    if isinstance(error, UnknownItemError):
        return Refusal(422, str(error), "history")
    logger.error("A request failed in the model.", exc_info=error)
    return Refusal(500, "The model failed on this request; the server's log says why. Report it.")
