"""A log that is read in parts of users is prepared as one that is held in memory: tables, account and errors."""

import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_logs import ITEMS, T

from gr4ad.data import DataConfig, DataError, write_prepared

PARTS = (1, 2, 3, 7)
REASONS = ["missing", "bad_time", "bad_value", "unknown_event", "unknown_item", "unsorted_time"]


def outcome(folder, config, parts):
    """The files of a preparation, or its error."""
    out = folder / f"out_{parts}"
    shutil.rmtree(out, ignore_errors=True)
    try:
        summary = write_prepared(DataConfig(root=str(folder), user_partitions=parts, **config), out)
    except DataError as error:
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        return str(error)
    assert summary["accounting"]["held"]["user_partitions"] == parts
    files = {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix == ".parquet"}
    text = (out / "data.json").read_text()
    told = json.loads(text)
    del told["accounting"]["held"]
    return files | {"data.json": json.dumps(told)}  # in order: that of its keys is the same too


def assert_same(folder, config, parts=PARTS):
    """Byte for byte."""
    whole = outcome(folder, config, 0)
    for count in parts:
        found = outcome(folder, config, count)
        if isinstance(whole, str) or isinstance(found, str):
            assert found == whole
            continue
        assert list(found) == list(whole)
        for name in whole:
            assert found[name] == whole[name], (name, count)
    return whole


# --- any log
# ---------------------------------------------------------------------------------------------------------------------

KIND = st.sampled_from(["click", "click", "conversion", "impression"])
GOOD = st.tuples(
    st.sampled_from(["u1", "u2", "u3", "u4", "u5", "u6"]),
    st.sampled_from("abcdef"),
    st.integers(T, T + 12),
    KIND,
    st.sampled_from(["", "1", "2.5", "0.1", "0.3"]),
    st.sampled_from(["r1", "r2", "r3"]),
    st.sampled_from("xy"),
)
BAD = {
    "user_id": ["", "7.0", "7"],
    "item_id": ["", "z"],
    "timestamp": ["", "soon", "5", "2023-11-14"],
    "event": ["", "like"],
    "value": ["much", "-1", "-0.7", "1e31"],
    "request_id": [""],
}
COLUMNS = ["user_id", "item_id", "timestamp", "event", "value", "request_id", "store"]


@st.composite
def logs(draw):
    rows = [list(row) for row in draw(st.lists(GOOD, min_size=6, max_size=45))]
    rows = [[*row[:2], str(row[2]), *row[3:]] for row in rows]
    for _ in range(draw(st.sampled_from([0, 0, 1, 3]))):
        name = draw(st.sampled_from(list(BAD)))
        rows[draw(st.integers(0, len(rows) - 1))][COLUMNS.index(name)] = draw(st.sampled_from(BAD[name]))
    for _ in range(draw(st.sampled_from([0, 2]))):  # refunds and repeats
        row = list(draw(st.sampled_from(rows)))
        rows.append(row if draw(st.booleans()) else [*row[:3], "conversion", "-0.7", *row[5:]])
    frame = pd.DataFrame(rows, columns=COLUMNS)
    if draw(st.booleans()):
        frame = frame.sort_values("timestamp", kind="stable")
    if draw(st.booleans()):
        frame = frame.drop(columns=draw(st.sampled_from([["request_id"], ["value"], ["request_id", "store"]])))
    config = {
        "drop": draw(st.sampled_from([[], ["unsorted_time"], REASONS, REASONS])),
        "refunds": draw(st.sampled_from(["refuse", "zero", "net", "net"])),
        "merge_seconds": draw(st.sampled_from([0, 2])),
        "history_events": draw(st.sampled_from([["click", "conversion"], ["click"], ["impression", "click"]])),
        "min_user_events": draw(st.sampled_from([0, 0, 3])),
    }
    if draw(st.booleans()):
        config |= {"split": "temporal", "validation_start": T + draw(st.integers(2, 7)), "test_start": T + 8}
        config |= draw(st.sampled_from([{}, {"test_end": T + 11}]))
    if draw(st.booleans()):
        frame["timestamp"] = frame["timestamp"].str.replace(r"^(1\d{9})$", r"\1.5", regex=True)
    return frame, config


@st.composite
def elsewhere(draw):
    row = st.tuples(st.sampled_from(["u1", "u2", "u4", "u9", "7"]), st.sampled_from("mno"), st.integers(T - 3, T + 12))
    rows = draw(st.lists(row, min_size=1, max_size=12))
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


@settings(max_examples=int(os.environ.get('EX','40')), deadline=None, suppress_health_check=list(HealthCheck))
@given(log=logs(), other=st.none() | elsewhere(), with_users=st.booleans())
def test_any_log_is_prepared_alike(tmp_path_factory, log, other, with_users):
    folder = tmp_path_factory.mktemp("log")
    frame, config = log
    frame.to_csv(folder / "events.csv", index=False)
    pd.DataFrame({"item_id": ITEMS}).to_csv(folder / "catalog.csv", index=False)
    config |= {"catalog": "catalog.csv", "events": "events.csv"}
    if other is not None:
        other.to_csv(folder / "other.csv", index=False)
        config["cross_domain"] = "other.csv"
    if with_users:
        users = {"user_id": ["u2", "u1", "u5", "x", "7"], "city": ["A", "B", "", "A", "B"], "age": [1, "", 3, 4, 5]}
        pd.DataFrame(users).to_csv(folder / "users.csv", index=False)
        config |= {"users": "users.csv", "user_features": {"city": {}, "age": {"bins": 2}}}
    assert_same(folder, config)
    shutil.rmtree(folder)
