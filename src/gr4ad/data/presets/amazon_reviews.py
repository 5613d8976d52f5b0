"""Amazon Reviews 2023: `CATEGORY.jsonl` of reviews and `meta_CATEGORY.jsonl` of products, packed or not."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from .preset import Decoding, Preset

TEXT = ("title", "main_category", "store")


def catalog(raw: Decoding) -> pa.Table:
    """Products by `parent_asin`; `categories` stays a list, the paragraphs of features and description become one
    text."""
    columns: dict[str, pa.ChunkedArray] = {"item_id": raw.column("parent_asin")}
    for name in TEXT:
        columns[name] = raw.column(name)
    for name in ("features", "description"):
        if name in raw.table.column_names:
            columns[name] = _joined(raw.table[name])
    if "categories" in raw.table.column_names and not pa.types.is_null(raw.table["categories"].type):
        columns["categories"] = raw.table["categories"]
    if "price" in raw.table.column_names:
        columns["price"] = raw.table["price"]
    return pa.table(columns)


def events(raw: Decoding) -> pa.Table:
    """A review is a conversion; ratings stay a column, they are no money."""
    table = pa.table(
        {
            "user_id": raw.column("user_id"),
            "item_id": raw.column("parent_asin"),
            "timestamp": raw.column("timestamp").cast(pa.int64()).cast(pa.timestamp("ms")),
            "rating": raw.column("rating"),
        }
    )
    if "verified_purchase" in raw.table.column_names:
        table = table.append_column("verified_purchase", raw.table["verified_purchase"])
    return table


def _joined(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if not pa.types.is_list(kind) or pa.types.is_null(kind.value_type):
        return pa.chunked_array([pa.nulls(len(column), pa.string())])
    return pc.binary_join(column, " ")


AMAZON_REVIEWS = Preset(
    about="Amazon Reviews 2023, a category of it",
    sources={"catalog": "meta_*.jsonl*", "events": "[!m]*.jsonl*"},
    decode={"catalog": catalog, "events": events},
    theirs={
        "catalog": {"item_id": "parent_asin"},
        "events": {"item_id": "parent_asin"},
    },
    settings={"value_unit": "count", "drop": ["unsorted_time", "unknown_item"]},
)
