import json

import datasets
import pandas as pd
import pytest

from gr4ad.data import DataError, read_table

ROWS = pd.DataFrame({"item_id": ["007", "1e5", "2017-01-01"], "title": ["a", "b\nc", "d"], "price": [1.0, 2.5, 0.0]})


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".json"])
def test_formats_give_the_same_rows_and_ids_stay_as_written(tmp_path, suffix):
    table = read_table(write(ROWS, tmp_path / f"t{suffix}"), file_role="catalog")
    assert isinstance(table, datasets.Dataset)
    assert table.to_list() == ROWS.to_dict("records")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_column_map_swaps_names(tmp_path, suffix):
    frame = pd.DataFrame({"item_id": [1, 2], "asin": ["A", "B"], "name": ["x", "y"]})
    path = write(frame, tmp_path / f"t{suffix}")
    table = read_table(path, file_role="catalog", columns={"item_id": "asin", "event_key": "item_id"})
    assert table.column_names == ["item_id", "event_key", "name"]
    assert table["item_id"][:] == ["A", "B"]
    assert [int(key) for key in table["event_key"]] == [1, 2]


def test_column_whose_name_is_taken_is_left_out_with_a_warning(tmp_path, caplog):
    path = write(pd.DataFrame({"item_id": [1], "asin": ["A"]}), tmp_path / "t.csv")
    table = read_table(path, file_role="catalog", columns={"item_id": "asin"})
    assert table.to_list() == [{"item_id": "A"}]
    assert "left out column(s) item_id" in caplog.text


def test_reading_leaves_no_cache_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    read_table(write(ROWS, tmp_path / "t.parquet"), file_role="catalog")
    assert not (tmp_path / "cache").exists()


def refused(source, role="catalog", columns=None):
    with pytest.raises(DataError) as caught:
        read_table(source, file_role=role, columns=columns)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_file(tmp_path):
    text = refused(tmp_path / "no.parquet")
    assert "no.parquet: no such file" in text and "catalog" in text


def test_folder_and_unknown_suffix(tmp_path):
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "t.xlsx").write_text("x")
    assert ".parquet, .csv, .jsonl" in refused(tmp_path / "t.xlsx")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_empty_file_and_file_without_rows(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"")
    assert f"{path}: the file is empty (0 bytes)" in refused(path)
    if suffix == ".jsonl":
        path.write_text("\n\n")
        assert "no json object" in refused(path)
    else:
        write(ROWS.iloc[:0], path)
        assert "has no rows" in refused(path)


@pytest.mark.parametrize("cut", [3, 50, -1])
def test_truncated_parquet(tmp_path, cut):
    path = write(ROWS, tmp_path / "t.parquet")
    path.write_bytes(path.read_bytes()[:cut])
    assert "cannot be read as parquet" in refused(path)


def test_parquet_damaged_in_the_middle(tmp_path):
    frame = pd.DataFrame({"item_id": [str(i) for i in range(5000)]})
    path = write(frame, tmp_path / "t.parquet")
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)
    assert "cannot be read as parquet" in refused(path)


def test_malformed_json_names_the_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"item_id": "a"}\n{"item_id": "b"\n{"item_id": "c"}\n')
    assert "line 1 (0-based) is not json" in refused(path)
    path.write_text('{"item_id": "a"}\n{"item_id": "b"}\n{"item_id": NaN}\n')
    assert "line 2 (0-based) is not json" in refused(path)


def test_json_array_is_refused(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"item_id": "a"}]))
    assert "not as one array" in refused(path)


def test_json_column_of_two_types_names_the_row(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"item_id": "a"}\n{"item_id": null}\n{"item_id": 5}\n')
    assert "column `item_id`, row 2 (0-based): received 5, allowed: str" in refused(path)


def test_csv_row_of_another_width_and_wrong_encoding(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("item_id,title\na,b\nc,d,e\n")
    assert "Expected 2 columns, got 3" in refused(path)
    path.write_bytes(b"item_id,title\na,\xff\xfe\n")
    assert "t.csv: cannot be read as csv" in refused(path)
    path.write_bytes(b"item_id,\xff\na,b\n")
    assert "t.csv: cannot be read as csv" in refused(path)


def test_missing_column_lists_those_there(tmp_path):
    path = write(pd.DataFrame({"asin": ["A"], "title": ["t"]}), tmp_path / "t.parquet")
    text = refused(path)
    assert "no column `item_id`" in text and "asin, title" in text
    text = refused(path, columns={"item_id": "sku"})
    assert "no column `sku` (mapped to `item_id`)" in text and "asin, title" in text
    assert "no column `user_id`" in refused(path, role="users")


def test_repeated_column(tmp_path):
    (tmp_path / "t.csv").write_text("item_id,item_id\na,b\n")
    assert "stands twice" in refused(tmp_path / "t.csv")


def test_hub_ids(monkeypatch):
    calls = []

    def load_dataset(name, data_files, split):
        calls.append((name, data_files, split))
        if name == "owner/gone":
            raise ConnectionError("no\nnetwork")
        # select leaves an index mapping over the full arrow table
        return datasets.Dataset.from_dict({"item_id": ["a", "b", "c"]}).select([2, 0])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    assert read_table("owner/shop", file_role="catalog")["item_id"][:] == ["c", "a"]
    read_table("hf://owner/shop:dev", file_role="catalog")
    read_table("hf://owner/shop/data/catalog.parquet", file_role="catalog")
    assert calls == [
        ("owner/shop", None, "train"),
        ("owner/shop", None, "dev"),
        ("owner/shop", "data/catalog.parquet", "train"),
    ]
    assert "owner/gone" in refused("owner/gone") and "ConnectionError" in refused("owner/gone")
    assert "not a hub data set" in refused("hf://owner")
