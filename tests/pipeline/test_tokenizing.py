import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

from gr4ad import UASIDTokenizer
from gr4ad.cli import main
from gr4ad.data import load_prepared
from gr4ad.pipeline.tokenizing import FITTED, with_neighbours
from gr4ad.tokenization import HISTORY_FEATURES
from gr4ad.tokenization.embedding_fusion import EmbeddingFusion

ITEMS = 24


def vectors(*, rows: int = ITEMS, bad_row: int | None = None, bad: float = 0.0) -> np.ndarray:
    content = np.random.default_rng(0).normal(size=(rows, 8)).astype(np.float32)
    if bad_row is not None:
        content[bad_row] = bad
    return content


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizing")
    accounts = [f"account {n % 3}" if n else None for n in range(ITEMS)]
    catalog = {"item_id": [f"item_{n}" for n in range(ITEMS)], "title": "x", "account_id": accounts}
    pd.DataFrame(catalog).to_parquet(folder / "catalog.parquet")
    events = [(f"user {n % 30}", f"item_{n * n % ITEMS}", "click", n) for n in range(300)]
    pd.DataFrame(events, columns=["user_id", "item_id", "event", "timestamp"]).to_parquet(folder / "events.parquet")
    assert main(["data", "--root", str(folder), "--out", str(folder / "data"), "--split", "leave_one_out"]) == 0
    return folder / "data"


def tokenize(data: Path, folder: Path, *more: str) -> int:
    arguments = ["--data", str(data), "--embeddings", str(folder), "--out", str(folder / "out")]
    return main(["tokenize", *arguments, "--num_value_buckets", "0", *more])


@pytest.mark.parametrize(
    ("content", "sizes", "message"),
    [
        (vectors(bad_row=3, bad=np.nan), ["4", "4"], "`content` of ad 'item_3' (row 3) is not finite (1 such ads)"),
        (vectors(bad_row=5, bad=np.inf), ["4", "4"], "`content` of ad 'item_5' (row 5) is not finite"),
        (vectors(rows=20), ["4", "4"], "`content` has shape (20, 8), the catalog 24 ads: embed this catalog"),
        (vectors(), ["32", "4"], "24 rows, fewer than the largest codebook (32 codes). Use smaller `codebook_sizes`"),
        (vectors(), ["4*", "4"], "only the last level may be hashed"),
        (vectors(), ["4", "0"], "A codebook size is a number >= 1"),
    ],
)
def test_bad_embeddings_are_one_line_and_leave_nothing(data, tmp_path, capsys, content, sizes, message):
    save_file({"content": content}, tmp_path / "embeddings.safetensors")
    assert tokenize(data, tmp_path, "--codebook_sizes", *sizes) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and "Traceback" not in error
    assert list((tmp_path / "out").glob("*")) == []


def test_damaged_files_are_named(data, tmp_path, capsys):
    path = tmp_path / "embeddings.safetensors"
    save_file({"content": vectors()}, path)
    path.write_bytes(path.read_bytes()[:100])
    assert tokenize(data, tmp_path, "--codebook_sizes", "4", "4") == 2
    assert f"{path}: not readable embeddings" in capsys.readouterr().err
    path.unlink()
    assert tokenize(data, tmp_path, "--codebook_sizes", "4", "4") == 2
    assert f"{path}: not readable embeddings" in capsys.readouterr().err
    save_file({"vectors": vectors()}, path)
    assert tokenize(data, tmp_path, "--codebook_sizes", "4", "4") == 2
    assert "has no tensor `content`. It has: vectors." in capsys.readouterr().err
    assert list((tmp_path / "out").glob("*")) == []


def test_vectors_that_say_nothing_are_refused(data, tmp_path, capsys):
    save_file({"content": np.zeros((ITEMS, 8), np.float32)}, tmp_path / "embeddings.safetensors")
    assert tokenize(data, tmp_path, "--codebook_sizes", "4", "4") == 2
    said = "All 24 ads of the catalog have one and the same embedding (only zeros)"
    assert said in capsys.readouterr().err


def test_a_good_folder_is_written_whole(data, tmp_path):
    save_file({"content": vectors()}, tmp_path / "embeddings.safetensors")
    assert tokenize(data, tmp_path, "--codebook_sizes", "4", "4") == 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {
        "items.parquet",
        "codebooks.safetensors",
        "tokenizer",
        "item_embeddings.safetensors",
        "quality.json",
        "stage.json",
    }
    kept = {path.name for path in (tmp_path / "out" / "tokenizer").iterdir()}
    assert {
        "items.parquet",
        "codebooks.safetensors",
        "embedding_fusion.safetensors",
        "item_vectors.safetensors",
    } <= kept
    tokenizer = UASIDTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    quantized = load_file(tmp_path / "out" / "item_embeddings.safetensors")["item_embeddings"]
    np.testing.assert_array_equal(tokenizer.item_vectors(), quantized)
    assert tokenizer.num_time_buckets == 0 and list(tokenizer.index.columns) == ["title", "account_id"]


def test_an_ad_without_a_log_starts_from_its_neighbours(data, tmp_path):
    content = np.repeat(np.eye(8, dtype=np.float32), 3, axis=0)  # three ads alike each
    collaborative = np.repeat(np.random.default_rng(1).normal(size=(8, 4)), 3, axis=0).astype(np.float32)
    unseen = np.arange(ITEMS) % 3 == 2
    true = collaborative.copy()
    collaborative[unseen] = 0
    fused = EmbeddingFusion.fit(content, collaborative, collaborative_weight=1.0).transform(content, collaborative)
    filled = with_neighbours(collaborative, fused[:, 8:])
    np.testing.assert_array_equal(filled[~unseen], true[~unseen])
    centred, expected = (vectors[unseen] - true[~unseen].mean(0) for vectors in (filled, true))
    lengths = np.linalg.norm(true[~unseen] - true[~unseen].mean(0), axis=1)
    np.testing.assert_allclose(np.linalg.norm(centred, axis=1), lengths.mean(), rtol=1e-4)
    cosines = (centred * expected).sum(1) / np.linalg.norm(centred, axis=1) / np.linalg.norm(expected, axis=1)
    assert cosines.mean() > 0.2  # ten neighbours, two of them its likes
    save_file({"content": content, "collaborative": collaborative}, tmp_path / "embeddings.safetensors")
    assert tokenize(data, tmp_path, "--codebook_sizes", "4", "4") == 0
    kept = load_file(tmp_path / "out" / "item_embeddings.safetensors")
    np.testing.assert_allclose(kept["collaborative"], filled, rtol=1e-5)
    tokenizer = UASIDTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    np.testing.assert_array_equal(tokenizer.item_vectors(), kept["collaborative"])


def test_accounts_are_kept_whatever_else_is_shown(data, tmp_path):
    save_file({"content": vectors()}, tmp_path / "embeddings.safetensors")
    options = ["--codebook_sizes", "4", "4", "--num_time_buckets", "24"]
    for shown, kept in ((["account_id", "title"], ["account_id", "title"]), (["brand"], ["account_id"])):
        assert tokenize(data, tmp_path, *options, "--display_columns", *shown) == 0
        tokenizer = UASIDTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
        assert list(tokenizer.index.columns) == kept  # the catalog has no brand
        assert tokenizer.index.columns["account_id"] == [f"account {n % 3}" if n else None for n in range(ITEMS)]
        assert tokenizer.num_time_buckets == 24


@pytest.mark.parametrize("clock", ["position", None])
def test_time_buckets_without_times_are_refused(data, tmp_path, capsys, clock):
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    summary = json.loads((copy / "data.json").read_text())
    assert summary.pop("clock") == "timestamp"
    (copy / "data.json").write_text(json.dumps(summary if clock is None else {**summary, "clock": clock}))
    save_file({"content": vectors()}, tmp_path / "embeddings.safetensors")
    assert tokenize(copy, tmp_path, "--codebook_sizes", "4", "4", "--num_time_buckets", "8") == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "`num_time_buckets` = 8 needs the time of each event" in error
    assert f"the clock of the prepared data is {clock!r}. Map a column of times to `timestamp`" in error
    assert list((tmp_path / "out").glob("*")) == []
    assert tokenize(copy, tmp_path, "--codebook_sizes", "4", "4") == 0


def test_cross_domain_rows_need_what_users_did_elsewhere(data, tmp_path, capsys):
    save_file({"content": vectors()}, tmp_path / "embeddings.safetensors")
    options = ["--codebook_sizes", "4", "4", "--num_cross_domain_items"]
    assert tokenize(data, tmp_path, *options, "50") == 2
    assert "`num_cross_domain_items` = 50 needs what users did elsewhere and when" in capsys.readouterr().err
    assert list((tmp_path / "out").glob("*")) == []
    assert tokenize(data, tmp_path, *options, "1") == 2
    assert "`num_cross_domain_items` must be 0 (none), or at least 2" in capsys.readouterr().err
    seen = pd.DataFrame({"user_id": ["user 1", "user 2"], "item_id": ["video 1", "video 2"], "timestamp": [5, 40]})
    seen.to_csv(data.parent / "seen.csv", index=False)
    arguments = ["--root", str(data.parent), "--out", str(tmp_path / "more"), "--cross_domain", "seen.csv"]
    assert main(["data", *arguments]) == 0
    assert tokenize(tmp_path / "more", tmp_path, *options, "50") == 0
    tokenizer = UASIDTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert tokenizer.num_cross_domain_items == 50
    prepared = load_prepared(tmp_path / "more")
    row = next(row for row in prepared.test if row["user_id"] == "user 2")
    encoded = tokenizer.encode_rows([row])
    assert encoded["cross_domain_ids"].tolist() == [tokenizer.cross_domain_indices(["video 2"]).tolist()]


def test_every_column_of_a_history_is_fitted():
    own = {feature.name for feature in HISTORY_FEATURES if feature.model_input != "cross_domain_places"}
    assert set(FITTED) == own


def test_the_names_of_the_log_stay_with_the_tokenizer(tmp_path):
    catalog = {"item_id": [f"item_{n}" for n in range(ITEMS)], "title": "x"}
    pd.DataFrame(catalog).to_parquet(tmp_path / "catalog.parquet")
    kinds = ["kauf", "korb", "kauf", "blick", "click"]
    events = [(f"user {n % 30}", f"item_{n * n % ITEMS}", kinds[n // 30 % 5], n) for n in range(300)]
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "event", "timestamp"])
    frame.to_parquet(tmp_path / "events.parquet")
    names = {"kauf": "conversion", "korb": "click", "blick": "impression", "nie": "click"}
    words = ["--root", str(tmp_path), "--out", str(tmp_path / "data"), "--merge_seconds", "0"]
    assert main(["data", *words, "--event_names", json.dumps(names)]) == 0
    save_file({"content": vectors()}, tmp_path / "embeddings.safetensors")
    assert tokenize(tmp_path / "data", tmp_path, "--codebook_sizes", "4", "4") == 0
    tokenizer = UASIDTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert tokenizer.event_names == ["click", "conversion"]
    assert tokenizer.event_aliases == {"kauf": "conversion", "korb": "click", "nie": "click"}
    summary = json.loads((tmp_path / "data" / "data.json").read_text())
    assert summary.pop("event_names") == names  # which an earlier version did not write
    (tmp_path / "data" / "data.json").write_text(json.dumps(summary))
    shutil.rmtree(tmp_path / "out")
    assert tokenize(tmp_path / "data", tmp_path, "--codebook_sizes", "4", "4") == 0
    assert UASIDTokenizer.from_pretrained(tmp_path / "out" / "tokenizer").event_aliases == {}
