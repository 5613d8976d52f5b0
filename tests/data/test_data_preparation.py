import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from tie_order import tie_hash

from gr4ad.data import DataConfig, DataError, events, load_prepared, preparation, prepare, tables
from gr4ad.data.event_columns import EventFeature
from gr4ad.tokenization import user_history

EVENTS = pd.DataFrame(
    {
        "user_id": [1, 1, 1, 1, 2, 2, 2],
        "item_id": [10, 10, 20, 30, 30, 20, 10],
        "timestamp": [1, 2, 3, 4, 1, 2, 3],
        "event": ["click", "impression", "conversion", "click", "click", "click", "click"],
        "value": [0.25, None, 2.0, 1.0, 1.0, 1.0, 1.0],
    }
)


@pytest.fixture
def shop(tmp_path):
    pd.DataFrame({"asin": ["X", "Y", "Z"], "item_id": [10, 20, 30], "tags": [[1], [], [2, 3]]}).to_parquet(
        tmp_path / "catalog.parquet"
    )
    EVENTS.to_parquet(tmp_path / "events.parquet")
    pd.DataFrame({"user_id": [2, 9], "age": [30, 40], "city": ["R", None]}).to_parquet(tmp_path / "users.parquet")
    return tmp_path


def config(shop, **settings):
    columns = {"item_id": "asin", "event_key": "item_id"}
    return DataConfig(root=str(shop), catalog_columns=columns, value_unit="USD", **settings)


def test_round_trip(shop):
    written = prepare(config(shop, users="users.parquet", user_features=["age", "city"]), shop / "out" / "data")
    data = load_prepared(shop / "out" / "data")
    assert data.catalog.to_list() == [
        {"item_id": "X", "tags": [1]},
        {"item_id": "Y", "tags": []},
        {"item_id": "Z", "tags": [2, 3]},
    ]
    assert data.train.to_list() == [
        {
            "user_id": "1",
            "items": ["X"],
            "events": ["click"],
            "values": [0.25],
            "times": [1],
            "age": None,
            "city": None,
        },
        {"user_id": "2", "items": ["Z"], "events": ["click"], "values": [1.0], "times": [1], "age": "30", "city": "R"},
    ]
    assert data.test[1] == {
        "user_id": "2",
        "items": ["Z", "Y"],
        "events": ["click", "click"],
        "values": [1.0, 1.0],
        "times": [1, 2],
        "target_items": ["X"],
        "target_values": [1.0],
        "age": "30",
        "city": "R",
    }
    assert data.impressions.to_list() == [
        {
            "user_id": "1",
            "items": ["X"],
            "events": ["click"],
            "values": [0.25],
            "times": [1],
            "candidates": ["X"],
            "rewards": [0.0],
            "outcomes": ["impression"],
            "age": None,
            "city": None,
        }
    ]
    assert data.user_features == ["age", "city"]
    for name in ("catalog", "train", "validation", "test", "impressions"):
        assert getattr(data, name).to_list() == getattr(written, name).to_list()
        assert getattr(data, name).features == getattr(written, name).features
    assert str(data.train.features["values"].feature.dtype) == "float32"
    assert str(data.train.features["times"].feature.dtype) == "int64"
    assert data.summary == written.summary == json.loads((shop / "out" / "data" / "data.json").read_text())
    assert data.summary["users"] == 2 and data.summary["items"] == 3 and data.summary["events"] == 7
    assert data.summary["value_unit"] == "USD" and data.summary["split"] == {"kind": "leave_one_out"}
    assert data.summary["test"]["mean_target_value"] == 1.0
    assert data.summary["clock"] == "timestamp"


def test_the_summary_says_whether_times_are_times(shop):
    clicks = EVENTS.rename(columns={"timestamp": "when"})
    clicks.to_parquet(shop / "events.parquet")
    for clock in ("timestamp", "position"):
        data = prepare(config(shop, event_columns={clock: "when"}), shop / "out")
        assert data.summary["clock"] == clock and data.test["times"][1] == [1, 2]
    clicks.assign(position=range(len(clicks))).to_parquet(shop / "events.parquet")
    assert prepare(config(shop, event_columns={"timestamp": "when"}), shop / "out").summary["clock"] == "timestamp"


def test_loaded_data_supports_the_operations_of_a_dataset(shop):
    train = prepare(config(shop), shop / "out").train
    assert train.map(lambda row: {"n": len(row["items"])})["n"][:] == [1, 1]
    assert train.filter(lambda row: row["user_id"] == "2").num_rows == 1


def test_a_further_column_of_events_reaches_every_row(shop, monkeypatch):
    def read_devices(table, checks, event):
        return table["device"].combine_chunks() if "device" in table.column_names else None

    further = (*events.EVENT_FEATURES, EventFeature("device", "devices", read_devices))
    monkeypatch.setattr(events, "EVENT_FEATURES", further)
    for module in (tables, preparation):
        monkeypatch.setattr(module, "HISTORY_LISTS", (*user_history.HISTORY_COLUMNS, "devices"))
    assert "devices" not in prepare(config(shop), shop / "out").train.column_names
    EVENTS.assign(device=list("abcdefg")).to_parquet(shop / "events.parquet")
    data = prepare(config(shop, users="users.parquet", user_features=["age", "city"]), shop / "out")
    assert data.train["devices"][:] == [["a"], ["e"]] and data.validation["devices"][:] == [["a"], ["e"]]
    assert data.test["devices"][:] == [["a", "c"], ["e", "f"]] and data.impressions["devices"][:] == [["a"]]
    assert data.user_features == ["age", "city"]


def test_lists_of_a_history_are_those_that_a_tokenizer_reads():
    assert tables.HISTORY_LISTS == user_history.HISTORY_COLUMNS


def test_chunks_give_the_same_rows(shop, monkeypatch):
    whole = prepare(config(shop, users="users.parquet", user_features=["age", "city"]), shop / "out")
    monkeypatch.setattr(tables, "CHUNK_ENTRIES", 1)
    parts = prepare(config(shop, users="users.parquet", user_features=["age", "city"]), shop / "out")
    for name in ("train", "validation", "test", "impressions"):
        assert getattr(whole, name).to_list() == getattr(parts, name).to_list()


def test_min_user_events_are_left_out_and_counted(shop):
    EVENTS.iloc[:6].to_parquet(shop / "events.parquet")
    data = prepare(config(shop, min_user_events=3), shop / "out")
    assert data.summary["left_out_min_user_events"] == 1
    assert data.test["user_id"][:] == ["1"]
    data = prepare(config(shop), shop / "out")
    assert data.test["user_id"][:] == ["1", "2"] and data.validation["user_id"][:] == ["1"]
    assert data.summary["validation"]["left_out"] == {"no_history": 1, "no_targets": 0}


def test_catalog_of_ids_only_and_clash_of_user_columns(shop):
    pd.DataFrame({"item_id": [10, 20, 30]}).to_parquet(shop / "catalog.parquet")
    assert prepare(DataConfig(root=str(shop)), shop / "out").catalog.column_names == ["item_id"]
    pd.DataFrame({"user_id": [1], "items": [3]}).to_parquet(shop / "users.parquet")
    with pytest.raises(DataError, match="column `items` has the name of a prepared column"):
        prepare(DataConfig(root=str(shop), users="users.parquet", user_features=["items"]), shop / "out")
    pd.DataFrame({"user_id": [1], "tags": [[3]]}).to_parquet(shop / "users.parquet")
    with pytest.raises(DataError, match="column `tags` is of type list"):
        prepare(DataConfig(root=str(shop), users="users.parquet", user_features=["tags"]), shop / "out")


def test_output_is_replaced_whole_or_not_at_all(shop, monkeypatch):
    out = shop / "out"
    prepare(config(shop), out)
    before = (out / "data.json").read_bytes()
    (out / "stale.txt").write_text("from an earlier version")

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(preparation, "summary", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare(config(shop, min_user_events=1), out)
    assert (out / "data.json").read_bytes() == before
    prepare(config(shop), out)
    assert not (out / "stale.txt").exists()
    assert sorted(path.name for path in shop.iterdir() if path.name.startswith(".")) == []


def test_a_folder_of_something_else_is_not_overwritten(shop):
    with pytest.raises(DataError, match="exists and is no prepared data folder"):
        prepare(config(shop), shop)
    assert (shop / "events.parquet").exists()
    (shop / "empty").mkdir()
    prepare(config(shop), shop / "empty")


def test_load_of_a_missing_or_damaged_folder(shop):
    with pytest.raises(DataError, match="no prepared data here"):
        load_prepared(shop)
    out = shop / "out"
    prepare(config(shop), out)
    (out / "test.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="test.parquet: cannot be read"):
        load_prepared(out)
    (out / "data.json").write_text("{")
    with pytest.raises(DataError, match="is no json"):
        load_prepared(out)


def test_import_is_light():
    code = "import sys, gr4ad.data; sys.exit(bool({'torch', 'datasets', 'pandas', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


REPOSITORY = Path(__file__).resolve().parents[2]
REAL = REPOSITORY / os.environ.get("GR4AD_DATA", "data")


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "complete_journey").exists(), reason="no real data: set GR4AD_DATA")
def test_complete_journey(tmp_path):
    settings = {
        "root": str(REAL / "complete_journey"),
        "users": "users.parquet",
        "user_features": ["age", "income"],
        "event_columns": {"value": "sales_value"},
        "split": "temporal",
        "split_column": "week",
        "validation_start": 45,
        "test_start": 49,
        "test_end": 54,
        "value_unit": "USD",
    }
    with pytest.raises(DataError, match="column `item_id`, row .*222 such rows"):
        prepare(DataConfig(**settings), tmp_path / "out")
    data = prepare(DataConfig(**settings, drop=["unknown_item"]), tmp_path / "out")
    assert data.summary["dropped"] == {"unknown_item": 222}
    assert (len(data.train), len(data.validation), len(data.test)) == (2341, 1501, 1614)
    assert data.summary["test"]["mean_target_value"] == pytest.approx(14.67, abs=0.01)
    raw = pd.read_parquet(REAL / "complete_journey" / "events.parquet")
    known = set(data.catalog["item_id"])
    user = data.test[700]
    mine = raw[(raw["user_id"] == user["user_id"]) & raw["item_id"].isin(known)]
    before = mine[mine["week"] < 49]
    # Of a basket, whose products stand at one moment, the order is a hash's.
    order = sorted(
        zip(before["timestamp"], before["item_id"], strict=True),
        key=lambda row: (row[0], tie_hash(user["user_id"], row[1])),
    )
    assert user["items"] == [item for _, item in order]
    assert sum(user["target_values"]) == pytest.approx(mine.loc[mine["week"] >= 49, "sales_value"].sum(), rel=1e-5)


@pytest.mark.data
@pytest.mark.skipif(not (REAL / "amazon_beauty").exists(), reason="no real data: set GR4AD_DATA")
def test_amazon_beauty(tmp_path):
    columns = {"item_id": "asin", "event_key": "item_id"}
    config = DataConfig(root=str(REAL / "amazon_beauty"), catalog_columns=columns)
    data = prepare(config, tmp_path / "out")
    assert (len(data.train), len(data.validation), len(data.test)) == (22363, 22363, 22363)
    assert data.summary["events"] == 198502 and data.summary["items"] == 12101
    assert data.test[0]["items"] == ["B004756YJA", "B004ZT0SSG", "B0020YLEYK", "7806397051"]
    assert data.test[0]["target_items"] == ["B002WLWX82"]
