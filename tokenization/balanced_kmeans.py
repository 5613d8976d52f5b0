# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Balanced k-means: no cluster holds more than ceil(N / V) points.

Plain Lloyd steps find the centroids; the last steps assign under the cap. Both let a centroid that is asked for too
often raise a price, which points add to its squared distance: the prices are the dual variables of the capacity
constraints (a transport problem solved by an auction), so that of the points that want a full cluster those move on
that lose least by it. From step to step the centroids follow the points, and need less of a price.
"""

from __future__ import annotations

import faiss
import numpy as np
import torch
from scipy import sparse

from .collective import ALONE, OneProcess
from .residual_points import ResidualPoints

# More candidates or rounds lower the error hardly, and cost much time.
CANDIDATES = 8  # nearest centroids that a point bids on: memory is 8 bytes each
AUCTION_ROUNDS = 10
AUCTION_REST = 100  # the auction ends when at most 1 point in so many is over a cap
PRICE_STEP = 0.3  # of plain Lloyd steps, in margins between the nearest and the second centroid
PROBES = 2048  # points the margin is measured on


def nearest_centroids(
    points: np.ndarray, centroids: np.ndarray, count: int, *, prices: np.ndarray | None = None, device: str = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """The `count` centroids of least squared distance plus price of each point.

    Args:
        points (float32, (N, d)), centroids (float32, (V, d)). prices (float32, (V,)): >= 0, default 0.
        device: `cpu` searches by faiss, anything else by torch on that device.

    Returns:
        Indices (int64, (N, count)) and squared distances plus prices (float32, (N, count)), least first.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    centroids = np.ascontiguousarray(centroids, dtype=np.float32)
    if device != "cpu":
        return nearest_on_device(points, centroids, count, prices, device)
    if prices is not None:
        # A further dimension in which points are 0 and centroids sqrt(price): exact, and one search.
        points = np.concatenate([points, np.zeros((len(points), 1), np.float32)], axis=1)
        centroids = np.concatenate([centroids, np.sqrt(prices, dtype=np.float32)[:, None]], axis=1)
    index = faiss.IndexFlatL2(centroids.shape[1])
    index.add(centroids)
    distances, indices = index.search(points, count)
    return indices, distances


def nearest_on_device(
    points: np.ndarray, centroids: np.ndarray, count: int, prices: np.ndarray | None, device: str
) -> tuple[np.ndarray, np.ndarray]:
    """[`nearest_centroids`] by matrix products of torch, in blocks of 2^26 distances."""
    table = torch.from_numpy(centroids).to(device)
    offset = (table**2).sum(1)
    if prices is not None:
        offset += torch.from_numpy(prices).to(device)
    indices = np.empty((len(points), count), dtype=np.int64)
    distances = np.empty((len(points), count), dtype=np.float32)
    rows = max(1, 2**26 // len(centroids))
    for start in range(0, len(points), rows):
        block = torch.from_numpy(points[start : start + rows]).to(device)
        costs = torch.addmm(offset, block, table.T, alpha=-2)
        least, which = costs.topk(count, largest=False)
        indices[start : start + rows] = which.cpu()
        distances[start : start + rows] = (least + (block**2).sum(1, keepdim=True)).clamp(min=0).cpu()
    return indices, distances


def auction(candidates: torch.Tensor, distances: torch.Tensor, prices: torch.Tensor, cap: int) -> torch.Tensor:
    """Rounds of bidding among listed centroids; full centroids raise their prices.

    In a round each centroid with e points over its cap raises its price until e of them would rather be at their next
    best listed centroid, and these move.

    Args:
        candidates (int64, (N, k)), distances (float32, (N, k)): Listed centroids and squared distances.
        prices (float32, (V,)): Changed in place. cap: Points a centroid may hold.

    Returns:
        The centroid of each point, int64 (N,); some may still be over the cap.
    """
    slot = (distances + prices[candidates]).argmin(1, keepdim=True)
    assigned = candidates.gather(1, slot)[:, 0]
    for _ in range(AUCTION_ROUNDS):
        load = torch.bincount(assigned, minlength=len(prices))
        excess = int((load - cap).clamp(min=0).sum())
        if excess * AUCTION_REST <= len(candidates) or candidates.shape[1] == 1:
            break
        members = torch.nonzero((load > cap)[assigned])[:, 0]
        listed = candidates[members]
        costs = distances[members] + prices[listed]
        own = costs.gather(1, slot[members])
        costs.scatter_(1, slot[members], torch.inf)
        best, alternative = costs.min(1, keepdim=True)
        margin = (best - own)[:, 0]
        centroid = assigned[members]
        order = margin.sort(stable=True).indices
        order = order[centroid[order].sort(stable=True).indices]
        centroid, margin = centroid[order], margin[order]
        full, counts = torch.unique_consecutive(centroid, return_counts=True)
        starts = counts.cumsum(0) - counts
        over = load[full] - cap
        # The price at which the next point would be as well off elsewhere.
        prices[full] += margin[starts + over.clamp(max=counts - 1)]
        place = torch.arange(len(centroid), device=centroid.device) - starts.repeat_interleave(counts)
        leaving = order[place < over.repeat_interleave(counts)]
        who = members[leaving]
        slot[who] = alternative[leaving]
        assigned[who] = candidates[who].gather(1, slot[who])[:, 0]
    return assigned


def balanced_assignment(
    points: ResidualPoints,
    centroids: np.ndarray,
    prices: np.ndarray,
    *,
    group: OneProcess = ALONE,
    device: str = "cpu",
) -> np.ndarray:
    """Assigns each point to a near centroid, at most ceil(N / V) points each (an exact cap).

    First an [`auction`] among the nearest centroids of each point. Where the lists of a dense region hold too few free
    places, those points of a crowded centroid that lose least by it then go to the nearest centroids with free places.
    With several processes, each searches for its own points and all hold the lists (8 bytes a candidate).

    Args:
        points: This process's points, N over all processes. centroids (float32, (V, d)).
        prices (float32, (V,)): >= 0, where bidding starts.

    Returns:
        The cluster of each of this process's points, int64.
    """
    num_centroids = len(centroids)
    count = min(CANDIDATES, num_centroids)
    candidates = np.empty((len(points), count), dtype=np.int32)
    distances = np.empty((len(points), count), dtype=np.float32)
    for start, block in points.blocks():
        indices, costs = nearest_centroids(block, centroids, count, prices=prices, device=device)
        candidates[start : start + len(block)] = indices
        distances[start : start + len(block)] = costs - prices[indices]
    mine = group.own(len(points))
    listed = torch.from_numpy(group.concatenate(candidates)).long()
    cap = -(-len(listed) // num_centroids)
    distance = torch.from_numpy(group.concatenate(distances))
    chosen = auction(listed, distance, torch.from_numpy(prices.copy()), cap)
    own = distance.gather(1, (listed == chosen[:, None]).int().argmax(1, keepdim=True))[:, 0].numpy()
    assigned = chosen.numpy()

    def nearest_open(rows: np.ndarray, free: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The nearest centroid with free places of points `rows` of all processes, and its squared distance."""
        open_centroids = np.flatnonzero(free > 0)
        local = rows[(rows >= mine.start) & (rows < mine.stop)] - mine.start
        indices, costs = nearest_centroids(points.rows(local), centroids[open_centroids], 1, device=device)
        return open_centroids[group.concatenate(indices[:, 0])], group.concatenate(costs[:, 0])

    load = np.bincount(assigned, minlength=num_centroids)
    crowded = np.flatnonzero((load > cap)[assigned])
    if crowded.size:  # those leave that lose least by it
        _, costs = nearest_open(crowded, cap - load)
        stay = within_cap(assigned[crowded], own[crowded] - costs, np.full(num_centroids, cap))
        assigned[crowded[~stay]] = -1
    while (waiting := np.flatnonzero(assigned < 0)).size:
        free = cap - np.bincount(assigned[assigned >= 0], minlength=num_centroids)
        wanted, costs = nearest_open(waiting, free)
        placed = within_cap(wanted, costs, free)
        assigned[waiting[placed]] = wanted[placed]
    return assigned[mine].astype(np.int64)


def within_cap(assigned: np.ndarray, costs: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Which points (bool, (n,)) their centroids keep: the `free[v]` of least cost of centroid v, ties by order."""
    order = np.lexsort((costs, assigned))
    centroid = assigned[order]
    starts = np.flatnonzero(np.r_[True, centroid[1:] != centroid[:-1]]) if len(order) else np.empty(0, np.int64)
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    kept = np.empty(len(order), dtype=bool)
    kept[order] = place < free[centroid]
    return kept


def balanced_kmeans(
    points: ResidualPoints,
    num_clusters: int,
    *,
    iterations: int,
    balanced_iterations: int,
    seed: int,
    max_points_per_centroid: int = 256,
    group: OneProcess = ALONE,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Lloyd steps, the last ones under the cap.

    Args:
        points: This process's points; N >= num_clusters over all processes.
        iterations: Plain Lloyd steps. balanced_iterations: Steps with the cap; 0 leaves clusters unbalanced.
        seed: Seed of the first centroids and the samples. The result depends on nothing else: up to float error not
            even on how many processes share the points.
        max_points_per_centroid: A plain step reads a random sample of at most this many points a centroid (a
            mini-batch for catalogs that do not fit in memory), and so does a balanced one but the last, which reads
            all.

    Returns:
        Centroids (float32, (V, d)) and the cluster of each of this process's points (int64).
    """
    own = group.own(len(points))
    total = int(group.sum(np.array([len(points)]))[0])
    order = np.random.default_rng(seed).permutation(total)  # the same on every process

    def drawn(count: int) -> np.ndarray:
        """This process's rows among the first `count` of the permutation, in its order."""
        chosen = order[:count]
        return chosen[(chosen >= own.start) & (chosen < own.stop)] - own.start

    def together(rows: np.ndarray, count: int) -> np.ndarray:
        """The points behind the first `count` of the permutation, on every process."""
        places = np.flatnonzero((order[:count] >= own.start) & (order[:count] < own.stop))
        found = np.empty((count, points.shape[1]), dtype=np.float32)
        found[group.concatenate(places)] = group.concatenate(points.rows(rows))
        return found

    start = together(drawn(num_clusters), num_clusters)
    centroids, probes = start.copy(), start[:PROBES]
    sample_size = num_clusters * max_points_per_centroid
    sample = ResidualPoints(points.rows(drawn(sample_size))) if sample_size < total else points
    target = min(sample_size, total) / num_clusters
    prices = np.zeros(num_clusters, dtype=np.float32)
    for _ in range(iterations):
        assigned = nearest_of_all(sample, centroids, prices if balanced_iterations else None, device)
        centroids, counts = cluster_means(sample, assigned, centroids, group)
        split_largest(centroids, counts)
        if balanced_iterations and num_clusters > 1:
            _, two = nearest_centroids(probes, centroids, 2, prices=prices, device=device)
            margin = float((two[:, 1] - two[:, 0]).mean())
            prices = np.maximum(prices + PRICE_STEP * margin * np.log(np.maximum(counts, 0.5) / target), 0)
            prices = prices.astype(np.float32)
    for step in range(balanced_iterations):
        part = sample if step + 1 < balanced_iterations else points
        assigned = balanced_assignment(part, centroids, prices, group=group, device=device)
        centroids, _ = cluster_means(part, assigned, centroids, group)
        prices = np.zeros_like(prices)  # kept ones are worth nothing: the centroids have moved to where the points are
    if not balanced_iterations:
        assigned = nearest_of_all(points, centroids, None, device)
    return centroids, assigned


def nearest_of_all(
    points: ResidualPoints, centroids: np.ndarray, prices: np.ndarray | None, device: str
) -> np.ndarray:
    """The centroid of least squared distance plus price of each point, int64 (N,), block by block."""
    nearest = [nearest_centroids(block, centroids, 1, prices=prices, device=device)[0] for _, block in points.blocks()]
    return np.concatenate(nearest)[:, 0] if nearest else np.empty(0, dtype=np.int64)


def cluster_means(
    points: ResidualPoints, assigned: np.ndarray, previous: np.ndarray, group: OneProcess = ALONE
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of each cluster, float32 (V, d), and its number of points, int64 (V,), over all processes; an empty cluster
    keeps its `previous` centroid."""
    sums = np.zeros(previous.shape, dtype=np.float64)
    for start, block in points.blocks():
        cluster = assigned[start : start + len(block)]
        ones = sparse.csc_array(
            (np.ones(len(block), np.float32), cluster, np.arange(len(block) + 1)), shape=(len(previous), len(block))
        )
        sums += ones @ block
    sums = group.sum(sums)
    counts = group.sum(np.bincount(assigned, minlength=len(previous)))
    filled = counts > 0
    means = previous.copy()
    means[filled] = sums[filled] / counts[filled, None]
    return means, counts


def split_largest(centroids: np.ndarray, counts: np.ndarray) -> None:
    """Gives each empty cluster half of the largest one, by nudging two copies of its centroid apart (as faiss does);
    changes both arrays in place."""
    nudge = np.where(np.arange(centroids.shape[1]) % 2, 1 / 1024, -1 / 1024).astype(np.float32)
    for empty in np.flatnonzero(counts == 0):
        largest = int(counts.argmax())
        centroids[empty] = centroids[largest] * (1 + nudge)
        centroids[largest] *= 1 - nudge
        counts[empty] = counts[largest] // 2
        counts[largest] -= counts[empty]
