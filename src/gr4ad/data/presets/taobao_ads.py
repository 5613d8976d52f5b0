"""Taobao's display ads: `raw_sample.csv`, `ad_feature.csv`, `user_profile.csv`, and `behavior_log.csv` if wanted."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..text_columns import numbers_of
from .preset import Decoding, Preset, exposures_and_responses


def catalog(raw: Decoding) -> pa.Table:
    """Ads; the advertiser is the account, the price a number (yuan)."""
    names = {"adgroup_id": "item_id", "customer": "account_id"}
    table = raw.table.rename_columns([names.get(name, name) for name in raw.table.column_names])
    price = numbers_of(raw.column("price"), "price", raw.file).cast(pa.float64())
    return table.set_column(table.column_names.index("price"), "price", price)


def events(raw: Decoding) -> pa.Table:
    """An impression for each row, a click where `clk` is 1."""
    columns = {
        "user_id": raw.column("user"),
        "item_id": raw.column("adgroup_id"),
        "timestamp": _seconds(raw),
        "pid": raw.column("pid"),
    }
    return exposures_and_responses(columns, {"click": raw.flags("clk")})


def users(raw: Decoding) -> pa.Table:
    """Profiles, the user under our name."""
    names = {"userid": "user_id"}
    return raw.table.rename_columns([names.get(name, name) for name in raw.table.column_names])


def behaviors(raw: Decoding) -> pa.Table:
    """What a user did in the shop: the kind, category and brand together are the id, as the log names no product."""
    item = pc.binary_join_element_wise(raw.column("btag"), raw.column("cate"), raw.column("brand"), "-")
    return pa.table({"user_id": raw.column("user"), "item_id": item, "timestamp": _seconds(raw)})


def _seconds(raw: Decoding) -> pa.ChunkedArray:
    time = numbers_of(raw.column("time_stamp"), "time_stamp", raw.file)
    return time.cast(pa.int64()).cast(pa.timestamp("s"))


TAOBAO_ADS = Preset(
    about="Taobao's display ads and clicks",
    sources={"catalog": "ad_feature.csv", "events": "raw_sample.csv", "users": "user_profile.csv"},
    decode={"catalog": catalog, "events": events, "users": users, "cross_domain": behaviors},
    theirs={
        "catalog": {"item_id": "adgroup_id", "account_id": "customer"},
        "events": {"user_id": "user", "item_id": "adgroup_id", "timestamp": "time_stamp", "event": "clk"},
        "users": {"user_id": "userid"},
        "cross_domain": {"user_id": "user", "timestamp": "time_stamp"},
    },
    settings={
        "value_unit": "clicks",
        "history_events": ["click"],
        "drop": ["unsorted_time"],
        "user_features": [
            *("final_gender_code", "age_level", "pvalue_level", "shopping_level", "occupation"),
            "new_user_class_level",
        ],
    },
)
