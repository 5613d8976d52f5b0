import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.tokenization import MGMRQuantizer, sid_quality
from gr4ad.tokenization.balanced_kmeans import balanced_assignment, balanced_kmeans, cluster_means, nearest_centroids
from gr4ad.tokenization.mgmr_quantizer import LevelSize, distinct_nearest, distinct_probing


def points(seed: int, count: int, dimension: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 9))
def test_balanced_assignment_is_a_stable_matching_under_its_cap(seed, count, clusters):
    data, centroids = points(seed, count), points(seed + 1, clusters)
    assigned = balanced_assignment(data, centroids)
    cap = -(-count // clusters)
    assert assigned.min() >= 0 and np.bincount(assigned, minlength=clusters).max() <= cap
    distance = squared_distances(data, centroids)
    for point, centroid in itertools.product(range(count), range(clusters)):
        if distance[point, centroid] < distance[point, assigned[point]] - 1e-4:  # the point would rather be there
            held = distance[assigned == centroid, centroid]
            assert len(held) == cap and held.max() <= distance[point, centroid] + 1e-4


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(2, 9), st.integers(1, 3))
def test_short_candidate_lists_still_place_everyone(seed, count, clusters, listed):
    assigned = balanced_assignment(points(seed, count), points(seed + 1, clusters), max_candidates=listed)
    assert assigned.min() >= 0 and np.bincount(assigned, minlength=clusters).max() <= -(-count // clusters)


def test_equal_points_are_spread():
    assigned = balanced_assignment(np.ones((12, 2), np.float32), points(0, 4, 2))
    assert np.bincount(assigned, minlength=4).tolist() == [3, 3, 3, 3]


def test_balanced_kmeans_beats_no_cap_in_balance_and_means_are_means():
    data = np.concatenate([points(0, 90) * 0.01, points(1, 10) + 5])
    _, free = balanced_kmeans(data, 5, iterations=5, balanced_iterations=0, seed=0)
    centroids, capped = balanced_kmeans(data, 5, iterations=5, balanced_iterations=3, seed=0)
    assert np.bincount(free, minlength=5).max() > 20 == np.bincount(capped, minlength=5).max()
    expected = np.stack([data[capped == c].astype(np.float64).mean(0) for c in range(5)])
    np.testing.assert_allclose(centroids, expected, rtol=1e-5, atol=1e-6)
    empty = cluster_means(data, np.zeros(100, dtype=np.int64), centroids)
    np.testing.assert_array_equal(empty[1:], centroids[1:])


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
    with pytest.raises(ValueError, match=r"holds codebooks of \[6, 5\] codes, `codebook_sizes` says \[6, 4\]"):
        MGMRQuantizer.load(tmp_path / "codebooks.safetensors", ["6", "4", "7*"])
    whole = (tmp_path / "codebooks.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.safetensors", "none.safetensors"):
        with pytest.raises(ValueError, match=f"{name}: not a readable codebook file"):
            MGMRQuantizer.load(tmp_path / name, ["6", "5", "7*"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=20))
def test_distinct_probing_parts_ads_while_there_is_room(pairs):
    prefixes, code = np.array([[p] for p, _ in pairs]), np.array([c for _, c in pairs])
    out = distinct_probing(prefixes, code, 5)
    for prefix in np.unique(prefixes):
        members = np.flatnonzero(prefixes[:, 0] == prefix)
        if len(members) <= 5:
            assert len(set(out[members].tolist())) == len(members)
            assert set(code[members].tolist()) <= set(out[members].tolist())  # every hash that was taken stays taken
        else:
            np.testing.assert_array_equal(out[members], code[members])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_distinct_nearest_has_the_least_total_distance(seed, members):
    residual, codebook = points(seed, members), points(seed + 1, 4)
    nearest = squared_distances(residual, codebook).argmin(1)
    code = distinct_nearest(np.zeros((members, 1), np.int64), residual, codebook, nearest)
    distance = squared_distances(residual, codebook)
    best = min(distance[range(members), list(p)].sum() for p in itertools.permutations(range(4), members))
    assert len(set(code.tolist())) == members
    assert distance[range(members), code].sum() == pytest.approx(best, rel=1e-5)


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
    assert quality["util"] == 0.5 and quality["items_in_shared_sids"] == 0.5
    assert (quality["used_1"], quality["used_2"]) == (1.0, 0.5)
    assert quality["perplexity_2"] == pytest.approx(2.0)
    assert quality["perplexity_1"] == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))


def with_row(row: int, value: float) -> np.ndarray:
    data = points(0, 20, 4)
    data[row] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (with_row(3, np.nan), r"row 3 holds a value that is not finite \(1 such"),
        (with_row(5, np.inf), "row 5 holds a value that is not finite"),
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


@pytest.mark.parametrize("sizes", [[], ["4*"], ["4*", 4], [4, "4*", 4]])
def test_hashed_levels_stand_last(sizes):
    with pytest.raises(ValueError, match="`codebook_sizes` needs a quantized first level, and only the last"):
        MGMRQuantizer(sizes)
