"""The checked event log: integer arrays sorted by user and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks
from .columns import MICROSECONDS, as_ids, as_numbers, as_times, nulls, whole
from .config import EVENT_NAMES, DataConfig

IMPRESSION = EVENT_NAMES.index("impression")


@dataclass
class EventLog:
    """The good rows of an event log, sorted by (user, clock), rows of equal clock in the order of the file.

    Attributes:
        user: (n,) int64, rows of `user_ids`.
        item: (n,) int64, rows of the catalog.
        event: (n,) int8, rows of `EVENT_NAMES`.
        value: (n,) float64, >= 0; of rows without one: 0 for impressions, 1 for the others.
        clock: (n,) int64, the time or position; microseconds when `clock_is_date`.
        cut: (n,) int64, the column that a temporal split cuts, on its own clock.
        request: (n,) int64, code of `request_id`, or None when the log has no such column.
        user_ids: (users,) text.
        clock_name: the column the clock was read from: `timestamp` or, in a log without, `position`.
        clock_is_date, cut_is_date: the clock counts microseconds since 1970 UTC.
        unsorted: rows that stood before an earlier row of the same user in the file.
    """

    user: np.ndarray
    item: np.ndarray
    event: np.ndarray
    value: np.ndarray
    clock: np.ndarray
    cut: np.ndarray
    request: np.ndarray | None
    user_ids: pa.Array
    clock_name: str
    clock_is_date: bool
    cut_is_date: bool
    unsorted: int

    @property
    def times(self) -> np.ndarray:
        """(n,) int64: whole seconds since 1970 UTC, or the log's own numbers."""
        return self.clock // MICROSECONDS if self.clock_is_date else self.clock


def read_log(table: pa.Table, checks: RowChecks, item_keys: pa.Array, config: DataConfig) -> EventLog:
    """Checks every row of the raw events and encodes them.

    Args:
        table: raw events with our column names.
        checks: the verdicts on its rows; filled here.
        item_keys: (items,) text by which the events refer to the catalog's rows.

    Raises:
        DataError: the first row that is bad for a reason not in `config.drop`; a missing column.
    """
    file = checks.file
    names = table.column_names
    clock_name = next((name for name in ("timestamp", "position") if name in names), None)
    if clock_name is None:
        raise DataError(
            f"{file}: no column `timestamp` or `position`. Columns there are: {', '.join(names)}. Map one of them to "
            "`timestamp` (seconds or dates) or `position` (whole numbers) in the column map of the events."
        )

    ids = {name: as_ids(table[name], name, file) for name in ("user_id", "item_id")}
    for name, column in ids.items():
        checks.refuse(nulls(column), "missing", name, table[name], "a non-empty id")
    clock, clock_is_date = _read_clock(table, clock_name, checks)
    cut, cut_is_date = clock, clock_is_date
    if config.split == "temporal":
        cut_name = _split_column(names, file, config)
        if cut_name != clock_name:
            cut, cut_is_date = _read_clock(table, cut_name, checks)
    event = _read_events(table, checks)
    value = _read_values(table, checks, event == IMPRESSION)
    item = pc.index_in(ids["item_id"], value_set=item_keys.cast(ids["item_id"].type))
    checks.refuse(
        nulls(item), "unknown_item", "item_id", table["item_id"], "an item of the catalog; see also `event_key`"
    )
    request = None
    if "request_id" in names:
        request_ids = as_ids(table["request_id"], "request_id", file)
        checks.refuse(
            nulls(request_ids) & (event == IMPRESSION), "missing", "request_id", table["request_id"], "a non-empty id"
        )
        request = _codes(request_ids)[0]
    checks.require_rows()

    user, user_ids = _codes(ids["user_id"])
    if clock_name == "position":
        rows = np.flatnonzero(checks.keep & (event != IMPRESSION))
        repeated = np.zeros(len(user), dtype=bool)
        repeated[rows] = _repeats(user[rows], clock[rows])
        checks.refuse(
            repeated, "duplicate_position", "position", table["position"], "one click or conversion row a position"
        )
    unsorted = _check_order(table, clock_name, user, clock, checks)

    rows = np.flatnonzero(checks.keep)
    rows = rows[np.lexsort((clock[rows], user[rows]))]
    log = EventLog(
        user=user[rows],
        item=pc.fill_null(item, 0).to_numpy(zero_copy_only=False).astype(np.int64)[rows],
        event=event[rows],
        value=value[rows],
        clock=clock[rows],
        cut=cut[rows],
        request=None if request is None else request[rows],
        user_ids=user_ids,
        clock_name=clock_name,
        clock_is_date=clock_is_date,
        cut_is_date=cut_is_date,
        unsorted=unsorted,
    )
    backwards = (log.user[1:] == log.user[:-1]) & (log.cut[1:] < log.cut[:-1])
    if backwards.any():
        row = int(rows[1:][backwards][0])
        raise DataError(
            f"{file}: column `{config.split_column}`, row {row} (0-based): goes back although `{clock_name}` goes on "
            f"({int(backwards.sum())} such rows). Allowed: a split column that never decreases along a user's log, "
            f"else histories would hold later events. Split by `{clock_name}`, or fix the file."
        )
    return log


def _read_clock(table: pa.Table, name: str, checks: RowChecks) -> tuple[np.ndarray, bool]:
    column = table[name]
    clock, bad, is_date = as_times(column)
    missing = nulls(column)
    allowed = "an ISO date" if is_date else "a whole number"
    checks.refuse(missing, "missing", name, column, allowed)
    checks.refuse(bad & ~missing, "bad_time", name, column, f"{allowed}, of the same kind in all rows")
    return clock, is_date


def _split_column(names: list[str], file: str, config: DataConfig) -> str:
    ours = {theirs: ours for ours, theirs in config.columns_of("events").items()}
    name = config.split_column if config.split_column in names else ours.get(config.split_column)
    if name is None:
        raise DataError(
            f"{file}: no column `{config.split_column}` (`split_column`). Columns there are: {', '.join(names)}. Name "
            "one of them."
        )
    return name


def _read_events(table: pa.Table, checks: RowChecks) -> np.ndarray:
    if "event" not in table.column_names:
        return np.full(len(table), EVENT_NAMES.index("conversion"), dtype=np.int8)
    column = table["event"]
    text = as_ids(column, "event", checks.file)
    missing = nulls(text)
    checks.refuse(missing, "missing", "event", column, ", ".join(EVENT_NAMES))
    codes = pc.index_in(text, value_set=pa.array(EVENT_NAMES))
    checks.refuse(nulls(codes) & ~missing, "unknown_event", "event", column, ", ".join(EVENT_NAMES))
    return pc.fill_null(codes, 0).to_numpy(zero_copy_only=False).astype(np.int8)


def _read_values(table: pa.Table, checks: RowChecks, is_impression: np.ndarray) -> np.ndarray:
    if "value" not in table.column_names:
        return np.where(is_impression, 0.0, 1.0)
    column = table["value"]
    values = as_numbers(column)
    # An exposure that brought nothing commonly has no value; a click or conversion without one is an error.
    absent = nulls(column) & is_impression
    values = np.where(absent, 0.0, values)
    bad = ~(np.isfinite(values) & (values >= 0))
    checks.refuse(bad, "bad_value", "value", column, "a finite number >= 0")
    return values


def _check_order(table: pa.Table, name: str, user: np.ndarray, clock: np.ndarray, checks: RowChecks) -> int:
    rows = np.flatnonzero(checks.keep)
    rows = rows[np.argsort(user[rows], kind="stable")]
    back = (user[rows][1:] == user[rows][:-1]) & (clock[rows][1:] < clock[rows][:-1])
    if not back.any():
        return 0
    if "unsorted_time" not in checks.drop:
        at = np.flatnonzero(back)
        first = at[np.argmin(rows[at + 1])]
        row, before = int(rows[first + 1]), int(rows[first])
        previous = table[name][before].as_py()
        allowed = f"not before the user's previous row ({previous!r} in row {before})"
        raise DataError(
            checks.line(name, row, table[name], len(at), allowed, "unsorted_time", "put in time order and count")
        )
    return int(back.sum())


def _codes(ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    encoded = whole(ids).dictionary_encode()
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, encoded.dictionary


def _repeats(user: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """(n,) bool: rows whose (user, clock) stands in an earlier row."""
    order = np.lexsort((clock, user))
    same = (user[order][1:] == user[order][:-1]) & (clock[order][1:] == clock[order][:-1])
    repeated = np.zeros(len(user), dtype=bool)
    repeated[order[1:][same]] = True
    return repeated
