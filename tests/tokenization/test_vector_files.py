import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from gr4ad.tokenization.embedding_shards import ShardContents, write_embedding_shards
from gr4ad.tokenization.vector_files import id_text, read_vectors

VECTORS = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
IDS = ["a", "0007", "c", "d"]


def files(folder) -> dict:
    """One file of each form that holds the same vectors under the same ids."""
    for name in ("texts", "array"):
        np.save(folder / f"{name}.npy", VECTORS)
    (folder / "texts.ids.txt").write_text("\n".join(IDS) + "\n")
    np.save(folder / "array.ids.npy", np.array(IDS))
    save_file({"embeddings": VECTORS, "other": VECTORS}, folder / "meta.safetensors", {"ids": json.dumps(IDS)})
    lists = pa.array(VECTORS.tolist(), pa.list_(pa.float32()))
    fixed = pa.FixedSizeListArray.from_arrays(pa.array(VECTORS.reshape(-1)), 3)
    pq.write_table(pa.table({"sku": IDS, "vector": lists, "title": IDS}), folder / "lists.parquet")
    pq.write_table(pa.table({"vector": fixed, "sku": IDS}), folder / "fixed.parquet")
    columns = {f"x{n}": VECTORS[:, n] for n in range(3)}
    pq.write_table(pa.table({"sku": IDS, **columns}), folder / "columns.parquet")

    def read(start: int, stop: int) -> ShardContents:
        return ShardContents(IDS, "d", {"ads": 4, "without_content": 0}, lambda: VECTORS)

    write_embedding_shards(
        folder / "shards", read, num_ads=4, shard_size=4, settings={}
    )  # fmt: skip
    return {
        "texts.npy", "array.npy", "meta.safetensors", "lists.parquet", "fixed.parquet", "columns.parquet",
        "shards/embeddings-00000.safetensors",
    }  # fmt: skip


def test_every_form_gives_the_same_vectors_by_id(tmp_path):
    for name in sorted(files(tmp_path)):
        file = read_vectors(tmp_path / name, "sku")
        assert file.ids == IDS and not file.by_row, name
        np.testing.assert_array_equal(file.vectors, VECTORS)


def test_rows_are_matched_by_id_and_counted(tmp_path):
    files(tmp_path)
    file = read_vectors(tmp_path / "texts.npy")
    found, counts = file.matched(["d", "x", None, "0007", "a", "a"])
    unit = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    np.testing.assert_allclose(found, np.stack([unit[3], 0 * unit[0], 0 * unit[0], unit[1], unit[0], unit[0]]))
    assert counts == {"matched": 4, "without_vector": 2, "vectors_unused": 1}
    with pytest.raises(ValueError, match="none of its 4 ids is one of the catalog's 2. Its ids begin 'a'"):
        file.matched(["7", "8"])  # zeros are part of an id


def test_a_file_without_ids_goes_by_row_numbers(tmp_path):
    np.save(tmp_path / "x.npy", VECTORS.astype(np.float64))
    save_file({"t": VECTORS, "ids": np.array([2**60, 5, 6, 7])}, tmp_path / "whole.safetensors")
    file = read_vectors(tmp_path / "x.npy")
    assert file.by_row and file.ids == ["0", "1", "2", "3"] and file.vectors.dtype == np.float32
    assert read_vectors(tmp_path / "whole.safetensors").ids == [str(2**60), "5", "6", "7"]


def test_a_byte_order_mark_is_no_part_of_an_id(tmp_path):
    np.save(tmp_path / "x.npy", VECTORS)
    (tmp_path / "x.ids.txt").write_text("\r\n".join(IDS), encoding="utf-8-sig")
    assert read_vectors(tmp_path / "x.npy").ids == IDS


def test_the_index_of_a_pandas_table_is_no_dimension(tmp_path):
    frame = pd.DataFrame(VECTORS, columns=["x", "y", "z"]).assign(item_id=IDS).iloc[[2, 0, 3, 1]]
    frame.to_parquet(tmp_path / "x.parquet")
    assert "__index_level_0__" in pq.read_schema(tmp_path / "x.parquet").names
    np.testing.assert_array_equal(read_vectors(tmp_path / "x.parquet").vectors, VECTORS[[2, 0, 3, 1]])


@pytest.mark.parametrize("ids", [4, {"a": 0, "b": 1, "c": 2, "d": 3}, "abcd"])
def test_ids_are_a_list(tmp_path, ids):
    save_file({"t": VECTORS}, tmp_path / "x.safetensors", {"ids": json.dumps(ids)})
    with pytest.raises(ValueError, match="x.safetensors: the ids should be a list, one a vector. Received: "):
        read_vectors(tmp_path / "x.safetensors")


def test_vectors_that_are_all_zeros_are_none(tmp_path):
    np.save(tmp_path / "x.npy", VECTORS * np.array([[0], [0], [0], [1]]))
    (tmp_path / "x.ids.txt").write_text("\n".join(IDS))
    with pytest.raises(ValueError, match="the vectors of all ads of the catalog are zeros"):
        read_vectors(tmp_path / "x.npy").matched(["a", "c"])


def test_ids_are_whole_or_refused():
    assert [id_text(value, "x") for value in (7, 7.0, "07", np.int64(3), b"k")] == ["7", "7", "07", "3", "k"]
    for value in (7.5, 2.0**60, True, None, "", float("nan")):
        with pytest.raises(ValueError, match="is no id"):
            id_text(value, "x")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p, "no such file"),
        (lambda p: p.with_suffix(".pkl"), "`vectors` are files of .npy, .parquet, .safetensors. Received: .pkl"),
        (lambda p: p.write_bytes(b"no"), "not"),
        (lambda p: np.save(p, np.array([{"a": 1}], dtype=object), allow_pickle=True), "not a plain numpy array"),
        (lambda p: np.save(p, VECTORS[0]), r"shape \(ads, dimensions\). Received: float32, \(3,\)"),
        (lambda p: np.save(p, np.array([["a"]])), "must be numbers"),
        (lambda p: (np.save(p, VECTORS), p.with_name("x.ids.txt").write_text("a\nb\n")), "4 vectors, but 2 ids"),
        (lambda p: (np.save(p, VECTORS), p.with_name("x.ids.txt").write_text("a\nb\na\nd")), "'a' stands twice"),
        (lambda p: (np.save(p, VECTORS), p.with_name("x.ids.txt").write_bytes("ä\nb\nc\nd".encode("latin-1"))),
         "x.ids.txt: not text in UTF-8"),
        (lambda p: (np.save(p, VECTORS.astype("f8") * 1e300), p.with_name("x.ids.txt").write_text("a\nb\nc\nd")),
         r"the vector of 'a' \(row 0\) is not finite \(4 such vectors\)"),
        (lambda p: (np.save(p, np.where([[False], [True], [False], [True]], 2e19, VECTORS).astype("f4")),
                    p.with_name("x.ids.txt").write_text("a\nb\nc\nd")),
         r"x.npy: the vector of 'b' \(row 1\) has numbers up to 2e\+19, .* \(2 such vectors\).* Scale the vectors"),
        (lambda p: (np.save(p, VECTORS * np.nan), p.with_name("x.ids.txt").write_text("a\nb\nc\nd")),
         r"the vector of 'a' \(row 0\) is not finite \(4 such vectors\)"),
    ],
)  # fmt: skip
def test_bad_arrays_are_named(tmp_path, make, message):
    path = tmp_path / "x.npy"
    made = make(path)
    with pytest.raises(ValueError, match=message):
        read_vectors(made if hasattr(made, "suffix") else path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sku": IDS, "v": VECTORS.tolist()}, "has no column `item_id` with the ids. It has: sku, v"),
        ({"item_id": ["a", None], "v": [[1.0], [2.0]]}, "column `item_id`, row 1: no id"),
        ({"item_id": ["a", "b"], "v": [[1.0], [2.0, 3.0]]}, r"holds 2 numbers for id 'b' \(row 1\), and 1"),
        ({"item_id": ["a", "b"], "v": [[1.0], None]}, r"holds 0 numbers for id 'b'"),
        ({"item_id": ["a", "b"], "v": [[1.0], [None]]}, "has missing numbers"),
        ({"item_id": ["a"], "v": [[1.0]], "w": [[1.0]]}, "several columns of lists: v, w"),
        ({"item_id": pa.array([], pa.string()), "v": pa.array([], pa.list_(pa.float32()))}, r"shape \(ads, dimens"),
        ({"item_id": ["a"], "title": ["x"]}, "has no column of vectors. It has: item_id, title"),
    ],
)  # fmt: skip
def test_bad_tables_are_named(tmp_path, columns, message):
    pq.write_table(pa.table(columns), tmp_path / "x.parquet")
    with pytest.raises(ValueError, match=message):
        read_vectors(tmp_path / "x.parquet")
    save_file({"a": VECTORS, "b": VECTORS}, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match="needs a tensor `embeddings`, or one tensor of two dimensions. It has: a"):
        read_vectors(tmp_path / "x.safetensors")
