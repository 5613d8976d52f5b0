"""Files of any form that are read in parts of users give what the whole file gives, or its error."""

import gzip
import json
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from part_outcomes import assert_same, csv, parquet, shop
from row_logs import ITEMS, T

from gr4ad.data import file_batches, hub_files
from gr4ad.data.file_batches import FileBatches


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
    "jsonl with dates in some objects": lambda frame, folder: cells_of(
        frame, folder, lambda row: {"day": ["2023-01-01" if row < 300 else "soon"], "at": {"a": row}}
    ),
    "jsonl of two types in objects": lambda frame, folder: cells_of(
        frame, folder, lambda row: {"places": [{"city": 1 if row < 300 else "A"}]}
    ),
    "jsonl with a key twice": lambda frame, folder: changed_line(frame, folder, '"note"', '"item_id": "a", "note"'),
    "jsonl with half a character": lambda frame, folder: changed_line(frame, folder, '"note": "', '"note": "\\ud83d'),
    "recbole": recbole,
    "several files": several,
    "files of several types": several_types,
    "no one type in several files": lambda frame, folder: (
        csv(frame[:300], folder, "log_0.csv") | parquet(frame[300:], folder, "log_1.parquet") | {"events": "log_*"}
    ),
    "a cell that is no number": lambda frame, folder: (
        csv(frame.assign(value=["many" if row == 555 else "1" for row in range(600)]), folder)
        | {"number_columns": ["value"]}
    ),
    "a row of another width": lambda frame, folder: torn(frame, folder),
    "a quote behind a backslash": lambda frame, folder: csv(
        frame.assign(note='a "quote"'), folder, quoting=1, doublequote=False, escapechar="\\"
    ),
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


def cells_of(frame, folder, cell):
    """JSON lines whose `note` is no text."""
    return jsonl(frame.assign(note=[cell(row) for row in range(len(frame))]), folder)


def changed_line(frame, folder, old, new):
    named = jsonl(frame, folder)
    lines = (folder / "events.jsonl").read_text().split("\n")
    lines[400] = lines[400].replace(old, new)
    (folder / "events.jsonl").write_text("\n".join(lines))
    return named


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
    refused = (
        "no ",
        "a cell",
        "a row",
        "a column",
        "a quote",
        "unknown",
        "bounds",
        "an empty",
        "in no",
        "some",
        "repeated",
    )
    refused += ("all rows", "a split column", "jsonl of two", "jsonl with a key", "jsonl with half")
    assert isinstance(whole, str) == (kind.startswith(refused) and kind != "no values"), whole
    if kind.startswith(("jsonl of two types in", "jsonl with a key", "jsonl with half")):
        assert "(0-based)" in whole  # the row of the file


def test_the_rows_of_a_hub_data_set(tmp_path, monkeypatch):
    pd.DataFrame({"item_id": ITEMS}).to_csv(tmp_path / "catalog.csv", index=False)
    table = pa.Table.from_pandas(shop().astype({"event": "category"}), preserve_index=False)
    monkeypatch.setattr(hub_files, "hub_tables", lambda _: table)
    monkeypatch.setattr(file_batches, "BATCH_ROWS", 64)
    whole = assert_same(tmp_path, {"catalog": "catalog.csv", "events": "a/log", "drop": ["unsorted_time"]}, (3,))
    assert "data.json" in whole
