"""The Open Bandit Dataset of ZOZOTOWN: a campaign's `all.csv`, `men.csv` or `women.csv`, and `item_context.csv`."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from ..file_formats import TextLayout
from ..text_columns import moments_of
from .preset import Decoding, Preset, exposures_and_responses

USER_FEATURES = ("user_feature_0", "user_feature_1", "user_feature_2", "user_feature_3")


def catalog(raw: Decoding) -> pa.Table:
    """Items with their anonymous features; the unnamed column is the row number."""
    names = [name for name in raw.table.column_names if name]
    return raw.table.select(names)


def events(raw: Decoding) -> pa.Table:
    """An impression for each row, a click where `click` is 1. The log has no users: those who share all four features
    count as one, a segment."""
    features = [pc.utf8_slice_codeunits(pc.fill_null(raw.column(name), "?"), 0, 8) for name in USER_FEATURES]
    user = pc.binary_join_element_wise(*features, "-")
    raw.notes.append(
        f"the log has no users: {len(pc.unique(user))} segments of equal user features stand in their place, each "
        "named by the first eight characters of its features"
    )
    columns = {
        "user_id": user,
        "item_id": raw.column("item_id"),
        "timestamp": moments_of(raw.column("timestamp"), "timestamp", raw.file, "ISO"),
        "slot": raw.column("position"),
        "propensity": raw.column("propensity_score"),
    }
    if "" in raw.table.column_names:  # the row number: rows of a segment that are alike are several people's
        columns["row"] = raw.column("")
    return exposures_and_responses(columns, {"click": raw.flags("click")})


OPEN_BANDIT = Preset(
    about="the Open Bandit Dataset of a fashion shop",
    sources={"catalog": "item_context.csv", "events": "{all,men,women}.csv"},
    decode={"catalog": catalog, "events": events},
    layouts={
        "events": TextLayout(
            reads=("", "timestamp", "item_id", "position", "click", "propensity_score", *USER_FEATURES)
        )
    },
    theirs={"events": {"user_id": "user_feature_0", "event": "click"}},
    settings={"value_unit": "clicks", "history_events": ["click"], "drop": ["unsorted_time"]},
)
