"""The checked event log, and what users did elsewhere: arrays sorted by user and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks, shown
from .columns import MICROSECONDS, as_ids, as_times, nulls, whole
from .config import DataConfig
from .event_columns import EVENT_FEATURES, IMPRESSION, read_event_names


@dataclass
class EventLog:
    """The good rows of an event log, sorted by (user, clock), rows of equal clock in the order of the file.

    Attributes:
        user: (n,) int64, rows of `user_ids`.
        item: (n,) int64, rows of the catalog.
        event: (n,) int8, rows of `EVENT_NAMES`.
        features: (n,) entries of each of `EVENT_FEATURES` that the log has, by the history's column.
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
    features: dict[str, pa.Array]
    clock: np.ndarray
    cut: np.ndarray
    request: np.ndarray | None
    user_ids: pa.Array
    clock_name: str
    clock_is_date: bool
    cut_is_date: bool
    unsorted: int

    @property
    def value(self) -> np.ndarray:
        """(n,) float64, >= 0; of rows without one: 0 for impressions, 1 for the others."""
        return self.features["values"].to_numpy()

    def times(self, clock: np.ndarray) -> np.ndarray:
        """Whole seconds since 1970 UTC, or the log's own numbers, int64, of moments on its clock."""
        return clock // MICROSECONDS if self.clock_is_date else clock


@dataclass
class CrossDomain:
    """What the users of a log did elsewhere, sorted by (user, clock).

    Attributes:
        user: (n,) int64, rows of `EventLog.user_ids`.
        item: (n,) text, any ids.
        clock: (n,) int64, on the clock of the log.
        unmatched_users, unmatched_entries: users of the file that the log lacks, and their rows, which are left out.
        unsorted: rows that stood before an earlier row of the same user in the file.
    """

    user: np.ndarray
    item: pa.Array
    clock: np.ndarray
    unmatched_users: int
    unmatched_entries: int
    unsorted: int


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

    ids = _read_ids(table, ("user_id", "item_id"), checks)
    clock, clock_is_date = _read_clock(table, clock_name, checks)
    cut, cut_is_date = clock, clock_is_date
    if config.split == "temporal":
        cut_name = _split_column(names, file, config)
        if cut_name != clock_name:
            cut, cut_is_date = _read_clock(table, cut_name, checks)
    event = read_event_names(table, checks)
    read = {feature.history: feature.read(table, checks, event) for feature in EVENT_FEATURES}
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

    rows = _in_order(user, clock, checks.keep)
    log = EventLog(
        user=user[rows],
        item=pc.fill_null(item, 0).to_numpy(zero_copy_only=False).astype(np.int64)[rows],
        event=event[rows],
        features={name: column.take(pa.array(rows)) for name, column in read.items() if column is not None},
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


def read_cross_domain(table: pa.Table, checks: RowChecks, log: EventLog) -> CrossDomain:
    """Checks every row of what users did elsewhere and joins it to the users of the log.

    Args:
        table: raw rows with the columns `user_id`, `item_id` (any ids) and `timestamp`.
        checks: the verdicts on its rows; filled here.

    Raises:
        DataError: the first row that is bad for a reason not in `DataConfig.drop`; a log of positions, which no time
            can be compared with; no user of the log in the file.
    """
    if log.clock_name != "timestamp":
        raise DataError(
            f"{checks.file}: what users did elsewhere is placed in their histories by time, but the events have no "
            "`timestamp`. Map a column of times to `timestamp` in `event_columns`, or leave `cross_domain` out."
        )
    ids = _read_ids(table, ("user_id", "item_id"), checks)
    clock, is_date = _read_clock(table, "timestamp", checks)
    if is_date and not log.clock_is_date:
        clock = clock // MICROSECONDS
    elif log.clock_is_date and not is_date:
        too_large = np.abs(clock) > 2**43
        checks.refuse(too_large, "bad_time", "timestamp", table["timestamp"], "seconds, as the events have dates")
        clock = np.where(too_large, 0, clock) * MICROSECONDS
    checks.require_rows()
    of_file, file_ids = _codes(ids["user_id"])
    unsorted = _check_order(table, "timestamp", of_file, clock, checks)
    place = pc.fill_null(pc.index_in(file_ids, value_set=log.user_ids.cast(file_ids.type)), -1)
    user = np.r_[place.to_numpy(zero_copy_only=False).astype(np.int64), -1][of_file]  # a missing id has the code -1
    known = checks.keep & (user >= 0)
    if not known.any():
        raise DataError(
            f"{checks.file}: column `user_id`: none of its users stands in the event log. Received e.g. "
            f"{shown(file_ids[0].as_py())}, allowed: ids of the events such as {shown(log.user_ids[0].as_py())}. "
            "Correct `cross_domain_columns`, or leave `cross_domain` out."
        )
    strangers = of_file[checks.keep & ~known]
    rows = _in_order(user, clock, known)
    return CrossDomain(
        user=user[rows],
        item=ids["item_id"].take(pa.array(rows)),
        clock=clock[rows],
        unmatched_users=len(np.unique(strangers)),
        unmatched_entries=len(strangers),
        unsorted=unsorted,
    )


def _read_ids(table: pa.Table, names: tuple[str, ...], checks: RowChecks) -> dict[str, pa.Array]:
    ids = {name: as_ids(table[name], name, checks.file) for name in names}
    for name, column in ids.items():
        checks.refuse(nulls(column), "missing", name, table[name], "a non-empty id")
    return ids


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


def _in_order(user: np.ndarray, clock: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The rows to keep ((n,) bool), sorted by (user, clock)."""
    rows = np.flatnonzero(keep)
    return rows[np.lexsort((clock[rows], user[rows]))]


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
