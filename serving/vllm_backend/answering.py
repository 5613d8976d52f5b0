# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Answers the requests of one engine step together. Knows nothing of vLLM.

The checks are those of the HTTP server, the search is the recommender's: requests of different widths, lengths and
`top_k` share one call of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..http_schema import RecommendRequest
from ..http_server import RefusedError, UserQuery, to_query
from ..recommender import Recommendation, Recommender
from ..server_config import ServerConfig

logger = logging.getLogger(__name__)

FIELDS = ("item_id", "score", "value", "sid", "attributes")


@dataclass(frozen=True)
class Query:
    """The fields of `/v1/recommend` that were given (and `cross_domain`), and the widths the engine chose, if any."""

    fields: Mapping[str, Any]
    widths: Sequence[int] | None = None


@dataclass(frozen=True)
class Checked:
    """A query that can be answered: where it stands among the others, and with every default filled in."""

    place: int
    user: UserQuery
    cross_domain: Sequence[str] | None

    @property
    def group(self) -> Hashable:
        """Queries with the same group fit in one call of the recommender."""
        user = self.user
        given = [part is not None for part in (user.events, user.values, user.times, self.cross_domain)]
        return *given, user.max_per_account


def check(recommender: Recommender, config: ServerConfig, place: int, query: Query) -> Checked:
    """Raises RefusedError, as the HTTP server's `to_query`."""
    given = dict(query.fields)
    cross_domain = given.pop("cross_domain", None)
    if query.widths is not None:
        given["beam_widths"] = list(query.widths)
    return Checked(place, to_query(recommender, config, RecommendRequest.model_construct(**given)), cross_domain)


def recommend_group(recommender: Recommender, group: Sequence[Checked]) -> list[list[Recommendation]]:
    """Answers queries of one group with one call; each gets its own `top_k` of its own widths."""
    users = [checked.user for checked in group]
    first, by_default = users[0], recommender.generation_config.exclude_history
    return recommender.recommend(
        [user.history for user in users],
        events=None if first.events is None else [user.events or [] for user in users],
        values=None if first.values is None else [user.values or [] for user in users],
        times=None if first.times is None else [user.times or [] for user in users],
        cross_domain=None if group[0].cross_domain is None else [checked.cross_domain or [] for checked in group],
        user_features={
            name: [user.user_features.get(name) for user in users] for name in recommender.tokenizer.user_features
        },
        top_k=[user.top_k for user in users],
        beam_widths=[user.beam_widths for user in users],
        exclude_history=[by_default if user.exclude_history is None else user.exclude_history for user in users],
        max_per_account=first.max_per_account,
    )


def answer_queries(recommender: Recommender, config: ServerConfig, queries: Sequence[Query]) -> list[dict[str, Any]]:
    """One answer a query, in their order.

    Returns:
        `{"ads": [(item_id, score, value, sid, attributes), ...], "beam_widths": [W_1, ..., W_T], "value_unit": str,
        "model": str}`, or `{"status": HTTP status, "field": str | None, "detail": str}` where it is refused or failed:
        what is wrong with one query, or goes wrong with it, leaves the others untouched.
    """
    answers: list[dict[str, Any]] = [{} for _ in queries]
    groups: dict[Hashable, list[Checked]] = {}
    for place, query in enumerate(queries):
        try:
            checked = check(recommender, config, place, query)
            groups.setdefault(checked.group, []).append(checked)
        except RefusedError as error:
            answers[place] = {"status": 422, "field": error.error.field, "detail": error.error.detail}
        except Exception as error:
            answers[place] = failure(error)
    for group in groups.values():
        for checked, outcome in zip(group, outcomes(recommender, group), strict=True):
            if isinstance(outcome, Exception):
                answers[checked.place] = failure(outcome)
            else:
                answers[checked.place] = {
                    "ads": [[vars(ad)[name] for name in FIELDS] for ad in outcome],
                    "beam_widths": list(checked.user.beam_widths),
                    "value_unit": recommender.tokenizer.value_unit,
                    "model": recommender.name,
                }
    return answers


def outcomes(recommender: Recommender, group: Sequence[Checked]) -> Sequence[list[Recommendation] | Exception]:
    """The answer of each, or why it has none: a group that fails is answered one by one."""
    try:
        return recommend_group(recommender, group)
    except Exception as error:
        if len(group) == 1:
            return [error]
        logger.warning("A step of %d requests failed (%r); answering them one by one.", len(group), error)
        return [outcome for checked in group for outcome in outcomes(recommender, [checked])]


def failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, ValueError):
        return {"status": 422, "field": None, "detail": str(error)}
    logger.error("A request failed in the model.", exc_info=error)
    detail = "The model failed on this request; the server's log says why. Report it."
    return {"status": 500, "field": None, "detail": detail}


__all__ = ["FIELDS", "Query", "answer_queries"]
