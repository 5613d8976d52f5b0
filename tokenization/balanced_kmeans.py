# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Balanced k-means: no cluster holds more than ceil(N / V) points."""

import faiss
import numpy as np


def balanced_assignment(points: np.ndarray, centroids: np.ndarray, *, max_candidates: int = 64) -> np.ndarray:
    """Assigns each point to a near centroid, at most ceil(N / V) points each.

    Stable matching (deferred acceptance): every point asks its nearest centroid that has not refused it, every
    centroid keeps the nearest points that ask. Unlike a pass over centroids in turn, the result does not depend on
    their order, and with up to `max_candidates` centroids no point and centroid would both rather have each other;
    with more, a point that all of its list refused chooses among the centroids that still have room.

    Args:
        points (float32, (N, d)), centroids (float32, (V, d)).
        max_candidates: Centroids listed for a point at a time; a point refused by all gets a new list of those with
            room.

    Returns:
        Cluster of each point, int64 (N,).
    """
    num_points, num_centroids = len(points), len(centroids)
    cap = -(-num_points // num_centroids)
    assigned = np.full(num_points, -1, dtype=np.int64)
    assigned_distance = np.full(num_points, np.inf, dtype=np.float32)
    load = np.zeros(num_centroids, dtype=np.int64)
    waiting = np.arange(num_points)
    while len(waiting):
        # The first list holds all centroids; later ones only those with room, which is enough for everyone left.
        room = np.arange(num_centroids) if load.sum() == 0 else np.flatnonzero(load < cap)
        candidates, distances = nearest_centroids(points[waiting], centroids[room], min(max_candidates, len(room)))
        candidates = room[candidates]
        list_of = np.full(num_points, -1, dtype=np.int64)
        list_of[waiting] = np.arange(len(waiting))
        asked = np.zeros(num_points, dtype=np.int64)
        asking, exhausted = waiting, [np.empty(0, dtype=np.int64)]
        while len(asking):
            place = list_of[asking], asked[asking]
            centroid = candidates[place]
            asked[asking] += 1
            touched = np.zeros(num_centroids, dtype=bool)
            touched[centroid] = True
            holders = np.flatnonzero((assigned >= 0) & touched[assigned])
            who = np.concatenate([holders, asking])
            where = np.concatenate([assigned[holders], centroid])
            how_far = np.concatenate([assigned_distance[holders], distances[place]])
            order = np.lexsort((who, how_far, where))
            who, where, how_far = who[order], where[order], how_far[order]
            starts = np.flatnonzero(np.r_[True, where[1:] != where[:-1]])
            rank = np.arange(len(who)) - np.repeat(starts, np.diff(np.r_[starts, len(who)]))
            kept = rank < cap
            assigned[who[kept]], assigned_distance[who[kept]] = where[kept], how_far[kept]
            refused = who[~kept]
            assigned[refused], assigned_distance[refused] = -1, np.inf
            # A point refused after its current list was made for others (an earlier round's holder) waits for a new
            # list.
            can_ask = (list_of[refused] >= 0) & (asked[refused] < candidates.shape[1])
            asking = refused[can_ask]
            exhausted.append(refused[~can_ask])
        load = np.bincount(assigned[assigned >= 0], minlength=num_centroids)
        waiting = np.concatenate(exhausted)
    return assigned


def nearest_centroids(points: np.ndarray, centroids: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The `count` nearest centroids of each point: indices (int64, (N, count)) and squared distances (float32, (N,
    count))."""
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(np.ascontiguousarray(centroids, dtype=np.float32))
    distances, indices = index.search(np.ascontiguousarray(points, dtype=np.float32), count)
    return indices, distances


def balanced_kmeans(
    points: np.ndarray, num_clusters: int, *, iterations: int, balanced_iterations: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """faiss k-means, then Lloyd steps whose assignment is balanced.

    Args:
        points (float32, (N, d)): N >= num_clusters.
        iterations: Plain Lloyd steps, by faiss. balanced_iterations: Steps with the cap; 0 leaves clusters unbalanced.

    Returns:
        Centroids (float32, (V, d)) and the cluster of each point (int64, (N,)).
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    kmeans = faiss.Kmeans(
        points.shape[1],
        num_clusters,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=1 << 30,
    )
    kmeans.train(points)
    assert kmeans.centroids is not None
    centroids = kmeans.centroids.copy()
    if not balanced_iterations:
        return centroids, nearest_centroids(points, centroids, 1)[0][:, 0]
    assigned = balanced_assignment(points, centroids)
    for _ in range(balanced_iterations - 1):
        centroids = cluster_means(points, assigned, centroids)
        assigned = balanced_assignment(points, centroids)
    return cluster_means(points, assigned, centroids), assigned


def cluster_means(points: np.ndarray, assigned: np.ndarray, previous: np.ndarray) -> np.ndarray:
    """Mean of each cluster, float32 (V, d); an empty cluster keeps its `previous` centroid."""
    order = np.argsort(assigned, kind="stable")
    counts = np.bincount(assigned, minlength=len(previous))
    filled = np.flatnonzero(counts)
    starts = (np.cumsum(counts) - counts)[filled]
    means = previous.copy()
    means[filled] = np.add.reduceat(points[order], starts, axis=0, dtype=np.float64) / counts[filled, None]
    return means


__all__ = ["balanced_assignment", "balanced_kmeans", "cluster_means", "nearest_centroids"]
