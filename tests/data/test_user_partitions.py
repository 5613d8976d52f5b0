"""A log that is read in parts of users is prepared as one that is held in memory: tables, account and errors."""

import gzip
import json
import shutil
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_logs import ITEMS, T

from gr4ad.data import DataConfig, DataError, file_batches, memory_plan, partitioned_log, tables, write_prepared
from gr4ad.data.clock_facts import ClockFacts
from gr4ad.data.exact_sums import exact_sum
from gr4ad.data.file_batches import FileBatches
from gr4ad.report.accounting_rows import accounting_rows

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


# --- any file
# ---------------------------------------------------------------------------------------------------------------------


def shop(rows=600, users=40, seed=0):
    draw = np.random.default_rng(seed)
    kinds = draw.choice(["impression", "click", "conversion"], rows, p=[0.5, 0.3, 0.2])
    return pd.DataFrame(
        {
            "user_id": draw.integers(0, users, rows),
            "item_id": draw.choice(ITEMS, rows),
            "timestamp": T + np.sort(draw.integers(0, 300, rows)),
            "event": kinds,
            "value": np.where(kinds == "conversion", draw.gamma(2, 3, rows), np.nan),
            "note": [f"{number % 7},\n{number}" for number in range(rows)],
        }
    )


def csv(frame, folder, name="events.csv", **options):
    frame.to_csv(folder / name, index=False, **options)
    return {"events": name}


def parquet(frame, folder, name="events.parquet", **options):
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / name, row_group_size=100, **options)
    return {"events": name}


def packed(frame, folder):
    parquet(frame, folder)
    (folder / "events.parquet.gz").write_bytes(gzip.compress((folder / "events.parquet").read_bytes()))
    return {"events": "events.parquet.gz"}


def jsonl(frame, folder, name="events.jsonl"):
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"events": name}


def recbole(frame, folder):
    kinds = {"user_id": "token", "timestamp": "float", "value": "float", "note": "token_seq"}
    frame = frame.assign(note="a b").rename(columns={name: f"{name}:{kinds.get(name, 'token')}" for name in frame})
    frame.to_csv(folder / "events.inter", sep="\t", index=False)
    return {"events": "events.inter"}


def several(frame, folder):
    for number, rows in enumerate((frame[:200], frame[200:350], frame[350:])):
        csv(rows, folder, f"log_{number}.csv", sep=";" if number == 1 else ",")
    return {"events": "log_*.csv"}


def several_types(frame, folder):
    parquet(frame[:300].assign(value=1), folder, "log_0.parquet")
    parquet(frame[300:], folder, "log_1.parquet")
    return {"events": "log_*.parquet"}


FILES = {
    "csv": csv,
    "tsv": lambda frame, folder: csv(frame, folder, "events.tsv", sep="\t"),
    "packed csv": lambda frame, folder: csv(frame, folder, "events.csv.gz"),
    "numbers": lambda frame, folder: csv(frame, folder) | {"number_columns": ["user_id", "value", "timestamp"]},
    "floats of text": lambda frame, folder: csv(frame.assign(user_id=frame["user_id"].astype(float)), folder),
    "floats but one": lambda frame, folder: csv(
        frame.assign(user_id=["x", *frame["user_id"].astype(float).astype(str)[1:]]), folder
    ),
    "parquet": parquet,
    "packed parquet": packed,
    "floats": lambda frame, folder: parquet(frame.assign(user_id=frame["user_id"].astype(float)), folder),
    "categories": lambda frame, folder: parquet(frame.astype({"event": "category", "item_id": "category"}), folder),
    "moments": lambda frame, folder: parquet(
        frame.assign(
            timestamp=pd.to_datetime(frame["timestamp"], unit="s"),
            note=pd.to_datetime(frame["timestamp"] * 1000 + (frame.index == 500), unit="ms"),
        ),
        folder,
    ),
    "decimals": lambda frame, folder: parquet(
        frame.assign(user_id=[Decimal(user) for user in frame["user_id"]], note=[[1]] * len(frame)), folder
    ),
    "long decimals": lambda frame, folder: parquet(
        frame.assign(note=[Decimal(10**25 if row == 7 else row) for row in range(len(frame))]), folder
    ),
    "milliseconds": lambda frame, folder: csv(frame.assign(timestamp=frame["timestamp"] * 1000), folder),
    "some milliseconds": lambda frame, folder: csv(
        frame.assign(timestamp=frame["timestamp"].where(frame.index < 400, frame["timestamp"] * 1000)), folder
    ),
    "dates": lambda frame, folder: csv(frame.assign(timestamp=20231115 + (frame["timestamp"] - T) // 30), folder),
    "iso dates": lambda frame, folder: csv(
        frame.assign(timestamp=pd.to_datetime(frame["timestamp"], unit="s").astype(str) + " UTC"), folder
    ),
    "one fraction": lambda frame, folder: csv(
        frame.assign(timestamp=frame["timestamp"].where(frame.index != 400, frame["timestamp"] + 0.5)), folder
    ),
    "own numbers": lambda frame, folder: csv(frame.assign(timestamp=frame["timestamp"] - T), folder),
    "positions": lambda frame, folder: csv(frame.assign(position=range(len(frame))).drop(columns="timestamp"), folder),
    "repeated positions": lambda frame, folder: csv(
        frame.assign(position=frame["timestamp"] - T).drop(columns="timestamp"), folder
    ),
    "other names": lambda frame, folder: (
        csv(
            frame.replace({"event": {"click": "cart", "impression": "view"}}).rename(columns={"user_id": "who"}),
            folder,
        )
        | {"event_columns": {"user_id": "who"}, "event_names": {"cart": "click", "view": "impression"}}
    ),
    "unknown names": lambda frame, folder: csv(frame.replace({"event": {"click": "cart"}}), folder),
    "no values": lambda frame, folder: csv(frame.assign(value=""), folder),
    "one value": lambda frame, folder: csv(
        frame.assign(value=["1" if row == 599 else "" for row in range(600)]), folder
    ),
    "no items of the catalog": lambda frame, folder: csv(frame.assign(item_id="z"), folder),
    "all rows dropped": lambda frame, folder: csv(frame.assign(user_id=""), folder) | {"drop": ["missing"]},
    "jsonl": jsonl,
    "packed jsonl": lambda frame, folder: jsonl(frame, folder) | packed_lines(folder),
    "jsonl of two types": lambda frame, folder: jsonl(
        frame.assign(note=["x" if row == 9 else row for row in range(600)]), folder
    ),
    "recbole": recbole,
    "several files": several,
    "files of several types": several_types,
    "a cell that is no number": lambda frame, folder: (
        csv(frame.assign(value=["many" if row == 555 else "1" for row in range(600)]), folder)
        | {"number_columns": ["value"]}
    ),
    "a row of another width": lambda frame, folder: torn(frame, folder),
    "no user column": lambda frame, folder: csv(frame.drop(columns="user_id"), folder),
    "a column twice": lambda frame, folder: csv(
        frame, folder, header=["user_id", "item_id", "note", *"abc"[:2], "note"]
    ),
    "no such split column": lambda frame, folder: (
        csv(frame, folder) | {"split": "temporal", "split_column": "week", "validation_start": 2, "test_start": 3}
    ),
    "a split by another column": lambda frame, folder: (
        csv(frame.assign(week=(frame["timestamp"] - T) // 30), folder)
        | {"split": "temporal", "split_column": "week", "validation_start": 7, "test_start": 9}
    ),
    "a split column that goes back": lambda frame, folder: (
        csv(frame.assign(week=((frame["timestamp"] - T) // 30) % 7), folder)
        | {"split": "temporal", "split_column": "week", "validation_start": 3, "test_start": 5}
    ),
    "bounds out of order": lambda frame, folder: (
        csv(frame, folder) | {"split": "temporal", "validation_start": T + 200, "test_start": T + 500}
    ),
    "bounds as dates": lambda frame, folder: (
        csv(frame.assign(timestamp=frame["timestamp"] - T), folder)
        | {"split": "temporal", "validation_start": "2024-01-01", "test_start": "2024-01-02"}
    ),
    "an empty split": lambda frame, folder: (
        csv(frame, folder) | {"split": "temporal", "validation_start": T - 5, "test_start": T - 1}
    ),
    "no history": lambda frame, folder: csv(frame.assign(event="impression"), folder),
    "in no order": lambda frame, folder: csv(frame.sample(frac=1, random_state=0), folder) | {"drop": []},
}


def packed_lines(folder):
    (folder / "events.jsonl.gz").write_bytes(gzip.compress((folder / "events.jsonl").read_bytes()))
    return {"events": "events.jsonl.gz"}


def torn(frame, folder):
    named = csv(frame.drop(columns="note"), folder)
    with open(folder / "events.csv", "a") as file:
        file.write("1,2,3\n")
    return named


@pytest.mark.parametrize("kind", FILES)
def test_any_file_is_read_alike(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(file_batches, "BATCH_ROWS", 64)
    monkeypatch.setattr(file_batches, "TEXT_BLOCK", 2048)
    monkeypatch.setattr(FileBatches, "_block_bytes", lambda _: 2048)
    pd.DataFrame({"item_id": ITEMS}).to_csv(tmp_path / "catalog.csv", index=False)
    config = {"drop": ["unsorted_time"], "catalog": "catalog.csv"} | FILES[kind](shop(), tmp_path)
    whole = assert_same(tmp_path, config, (3, 5))
    refused = ("no ", "a cell", "a row", "a column", "unknown", "bounds", "an empty", "in no", "some", "repeated")
    refused += ("all rows", "a split column", "jsonl of two")
    assert isinstance(whole, str) == (kind.startswith(refused) and kind != "no values"), whole


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
