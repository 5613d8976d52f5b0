# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Swing: which ads are engaged with together, from user logs (the positives of arXiv 2602.22732, eq. 1).

Two ads are similar if pairs of users engaged with both, the more so the less those two users have in common otherwise
(Yang et al. 2020, arXiv 2010.05525):

    sim(i, j) = sum over user pairs u < v that engaged with i and j of 1 / (alpha + |I_u n I_v|)

Written as sparse products over blocks of users, so that memory is bounded by a block and the result, not by the number
of user pairs: B = A_block A^T counts common ads of user pairs, C = A[u] * A[v] are their common ads, and
S = C^T diag(1 / (alpha + B)) C.
"""

from __future__ import annotations

import numpy as np
from scipy import sparse

from ..evaluation.item_similarity import largest_of_rows

BLOCK_COUNTS = 20_000_000  # products of A_block A^T computed at once: about 0.5 GB


def swing_similarity(
    users: np.ndarray,
    items: np.ndarray,
    num_items: int,
    *,
    alpha: float = 1.0,
    single_users: bool = False,
    max_users_per_item: int = 200,
    max_items_per_user: int = 200,
    top_k: int = 50,
    seed: int = 0,
) -> sparse.csr_array:
    """Swing similarity of items.

    Args:
        users, items (int, (E,)): One engagement each, in the order of the log; repeats count once.
        num_items: Items are 0..num_items-1.
        alpha: >= 0; the larger, the less it matters how much two users have in common.
        single_users: Also count each user as a pair with itself, 1 / (alpha + |I_u|): for logs so sparse that few ads
            share two users. Ads seen together by no pair keep these neighbours only.
        max_users_per_item: Users of a popular item that take part, drawn at random (the work grows with the square).
        max_items_per_user: Last items of a user that take part.
        top_k: Neighbours kept for each item, the most similar; ties go to the lower item.

    Returns:
        CSR float32 (num_items, num_items), zero diagonal, at most `top_k` entries a row; rows sorted by item.

    Raises:
        ValueError: If lengths differ, an id is out of range, or a setting is.
    """
    users, items = np.asarray(users), np.asarray(items)
    if users.shape != items.shape or users.ndim != 1:
        raise ValueError(
            f"`users` and `items` must be two lists of one length. Received: {users.shape}, {items.shape}."
        )
    if len(items) and not (0 <= items.min() and items.max() < num_items):
        raise ValueError(f"`items` must be in 0..{num_items - 1}. Received: {items.min()}..{items.max()}.")
    if alpha < 0:
        raise ValueError(f"`alpha` must be >= 0. Received: {alpha}.")
    for name, value in (
        ("max_users_per_item", max_users_per_item),
        ("max_items_per_user", max_items_per_user),
        ("top_k", top_k),
    ):
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1. Received: {value}.")
    engaged = engagement_matrix(users, items, num_items, max_users_per_item, max_items_per_user, seed)
    by_item = engaged.T.tocsr()
    similarity = sparse.csr_array((num_items, num_items), dtype=np.float32)
    # What a row of A A^T costs is known beforehand: the degrees of its items.
    work = np.cumsum(engaged @ np.diff(by_item.indptr).astype(np.float64))
    start = 0
    while start < engaged.shape[0]:
        done = work[start - 1] if start else 0.0
        stop = max(start + 1, int(np.searchsorted(work, done + BLOCK_COUNTS, side="right")))
        common = (engaged[start:stop] @ by_item).tocoo()
        first, second = common.row + start, common.col
        pairs = (second > first) & (common.data >= 2)  # a pair with one common ad says nothing of two ads
        similarity = similarity + pair_products(engaged, first[pairs], second[pairs], common.data[pairs], alpha)
        start = stop
    if single_users:
        counts = np.diff(engaged.indptr)
        several = np.flatnonzero(counts >= 2)
        weights = sparse.diags_array((1 / (alpha + counts[several])).astype(np.float32))
        similarity = similarity + engaged[several].T @ weights @ engaged[several]
    similarity = sparse.csr_array(similarity)
    similarity.setdiag(0)
    entries = similarity.tocoo()
    positive = entries.data > 0
    row, column, data = largest_of_rows(entries.row[positive], entries.col[positive], entries.data[positive], top_k)
    result = sparse.csr_array((data, (row, column)), shape=similarity.shape)
    result.sort_indices()
    return result


def engagement_matrix(
    users: np.ndarray, items: np.ndarray, num_items: int, max_users_per_item: int, max_items_per_user: int, seed: int
) -> sparse.csr_array:
    """0/1 CSR float32 (users that are left, num_items) of the engagements that take part."""
    _, user = np.unique(users, return_inverse=True)
    # The last engagement of a user with an item stands for it.
    key = user.astype(np.int64) * num_items + items
    _, last = np.unique(key[::-1], return_index=True)
    kept = np.sort(len(key) - 1 - last)
    user, item = user[kept], items[kept]
    recent = places_in_group(user[::-1])[::-1] < max_items_per_user
    user, item = user[recent], item[recent]
    shuffled = np.random.default_rng(seed).permutation(len(item))
    drawn = np.empty(len(item), dtype=bool)
    drawn[shuffled] = places_in_group(item[shuffled]) < max_users_per_item
    user, item = user[drawn], item[drawn]
    _, user = np.unique(user, return_inverse=True)
    shape = (int(user.max()) + 1 if len(user) else 0, num_items)
    return sparse.csr_array((np.ones(len(item), np.float32), (user, item)), shape=shape)


def pair_products(
    engaged: sparse.csr_array, first: np.ndarray, second: np.ndarray, counts: np.ndarray, alpha: float
) -> sparse.csr_array:
    """Sum over user pairs (first, second) of 1 / (alpha + count) for each pair of their common items."""
    common = engaged[first].multiply(engaged[second])
    weights = sparse.diags_array((1 / (alpha + counts)).astype(np.float32))
    return sparse.csr_array(common.T @ (weights @ common))


def places_in_group(groups: np.ndarray) -> np.ndarray:
    """How many equal entries stand before each entry, int64 (n,)."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(groups) else np.empty(0, np.int64)
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    return places


__all__ = ["swing_similarity"]
