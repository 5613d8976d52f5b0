"""Bad rows: an error of one line that names the first, or a count of those that were dropped."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pyarrow as pa

DROP_REASONS = {
    "missing": "an id, time, event name or request is empty",
    "bad_time": "a timestamp or position that is neither a whole number nor an ISO date",
    "bad_value": "a value that is not a finite number >= 0",
    "unknown_event": "an event name other than impression, click, conversion",
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


class RowChecks:
    """Collects the verdicts on the rows of one file.

    Args:
        file: the name that errors show.
        length: number of rows of the file.
        drop: reasons whose rows are dropped and counted; any other reason raises `DataError` at its first row.

    Attributes:
        keep: (length,) bool, rows that passed so far.
        dropped: rows dropped, by reason.
    """

    def __init__(self, file: str, length: int, drop: Collection[str]):
        self.file = file
        self.drop = drop
        self.keep = np.ones(length, dtype=bool)
        self.dropped: dict[str, int] = {}

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
            f"{self.file}: column `{column}`, row {row} (0-based): received {shown(values[row].as_py())}, "
            f"allowed: {allowed} ({count} such row{'s' if count > 1 else ''}). "
            f"Fix the file, or {remedy} such rows with `drop: [{reason}]`."
        )

    def require_rows(self) -> None:
        """Raises `DataError` when no row is left."""
        if not self.keep.any():
            dropped = ", ".join(f"{count} {reason}" for reason, count in self.dropped.items()) or "the file has none"
            raise DataError(f"{self.file}: no rows left ({dropped}). At least one row is needed: check the file.")
