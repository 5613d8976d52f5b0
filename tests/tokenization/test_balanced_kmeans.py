import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from gr4ad.tokenization.balanced_kmeans import (
    auction,
    balanced_assignment,
    balanced_kmeans,
    cluster_means,
    nearest_centroids,
    split_largest,
)
from gr4ad.tokenization.residual_points import ResidualPoints


def points(seed: int, count: int, dimension: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


def squared_distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return ((a[:, None].astype(np.float64) - b[None]) ** 2).sum(-1)


def assign(data: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    return balanced_assignment(ResidualPoints(data), centroids, np.zeros(len(centroids), np.float32))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 20))
def test_no_cluster_is_over_its_cap(seed, count, clusters):
    data, centroids = points(seed, count), points(seed + 1, clusters)
    assigned = assign(data, centroids)
    cap = -(-count // clusters)
    assert assigned.min() >= 0 and np.bincount(assigned, minlength=clusters).max() <= cap


def test_the_cost_is_on_average_near_the_least():
    ratios = []
    for seed in range(20):
        data, centroids = points(seed, 200, 8), points(seed + 100, 10, 8)
        distance = squared_distances(data, centroids)
        rows, columns = linear_sum_assignment(np.tile(distance, 20))
        least = np.tile(distance, 20)[rows, columns].sum()
        ratios.append(distance[np.arange(200), assign(data, centroids)].sum() / least)
    assert np.mean(ratios) < 1.03


def test_where_nothing_is_full_everyone_gets_the_nearest():
    centroids = points(0, 4, 5)
    data = np.repeat(centroids, 3, 0) + 0.01 * points(1, 12, 5)
    np.testing.assert_array_equal(assign(data, centroids), np.repeat(np.arange(4), 3))


def test_equal_points_are_spread():
    assert np.bincount(assign(np.ones((12, 2), np.float32), points(0, 4, 2))).tolist() == [3, 3, 3, 3]


def test_of_two_that_want_one_place_the_one_that_loses_less_moves():
    candidates = torch.tensor([[0, 1], [0, 1]])
    distances = torch.tensor([[1.0, 5.0], [1.1, 1.5]])
    prices = torch.zeros(2)
    assert auction(candidates, distances, prices, cap=1).tolist() == [0, 1]
    assert prices[0] >= 0.4  # what the second one would have to be paid to come back


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 30), st.integers(1, 12), st.booleans())
def test_nearest_centroids_by_faiss_and_by_torch_are_brute_force(seed, count, clusters, priced):
    data, centroids = points(seed, count, 5), points(seed + 1, clusters, 5)
    prices = np.abs(points(seed + 2, clusters, 1)[:, 0]) if priced else None
    cost = squared_distances(data, centroids) + (0 if prices is None else prices)
    k = min(3, clusters)
    for device in ("cpu", "cpu:0"):  # the second is torch's name of the same device
        indices, costs = nearest_centroids(data, centroids, k, prices=prices, device=device)
        np.testing.assert_allclose(costs, np.sort(cost, 1)[:, :k], rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.take_along_axis(cost, indices, 1), costs, rtol=1e-4, atol=1e-4)


def test_balance_costs_little_and_means_are_means():
    data = np.concatenate([points(0, 90) * 0.01, points(1, 10) + 5])
    _, free = balanced_kmeans(ResidualPoints(data), 5, iterations=5, balanced_iterations=0, seed=0)
    centroids, capped = balanced_kmeans(ResidualPoints(data), 5, iterations=5, balanced_iterations=3, seed=0)
    assert np.bincount(free, minlength=5).max() > 20 == np.bincount(capped, minlength=5).max()
    expected = np.stack([data[capped == c].astype(np.float64).mean(0) for c in range(5)])
    np.testing.assert_allclose(centroids, expected, rtol=1e-5, atol=1e-6)
    means, counts = cluster_means(ResidualPoints(data), np.zeros(100, dtype=np.int64), centroids)
    np.testing.assert_array_equal(means[1:], centroids[1:])  # empty clusters keep their centroid
    assert counts.tolist() == [100, 0, 0, 0, 0]


def test_plain_steps_lower_the_error_and_a_sample_comes_near():
    data = np.concatenate([points(seed, 200, 6) + 4 * points(seed + 50, 1, 6) for seed in range(8)])

    def error(**settings) -> float:
        centroids, assigned = balanced_kmeans(ResidualPoints(data), 16, balanced_iterations=0, seed=1, **settings)
        return float(((data - centroids[assigned]) ** 2).sum(1).mean())

    assert error(iterations=20) < error(iterations=3) < error(iterations=0)
    assert error(iterations=20, max_points_per_centroid=30) < 1.1 * error(iterations=20)


def test_empty_clusters_get_half_of_the_largest():
    centroids, counts = points(0, 4, 2), np.array([10, 0, 3, 0])
    start = centroids.copy()
    split_largest(centroids, counts)
    assert counts.tolist() == [2, 5, 3, 3] or counts.sum() == 13 and counts.min() > 0
    np.testing.assert_allclose(centroids[[1, 3]], start[[0, 0]], rtol=5e-3)
    assert len(np.unique(centroids, axis=0)) == 4


@pytest.mark.parametrize("in_memory", [True, False])
def test_residual_points(tmp_path, in_memory, monkeypatch):
    monkeypatch.setattr("gr4ad.tokenization.residual_points.BLOCK_ROWS", 7)
    data, codebook = points(0, 20, 4), points(1, 3, 4)
    code = np.arange(20) % 3
    source = data
    if not in_memory:
        data.tofile(tmp_path / "x")
        source = np.memmap(tmp_path / "x", dtype=np.float32, shape=(20, 4), mode="r")
    residuals = ResidualPoints(source)
    residuals.subtract(codebook, code)
    expected = data - codebook[code]
    np.testing.assert_array_equal(np.concatenate([block for _, block in residuals.blocks()]), expected)
    chosen = np.array([19, 0, 7, 7, 3])
    np.testing.assert_array_equal(residuals.rows(chosen), expected[chosen])
    assert residuals.in_memory == in_memory and (source == data).all()  # the source is not changed
