"""MIND, the Microsoft News data set: `behaviors.tsv` and `news.tsv`, without header lines."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..checking import DataError
from ..file_formats import TextLayout
from ..text_columns import moments_of
from .preset import Decoding, Preset

BEHAVIORS = ("impression_id", "user_id", "time", "history", "impressions")
NEWS = ("news_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
TIME = "%m/%d/%Y %I:%M:%S %p"


def catalog(raw: Decoding) -> pa.Table:
    """The articles, without their links and entities, which are JSON."""
    table = raw.table.select(["news_id", "category", "subcategory", "title", "abstract"])
    return table.rename_columns(["item_id", *table.column_names[1:]])


def events(raw: Decoding) -> pa.Table:
    """An impression for each article shown, a click for each `-1`. What a user had clicked before the log comes as
    clicks one second apart that end one second before the user's first impression: their order is known, their times
    are not."""
    table = raw.table
    moment = moments_of(raw.column("time"), "time", raw.file, TIME).combine_chunks()
    shown, owner = _entries(raw.column("impressions"))
    label = pc.utf8_slice_codeunits(shown, start=-2) if len(shown) else shown
    bad = pc.invert(pc.is_in(label, pa.array(["-0", "-1"])))
    if pc.any(bad).as_py():
        at = int(pc.index(bad, True).as_py())
        raise DataError(
            f"{raw.file}: column `impressions`, row {int(owner[at])} (0-based): received {shown[at].as_py()!r}, "
            "allowed: an article and its label, such as N55689-1 or N35729-0. A test file has no labels: use the "
            "training or the validation file."
        )
    clicked = pc.equal(label, "-1").to_numpy(zero_copy_only=False)
    item = pc.utf8_slice_codeunits(shown, start=0, stop=-2)
    user = raw.column("user_id").combine_chunks()
    request = raw.column("impression_id").combine_chunks()
    rows = np.r_[np.arange(len(item)), np.flatnonzero(clicked)]
    order = np.argsort(rows, kind="stable")
    is_click = np.r_[np.zeros(len(item), bool), np.ones(int(clicked.sum()), bool)][order]
    rows = pa.array(rows[order])
    source = pa.array(owner).take(rows)
    parts = [
        _events(user.take(source), item.take(rows), moment.take(source), request.take(source), is_click),
    ]
    before = _history(table, user, moment)
    if before is not None:
        raw.notes.append(
            f"{before.num_rows} clicks from before the log stand one second apart before their user's first "
            "impression: their order is known, their times are not"
        )
        parts.insert(0, before)
    return pa.concat_tables(parts)


def _events(user: pa.Array, item: pa.Array, moment: pa.Array, request: pa.Array, is_click: np.ndarray) -> pa.Table:
    event = pc.if_else(pa.array(is_click), "click", "impression")
    names = ["user_id", "item_id", "timestamp", "request_id", "event"]
    return pa.table([user, item, moment, request, event], names=names)


def _entries(column: pa.ChunkedArray) -> tuple[pa.Array, np.ndarray]:
    """The words of each cell, one after the other, and the row (int64, (words,)) of each."""
    parts = pc.utf8_split_whitespace(pc.utf8_trim_whitespace(pc.fill_null(column, ""))).combine_chunks()
    words, owner = parts.flatten(), pc.list_parent_indices(parts).to_numpy()
    some = pc.not_equal(words, "")
    return words.filter(some), owner[some.to_numpy(zero_copy_only=False)].astype(np.int64)


def _history(table: pa.Table, user: pa.Array, moment: pa.Array) -> pa.Table | None:
    """The clicks of each user's `history` in the row of the earliest time, which holds what came before the log."""
    clock = pc.fill_null(moment.cast(pa.int64()), np.iinfo(np.int64).max).to_numpy()
    codes = user.dictionary_encode().indices.fill_null(-1).to_numpy()
    order = np.lexsort((clock, codes))
    first = order[np.r_[True, codes[order][1:] != codes[order][:-1]]]
    first = np.sort(first[codes[first] >= 0])
    items, owner = _entries(table["history"].take(pa.array(first)))
    if not len(items):
        return None
    ends = np.searchsorted(owner, owner, side="right")
    seconds_before = ends - np.arange(len(owner))
    at = pa.array(first[owner])
    times = moment.take(at).cast(pa.int64()).to_numpy() - seconds_before * 1_000_000
    nothing = pa.nulls(len(items), pa.string())
    return _events(user.take(at), items, pa.array(times).cast(pa.timestamp("us")), nothing, np.ones(len(items), bool))


MIND = Preset(
    about="MIND, Microsoft's news recommendation data set",
    sources={"catalog": "news.tsv", "events": "behaviors.tsv"},
    decode={"catalog": catalog, "events": events},
    layouts={
        "catalog": TextLayout(delimiter="\t", header=NEWS, quotes=False),
        "events": TextLayout(delimiter="\t", header=BEHAVIORS, quotes=False),
    },
    theirs={
        "catalog": {"item_id": "news_id"},
        "events": {
            "item_id": "impressions",
            "timestamp": "time",
            "request_id": "impression_id",
            "event": "impressions",
        },
    },
    settings={"value_unit": "clicks", "history_events": ["click"], "drop": ["unsorted_time"]},
)
