"""The splits: three cuts along each user's history, and the exposure lists of the training period."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .checking import DataError
from .clocks import Clock, read_bound
from .config import DataConfig
from .event_columns import EVENT_NAMES, IMPRESSION
from .events import EventLog
from .row_order import joint_keys, stable_order


@dataclass
class History:
    """History events of a log, sorted by (user, clock), and the cuts along each user's run of rows.

    Train is rows [start, first), validation targets are [first, second), test targets [second, last); the history of
    an evaluated user is everything from `start` to the targets.

    Attributes:
        rows: (h,) int64, rows of the log.
        start, first, second, last: (users,) int64, positions in `rows`.
        active: (users,) bool, users with history events, and enough of them.
        first_held_out: the earliest moment of a held-out event of an active user, on the log's clock; of a part of a
            log that of the whole log, if it is known. The greatest number where there is none.
    """

    rows: np.ndarray
    start: np.ndarray
    first: np.ndarray
    second: np.ndarray
    last: np.ndarray
    active: np.ndarray
    first_held_out: int


@dataclass
class Rows:
    """Rows of one prepared table, m of them: whose history each holds, up to where, and lists beside it.

    Attributes:
        user: (m,) int64, rows of `EventLog.user_ids`.
        start, stop: (m,) int64, the history, as positions in `History.rows`.
        moment: (m,) int64, on the log's clock: what the user did elsewhere before it belongs to the row.
        lengths: (m,) int64, entries of each row in each of the lists.
        lists: the lists of all rows, one after the other, (sum of lengths,) each, by column. Evaluated users have
            `target_items` (rows of the catalog; distinct per user, in order of first occurrence) and `target_values`
            (summed over the user's held-out events of that item); exposure lists have `candidates` (rows of the
            catalog), `rewards` and `outcomes` (rows of `EVENT_NAMES`: the furthest thing that came of each).
        known: (m,) bool, False where something that came of an exposure list is held out; None for the splits.
        left_out: users left out by reason (`no_history`, `no_targets`), or lists (`no_history`) and impression rows
            (`rows_after_training`).
    """

    user: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    moment: np.ndarray
    lengths: np.ndarray
    lists: dict[str, np.ndarray]
    left_out: dict[str, int]
    known: np.ndarray | None = None


def cut_history(log: EventLog, config: DataConfig, file: str) -> tuple[History, int]:
    """The cuts of each user, and the number of users left out for having fewer than `min_user_events`. Raises
    DataError if there are no history events, or bounds cannot be read in the split column's unit or are out of
    order."""
    wanted = [EVENT_NAMES.index(name) for name in config.history_events]
    rows = np.flatnonzero(np.isin(log.event, wanted))
    if log.whole is None:
        require_history(len(rows), config, file)
    users = len(log.user_ids)
    counts = np.bincount(log.user[rows], minlength=users)
    last = np.cumsum(counts)
    start = last - counts
    if config.split == "leave_one_out":
        first, second = np.maximum(last - 2, start), np.maximum(last - 1, start)
        enough = counts >= config.min_user_events
    else:
        bounds = split_bounds(log, config, file)
        user, cut = log.user[rows], log.cut[rows]
        first, second, last = (start + np.bincount(user[cut < bound], minlength=users) for bound in bounds)
        enough = first - start >= config.min_user_events
    active = (counts > 0) & enough
    if log.whole is None or log.whole.first_held_out is None:
        held_out = active & (first < last)
        earliest = int(log.clock[rows[first[held_out]]].min(initial=np.iinfo(np.int64).max))
    else:
        earliest = log.whole.first_held_out
    return History(rows, start, first, second, last, active, earliest), int(((counts > 0) & ~enough).sum())


def require_history(events: int, config: DataConfig, file: str) -> None:
    """Raises DataError for a log without events that histories are made of."""
    if not events:
        raise DataError(
            f"{file}: no row is a {' or '.join(config.history_events)}, so every history is empty. Allowed: at least "
            "one such row. Name the log's events in `history_events`."
        )


def training_ends(log: EventLog, history: History) -> np.ndarray:
    """(users,) int64, the moment on the log's clock before which a user's training period lies: the first held-out
    event, or the log's earliest one for users who have none; of users that are not active the smallest number."""
    ends = np.full(len(history.start), np.iinfo(np.int64).min)
    held_out = history.active & (history.first < history.last)
    ends[held_out] = log.clock[history.rows[history.first[held_out]]]
    ends[history.active & ~held_out] = history.first_held_out
    return ends


def make_splits(log: EventLog, history: History, file: str) -> dict[str, Rows]:
    """Train, validation and test. Raises DataError for a split without users."""
    splits = {
        "train": _split(log, history, history.first, None),
        "validation": _split(log, history, history.first, history.second),
        "test": _split(log, history, history.second, history.last),
    }
    if log.whole is None:
        for name, split in splits.items():
            require_users(name, len(split.user), int(history.active.sum()), split.left_out, file)
    return splits


def require_users(name: str, users: int, active: int, left_out: dict[str, int], file: str) -> None:
    """Raises DataError for a split without users; of all `active` ones some were left out."""
    if not users:
        raise DataError(
            f"{file}: the {name} split is empty: of {active} users, {left_out['no_history']} have no history before "
            f"it and {left_out['no_targets']} no event in it. Allowed: at least one user with both. Check the split's "
            "bounds, `min_user_events` and `history_events`."
        )


def make_exposures(log: EventLog, history: History, config: DataConfig, file: str) -> Rows | None:
    """Exposure lists of the training period, by user and time: impression rows of one request, or of one (user, time).
    None when the log has no impressions."""
    shown_rows = np.flatnonzero(log.event == IMPRESSION)
    if not len(shown_rows):
        return None
    if config.split == "temporal":
        before = log.cut < split_bounds(log, config, file)[0]
    else:
        before = log.clock < training_ends(log, history)[log.user]
    in_training = before[shown_rows]
    late = int((~in_training).sum())
    rows = shown_rows[in_training]
    label = log.clock if log.request is None else log.request
    (key,) = joint_keys((log.user[rows], label[rows]))
    rows = rows[stable_order(key)]
    user, group = log.user[rows], label[rows]
    opens = np.flatnonzero(np.r_[True, (user[1:] != user[:-1]) | (group[1:] != group[:-1])]) if len(rows) else rows
    lengths = np.diff(np.r_[opens, len(rows)])
    user, clock = user[opens], log.clock[rows[opens]]

    stop = rows_before(log.user[history.rows], log.clock[history.rows], user, clock)
    kept = history.active[user] & (stop > history.start[user])
    order = np.flatnonzero(kept)
    order = order[np.lexsort((clock[order], user[order]))]
    user, opens, lengths, stop, clock = user[order], opens[order], lengths[order], stop[order], clock[order]
    assert (stop <= history.first[user]).all(), "an exposure list saw events after the training period"
    rows = rows[spans(opens, opens + lengths)]
    outcome, held_out = outcomes(log, before)
    known = np.ones(len(user), dtype=bool)
    known[np.repeat(np.arange(len(user)), lengths)[held_out[rows]]] = False
    lists = {"candidates": log.item[rows], "rewards": log.value[rows], "outcomes": outcome[rows]}
    left_out = {"no_history": int((~kept).sum()), "rows_after_training": late}
    return Rows(user, history.start[user], stop, clock, lengths, lists, left_out, known)


def outcomes(log: EventLog, in_training: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What came of each impression: clicks and conversions of the same user and item that carry its request, or in a
    log without requests come at or after it and before the item's next impression to the user.

    Args:
        in_training: (n,) bool, rows of the log that training may see.

    Returns:
        (n,) int8, rows of `EVENT_NAMES`, the furthest in training; (n,) bool, whether any of it is held out. Both mean
        something on impression rows only.
    """
    import pandas as pd

    pair = log.user * (int(log.item.max()) + 1) + log.item
    if log.request is None:
        group = _last_shown(pair, log.clock, log.event == IMPRESSION)
    else:  # groups need no order, so that hashing finds them
        pair, _ = pd.factorize(pair)
        group, _ = pd.factorize(pair * (int(log.request.max()) + 2) + log.request + 1)
    response = log.event > IMPRESSION
    count = int(group.max()) + 1
    furthest = np.zeros(count, dtype=np.int8)
    for event in range(IMPRESSION + 1, len(EVENT_NAMES)):
        furthest[group[(log.event == event) & in_training]] = event
    held_out = np.zeros(count, dtype=bool)
    held_out[group[response & ~in_training]] = True
    return furthest[group], held_out[group]


def _last_shown(pair: np.ndarray, clock: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """A number for each row's latest moment, up to its own, at which its pair (a code) was shown ((n,) bool); one and
    the same number for all rows without such a moment. int64 (n,), >= 0."""
    (key,) = joint_keys((pair, clock))
    order = np.argsort(key)
    new = np.r_[True, key[order][1:] != key[order][:-1]]
    starts = np.flatnonzero(new)
    pairs = pair[order][starts]
    was_shown = np.logical_or.reduceat(shown[order], starts)
    last = np.maximum.accumulate(np.where(was_shown, np.arange(len(starts)), -1))
    moment = np.where((last >= 0) & (pairs[last] == pairs), last, len(starts))
    group = np.empty(len(pair), np.int64)
    group[order] = moment[np.cumsum(new) - 1]
    return group


def spans(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """All positions of the half-open ranges [start, stop) ((m,) int64 each), one range after the other."""
    lengths = stop - start
    return np.repeat(start - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())


def rows_before(row_user: np.ndarray, row_clock: np.ndarray, user: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """(m,) int64: position after the rows of `user` strictly earlier than `clock` ((m,) each), among rows sorted by
    (`row_user`, `row_clock`) ((n,) each)."""
    rows, asked = joint_keys((row_user, row_clock), (user, clock))
    return np.searchsorted(rows, asked, side="left")


def _split(log: EventLog, history: History, stop: np.ndarray, target_stop: np.ndarray | None) -> Rows:
    """Histories up to `stop` with the events from there to `target_stop` as targets; None: without targets."""
    with_history = history.active & (stop > history.start)
    chosen = with_history if target_stop is None else with_history & (target_stop > stop)
    left_out = {
        "no_history": int((history.active & ~with_history).sum()),
        "no_targets": int((with_history & ~chosen).sum()),
    }
    user = np.flatnonzero(chosen)
    start, stop = history.start[user], stop[user]
    if target_stop is None:
        moment = training_ends(log, history)[user]
        return Rows(user, start, stop, moment, np.zeros(len(user), dtype=np.int64), {}, left_out)
    rows = history.rows[spans(stop, target_stop[user])]
    owner = np.repeat(np.arange(len(user)), target_stop[user] - stop)
    items = log.item[rows]
    width = int(log.item.max(initial=0)) + 1
    _, first, group = np.unique(owner * width + items, return_index=True, return_inverse=True)
    values = np.bincount(group, weights=log.value[rows], minlength=len(first)).astype(np.float64)  # of no rows int64
    order = np.argsort(first)
    first = first[order]
    return Rows(
        user=user,
        start=start,
        stop=stop,
        moment=log.clock[history.rows[stop]],
        lengths=np.bincount(owner[first], minlength=len(user)),
        lists={"target_items": items[first], "target_values": values[order]},
        left_out=left_out,
    )


def split_bounds(log: EventLog, config: DataConfig, file: str) -> tuple[int, int, int]:
    """First moment of validation, of test, and after test, on the clock of `EventLog.cut`. Raises DataError if bounds
    cannot be read in the split column's unit, or are out of order."""
    last = int(log.cut.max()) if log.whole is None else log.whole.last_cut
    return read_bounds(log.cut_time, last, config, file)


def read_bounds(cut_time: Clock, last: int, config: DataConfig, file: str) -> tuple[int, int, int]:
    """The bounds of [`split_bounds`] for a log whose latest moment is `last`."""
    assert config.validation_start is not None and config.test_start is not None

    def bound(name: str, given: int | str) -> int:
        return read_bound(name, given, cut_time, config.split_column, file)

    validation, test = bound("validation_start", config.validation_start), bound("test_start", config.test_start)
    end = last + 1 if config.test_end is None else bound("test_end", config.test_end)
    if not validation < test < end:
        raise DataError(
            f"{file}: the bounds should rise: `validation_start` < `test_start` < `test_end` (by default the end of "
            f"the log). Received: {config.validation_start}, {config.test_start}, {config.test_end}. Correct them."
        )
    return validation, test, end
