"""The optional columns of an event log: how each is checked, and the list column of a history that it becomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks, shown
from .columns import as_ids, as_numbers, blanks, nulls

EVENT_NAMES = ("impression", "click", "conversion")
IMPRESSION = EVENT_NAMES.index("impression")
LARGEST_VALUE = 1e30  # sums of such values are finite as float32, which the prepared tables hold


def read_event_names(table: pa.Table, checks: RowChecks, names: Mapping[str, str] | None = None) -> np.ndarray:
    """Rows of `EVENT_NAMES`, int8 (n,), from the column `event`; conversions where the log has no such column.

    Args:
        names: the log's names -> ours; our own names are known beside them. What the log calls each kind, and how
            often, is noted in `checks.notes`.

    Raises:
        DataError: names of a log without names; the first row with an unknown one, unless such rows are dropped.
    """
    names = dict(names or {})
    if "event" not in table.column_names:
        if names:
            raise DataError(
                f"{checks.file}: `event_names` names events ({', '.join(names)}), but there is no column `event`. "
                f"Columns there are: {', '.join(table.column_names)}. Map one to `event` in `event_columns`."
            )
        return np.full(len(table), EVENT_NAMES.index("conversion"), dtype=np.int8)
    column = table["event"]
    text = as_ids(column, "event", checks)
    missing = nulls(text)
    known = {name: name for name in EVENT_NAMES} | names
    checks.refuse(missing, "missing", "event", column, ", ".join(known))
    encoded = text.dictionary_encode()
    there, places = encoded.dictionary.to_pylist(), pc.fill_null(encoded.indices, 0).to_numpy(zero_copy_only=False)
    codes = np.array([EVENT_NAMES.index(known[name]) if name in known else -1 for name in there] or [-1], np.int8)
    event = codes[places]
    allowed = ", ".join(known)
    named = checks.facts.get(("names", "event"), there)
    strange = [name for name in named if name not in known]
    if strange:
        allowed += f"; unknown here: {', '.join(shown(name) for name in strange[:8])}; map each to one of ours in "
        allowed += "`event_names`, e.g. {" + f"{strange[0]}: click" + "}"
    checks.refuse((event < 0) & ~missing, "unknown_event", "event", column, allowed)
    counts = dict(zip(there, np.bincount(places[~missing], minlength=len(there)).tolist(), strict=False))
    checks.notes["event_names"] = {name: {"as": known.get(name), "rows": counts.get(name, 0)} for name in named}
    return np.maximum(event, 0)


def read_values(table: pa.Table, checks: RowChecks, event: np.ndarray) -> pa.Array:
    """Values, float64 (n,), negative ones as they stand. A blank cell is worth 0, and noted by kind in `checks.notes`.
    In a log that has no value at all, impressions count 0 and the other events 1."""
    counted = np.where(event == IMPRESSION, 0.0, 1.0)
    if "value" not in table.column_names:
        return pa.array(counted)
    column = table["value"]
    blank = blanks(column)
    some = checks.facts.get(("values", "value"), bool((~blank).any()))
    values = np.where(blank, 0.0, as_numbers(column)) if some else counted
    wrong = ~(np.abs(values) <= LARGEST_VALUE)
    checks.refuse(wrong, "bad_value", "value", column, f"a number up to {LARGEST_VALUE:g}, or nothing")
    counts = np.bincount(event[blank & checks.keep], minlength=len(EVENT_NAMES)).tolist()
    checks.notes["blank_values"] = {name: count for name, count in zip(EVENT_NAMES, counts, strict=True) if count}
    checks.notes["any_value"] = some
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
