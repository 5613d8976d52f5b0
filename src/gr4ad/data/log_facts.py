"""What columns of a whole log decide, gathered from its parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError
from .clock_facts import ClockFacts
from .clocks import clock_facts
from .columns import IdFacts, blanks, is_text, whole
from .config import DataConfig
from .events import name_of_clock, split_column
from .user_partitions import UserPartitions

IDS = ("user_id", "item_id", "event", "request_id")


def facts_of_events(log: UserPartitions, config: DataConfig) -> dict[tuple[str, str], Any]:
    """Facts for the checks of events, as `RowChecks` takes them. Raises DataError if no column places them in time."""
    names = log.raw.table.column_names
    clocks = [name_of_clock(names, log.raw.name)]
    if config.split == "temporal":
        try:
            clocks.append(split_column(names, log.raw.name, config))
        except DataError:
            pass  # the reader of the log says so in its turn
    return _facts(log, [name for name in IDS if name in names], clocks)


def facts_of_elsewhere(log: UserPartitions) -> dict[tuple[str, str], Any]:
    """Facts for the checks of what users did elsewhere."""
    return _facts(log, ["user_id", "item_id"], ["timestamp"])


def _facts(log: UserPartitions, ids: Sequence[str], clocks: Sequence[str]) -> dict[tuple[str, str], Any]:
    of_ids = dict.fromkeys(ids, IdFacts())
    of_clocks = {name: ClockFacts() for name in clocks}
    events: dict[str, int] = {}  # text -> the row in which it stands first
    some = False
    for number in range(log.count):
        table, rows = log.part(number)
        for name in of_ids:
            if is_text(_kind(table[name])):  # numbers are whole by their type
                of_ids[name] |= IdFacts.of(_distinct(table[name])[0])
        for name in of_clocks:
            of_clocks[name] += clock_facts(table[name])
        if "value" in table.column_names:
            some |= not blanks(table["value"]).all()
        if "event" in of_ids:
            texts, first = _distinct(table["event"])
            for text, place in zip(texts.to_pylist(), first, strict=True):
                row = int(rows[place])
                events[text] = min(events.get(text, row), row)
    facts: dict[tuple[str, str], Any] = {("ids", name): found for name, found in of_ids.items()}
    facts |= {("clock", name): found for name, found in of_clocks.items()}
    facts["values", "value"] = some
    if "event" in of_ids:
        named = [text for text in sorted(events, key=lambda text: events[text]) if text.strip()]
        facts["names", "event"] = [text.removesuffix(".0") for text in named] if of_ids["event"].whole else named
    return facts


def _distinct(column: pa.ChunkedArray) -> tuple[pa.Array, list[int]]:
    """The distinct texts of a column, and the place of the first cell of each."""
    one = whole(column.unify_dictionaries()) if pa.types.is_dictionary(column.type) else whole(column)
    if pa.types.is_floating(one.type):
        one = pc.if_else(pc.is_finite(one), one, None).cast(pa.int64(), safe=False)
    if not pa.types.is_dictionary(one.type):
        one = (one if is_text(one.type) else one.cast(pa.string())).dictionary_encode()
    codes = pc.fill_null(one.indices, -1).to_numpy(zero_copy_only=False)
    used, first = np.unique(codes, return_index=True)
    known = used >= 0
    return one.dictionary.take(pa.array(used[known])), first[known].tolist()


def _kind(column: pa.ChunkedArray) -> pa.DataType:
    return column.type.value_type if pa.types.is_dictionary(column.type) else column.type
