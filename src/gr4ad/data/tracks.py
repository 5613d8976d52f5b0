"""The list columns that prepared rows have of a user: the history, and what the user did elsewhere."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from .checking import DataError
from .config import DataConfig
from .cross_domain import CrossDomain
from .event_columns import EVENT_NAMES
from .events import EventLog
from .splits import History, Rows
from .tables import HistoryTrack


def history_track(log: EventLog, history: History, item_ids: pa.Array) -> HistoryTrack:
    """The history events of a log."""
    rows = pa.array(history.rows)
    columns = {
        "items": pa.DictionaryArray.from_arrays(pa.array(log.item), item_ids),
        "events": pa.DictionaryArray.from_arrays(pa.array(log.event), pa.array(EVENT_NAMES)),
        "times": pa.array(log.times(log.clock)),
        **log.features,
    }
    return HistoryTrack({name: column.take(rows) for name, column in columns.items()})


def cross_domain_track(elsewhere: CrossDomain, log: EventLog) -> HistoryTrack:
    """What the users of a log did elsewhere."""
    times = pa.array(log.times(elsewhere.clock))
    return HistoryTrack(
        {"cross_domain": elsewhere.item, "cross_domain_times": times}, (elsewhere.user, elsewhere.clock)
    )


def has_entries(track: HistoryTrack, rows: Rows) -> bool:
    """Some row has an entry of the track."""
    start, stop = track.spans(rows)
    return bool((stop > start).any())


def require_entries(
    found: bool, elsewhere: tuple[int, int], events: tuple[int, int], log: EventLog, config: DataConfig
) -> None:
    """Raises DataError if no training history has an entry of what users did elsewhere, whose first and last moment
    are given, as are those of the events, on the clock of `log`."""
    if found:
        return

    def ends(given: tuple[int, int]) -> str:
        first, last = log.times(np.array(given)).tolist()
        return f"{first} to {last}"

    raise DataError(
        f"{config.cross_domain}: column `timestamp`: no training history has an entry before its end. Received: "
        f"{ends(elsewhere)}, the events: {ends(events)}. Give times on the clock of the events."
    )
