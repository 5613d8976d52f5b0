"""What users did elsewhere, checked, joined to the users of the log, and sorted by user and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks, shown
from .clocks import MICROSECONDS, Clock
from .config import DataConfig
from .events import EventLog, read_ids, read_time
from .row_order import by_time, check_order, encoded, exact_repeats, mixed, tie_hashes, ties, without_file_order


@dataclass
class CrossDomain:
    """What the users of a log did elsewhere, sorted by (user, clock); entries of one moment by a hash of their ids.

    Attributes:
        user: (n,) int64, rows of `EventLog.user_ids`.
        item: (n,) text, any ids.
        clock: (n,) int64, on the clock of the log.
        time: the column that `clock` is from, as read: by row of the file, with its unit.
        unmatched_users, unmatched_entries: users of the file that the log lacks, and their rows, which are left out.
        unsorted: rows that stood before an earlier row of the same user in the file.
        repeats: rows of the file that equalled an earlier one in every column, and were left out.
    """

    user: np.ndarray
    item: pa.Array | pa.ChunkedArray
    clock: np.ndarray
    time: Clock
    unmatched_users: int
    unmatched_entries: int
    unsorted: int
    repeats: int


def read_cross_domain(
    table: pa.Table, checks: RowChecks, log: EventLog, first_user: str, config: DataConfig
) -> CrossDomain:
    """Checks every row of what users did elsewhere and joins it to the users of the log.

    Args:
        table: raw rows with the columns `user_id`, `item_id` (any ids) and `timestamp`.
        checks: the verdicts on its rows; filled here.
        first_user: of the whole log, for errors.

    Raises:
        DataError: the first row that is bad for a reason not in `DataConfig.drop`; a log of positions, which no time
            can be compared with; no user of the log in the file.
    """
    if log.clock_name != "timestamp":
        raise DataError(
            f"{checks.file}: what users did elsewhere is placed in their histories by time, but the events have no "
            "`timestamp`. Map a column of times to `timestamp` in `event_columns`, or leave `cross_domain` out."
        )
    ids = read_ids(table, ("user_id", "item_id"), checks)
    time = read_time(table, "timestamp", checks, config.time_unit)
    clock = time.values
    if time.is_date and not log.clock_is_date:
        clock = clock // MICROSECONDS
    elif log.clock_is_date and not time.is_date:
        too_large = np.abs(clock) > 2**43
        checks.refuse(too_large, "bad_time", "timestamp", table["timestamp"], "seconds, as the events have dates")
        clock = np.where(too_large, 0, clock) * MICROSECONDS
    checks.require_rows()
    of_file, file_ids = encoded(ids["user_id"])
    place = pc.fill_null(pc.index_in(file_ids, value_set=log.user_ids.cast(file_ids.type)), -1)
    user = np.r_[place.to_numpy(zero_copy_only=False).astype(np.int64), -1][of_file]  # a missing id has the code -1
    user = np.where(user < 0, len(log.user_ids) + of_file, user)  # strangers after those of the log
    item, item_ids = encoded(ids["item_id"])
    rows = by_time(user, clock, checks.keep)
    tied = ties(user[rows], clock[rows])
    if tied.any():
        hashes = mixed(tie_hashes(file_ids)[of_file], tie_hashes(item_ids)[item])
        rows = without_file_order(rows, tied, (user, clock, hashes, item))
        alike = np.r_[False, tied[1:] & tied[:-1]]
        for key in (user, clock, item):
            alike[1:] &= key[rows[1:]] == key[rows[:-1]]
        repeats = exact_repeats(table, rows, alike)
        checks.keep[repeats] = False
        checks.notes["repeats"] = len(repeats)
    unsorted = check_order(table, "timestamp", of_file, clock, checks)
    known = checks.keep & (user < len(log.user_ids))
    named = np.flatnonzero(of_file >= 0)
    checks.require(
        bool(known.any()),
        int(named[0]) if len(named) else None,
        lambda whole: (
            f"{whole.file}: column {checks.named('user_id')}: none of its users stands in the event log. Received "
            f"e.g. {shown(file_ids[0].as_py())}, allowed: ids of the events such as {shown(first_user)}. "
            "Correct `cross_domain_columns`, or leave `cross_domain` out."
        ),
    )
    strangers = of_file[checks.keep & ~known]
    rows = rows[known[rows]]
    return CrossDomain(
        user=user[rows],
        item=ids["item_id"].take(pa.array(rows)),
        clock=clock[rows],
        time=time,
        unmatched_users=len(np.unique(strangers)),
        unmatched_entries=len(strangers),
        unsorted=unsorted,
        repeats=checks.notes.get("repeats", 0),
    )
