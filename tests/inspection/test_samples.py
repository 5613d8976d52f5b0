"""A file is read whole where it is small; else the sample is bounded, and all rows of some users."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr4ad.data import DataError, prepare
from gr4ad.inspection import inspect_folder, samples, write_recipe
from gr4ad.inspection.samples import data_files, groups_of_files, read_parts, read_sample, sample_of_users
from gr4ad.pipeline.recipe import load_recipe

ROWS, LIMIT = 60_000, 10_000


@pytest.fixture(scope="module")
def log():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "user": rng.integers(0, 2000, ROWS).astype(str),
            "item": rng.integers(0, 500, ROWS).astype(str),
            "note": np.where(rng.random(ROWS) < 0.01, 'two "lines"\nhere', "x"),
            "place": np.arange(ROWS).astype(str),
        }
    )


def written(log, folder, suffix):
    path = folder / f"log{suffix}"
    if suffix.startswith(".parquet"):
        pq.write_table(pa.Table.from_pandas(log, preserve_index=False), path, row_group_size=3000)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in log.to_dict("records")))
    else:
        text = log.to_csv(index=False, sep="\t" if ".tsv" in suffix else ";")
        codec = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        with pa.output_stream(str(path), compression=codec) as stream:
            stream.write(text.encode())
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv.gz", ".csv.zst", ".jsonl"])
def test_a_small_file_is_read_whole(log, tmp_path, suffix):
    sample = read_sample(written(log.head(300), tmp_path, suffix), LIMIT)
    assert sample.whole and sample.rows == 300 and "300 rows" in sample.described()
    assert sample.table.to_pandas().astype(str).equals(log.head(300).astype(str))


def test_blank_lines_before_the_names_hide_no_row(tmp_path):
    (tmp_path / "log.csv").write_text("\n \nuser;item\na;x\nb;y\n")
    assert read_sample(tmp_path / "log.csv", LIMIT).table.to_pydict() == {"user": ["a", "b"], "item": ["x", "y"]}


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv.gz"])
def test_a_long_log_is_read_by_whole_users(log, tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(samples, "HEAD_BYTES", 1 << 14)
    first = read_sample(written(log, tmp_path, suffix), LIMIT)
    assert not first.whole and first.table.num_rows < 3 * LIMIT
    sample = sample_of_users(first, "user", LIMIT)
    assert sample.of_users and not sample.whole and sample.rows == ROWS
    found = sample.table.to_pandas()
    assert 0.3 * LIMIT < len(found) < 3 * LIMIT
    expected = log[log["user"].isin(found["user"])].reset_index(drop=True)
    assert found.astype(str).equals(expected.astype(str))  # each of them with all rows, in the order of the file


def test_pieces_are_rows_from_all_over(log, tmp_path, monkeypatch):
    monkeypatch.setattr(samples, "HEAD_BYTES", 1 << 14)
    plain = log.drop(columns="note")
    sample = read_sample(written(plain, tmp_path, ".csv"), LIMIT)
    rows = sample.table["place"].to_pandas().astype(int)
    assert rows.is_monotonic_increasing and rows.is_unique
    assert rows.min() == 0 and rows.max() > 0.9 * ROWS
    assert sample.table.to_pandas().equals(plain.iloc[rows].reset_index(drop=True))
    assert abs(sample.rows - ROWS) < 0.05 * ROWS


def test_what_cannot_be_read_is_told(tmp_path):
    for name, content, words in (
        ("a.parquet", b"no parquet", "cannot be read as parquet"),
        ("b.jsonl", b'{"a": 1}\nnothing\n', "line 1 (0-based) is not json"),
        ("c.csv", b"a,b\n", "holds no rows"),
        ("d.csv", b"", "the file is empty"),
        ("e.csv", b"a,a\n1,2\n", "`a` stands twice"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="(?s)" + words.replace("(", r"\(").replace(")", r"\)")):
            read_sample(tmp_path / name, LIMIT)
    assert [path.name for path in data_files(tmp_path)] == ["a.parquet", "b.jsonl", "c.csv", "d.csv", "e.csv"]


def test_rows_of_another_width_are_counted(tmp_path):
    (tmp_path / "log.csv").write_text("a,b\n1,2\n3\n4,5,6\n7,8\n")
    sample = read_sample(tmp_path / "log.csv", LIMIT)
    assert sample.table.num_rows == 2 and "2 rows have more or fewer fields" in sample.odd[0]


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_a_long_catalog_is_known_by_all_its_ids(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr(samples, "HEAD_BYTES", 1 << 14)
    rng = np.random.default_rng(0)
    items = rng.permutation(20_000) + 5
    catalog = pd.DataFrame({"item_id": items, "title": [f"a thing of kind {item % 97}" for item in items]})
    log = pd.DataFrame({"user_id": rng.integers(0, 300, 4000), "item_id": rng.choice(items, 4000)})
    log["timestamp"] = 1_700_000_000 + rng.integers(0, 100 * 86400, 4000)
    log.to_csv(tmp_path / "events.csv", index=False)
    written(catalog, tmp_path, suffix)
    inspection = inspect_folder(tmp_path, rows=5000)
    assert not inspection.files[f"log{suffix}"].whole
    assert inspection.found.items == 20_000 and inspection.found.events == len(log.drop_duplicates())
    assert "unknown_item" not in inspection.found.drop
    assert inspection.layout.joins["items of the log in the catalog"].share == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("limit", [100_000, 1500])
def test_a_log_in_several_files_is_one_table(tmp_path, limit, monkeypatch):
    monkeypatch.setattr(samples, "HEAD_BYTES", 1 << 12)
    rng = np.random.default_rng(0)
    log = pd.DataFrame({"user_id": rng.integers(0, 300, 9000), "item_id": rng.integers(0, 90, 9000)})
    log["timestamp"] = 1_700_000_000 + np.sort(rng.integers(0, 90 * 86400, 9000))
    for month in range(3):
        log.iloc[3000 * month : 3000 * month + 3000].to_csv(tmp_path / f"orders_2024-{month + 1:02}.csv", index=False)
    items = rng.permutation(90)
    pd.DataFrame({"item_id": items, "title": [f"thing {item} red" for item in items]}).to_csv(
        tmp_path / "items.csv", index=False
    )
    inspection = inspect_folder(tmp_path, rows=limit)
    sample = inspection.files["orders_*-*.csv"]
    assert sample.rows == 9000 and "3 files" in sample.described() and sample.whole == (limit > 9000)
    found = sample.table.to_pandas().astype(np.int64)
    expected = log[log["user_id"].isin(found["user_id"])].reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert "events: orders_*-*.csv" in inspection.recipe
    write_recipe(inspection, tmp_path / "recipe.yaml")
    data = prepare(load_recipe(tmp_path / "recipe.yaml", data_root=tmp_path).data, tmp_path / "prepared")
    assert data.summary["accounting"]["rows_in"] == 9000


def test_files_of_other_columns_stay_apart(tmp_path):
    (tmp_path / "table1.csv").write_text("a,b\n1,2\n")
    (tmp_path / "table2.csv").write_text("a,c\n1,2\n")
    paths = data_files(tmp_path)
    assert groups_of_files(paths) == {"table*.csv": paths}
    assert read_parts("table*.csv", paths, LIMIT) is None
