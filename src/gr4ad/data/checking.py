"""Bad rows: an error of one line that names the first, or a count of those that were dropped."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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


class RowChecks:
    """Collects the verdicts on the rows of one file.

    Args:
        file: the name that errors show.
        length: number of rows of the file.
        drop: reasons whose rows are dropped and counted; any other reason raises `DataError` at its first row.
        columns: our name -> the file's, of columns that were given our names; errors name both.

    Attributes:
        keep: (length,) bool, rows that passed so far.
        dropped: rows dropped, by reason.
        notes: what was seen and is no fault, by name: for the accounting.
    """

    def __init__(self, file: str, length: int, drop: Collection[str], columns: Mapping[str, str] | None = None):
        self.file = file
        self.drop = drop
        self.columns = dict(columns or {})
        self.keep = np.ones(length, dtype=bool)
        self.dropped: dict[str, int] = {}
        self.notes: dict[str, Any] = {}

    def theirs(self, column: str) -> str:
        """The file's name of a column."""
        return self.columns.get(column, column)

    def named(self, column: str) -> str:
        """A column in an error: the file's name, and ours where it is another."""
        theirs = self.theirs(column)
        return f"`{theirs}`" if theirs == column else f"`{theirs}` (our `{column}`)"

    def refuse(self, bad: np.ndarray, reason: str, column: str, values: pa.ChunkedArray, allowed: str) -> None:
        """Drops the rows where `bad` ((length,) bool) holds, or raises `DataError` for the first of them."""
        assert reason in DROP_REASONS, reason
        rows = np.flatnonzero(bad & self.keep)
        if not len(rows):
            return
        if reason not in self.drop:
            raise DataError(self.line(column, int(rows[0]), values, len(rows), allowed, reason, "drop and count"))
        self.keep[rows] = False
        self.dropped[reason] = self.dropped.get(reason, 0) + len(rows)

    def line(
        self, column: str, row: int, values: pa.ChunkedArray, count: int, allowed: str, reason: str, remedy: str
    ) -> str:
        """The one-line text of an error at `row` (0-based, the header of a csv not counted)."""
        return (
            f"{self.file}: column {self.named(column)}, row {row} (0-based): received {shown(cell(values, row))}, "
            f"allowed: {allowed} ({count} such row{'s' if count > 1 else ''}). "
            f"Fix the file, or {remedy} such rows with `drop: [{reason}]`."
        )

    def require_rows(self) -> None:
        """Raises `DataError` when no row is left."""
        if not self.keep.any():
            dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "the file has none"
            raise DataError(f"{self.file}: no rows left ({dropped}). At least one row is needed: check the file.")
