"""RecBole's atomic files: `name.inter`, `name.item`, `name.user`."""

from __future__ import annotations

import pyarrow as pa

from .preset import Decoding, Preset, first_of_each


def catalog(raw: Decoding) -> pa.Table:
    """The items as they are; of an `.inter` file, which holds events, its distinct items without any column."""
    if "user_id" not in raw.table.column_names:
        return raw.table
    raw.notes.append("the catalog holds the distinct items of the events, without any text")
    return first_of_each(raw.table.select(["item_id"]), "item_id")


def events(raw: Decoding) -> pa.Table:
    """Every interaction is a conversion. Ratings stay a column, they are no money."""
    return raw.table


RECBOLE = Preset(
    about="RecBole's atomic files",
    sources={"catalog": "*.item", "events": "*.inter"},
    decode={"catalog": catalog, "events": events},
    settings={"value_unit": "count", "drop": ["unsorted_time"]},
)
