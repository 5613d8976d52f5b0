"""Bad rows: an error of one line that names the first, or a count of those that were dropped."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

DROP_REASONS = {
    "missing": "an id, time, event name or request is empty",
    "bad_time": "a timestamp or position that is neither a whole number nor an ISO date",
    "bad_value": "a value that is no finite number, or a negative one that `refunds` does not settle",
    "unknown_event": "an event name that is neither ours nor in `event_names`",
    "unknown_item": "an event for an item that is not in the catalog",
    "duplicate_item": "an item that is twice in the catalog (the first row is kept)",
    "duplicate_user": "a user who is twice in the users table (the first row is kept)",
    "duplicate_position": "two click or conversion rows of one user at one position (the first row is kept)",
    "unsorted_time": "a row earlier than the user's row before it (rows are put in time order, none is lost)",
}
"""Reasons that `DataConfig.drop` may name, and what each means."""


class DataError(ValueError):
    """The user's tables or data settings are wrong. One line: file, column, row, received, allowed, remedy."""

    def __init__(self, message: str):
        super().__init__(" ".join(message.splitlines()))


def shown(value: object) -> str:
    """`repr(value)`, cut to 80 characters so that an error stays one readable line."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def cell(column: pa.ChunkedArray, row: int) -> object:
    """A cell as errors show it; the bare number of a moment that Python has no date for."""
    try:
        return column[row].as_py()
    except (OverflowError, ValueError):
        return column[row].value


class BadRows(DataError):
    """The rows of a file, or of a part of it, that a check refuses.

    Attributes:
        step: which check of the file it is: checks come in one order, whatever the rows are.
        at: what orders bad rows; the text names the first. count: how many there are.
        text: the text, from the number of rows.
    """

    def __init__(self, step: int, at: int, count: int, text: Callable[[int], str]):
        super().__init__(text(count))
        self.step, self.at, self.count, self.text = step, at, count, text


@dataclass
class Demand:
    """What must hold somewhere in a file; of a part of it, what is known there.

    Attributes:
        step: which check of the file it is. met: it holds here.
        at: row (0-based, of the file) that the error shows, or None where the part has none to show.
        text: the error, from the verdict on the whole file.
    """

    step: int
    met: bool
    at: int | None
    text: Callable[[Verdict], str]


@dataclass
class Verdict:
    """What became of the rows of a file.

    Attributes:
        file: its name in errors. rows: its rows. kept: those that passed.
        dropped: the others by reason, in the order of the checks.
        notes: what was seen and is no fault, by name.
    """

    file: str
    rows: int
    kept: int
    dropped: dict[str, int] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


class RowChecks:
    """Collects the verdicts on the rows of one file, or of a part of it.

    Args:
        file: the name that errors show.
        length: number of rows.
        drop: reasons whose rows are dropped and counted; any other reason raises `DataError` at its first row.
        columns: our name -> the file's, of columns that were given our names; errors name both.
        rows: (length,) int64, of a part: the numbers that its rows have in the file. None: the whole file.
        facts: of a part: what columns of the whole file decide, by what it is and column, e.g. ("clock", "timestamp").

    Attributes:
        keep: (length,) bool, rows that passed so far.
        dropped: rows dropped, by reason. dropped_at: the check that first dropped some.
        notes: what was seen and is no fault, by name: for the accounting.
        step: checks so far. Every check counts, whether it finds something or not, so that those of several parts of
            a file can be told apart.
        demands: of a part: what must hold somewhere in the file.
    """

    def __init__(
        self,
        file: str,
        length: int,
        drop: Collection[str],
        columns: Mapping[str, str] | None = None,
        rows: np.ndarray | None = None,
        facts: Mapping[tuple[str, str], Any] | None = None,
    ):
        self.file = file
        self.drop = drop
        self.columns = dict(columns or {})
        self.rows = rows
        self.facts = facts or {}
        self.keep = np.ones(length, dtype=bool)
        self.dropped: dict[str, int] = {}
        self.dropped_at: dict[str, int] = {}
        self.notes: dict[str, Any] = {}
        self.step = 0
        self.demands: list[Demand] = []

    def theirs(self, column: str) -> str:
        """The file's name of a column."""
        return self.columns.get(column, column)

    def named(self, column: str) -> str:
        """A column in an error: the file's name, and ours where it is another."""
        theirs = self.theirs(column)
        return f"`{theirs}`" if theirs == column else f"`{theirs}` (our `{column}`)"

    def number(self, place: int) -> int:
        """The file's number (0-based) of a row."""
        return place if self.rows is None else int(self.rows[place])

    def numbers(self, places: np.ndarray) -> np.ndarray:
        """The file's numbers of rows, int64."""
        return places if self.rows is None else self.rows[places]

    @property
    def verdict(self) -> Verdict:
        """What became of the rows so far."""
        return Verdict(self.file, len(self.keep), int(self.keep.sum()), dict(self.dropped), dict(self.notes))

    def reject(self, places: np.ndarray, text: Callable[[int, int], str], order: np.ndarray | None = None) -> None:
        """Raises `BadRows` if there are bad rows.

        Args:
            places: rows that are bad. text: the error, from the place of the first and their number.
            order: by which the first is found, one number each; None: by the row.
        """
        self.step += 1
        if len(places):
            order = places if order is None else order
            first = int(places[order.argmin()])
            at = int(order.min()) if order is not places else self.number(first)
            raise BadRows(self.step, at, len(places), lambda count: text(first, count))

    def require(self, met: bool, place: int | None, text: Callable[[Verdict], str]) -> None:
        """Raises `DataError` if something does not hold that must hold somewhere in the file; of a part the `Demand`
        is kept. `place`: the row that the text shows."""
        self.step += 1
        if self.rows is not None:
            self.demands.append(Demand(self.step, met, None if place is None else self.number(place), text))
        elif not met and place is not None:
            raise DataError(text(self.verdict))

    def refuse(self, bad: np.ndarray, reason: str, column: str, values: pa.ChunkedArray, allowed: str) -> None:
        """Drops the rows where `bad` ((length,) bool) holds, or raises `DataError` for the first of them."""
        assert reason in DROP_REASONS, reason
        rows = np.flatnonzero(bad & self.keep)
        if reason not in self.drop:
            self.reject(
                rows, lambda row, count: self.line(column, row, values, count, allowed, reason, "drop and count")
            )
            return
        self.step += 1
        if len(rows):
            self.keep[rows] = False
            self.dropped[reason] = self.dropped.get(reason, 0) + len(rows)
            self.dropped_at.setdefault(reason, self.step)

    def line(
        self, column: str, row: int, values: pa.ChunkedArray, count: int, allowed: str, reason: str, remedy: str
    ) -> str:
        """The one-line text of an error at `row`, whose number errors give 0-based, the header of a csv not
        counted."""
        return (
            f"{self.file}: column {self.named(column)}, row {self.number(row)} (0-based): received "
            f"{shown(cell(values, row))}, allowed: {allowed} ({count} such row{'s' if count > 1 else ''}). "
            f"Fix the file, or {remedy} such rows with `drop: [{reason}]`."
        )

    def require_rows(self) -> None:
        """Raises `DataError` when no row is left."""

        def text(found: Verdict) -> str:
            dropped = ", ".join(f"{count} {reason}" for reason, count in found.dropped.items())
            return (
                f"{found.file}: no rows left ({dropped or 'the file has none'}). At least one row is needed: check "
                "the file."
            )

        self.require(bool(self.keep.any()), 0 if self.rows is None or len(self.rows) else None, text)
