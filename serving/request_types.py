# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What travels through serving: a query, its answer or refusal, and what is served. No tensors, no HTTP, no engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from gr4ad.tokenization.user_history import UserHistory


@dataclass(frozen=True)
class Recommendation:
    """One ranked ad.

    item_id; score: log-probability-based ranking score, higher is better, comparable within one request; value:
    expected value in the tokenizer's `value_unit` (None for a model without value head); sid: its semantic ID as text,
    e.g. `<a_3><b_17><c_9>`;
    attributes: the item table's further columns, e.g. `{"title": ...}`.
    """

    item_id: str
    score: float
    value: float | None
    sid: str
    attributes: dict[str, Any]


class UnknownItemError(ValueError):
    """A history holds no item of the index: there is nothing to recommend from."""


ITEM_LISTS = ("allow_items", "block_items")
"""Fields of a query that hold item ids."""


@dataclass(frozen=True)
class RecommendQuery:
    """One user's history and what to return.

    user; top_k: ads, None = the server's default; beam_widths: W_1..W_T, None = as the beam policy decides;
    exclude_history: None = as the artifact says; max_per_account: None = no limit; deadline_ms: milliseconds that the
    query may wait before the model starts on it, None = the server's; allow_items: ids that alone may be returned,
    None = all, () = none; block_items: ids that may not be. Ids that the index does not know have no effect.
    """

    user: UserHistory
    top_k: int | None = None
    beam_widths: tuple[int, ...] | None = None
    exclude_history: bool | None = None
    max_per_account: int | None = None
    deadline_ms: float | None = None
    allow_items: tuple[str, ...] | None = None
    block_items: tuple[str, ...] | None = None

    def to_fields(self) -> dict[str, Any]:
        """The query as plain values, what is absent left out: for another process, or as a key."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        given["user"] = {
            name: value.tolist() if isinstance(value, np.ndarray) else value
            for name, value in vars(self.user).items()
            if value is not None
        }
        return given

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> RecommendQuery:
        """The query of `to_fields`."""
        tuples = {name: tuple(given[name]) for name in ("beam_widths", *ITEM_LISTS) if given.get(name) is not None}
        return cls(**{**given, **tuples, "user": UserHistory(**given["user"])})


@dataclass(frozen=True)
class Answer:
    """ranked: ads, best first. widths: T beam widths used. model, unit: the artifact's name and unit of values.
    version: of the weights; changes: number of the last index change that it knows. cached: whether it is an earlier
    one. unknown: ids that the index does not know, by the field of the query that names them."""

    ranked: list[Recommendation]
    widths: tuple[int, ...]
    model: str
    unit: str
    version: int
    changes: int
    cached: bool = False
    unknown: dict[str, list[str]] = field(default_factory=dict)

    def to_fields(self) -> dict[str, Any]:
        """The answer as plain values (those of the item table as they are): for another process, or to keep."""
        return {**vars(self), "ranked": [vars(ad) for ad in self.ranked]}

    @classmethod
    def from_fields(cls, given: Mapping[str, Any], *, cached: bool = False) -> Answer:
        """The answer of `to_fields`."""
        ranked = [Recommendation(**ad) for ad in given["ranked"]]
        return cls(**{**given, "ranked": ranked, "widths": tuple(given["widths"]), "cached": cached})


@dataclass(frozen=True)
class Refusal:
    """Why a query has no answer. status: of HTTP; detail: what was received, what is allowed, the remedy; field: at
    fault; retry_after: seconds after which the same query may fit."""

    status: int
    detail: str
    field: str | None = None
    retry_after: int | None = None


class RefusedError(ValueError):
    """What cannot be answered as it stands; `refusal` says why."""

    def __init__(self, refusal: Refusal):
        super().__init__(refusal.detail)
        self.refusal = refusal


class ReloadError(ValueError):
    """The new weights cannot take the place of those that are served, which stay."""


@dataclass(frozen=True)
class ServedModel:
    """What is served now.

    model: name of the artifact; model_version: of the weights, 1 for the first; index_changes: number of the last
    change of the ads that was applied; ads: those that can be recommended; features: columns of a history that the
    model reads beside the items; user_features: names of those it knows.
    """

    model: str
    model_version: int
    index_changes: int
    ads: int
    features: tuple[str, ...] = ()
    user_features: tuple[str, ...] = ()

    @classmethod
    def from_fields(cls, given: Mapping[str, Any]) -> ServedModel:
        """Of plain values as another process sends them, what else they hold left out."""
        known = {field.name: given[field.name] for field in fields(cls)}
        return cls(**{**known, "features": tuple(known["features"]), "user_features": tuple(known["user_features"])})
