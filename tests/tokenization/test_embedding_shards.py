import numpy as np
import pytest
from safetensors.numpy import load_file

from gr4ad.tokenization.embedding_shards import EmbeddingShards, ShardContents, write_embedding_shards

ADS, WIDTH, EMPTY = 23, 5, 9


def table() -> np.ndarray:
    rows = np.random.default_rng(0).normal(size=(ADS, WIDTH)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[EMPTY] = 0
    return rows


class Source:
    """Shard contents from a table; remembers what was embedded, and can die at a row."""

    def __init__(self, die_at: int | None = None, digest: str = ""):
        self.rows, self.embedded, self.die_at, self.digest = table(), [], die_at, digest

    def __call__(self, start: int, stop: int) -> ShardContents:
        def embed():
            if self.die_at is not None and start <= self.die_at < stop:
                raise KeyboardInterrupt
            self.embedded.append((start, stop))
            return self.rows[start:stop]

        counts = {"ads": stop - start, "without_content": int(start <= EMPTY < stop)}
        return ShardContents([f"ad_é{n}" for n in range(start, stop)], f"{start}{self.digest}", counts, embed)


def write(folder, source, **changes):
    settings = {"num_ads": ADS, "shard_size": 5, "settings": {"encoder": "a"}} | changes
    return write_embedding_shards(folder, source, **settings)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "out", Source())
    return tmp_path / "out"


def filled() -> np.ndarray:
    rows = table()
    rows[EMPTY] = np.delete(rows, EMPTY, 0).astype(np.float64).mean(0)
    return rows


def test_reads_like_the_array_that_was_written(folder):
    shards, rows = EmbeddingShards(folder), filled()
    assert len(shards) == ADS and shards.shape == rows.shape and shards.dtype == np.float32
    assert shards.item_ids == [f"ad_é{n}" for n in range(ADS)]
    for start in range(0, ADS + 1):
        for stop in range(start, ADS + 1):
            np.testing.assert_array_equal(shards[start:stop], rows[start:stop])
    for piece in (slice(None), slice(-4, None), slice(20, 3, -3), slice(2, 22, 4), slice(30, 40), slice(8, 2), 7, -1):
        assert shards[piece].shape == rows[piece].shape
        np.testing.assert_array_equal(shards[piece], rows[piece])
    some = np.array([22, 0, 9, 9, -3])
    np.testing.assert_array_equal(shards[some], rows[some])
    np.testing.assert_array_equal(shards[[]], rows[:0])
    np.testing.assert_array_equal(np.asarray(shards), rows)
    assert np.asarray(shards, dtype=np.float64).dtype == np.float64
    blocks = list(shards.blocks(7))
    assert [start for start, _ in blocks] == [0, 7, 14, 21]
    np.testing.assert_array_equal(np.concatenate([block for _, block in blocks]), rows)
    for bad in (ADS, np.array([-ADS - 1]), np.array([0.5])):
        with pytest.raises(IndexError, match="Rows must be"):
            shards[bad]


def test_a_slice_opens_only_the_shards_it_touches(folder):
    shards = EmbeddingShards(folder)
    for number in (0, 2, 3, 4):
        (folder / f"embeddings-{number:05d}.safetensors").unlink()
    np.testing.assert_array_equal(shards[5:10], filled()[5:10])


@pytest.mark.parametrize("die_at", range(0, ADS, 5))
def test_a_killed_run_goes_on_and_ends_with_the_same_files(folder, tmp_path, die_at):
    other = tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        write(other, Source(die_at))
    with pytest.raises(ValueError, match="unfinished"):
        EmbeddingShards(other)
    (other / "embeddings-00004.safetensors.tmp").write_bytes(b"half")
    source = Source()
    counts = write(other, source)
    assert source.embedded == [(start, min(start + 5, ADS)) for start in range(die_at, ADS, 5)]
    assert counts == {"ads": ADS, "without_content": 1}
    assert sorted(file.name for file in other.iterdir()) == sorted(file.name for file in folder.iterdir())
    for file in folder.iterdir():
        assert file.read_bytes() == (other / file.name).read_bytes(), file.name


def test_a_finished_folder_is_left_alone(folder):
    source = Source()
    assert write(folder, source) == {"ads": ADS, "without_content": 1}
    assert source.embedded == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"settings": {"encoder": "b"}}, "encoder was 'a', is 'b'"),
        ({"settings": {"encoder": "a", "prompts": "x"}}, "prompts was None, is 'x'"),
        ({"shard_size": 6}, "shard_size was 5, is 6"),
        ({"num_ads": ADS - 1}, f"ads was {ADS}, is {ADS - 1}"),
    ],
)
def test_other_settings_are_refused_until_overwritten(folder, change, message):
    with pytest.raises(ValueError, match=message):
        write(folder, Source(), **change)
    source = Source()
    write(folder, source, overwrite=True, **change)
    assert source.embedded[0][0] == 0
    assert len(EmbeddingShards(folder)) == change.get("num_ads", ADS)


def test_a_changed_catalog_is_refused(folder):
    with pytest.raises(ValueError, match="rows 0 to 4 of the catalog changed.*overwrite=True"):
        write(folder, Source(digest="new"))


@pytest.mark.parametrize("keep", [0, 7, 200, -1])
def test_a_truncated_shard_is_named_and_made_anew(folder, keep):
    file = folder / "embeddings-00002.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    shards = EmbeddingShards(folder)
    np.testing.assert_array_equal(shards[:10], filled()[:10])
    with pytest.raises(ValueError, match=r"embeddings-00002\.safetensors is damaged or missing"):
        shards[9:12]
    source = Source()
    write(folder, source)
    assert source.embedded == [(10, 15)]
    np.testing.assert_array_equal(EmbeddingShards(folder)[:], filled())


def test_a_shard_of_another_run_is_not_read(folder, tmp_path):
    write(tmp_path / "wide", Source(), shard_size=7)
    (tmp_path / "wide" / "embeddings-00001.safetensors").replace(folder / "embeddings-00001.safetensors")
    with pytest.raises(ValueError, match=r"embeddings-00001\.safetensors is damaged.*the manifest says"):
        EmbeddingShards(folder)[5:6]


def test_no_folder_and_no_content(tmp_path):
    with pytest.raises(ValueError, match="no folder of `AdEmbedder.embed_to`"):
        EmbeddingShards(tmp_path)
    source = Source()
    source.rows[:] = 0
    nothing = lambda start, stop: ShardContents(  # noqa: E731
        ["x"], "d", {"ads": 1, "without_content": 1}, lambda: np.zeros((1, 2), np.float32)
    )
    with pytest.raises(ValueError, match="No ad has content"):
        write(tmp_path, nothing, num_ads=1)
    with pytest.raises(ValueError, match="`shard_size` must be >= 1. Received: 0"):
        write(tmp_path, nothing, shard_size=0)


def test_shards_are_plain_safetensors(folder):
    tensors = load_file(folder / "embeddings-00001.safetensors")
    np.testing.assert_array_equal(tensors["embeddings"], table()[5:10])
    assert tensors["item_ids"].tobytes().decode().startswith("ad_é5ad_é6")
