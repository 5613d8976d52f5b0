"""The REES46 shop logs: a csv a month, one row an event; the catalog is in the events."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..checking import DataError
from ..text_columns import moments_of, numbers_of
from .preset import Decoding, Preset, first_of_each

EVENTS = {"view": "impression", "cart": "click", "remove_from_cart": None, "purchase": "conversion"}


def catalog(raw: Decoding) -> pa.Table:
    """The distinct products of the events, each as its first row describes it."""
    names = ["product_id", "category_id", "category_code", "brand"]
    table = pa.table({name: raw.column(name) for name in names}).rename_columns(["item_id", *names[1:]])
    table = table.append_column("price", numbers_of(raw.column("price"), "price", raw.file).cast(pa.float64()))
    raw.notes.append("the catalog holds the distinct products of the events, each as its first row describes it")
    return first_of_each(table, "item_id")


def events(raw: Decoding) -> pa.Table:
    """A view is an impression, a cart a click, a purchase a conversion worth its price; removals are left out."""
    kind = raw.column("event_type")
    unknown = pc.invert(pc.is_in(kind, pa.array(list(EVENTS))))
    if pc.any(unknown).as_py():
        row = int(pc.index(unknown, True).as_py())
        raise DataError(
            f"{raw.file}: column `event_type`, row {row} (0-based): received {kind[row].as_py()!r}, allowed: "
            f"{', '.join(EVENTS)}. Fix the file."
        )
    named = pa.array(list(EVENTS.values())).take(pc.index_in(kind, value_set=pa.array(list(EVENTS))).combine_chunks())
    price = numbers_of(raw.column("price"), "price", raw.file).cast(pa.float64())
    table = pa.table(
        {
            "user_id": raw.column("user_id"),
            "item_id": raw.column("product_id"),
            "timestamp": _times(raw),
            "event": named,
            "value": pc.if_else(pc.equal(kind, "purchase"), price, 0.0),
            "session": raw.column("user_session"),
        }
    ).filter(pc.is_valid(named))
    if table.num_rows < len(kind):
        raw.notes.append(f"{len(kind) - table.num_rows} rows of `remove_from_cart` are left out")
    return table


def _times(raw: Decoding) -> pa.ChunkedArray:
    text = pc.replace_substring_regex(raw.column("event_time"), r"\s*UTC\s*$", "+00:00")
    return moments_of(text, "event_time", raw.file, "ISO")


REES46 = Preset(
    about="the shop logs of REES46's open data",
    sources={"catalog": "20*.csv*", "events": "20*.csv*"},
    decode={"catalog": catalog, "events": events},
    theirs={
        "catalog": {"item_id": "product_id"},
        "events": {"item_id": "product_id", "timestamp": "event_time", "event": "event_type", "value": "price"},
    },
    settings={"value_unit": "USD", "drop": ["unsorted_time"]},
)
