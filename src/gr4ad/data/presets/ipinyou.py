"""The iPinYou real-time bidding logs of seasons 2 and 3: `imp.*.txt`, `clk.*.txt` and `conv.*.txt`."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from ..checking import DataError
from ..file_formats import TextLayout
from ..text_columns import numbers_of
from .preset import Decoding, Preset, first_of_each

COLUMNS = (
    *("bid_id", "timestamp", "log_type", "ipinyou_id", "user_agent", "ip", "region", "city", "ad_exchange"),
    *("domain", "url", "anonymous_url", "slot_id", "slot_width", "slot_height", "slot_visibility", "slot_format"),
    *("slot_price", "creative", "bid_price", "paying_price", "landing_page", "advertiser", "user_tags"),
)
LOG = ("bid_id", "timestamp", "log_type", "ipinyou_id", "region", "ad_exchange", "creative", "paying_price")
EVENTS = {"1": "impression", "2": "click", "3": "conversion"}
HOURS_EAST = 8
"""Taken as Beijing time: the documentation names no zone."""


def catalog(raw: Decoding) -> pa.Table:
    """The creatives of the impressions, with the advertiser as account and the size and landing page of the first
    impression."""
    table = pa.table(
        {
            "item_id": _known(raw.column("creative")),
            "account_id": raw.column("advertiser"),
            "size": pc.binary_join_element_wise(raw.column("slot_width"), raw.column("slot_height"), "x"),
            "landing_page": _known(raw.column("landing_page")),
        }
    )
    raw.notes.append("the catalog holds the distinct creatives of the impressions")
    return first_of_each(table, "item_id")


def events(raw: Decoding) -> pa.Table:
    """A row of the logs is an event of its `log_type`; its value is the price that was paid for the impression."""
    kind = pc.utf8_trim_whitespace(raw.column("log_type"))
    codes = pc.index_in(kind, value_set=pa.array(list(EVENTS)))
    if codes.null_count:
        row = int(pc.index(pc.is_null(codes), True).as_py())
        raise DataError(
            f"{raw.file}: column `log_type` (the third), row {row} (0-based): received {kind[row].as_py()!r}, "
            "allowed: 1 (impression), 2 (click), 3 (conversion). Bid logs have another layout: leave them out."
        )
    return pa.table(
        {
            "user_id": _known(raw.column("ipinyou_id")),
            "item_id": _known(raw.column("creative")),
            "timestamp": _moments(raw),
            "event": pa.array(list(EVENTS.values())).take(codes.combine_chunks()),
            "value": numbers_of(_known(raw.column("paying_price")), "paying_price", raw.file),
            "request_id": raw.column("bid_id"),
            "region": raw.column("region"),
            "ad_exchange": raw.column("ad_exchange"),
        }
    )


def _known(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column, null where the log says `null`."""
    return pc.if_else(pc.is_in(column, pa.array(["null", "Null", "NULL"])), pa.scalar(None, column.type), column)


def _moments(raw: Decoding) -> pa.ChunkedArray:
    """Times such as 20130606000104828 (17 digits: to the millisecond) as moments in UTC."""
    text = pc.utf8_trim_whitespace(raw.column("timestamp"))
    good = pc.match_substring_regex(pc.fill_null(text, ""), r"^\d{17}$")
    seconds = pc.strptime(pc.utf8_slice_codeunits(text, 0, 14), format="%Y%m%d%H%M%S", unit="s", error_is_null=True)
    good = pc.and_(good, pc.is_valid(seconds))
    if not pc.all(good).as_py():
        row = int(pc.index(good, False).as_py())
        raise DataError(
            f"{raw.file}: column `timestamp` (the second), row {row} (0-based): received "
            f"{raw.column('timestamp')[row].as_py()!r}, allowed: 17 digits such as 20130606000104828. Fix the file."
        )
    milli = pc.utf8_slice_codeunits(text, 14, 17).cast(pa.int64())
    clock = pc.add(pc.multiply(seconds.cast(pa.int64()), 1000), milli)
    return pc.subtract(clock, HOURS_EAST * 3_600_000).cast(pa.timestamp("ms"))


_LAYOUT = TextLayout(delimiter="\t", header=COLUMNS, quotes=False)

IPINYOU = Preset(
    about="the iPinYou real-time bidding logs",
    sources={"catalog": "imp.*.txt*", "events": "{imp,clk,conv}.*.txt*"},
    decode={"catalog": catalog, "events": events},
    layouts={
        "catalog": replace(_LAYOUT, reads=("creative", "advertiser", "slot_width", "slot_height", "landing_page")),
        "events": replace(_LAYOUT, reads=LOG),
    },
    theirs={
        "catalog": {"item_id": "creative", "account_id": "advertiser"},
        "events": {
            "user_id": "ipinyou_id", "item_id": "creative", "event": "log_type", "value": "paying_price",
            "request_id": "bid_id",
        },
    },
    # A part of the users is `null`: `missing` counts and drops these rows.
    settings={"value_unit": "fen CPM", "drop": ["unsorted_time", "missing"]},
)  # fmt: skip
