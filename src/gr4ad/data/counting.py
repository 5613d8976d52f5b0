"""What a prepared log, or a part of it, adds to the account: counts, of which those of several parts add up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from fractions import Fraction
from functools import reduce
from typing import Any

import numpy as np

from .cross_domain import CrossDomain
from .event_columns import EVENT_NAMES
from .events import EventLog
from .exact_sums import exact_sum
from .row_order import ties
from .settling import RefundCounts
from .splits import History, Rows
from .tables import HistoryTrack

SMALL, LARGE = int(np.iinfo(np.int64).min), int(np.iinfo(np.int64).max)


def _least() -> Any:
    return field(default=LARGE, metadata={"join": min})


def _most() -> Any:
    return field(default=SMALL, metadata={"join": max})


class Counts:
    """A dataclass of counts: `joined` adds up those of several parts, fields with metadata `join` by that."""

    @classmethod
    def joined(cls, parts: Sequence[Any]) -> Any:
        """The counts of all parts together."""
        found = {}
        for option in fields(cls):  # type: ignore[arg-type]
            values = [getattr(part, option.name) for part in parts]
            found[option.name] = reduce(option.metadata.get("join", _added), values)
        return cls(**found)


def _added(first: Any, second: Any) -> Any:
    if isinstance(first, Counts):
        return type(first).joined([first, second])
    if isinstance(first, dict):
        shared = {name: _added(first[name], second[name]) for name in first if name in second}
        return {**first, **second, **shared}
    return first + second


@dataclass
class TableCounts(Counts):
    """Of a prepared table: its rows, entries of their histories and of the lists beside them, the sum of their target
    values, rows whose outcomes are held out, and what was left out by reason."""

    rows: int
    history: int
    entries: int
    target_values: Fraction
    hidden: int
    left_out: dict[str, int]


@dataclass
class ElsewhereCounts(Counts):
    """Of what users did elsewhere: entries and users that were joined, users and rows that were not, rows that were
    put in order, rows that repeat another, entries by prepared table, and the ends of their times."""

    entries: int
    users: int
    unmatched_users: int
    unmatched_entries: int
    unsorted: int
    repeats: int
    by_table: dict[str, int]
    first: int = _least()
    last: int = _most()


@dataclass
class LogCounts(Counts):
    """Of a log as it was split.

    Attributes:
        users, events: that it has. by_kind: events by name. has_item: (items,) bool, items with events.
        history: history events. tied: those that share their moment with another. followed, repeated: by part of the
            split, those with an event before them, and of these those of the same item.
        active, too_few: users that are split, and those left out for too few events.
        first, last, first_cut, last_cut: ends of the clock, and of the column that is cut.
        first_held_out: the earliest moment of a held-out event.
        tables: by name. leakage: what its check looked at.
    """

    users: int
    events: int
    by_kind: np.ndarray
    has_item: np.ndarray = field(metadata={"join": np.logical_or})
    unsorted: int
    repeats: int
    matched: int
    unmatched: int
    merged: int
    refunds: RefundCounts = field(metadata={"join": RefundCounts.__add__})
    history: int
    tied: int
    followed: dict[str, int]
    repeated: dict[str, int]
    active: int
    too_few: int
    first: int = _least()
    last: int = _most()
    first_cut: int = _least()
    last_cut: int = _most()
    first_held_out: int = _least()
    tables: dict[str, TableCounts] = field(default_factory=dict)
    leakage: dict[str, int] = field(default_factory=dict)


def count_log(
    log: EventLog, items: int, merged: int, refunds: RefundCounts, history: History, too_few: int
) -> LogCounts:
    """Counts of a log and its history events, without those of tables. `items`: of the catalog."""
    rows = history.rows
    user, item = log.user[rows], log.item[rows]
    has_item = np.zeros(items, dtype=bool)
    has_item[log.item] = True
    again = np.zeros(len(rows), dtype=bool)
    again[1:] = user[1:] == user[:-1]
    follows = again & history.active[user]
    again[1:] &= item[1:] == item[:-1]
    place = np.arange(len(user))
    parts = {
        "train": place < history.first[user],
        "validation": (place >= history.first[user]) & (place < history.second[user]),
        "test": (place >= history.second[user]) & (place < history.last[user]),
    }
    return LogCounts(
        users=int(len(np.unique(log.user))),
        events=len(log.user),
        by_kind=np.bincount(log.event, minlength=len(EVENT_NAMES)),
        has_item=has_item,
        unsorted=log.unsorted,
        repeats=log.repeats,
        matched=log.matched,
        unmatched=log.unmatched,
        merged=merged,
        refunds=refunds,
        history=len(rows),
        tied=int(ties(user, log.clock[rows]).sum()),
        followed={name: int((follows & part).sum()) for name, part in parts.items()},
        repeated={name: int((follows & again & part).sum()) for name, part in parts.items()},
        active=int(history.active.sum()),
        too_few=too_few,
        first=int(log.clock.min(initial=LARGE)),
        last=int(log.clock.max(initial=SMALL)),
        first_cut=int(log.cut.min(initial=LARGE)),
        last_cut=int(log.cut.max(initial=SMALL)),
        first_held_out=history.first_held_out,
    )


def count_tables(rows: Mapping[str, Rows]) -> dict[str, TableCounts]:
    """Counts of the prepared tables."""
    none = np.zeros(0)
    return {
        name: TableCounts(
            rows=len(part.user),
            history=int((part.stop - part.start).sum()),
            entries=int(part.lengths.sum()),
            target_values=exact_sum(part.lists.get("target_values", none)),
            hidden=0 if part.known is None else int((~part.known).sum()),
            left_out=part.left_out,
        )
        for name, part in rows.items()
    }


def count_elsewhere(elsewhere: CrossDomain, track: HistoryTrack | None, rows: Mapping[str, Rows]) -> ElsewhereCounts:
    """Counts of what users did elsewhere; those by table once there is a track of it."""

    def entries(part: Rows) -> int:
        assert track is not None
        start, stop = track.spans(part)
        return int((stop - start).sum())

    return ElsewhereCounts(
        entries=len(elsewhere.user),
        users=len(np.unique(elsewhere.user)),
        unmatched_users=elsewhere.unmatched_users,
        unmatched_entries=elsewhere.unmatched_entries,
        unsorted=elsewhere.unsorted,
        repeats=elsewhere.repeats,
        by_table={name: entries(part) for name, part in rows.items()} if track is not None else {},
        first=int(elsewhere.clock.min(initial=LARGE)),
        last=int(elsewhere.clock.max(initial=SMALL)),
    )
