"""The optional columns of an event log: how each is checked, and the list column of a history that it becomes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import RowChecks
from .columns import as_ids, as_numbers, nulls

EVENT_NAMES = ("impression", "click", "conversion")
IMPRESSION = EVENT_NAMES.index("impression")


def read_event_names(table: pa.Table, checks: RowChecks) -> np.ndarray:
    """Rows of `EVENT_NAMES`, int8 (n,), from the column `event`; conversions where the log has no such column."""
    if "event" not in table.column_names:
        return np.full(len(table), EVENT_NAMES.index("conversion"), dtype=np.int8)
    column = table["event"]
    text = as_ids(column, "event", checks.file)
    missing = nulls(text)
    checks.refuse(missing, "missing", "event", column, ", ".join(EVENT_NAMES))
    codes = pc.index_in(text, value_set=pa.array(EVENT_NAMES))
    checks.refuse(nulls(codes) & ~missing, "unknown_event", "event", column, ", ".join(EVENT_NAMES))
    return pc.fill_null(codes, 0).to_numpy(zero_copy_only=False).astype(np.int8)


def read_values(table: pa.Table, checks: RowChecks, event: np.ndarray) -> pa.Array:
    """Values >= 0, float64 (n,); in a log without them 0 for impressions and 1 for the other events."""
    is_impression = event == IMPRESSION
    if "value" not in table.column_names:
        return pa.array(np.where(is_impression, 0.0, 1.0))
    column = table["value"]
    values = as_numbers(column)
    # An exposure that brought nothing commonly has no value; a click or conversion without one is an error.
    values = np.where(nulls(column) & is_impression, 0.0, values)
    checks.refuse(~(np.isfinite(values) & (values >= 0)), "bad_value", "value", column, "a finite number >= 0")
    return pa.array(values)


@dataclass(frozen=True)
class EventFeature:
    """Something that an event log may say of each event and that histories carry along their items.

    Attributes:
        column: Column of the event log.
        history: List column of the prepared rows, one of `gr4ad.tokenization.user_history.HISTORY_COLUMNS`.
        read: Checks the column and returns its entries (n,), from (table, checks, rows of `EVENT_NAMES` (n,)); None
            where the log has nothing to say. Float64 is written as float32, and a dictionary as its values.
    """

    column: str
    history: str
    read: Callable[[pa.Table, RowChecks, np.ndarray], pa.Array | None]


EVENT_FEATURES = (EventFeature("value", "values", read_values),)
"""Beside item, time and kind of an event, which the splits need and every log therefore has."""

EVENT_COLUMNS = (
    *("user_id", "item_id", "timestamp", "position", "event", "request_id"),
    *(feature.column for feature in EVENT_FEATURES),
)
"""Our column names of an event log; all but the first two and one of the next two are optional."""
