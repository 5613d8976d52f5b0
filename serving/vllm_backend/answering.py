# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Answers the requests of one engine step together. Knows nothing of vLLM.

The checks and the batches are those of the native server, the search is the recommender's: requests of different
widths, lengths and `top_k` share one call of the model.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..http_schema import RecommendRequest
from ..live_model import Served
from ..recommend_service import Answer, BatchPlan, RefusedError, UserQuery, recommend_together, to_query
from ..server_config import ServerConfig

logger = logging.getLogger(__name__)

FIELDS = ("item_id", "score", "value", "sid", "attributes")


@dataclass(frozen=True)
class Query:
    """The fields of `/v1/recommend` that were given, and the widths that the engine chose, if it did."""

    fields: Mapping[str, Any]
    widths: Sequence[int] | None = None


@dataclass(frozen=True)
class Checked:
    """A query that can be answered: its place among the others, its defaults filled in, its widths."""

    place: int
    user: UserQuery
    widths: tuple[int, ...]


def answer_queries(served: Served, config: ServerConfig, queries: Sequence[Query]) -> list[dict[str, Any]]:
    """One answer a query, in their order.

    Returns:
        `{"ads": [[item_id, score, value, sid, attributes], ...], "beam_widths": [W_1, ..., W_T], "value_unit": str,
        "model": str, "model_version": int, "index_changes": int}`, or `{"status": HTTP status, "field": str | None,
        "detail": str}` where it is refused or failed: what is wrong with one query, or goes wrong with it, leaves the
        others untouched.
    """
    recommender = served.recommender
    answers: list[dict[str, Any]] = [{} for _ in queries]
    groups: dict[Hashable, list[Checked]] = {}
    for place, query in enumerate(queries):
        try:
            user = to_query(recommender, config, RecommendRequest.model_construct(**query.fields))
            widths = tuple(user.beam_widths or query.widths or recommender.beam_widths)
            groups.setdefault(user.group, []).append(Checked(place, user, widths))
        except Exception as error:
            answers[place] = failure(error)
    for group in groups.values():
        for checked, outcome in zip(group, outcomes(served, group), strict=True):
            answers[checked.place] = failure(outcome) if isinstance(outcome, Exception) else success(served, outcome)
    return answers


def outcomes(served: Served, group: Sequence[Checked]) -> Sequence[Answer | Exception]:
    """The answer of each, or why it has none: a group that fails is answered one by one."""
    try:
        plan = BatchPlan(served, [checked.widths for checked in group])
        return recommend_together([checked.user for checked in group], plan)
    except Exception as error:
        if len(group) == 1:
            return [error]
        logger.warning("A step of %d requests failed (%r); answering them one by one.", len(group), error)
        return [outcome for checked in group for outcome in outcomes(served, [checked])]


def success(served: Served, answer: Answer) -> dict[str, Any]:
    return {
        "ads": [[vars(ad)[name] for name in FIELDS] for ad in answer.ranked],
        "beam_widths": list(answer.widths),
        "value_unit": served.recommender.tokenizer.value_unit,
        "model": served.recommender.name,
        "model_version": answer.version,
        "index_changes": answer.changes,
    }


def failure(error: Exception) -> dict[str, Any]:
    if isinstance(error, RefusedError):
        return {"status": 422, "field": error.error.field, "detail": error.error.detail}
    if isinstance(error, ValueError):
        return {"status": 422, "field": None, "detail": str(error)}
    logger.error("A request failed in the model.", exc_info=error)
    detail = "The model failed on this request; the server's log says why. Report it."
    return {"status": 500, "field": None, "detail": detail}


__all__ = ["FIELDS", "Query", "answer_queries"]
