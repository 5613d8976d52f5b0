"""The leakage check: no row that anything is fitted on holds what is held out. Part of every preparation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .config import DataConfig
from .events import EventLog
from .splits import History, Rows, spans, split_bounds
from .tables import HistoryTrack


def check_leakage(
    log: EventLog,
    history: History,
    rows: Mapping[str, Rows],
    tracks: Sequence[HistoryTrack],
    config: DataConfig,
    file: str,
) -> dict[str, Any]:
    """Looks at every entry that the prepared tables will hold, against the held-out events as the settings define
    them, and returns what was looked at: `rows` entries of training rows and lists, `held_out` events.

    The held-out events are found anew here, from the log alone; how the splits were cut plays no part.

    Args:
        log: as split. history: its history events. rows: the prepared tables by name. tracks: the history first, then
            what users did elsewhere.

    Raises:
        AssertionError: a row holds what it must not: a fault of this program.
    """
    held_out = held_out_events(log, history, config, file)
    first = np.full(len(log.user_ids), np.iinfo(np.int64).max - 1)  # the earliest held-out moment of each user
    np.minimum.at(first, log.user[held_out > 0], log.clock[held_out > 0])
    checked = 0
    for name, part in rows.items():
        allowed = {"train": 0, "impressions": 0, "validation": 0, "test": 1}[name]
        entries = history.rows[spans(part.start, part.stop)]
        owner = np.repeat(part.user, part.stop - part.start)
        assert (held_out[entries] <= allowed).all(), f"{name}: a history holds a held-out event"
        assert (log.user[entries] == owner).all(), f"{name}: a history holds an event of another user"
        checked += len(entries) if allowed == 0 else 0
        for track in tracks[1:]:
            start, stop = track.spans(part)
            assert track.by_moment is not None
            moments = track.by_moment[1][spans(start, stop)]
            limit = np.repeat(part.moment if name in ("validation", "test") else first[part.user], stop - start)
            assert (moments < limit).all(), f"{name}: what a user did elsewhere is of the held-out time"
            checked += len(moments) if allowed == 0 else 0
    if "impressions" in rows:
        lists = rows["impressions"]
        # Where another column is cut than the clock, a list may share its moment with the first held-out event.
        early = lists.moment < first[lists.user] + int(log.cut_time is not log.time)
        assert early.all(), "impressions: a list is of the held-out time"
        checked += int(lists.lengths.sum())
    return {"entries": checked, "held_out_events": int((held_out > 0).sum())}


def held_out_events(log: EventLog, history: History, config: DataConfig, file: str) -> np.ndarray:
    """(n,) int8, by row of the log: 1 for a history event of validation, 2 of test or later, 0 for all others, and for
    all events of users that are left out."""
    chosen = np.zeros(len(log.user), dtype=bool)
    chosen[history.rows] = True
    chosen &= history.active[log.user]
    if config.split == "temporal":
        validation, test, _ = split_bounds(log, config, file)
        return ((log.cut >= validation).astype(np.int8) + (log.cut >= test)) * chosen
    part = np.zeros(len(log.user), dtype=np.int8)
    rows = np.flatnonzero(chosen)
    last = np.r_[log.user[rows][1:] != log.user[rows][:-1], True] if len(rows) else np.zeros(0, bool)
    part[rows[last]] = 2
    before = np.flatnonzero(last) - 1
    before = before[before >= 0]
    before = before[~last[before]]  # of users with one event alone, the row before is another user's
    part[rows[before]] = 1
    return part
