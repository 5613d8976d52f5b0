"""A log that is read in parts of users is prepared as one that is held in memory: tables, account and errors."""

import shutil
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from part_outcomes import assert_same, csv, parquet, shop
from row_logs import ITEMS, T

from gr4ad.data import DataConfig, DataError, memory_plan, partitioned_log, tables, write_prepared
from gr4ad.data.clock_facts import ClockFacts
from gr4ad.data.exact_sums import exact_sum
from gr4ad.report.accounting_rows import accounting_rows

REASONS = ["missing", "bad_time", "bad_value", "unknown_event", "unknown_item", "unsorted_time"]


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


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
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


# --- other tables
# ---------------------------------------------------------------------------------------------------------------------

USERS = pd.DataFrame({"user_id": range(5, 60), "city": ["A", "B", "C", "D", "E"] * 11, "name": range(55)})
OTHER = pd.DataFrame(
    {
        "user_id": np.tile(np.arange(3, 50), 4),
        "item_id": np.repeat(list("mnop"), 47),
        "timestamp": T + np.arange(188) * 7 % 300,
    }
)
TEMPORAL = {"split": "temporal", "validation_start": T + 150, "test_start": T + 250}
TABLES = {
    "users": (USERS, None, {"user_features": ["city"]}),
    "bins": (USERS, None, {"user_features": {"city": {}, "name": {"bins": 3}}}),
    "no features": (USERS, None, {"user_features": {}}),
    "no choice of features": (USERS, None, {}),
    "a feature with a value for each user": (USERS, None, {"user_features": ["name"]}),
    "a user twice": (USERS.assign(user_id=USERS["user_id"].replace(9, 8)), None, {"user_features": ["city"]}),
    "users of another log": (USERS.assign(user_id="x" + USERS["city"]), None, {"user_features": ["city"]}),
    "floats": (USERS.assign(user_id=USERS["user_id"].astype(float)), None, {"user_features": ["city"]}),
    "elsewhere": (None, OTHER, {}),
    "elsewhere in no order": (None, OTHER, {"drop": []}),
    "elsewhere twice": (None, pd.concat([OTHER, OTHER[7:99], OTHER[:9].assign(user_id=99)] * 2), {}),
    "a blank feature": (USERS.assign(city=""), None, {"user_features": ["city"]}),
    "elsewhere by floats": (None, OTHER.assign(user_id=OTHER["user_id"].astype(float)), {}),
    "elsewhere in milliseconds": (None, OTHER.assign(timestamp=OTHER["timestamp"] * 1000), {}),
    "elsewhere as words": (None, OTHER.assign(timestamp="soon"), {}),
    "elsewhere of others": (None, OTHER.assign(user_id="x"), {}),
    "elsewhere later": (None, OTHER.assign(timestamp=OTHER["timestamp"] + 9000), {}),
    "elsewhere without ids": (None, OTHER.assign(item_id=""), {"drop": ["missing"]}),
    "elsewhere with some ids": (None, OTHER.assign(item_id=["", *OTHER["item_id"][1:]]), {}),
    "both, temporal": (USERS, OTHER, {"user_features": ["city"], **TEMPORAL}),
    "both, few events": (USERS, OTHER, {"user_features": ["city"], "min_user_events": 6, **TEMPORAL}),
}


@pytest.mark.parametrize("kind", TABLES)
def test_any_other_table_is_joined_alike(tmp_path, kind):
    users, other, config = TABLES[kind]
    pd.DataFrame({"item_id": ITEMS}).to_csv(tmp_path / "catalog.csv", index=False)
    csv(shop(), tmp_path)
    for role, table in (("users", users), ("cross_domain", other)):
        if table is not None:
            table.to_csv(tmp_path / f"{role}.csv", index=False)
            config = config | {role: f"{role}.csv"}
    config = {"drop": ["unsorted_time"], "catalog": "catalog.csv", "events": "events.csv"} | config
    whole = assert_same(tmp_path, config, (1, 4))
    refused = (
        "no choice",
        "a feature",
        "a blank",
        "a user",
        "users of",
        "elsewhere in no",
        "elsewhere as",
        "elsewhere of",
    )
    refused += ("elsewhere later", "elsewhere without", "elsewhere with")
    assert isinstance(whole, str) == kind.startswith(refused), whole


# --- what is said, refused and left behind
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    pd.DataFrame({"item_id": ITEMS}).to_csv(tmp_path / "catalog.csv", index=False)
    csv(shop(), tmp_path)
    return tmp_path


def settings_of(folder, **more):
    return DataConfig(root=str(folder), catalog="catalog.csv", events="events.csv", drop=["unsorted_time"], **more)


def test_a_log_that_does_not_fit_is_read_in_parts(files, monkeypatch):
    """600 rows are taken for 300 bytes each; a part may take a quarter of what is free."""
    held = write_prepared(settings_of(files), files / "out")["accounting"]["held"]
    assert held == {"user_partitions": 0, "why": "it fits into half of the free memory"}
    monkeypatch.setattr(memory_plan, "free_bytes", lambda: 100_000)
    rows = memory_plan.estimated_rows(settings_of(files), "events")
    assert rows == pytest.approx(600 * 2, rel=0.01)  # each has two lines
    summary = write_prepared(settings_of(files), files / "out")
    held = summary["accounting"]["held"]
    assert held == {
        "user_partitions": -(-rows * memory_plan.BYTES_PER_ROW // 25_000),
        "why": "it does not fit into half of the free memory",
    }
    lines = dict(accounting_rows(summary))
    assert lines["Held"] == f"in {held['user_partitions']} parts of users on disk: {held['why']}"


def test_free_memory_is_known():
    assert memory_plan.free_bytes() > 1 << 20


@pytest.mark.parametrize("given", [-1, 513, "some", True, 1.5])
def test_a_number_of_parts_that_is_none(given):
    with pytest.raises(DataError, match="`user_partitions` should be auto, or a whole number from 0"):
        DataConfig(user_partitions=given)
    assert DataConfig(user_partitions="3").user_partitions == 3


def test_what_is_not_read_in_parts_is_refused_in_one_line(tmp_path, files):
    with pytest.raises(DataError, match="`preset: mind` decodes its log as a whole. Allowed: 0 or auto"):
        write_prepared(DataConfig(root=str(files), preset="mind", user_partitions=2), files / "out")
    frame = shop()
    frame.rename(columns={"note": "#"}).to_csv(files / "events.csv", index=False)
    with pytest.raises(DataError, match="a column is called `#`"):
        write_prepared(settings_of(files, user_partitions=2), files / "out")
    names = {name: f"{name}:token" for name in frame} | {"note": "note:float_seq"}
    frame.assign(note="1 2").rename(columns=names).to_csv(files / "events.inter", sep="\t", index=False)
    config = DataConfig(root=str(files), catalog="catalog.csv", events="events.inter", user_partitions=2)
    with pytest.raises(DataError, match="`note:float_seq` is a list of numbers"):
        write_prepared(config, files / "out")
    parquet(frame.assign(user_id=pd.to_datetime(frame["user_id"])), files)
    config = DataConfig(root=str(files), catalog="catalog.csv", user_partitions=2)
    with pytest.raises(DataError, match="`user_id` holds moments"):
        write_prepared(config, files / "out")
        write_prepared(config, files / "new" / "out")
    assert sorted(path.name for path in files.iterdir() if path.is_dir()) == []


def test_a_killed_run_leaves_its_parts_only_until_the_next(files):
    """Killed while the events are on disk: the folder of the parts stays, and the next run clears it."""
    code = f"""
import os
from gr4ad.data import DataConfig, partitioned_log, write_prepared
partitioned_log.facts_of_events = lambda *_: os.kill(os.getpid(), 9)
write_prepared(DataConfig(root={str(files)!r}, catalog="catalog.csv", events="events.csv", user_partitions=2),
               {str(files / "out")!r})
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == -9
    assert list((files / ".out.partial" / "parts").glob("events/*.arrow")) and not (files / "out").exists()
    write_prepared(settings_of(files, user_partitions=2), files / "out")
    assert not (files / ".out.partial").exists()
    names = ["catalog.parquet", "data.json", "impressions.parquet", "test.parquet", "train.parquet"]
    assert sorted(path.name for path in (files / "out").iterdir()) == [*names, "validation.parquet"]


def test_small_pieces_are_merged_in_the_order_of_the_log(files, monkeypatch):
    monkeypatch.setattr(tables, "CHUNK_ENTRIES", 50)
    monkeypatch.setattr(tables, "COUNTED_ROWS", 9)
    monkeypatch.setattr(partitioned_log, "LEAST_PIECE", 7)
    monkeypatch.setattr(partitioned_log, "CHUNK_ENTRIES", 50)
    whole = assert_same(files, {"catalog": "catalog.csv", "events": "events.csv", "drop": ["unsorted_time"]})
    assert pq.ParquetFile(files / "out_3" / "impressions.parquet").num_row_groups > 10 and "data.json" in whole


@given(values=st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=30), cut=st.integers(0, 30))
def test_exact_sums(values, cut):
    whole = exact_sum(np.array(values, np.float64))
    assert whole == sum(map(Fraction, values))
    assert whole == exact_sum(np.array(values[:cut], np.float64)) + exact_sum(np.array(values[cut:], np.float64))


@given(numbers=st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 3 * 10**8), max_size=20), cut=st.integers(0, 20))
def test_facts_of_parts_add_up(numbers, cut):
    whole, first, second = (
        ClockFacts.of(np.array(part, np.int64), np.zeros(len(part)), np.zeros(len(part), bool))
        for part in (numbers, numbers[:cut], numbers[cut:])
    )
    both = first + second
    assert both.below.tolist() == whole.below.tolist()
    assert {**vars(both), "below": 0} == {**vars(whole), "below": 0} and both.unit == whole.unit


@given(sizes=st.lists(st.integers(0, 30), max_size=40), entries=st.integers(1, 40), counted=st.integers(1, 50))
def test_pieces_of_a_table(sizes, entries, counted):
    """A row begins a piece where the entries up to and with it pass a further multiple."""
    piece = np.cumsum(sizes) // entries if sizes else np.zeros(0)
    starts = [0, *(row for row in range(1, len(sizes)) if piece[row] != piece[row - 1])]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tables, "COUNTED_ROWS", counted)
        found = list(tables.chunks(np.array(sizes, np.int64), entries))
    assert found == [slice(*ends) for ends in zip(starts, [*starts[1:], len(sizes)], strict=True)]
