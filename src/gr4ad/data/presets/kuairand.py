"""KuaiRand: the logs of a video app, `log_standard_*.csv`, `video_features_basic_*.csv` and `user_features_*.csv`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..file_formats import TextLayout
from ..text_columns import numbers_of
from .preset import Decoding, Preset, exposures_and_responses

LOG = ("user_id", "video_id", "time_ms", "is_click", "is_like", "is_follow", "is_comment", "is_forward", "tab")
ENGAGED = ("is_like", "is_follow", "is_comment", "is_forward")


def catalog(raw: Decoding) -> pa.Table:
    """Videos; the author is the account, and `tag` a list of category numbers."""
    names = {"video_id": "item_id", "author_id": "account_id"}
    table = raw.table.rename_columns([names.get(name, name) for name in raw.table.column_names])
    if "tag" in table.column_names:
        tags = pc.split_pattern(pc.utf8_trim_whitespace(table["tag"]), ",")
        table = table.set_column(table.column_names.index("tag"), "tag", tags)
    return table


def events(raw: Decoding) -> pa.Table:
    """An impression for each row, a click where `is_click` is 1, a conversion where the user liked, commented,
    forwarded or followed."""
    time = numbers_of(raw.column("time_ms"), "time_ms", raw.file)
    columns = {
        "user_id": raw.column("user_id"),
        "item_id": raw.column("video_id"),
        "timestamp": time.cast(pa.int64()).cast(pa.timestamp("ms")),
        "tab": raw.column("tab"),
    }
    engaged = raw.flags(ENGAGED[0])
    for name in ENGAGED[1:]:
        engaged = pc.or_(engaged, raw.flags(name))
    return exposures_and_responses(columns, {"click": raw.flags("is_click"), "conversion": engaged})


KUAIRAND = Preset(
    about="KuaiRand, the logs of a video app with random exposures",
    sources={
        "catalog": "video_features_basic_*.csv",
        "events": "log_standard_*.csv",
        "users": "user_features_*.csv",
    },
    decode={"catalog": catalog, "events": events},
    layouts={"events": TextLayout(reads=LOG)},
    theirs={
        "catalog": {"item_id": "video_id", "account_id": "author_id"},
        "events": {"item_id": "video_id", "timestamp": "time_ms", "event": "is_click"},
    },
    settings={
        "value_unit": "events",
        "drop": ["unsorted_time"],
        "user_features": ["user_active_degree", "is_video_author", "follow_user_num_range", "register_days_range"],
    },
)
