import numpy as np
import pytest

from gr4ad.tokenization import MGMRQuantizer, sid_quality
from gr4ad.tokenization.balanced_kmeans import nearest_centroids
from gr4ad.tokenization.mgmr_quantizer import LevelSize


def points(seed: int, count: int, dimension: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1)


def test_fit_is_balanced_and_a_function_of_the_seed():
    data, keys = points(0, 100, 8), [f"account_{n % 7}|{n}" for n in range(100)]
    first = MGMRQuantizer([8, 6, "5*"], seed=3)
    codes = first.fit(data, keys)
    assert codes.shape == (100, 3) and codes.dtype == np.int64
    assert np.bincount(codes[:, 0]).max() <= 13 and np.bincount(codes[:, 1]).max() <= 17
    second = MGMRQuantizer([8, 6, "5*"], seed=3)
    np.testing.assert_array_equal(second.fit(data, keys), codes)
    for ours, theirs in zip(first.codebooks, second.codebooks, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (MGMRQuantizer([8, 6, "5*"], seed=4).fit(data, keys)[:, :2] != codes[:, :2]).any()


def test_encode_takes_the_nearest_residual_codes():
    data = points(0, 60, 8)
    quantizer = MGMRQuantizer([6, 5, 4], balanced_iterations=0)
    codes = quantizer.fit(data)
    np.testing.assert_array_equal(quantizer.encode(data), codes)  # unbalanced: the training codes are the nearest
    new, residual = points(9, 20, 8), points(9, 20, 8).astype(np.float64)
    for level, code in enumerate(quantizer.encode(new).T):
        np.testing.assert_array_equal(code, squared_distances(residual, quantizer.codebooks[level]).argmin(1))
        residual = residual - quantizer.codebooks[level][code]
    indices, distances = nearest_centroids(new, quantizer.codebooks[0], 6)
    assert (np.diff(distances, axis=1) >= 0).all() and (np.sort(indices, 1) == np.arange(6)).all()


def test_hashed_level_is_stable_across_machines():
    quantizer = MGMRQuantizer([2, "1024*"])
    assert quantizer.uses_business_keys
    # xxh64 of the UTF-8 bytes, seed 0, modulo 1024: part of the format of published artifacts
    assert quantizer.hash_codes(["account_1|click", "", "größe"]).tolist() == [146, 409, 677]


def test_save_and_load(tmp_path):
    data, keys = points(0, 50, 8), [str(n) for n in range(50)]
    quantizer = MGMRQuantizer([6, 5, "7*"])
    quantizer.fit(data, keys)
    quantizer.save(tmp_path / "codebooks.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["codebooks.safetensors"]
    again = MGMRQuantizer.load(tmp_path / "codebooks.safetensors", ["6", "5", "7*"])
    np.testing.assert_array_equal(again.encode(data, keys), quantizer.encode(data, keys))
    assert not again.distinct_last
    quantizer.distinct_last = True
    quantizer.save(tmp_path / "aware.safetensors")
    assert MGMRQuantizer.load(tmp_path / "aware.safetensors", ["6", "5", "7*"]).distinct_last
    with pytest.raises(ValueError, match=r"holds codebooks of \[6, 5\] codes, `codebook_sizes` says \[6, 4\]"):
        MGMRQuantizer.load(tmp_path / "codebooks.safetensors", ["6", "4", "7*"])
    whole = (tmp_path / "codebooks.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(ValueError, match=f"{name}: not a readable codebook file"):
            MGMRQuantizer.load(tmp_path / name, ["6", "5", "7*"])


@pytest.mark.parametrize("sizes", [[8, 8, "8*"], [8, 8, 8]])
def test_distinct_last_leaves_no_collision_where_there_is_room(sizes):
    data, keys = points(5, 120, 8), [f"account_{n % 3}" for n in range(120)]
    plain = MGMRQuantizer(sizes).fit(data, keys)
    codes = MGMRQuantizer(sizes, distinct_last=True).fit(data, keys)
    _, group_sizes = np.unique(codes[:, :2], axis=0, return_counts=True)
    assert group_sizes.max() <= 8, "the test needs room in every group"
    assert len(np.unique(plain, axis=0)) < 120 == len(np.unique(codes, axis=0))
    quality = sid_quality(codes, [8, 8, 8])
    assert (quality["cpr"], quality["col"], quality["items_in_shared_sids"]) == (1.0, 0.0, 0.0)


def test_sid_quality_by_hand():
    quality = sid_quality(np.array([[0, 0], [0, 0], [0, 1], [1, 1]]), [2, 4])
    assert quality["cpr"] == pytest.approx(4 / 3) and quality["col"] == pytest.approx(1 / 3)
    assert quality["util"] == 3 / 8 and quality["items_in_shared_sids"] == 0.5
    assert (quality["used_1"], quality["used_2"]) == (1.0, 0.5)
    assert quality["perplexity_2"] == pytest.approx(2.0)
    assert quality["perplexity_1"] == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def test_a_source_on_disk_gives_the_codes_of_an_array(tmp_path):
    data = points(2, 300, 8)
    data.tofile(tmp_path / "embeddings.f32")
    on_disk = np.memmap(tmp_path / "embeddings.f32", dtype=np.float32, shape=(300, 8), mode="r")
    whole, streamed = MGMRQuantizer([16, 8, 4], distinct_last=True), MGMRQuantizer([16, 8, 4], distinct_last=True)
    np.testing.assert_array_equal(streamed.fit(on_disk), whole.fit(data))
    np.testing.assert_array_equal(streamed.encode(on_disk), whole.encode(data))


def test_a_failed_fit_keeps_the_codebooks():
    quantizer = MGMRQuantizer([8, 4])
    quantizer.fit(points(0, 40, 4))
    before = quantizer.encode(points(1, 10, 4))
    with pytest.raises(ValueError, match="row 2 holds"):
        quantizer.fit(with_row(2, np.nan))
    np.testing.assert_array_equal(quantizer.encode(points(1, 10, 4)), before)


@pytest.mark.parametrize("sizes", [[4, "6*"], [4, 6]])
def test_new_ads_take_free_sids_of_their_prefix(sizes):
    data, keys = points(3, 12, 4), [f"k{n}" for n in range(12)]
    quantizer = MGMRQuantizer(sizes, distinct_last=True)
    taken = quantizer.fit(data, keys)
    new, new_keys = np.repeat(data[:1], 3, 0), [keys[0]] * 3  # three copies of one creative
    plain = quantizer.encode(new, new_keys)
    assert len(np.unique(plain, axis=0)) == 1
    codes = quantizer.encode(new, new_keys, taken=taken)
    np.testing.assert_array_equal(codes[:, :-1], plain[:, :-1])
    in_prefix = {int(last) for prefix, last in taken if prefix == plain[0, 0]}
    added = codes[:, -1].tolist()
    assert len(set(added)) == 3 and not in_prefix & set(added), "the test needs three free codes"
    crowded = quantizer.encode(np.repeat(data[:1], 9, 0), [keys[0]] * 9, taken=taken)
    assert len(set(crowded[:, -1].tolist()) | in_prefix) == 6  # every code of the prefix is in use, the rest share


def with_row(row: int, value: float) -> np.ndarray:
    data = points(0, 20, 4)
    data[row] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_row(3, np.nan), r"row 3 holds a value that is not finite \(1 such"),
        (with_row(5, np.inf), "row 5 holds a value that is not finite"),
        (with_row(6, 3e19), r"row 6 holds numbers so large that its length is beyond float32 \(1 such"),
        (with_row(7, 0.0), "row 7 holds only zeros"),
        (points(0, 7, 4), r"`embeddings` has 7 rows, fewer than the largest codebook \(8 codes\)"),
        (np.zeros((0, 4), np.float32), "must have shape"),
        (np.ones(4, np.float32), "must have shape"),
    ],
)
def test_bad_embeddings_are_refused_by_row(data, message):
    with pytest.raises(ValueError, match=message):
        MGMRQuantizer([8, 4]).fit(data)


def test_other_misuse_is_named():
    with pytest.raises(ValueError, match="no codebooks: call `fit` or `load`"):
        MGMRQuantizer([4]).encode(points(0, 3))
    quantizer = MGMRQuantizer([4])
    quantizer.fit(points(0, 20, 4))
    with pytest.raises(ValueError, match="`embeddings` has 5 dimensions, the codebooks 4"):
        quantizer.encode(points(0, 3, 5))
    with pytest.raises(ValueError, match="row 0 holds only zeros"):
        quantizer.encode(np.zeros((1, 4)))
    for keys, count in ((None, "None"), (["a"] * 19, "19")):
        with pytest.raises(ValueError, match=f"`business_keys` needs one string for each of the 20 ads.*{count}"):
            MGMRQuantizer([4, "4*"]).fit(points(0, 20, 4), keys)


@pytest.mark.parametrize("size", ["0", 0, -1, "4**", "x", "", 2.5])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="A codebook size is a number >= 1"):
        LevelSize.parse(size)


@pytest.mark.parametrize("setting", ["iterations", "balanced_iterations", "max_points_per_centroid"])
def test_bad_settings(setting):
    with pytest.raises(ValueError, match=f"`{setting}` must be >= .*Received: -1"):
        MGMRQuantizer([4], **{setting: -1})


@pytest.mark.parametrize("sizes", [[], ["4*"], ["4*", 4], [4, "4*", 4]])
def test_hashed_levels_stand_last(sizes):
    with pytest.raises(ValueError, match="`codebook_sizes` needs a quantized first level, and only the last"):
        MGMRQuantizer(sizes)
