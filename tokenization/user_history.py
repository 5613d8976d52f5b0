# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What is known of a user when ads are ranked: one table of its columns, one row type that checks them.

Every path takes histories in this form: training and evaluation rows, preference lists, requests, records of the
online log. A further column is one more line in `HISTORY_FEATURES`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

LARGEST_AMOUNT = 1e30
"""Of a value: far above any money, and far below what float32 holds."""
MAX_ID_LENGTH = 1000
"""Characters of an item id, at most, wherever it stands: catalog, index, request."""
Kind = Literal["id", "text", "amount", "time"]
ALLOWED: dict[Kind, str] = {
    "id": "text",
    "text": "text",
    "amount": "finite numbers >= 0, up to 1e30",
    "time": "numbers (seconds) or None",
}


@dataclass(frozen=True)
class HistoryFeature:
    """One list column of a history.

    name: of the column, the argument and the field of a request. kind: what an entry may be, see `ALLOWED`. along: the
    column that it is as long as; its own name if it has a length of its own. model_input: what the model reads of it.
    description: for schemas and help texts.
    """

    name: str
    kind: Kind
    along: str
    model_input: str
    description: str


HISTORY_FEATURES = (
    HistoryFeature("events", "text", "items", "event_ids", "Event name of each history item."),
    HistoryFeature("values", "amount", "items", "value_ids", "Value of each history item, >= 0, in `value_unit`."),
    HistoryFeature(
        "times",
        "time",
        "items",
        "time_ids",
        "When each history item was engaged with, in seconds of any clock, e.g. Unix time.",
    ),
    HistoryFeature(
        "cross_domain",
        "id",
        "cross_domain",
        "cross_domain_ids",
        "What the user did elsewhere, any ids, oldest first; of any length.",
    ),
    HistoryFeature(
        "cross_domain_times",
        "time",
        "cross_domain",
        "cross_domain_places",
        "When each entry of `cross_domain` happened, on the clock of `times`.",
    ),
)
ITEM_COLUMNS = tuple(feature.name for feature in HISTORY_FEATURES if feature.along == "items")
"""Columns with one entry an item, beside `items` itself."""
HISTORY_COLUMNS = ("items", *(feature.name for feature in HISTORY_FEATURES))
ITEM_INPUTS = ("item_ids", *(feature.model_input for feature in HISTORY_FEATURES if feature.along == "items"))
"""Inputs of the model with one entry an item."""


class HistoryError(ValueError):
    """A history that cannot be read. `field`: the column at fault; `row`: its row, where there are several."""

    def __init__(self, field: str, message: str, row: int | None = None):
        super().__init__(message if row is None else f"Row {row}: {message}")
        self.field, self.message, self.row = field, message, row

    def at(self, row: int) -> HistoryError:
        """The same error, of a row of a batch or a table."""
        return HistoryError(self.field, self.message, row)


@dataclass(frozen=True, eq=False)
class UserHistory:
    """One user's history; lists of an entry an item are as long as `items`, oldest first.

    Args:
        items: Item ids as text, in a list, tuple, or an array of numpy or pandas; or an integer array of item rows.
        events: Event name of each item. values: Value of each, finite and >= 0. times: When each was engaged with, in
            seconds of any clock; None or NaN where not known.
        cross_domain: What the user did elsewhere, any ids, oldest first. cross_domain_times: When, on the clock of
            `times`; without them every prefix of the history sees all entries.
        user_features: Category of each structured feature, text or None.

    Attributes hold lists of text, float64 arrays (unknown times are NaN), and None for what is not given.

    Raises:
        HistoryError: Naming the column, what was received, what is allowed, and the remedy.
    """

    items: Sequence[str] | np.ndarray
    events: Sequence[str] | None = None
    values: Sequence[float] | np.ndarray | None = None
    times: Sequence[float | None] | np.ndarray | None = None
    cross_domain: Sequence[str] | None = None
    cross_domain_times: Sequence[float | None] | np.ndarray | None = None
    user_features: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read = {"items": item_ids(self.items)}
        for feature in HISTORY_FEATURES:
            given = vars(self)[feature.name]
            if given is not None:
                read[feature.name] = entries(feature.name, feature.kind, given)
        for feature in HISTORY_FEATURES:
            own = read.get(feature.name)
            if own is None:
                continue
            if feature.along not in read:
                raise HistoryError(
                    feature.name, f"`{feature.name}` needs `{feature.along}`. Received: none. Give both, or neither."
                )
            if len(own) != len(read[feature.along]):
                raise HistoryError(
                    feature.name,
                    f"`{feature.name}` must be as long as `{feature.along}`, {len(read[feature.along])}. Received: "
                    f"{len(own)} entries. Give one for each, or leave it out.",
                )
        if "cross_domain_times" in read and "times" not in read:
            raise HistoryError(
                "cross_domain_times",
                "`cross_domain_times` are compared with `times`. Received: no `times`. Give both.",
            )
        features = {name: category(name, value) for name, value in self.user_features.items()}
        vars(self).update(read, user_features=features)  # which the frozen class would do one by one

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def from_row(cls, row: Mapping[str, Any], user_features: Iterable[str] = ()) -> UserHistory:
        """The history in a row of a data set, a record or a request: its columns of `HISTORY_COLUMNS`, None counting
        as not there, and the user features named, each a column of its own. Other columns are not read.

        Raises:
            HistoryError: If `items` is missing, or as the class.
        """
        if row.get("items") is None:
            raise HistoryError("items", "`items` is missing: give the item ids that the user engaged with.")
        columns = {name: row[name] for name in HISTORY_COLUMNS if row.get(name) is not None}
        features = {name: row[name] for name in user_features if name in row}
        return cls(**columns, user_features=features)

    def to_row(self) -> dict[str, Any]:
        """The columns as plain lists, user features as columns of their own; without what is not given."""
        columns = {name: vars(self)[name] for name in HISTORY_COLUMNS if vars(self)[name] is not None}
        plain = {name: part.tolist() if isinstance(part, np.ndarray) else list(part) for name, part in columns.items()}
        return {**plain, **self.user_features}

    def take(self, places: Sequence[int]) -> UserHistory:
        """The items at these places with what is known of each; all else stays."""
        kept: dict[str, Any] = {
            name: part[places] if isinstance(part, np.ndarray) else [part[place] for place in places]
            for name in ("items", *ITEM_COLUMNS)
            if (part := vars(self)[name]) is not None
        }
        return self._with(**kept)

    def _with(self, **checked: Any) -> UserHistory:
        """A copy with other columns that need no checks: they are parts of those that were checked."""
        history = copy(self)
        vars(history).update(checked)
        return history

    def first(self, count: int) -> UserHistory:
        """The history as it was after its first `count` items: without what happened elsewhere after item `count` + 1,
        where `cross_domain_times` tell."""
        cut = self.take(range(min(count, len(self))))
        if self.cross_domain_times is None or self.cross_domain is None or self.times is None:
            return cut
        seen = np.flatnonzero(history_places(self.times, self.cross_domain_times) <= count).tolist()
        return cut._with(
            cross_domain=[self.cross_domain[place] for place in seen],
            cross_domain_times=np.asarray(self.cross_domain_times)[seen],
        )


def user_histories(
    items: Sequence[Sequence[str] | np.ndarray],
    *,
    user_features: Mapping[str, Sequence[str | None]] | None = None,
    **columns: Sequence[Sequence[Any]] | None,
) -> list[UserHistory]:
    """Histories of several users from one list a column; `columns` are those of `HISTORY_COLUMNS`, each with one list
    a user.

    Raises:
        HistoryError: If a column has not one entry a user, or as [`UserHistory`], with the row.
    """
    features = user_features or {}
    check_histories(items)
    for name, lists in (*columns.items(), *features.items()):
        if lists is not None and len(lists) != len(items):
            raise HistoryError(
                "user_features" if name in features else name,
                f"`{name}` needs one entry for each of the {len(items)} histories. Received: {len(lists)}.",
            )
    given = {name: lists for name, lists in columns.items() if lists is not None}
    histories = []
    for row, ids in enumerate(items):
        try:
            own = {name: lists[row] for name, lists in given.items()}
            histories.append(
                UserHistory(ids, **own, user_features={name: values[row] for name, values in features.items()})
            )
        except HistoryError as error:
            raise error.at(row) from None
    return histories


def check_histories(histories: Any) -> None:
    """Raises HistoryError for ids that stand alone or in one flat list, where there should be one list a user."""
    alone = isinstance(histories, str) or not isinstance(histories, Iterable)
    first = histories if alone else next(iter(histories), None)
    if alone or isinstance(first, str | int | np.integer):
        received = ascii(first) if alone else f"a flat list, {first!r:.50}, ..."
        raise HistoryError(
            "items",
            f"Histories must be lists of item ids, one a user. Received: {received}. For one user write "
            f"[[{str(first)!r:.50}{'' if alone else ', ...'}]].",
        )


# --- entries
# ---------------------------------------------------------------------------------------------------------------------


def item_ids(given: Any) -> list[str] | np.ndarray:
    """Ids as a list of text, or item rows as an int64 array. Raises HistoryError for anything else."""
    if isinstance(given, np.ndarray) and given.dtype.kind in "iu" and given.ndim == 1:
        return given.astype(np.int64)
    return texts("items", given)


def entries(name: str, kind: Kind, given: Any) -> list[str] | np.ndarray:
    """The entries of a list column as its kind. Raises HistoryError for an entry of another kind; names it."""
    return texts(name, given) if kind in ("id", "text") else numbers(name, kind, given)


def as_sequence(name: str, given: Any) -> Sequence[Any] | np.ndarray:
    """A list, a tuple, or a one-dimensional array of what can be made one (numpy, pandas, pyarrow)."""
    if isinstance(given, list | tuple):
        return given
    array = np.asarray(given)
    if array.ndim != 1 or isinstance(given, Mapping):
        raise HistoryError(name, f"`{name}` must be a list. Received: {given!r:.100}. Put it into one.")
    return array


def texts(name: str, given: Any) -> list[str]:
    values = as_sequence(name, given)
    listed: list[Any] = values.tolist() if isinstance(values, np.ndarray) else list(values)
    if set(map(type, listed)) - {str} and not all(isinstance(value, str) for value in listed):
        place = next(place for place, value in enumerate(listed) if not isinstance(value, str))
        more = " An integer numpy array would be item rows." if name == "items" else ""
        raise HistoryError(
            name,
            f"`{name}[{place}]` must be text. Received: {listed[place]!r:.100} ({type(listed[place]).__name__}). "
            f"Write it as the catalog does, e.g. {str(listed[place])!r:.50}.{more}",
        )
    return listed


def numbers(name: str, kind: Kind, given: Any) -> np.ndarray:
    values = as_sequence(name, given)
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":  # None, text, booleans, or nothing at all
        listed = list(values)
        for place, value in enumerate(listed):
            if isinstance(value, bool | np.bool_) or not (
                isinstance(value, int | float | np.number) or (value is None and kind == "time")
            ):
                raise bad_number(name, kind, place, value)
        try:
            array = np.array([math.nan if value is None else value for value in listed], dtype=np.float64)
        except OverflowError as error:  # a whole number beyond what a float holds
            raise HistoryError(name, f"`{name}` must hold {ALLOWED[kind]}. Received: {error}.") from error
    array = array.astype(np.float64)
    if kind == "amount":
        bad = ~((array >= 0) & (array <= LARGEST_AMOUNT))
        if bad.any():
            raise bad_number(name, kind, int(bad.argmax()), float(array[bad.argmax()]))
    return array


def bad_number(name: str, kind: Kind, place: int, value: Any) -> HistoryError:
    return HistoryError(
        name,
        f"`{name}[{place}]` is {value!r:.100}. Allowed: {ALLOWED[kind]}. Correct it, or leave `{name}` out.",
    )


def category(name: str, value: Any) -> str | None:
    """A category of a user feature; None where it is missing, which pandas writes as NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, str):
        raise HistoryError(
            name,
            f"`{name}` must be text or None. Received: {value!r:.100} ({type(value).__name__}). Write the category as "
            f"the training data does, e.g. {str(value)!r:.50}.",
        )
    return value


def history_places(
    times: Sequence[float | None] | np.ndarray, moments: Sequence[float | None] | np.ndarray
) -> np.ndarray:
    """How many items of a history a prefix must have to see each of some moments.

    A prefix of n items sees the moments whose place is at most n: those before its target, item n + 1, and before
    every later item. What happened at the very time of an item counts as after it, so that no target is told.

    Args:
        times (float, (S,)): Of the items; where clocks went back, the earliest of later ones counts. None or NaN, not
            known: hidden from prefixes whose target it could have followed.
        moments (float, (X,)): On the same clock; one that is not known only the whole history sees.

    Returns:
        int64 (X,), 0..S.
    """
    known = np.asarray(times, dtype=np.float64)
    known = np.where(np.isnan(known), -np.inf, known)
    earliest = np.minimum.accumulate(known[::-1])[::-1]  # of each item and those after it: ascending
    return np.searchsorted(earliest, np.asarray(moments, dtype=np.float64), side="right").astype(np.int64)


__all__ = [
    "HISTORY_COLUMNS",
    "HISTORY_FEATURES",
    "ITEM_COLUMNS",
    "ITEM_INPUTS",
    "HistoryError",
    "HistoryFeature",
    "UserHistory",
    "history_places",
    "user_histories",
]
