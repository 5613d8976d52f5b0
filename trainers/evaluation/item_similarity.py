"""Which items stand together in users' logs: for the nearest-neighbour baseline, and for a model's item neighbours.

Shapes: U users, E their events, N items.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy import sparse

from .sequences import Sequences

PAIRS_AT_ONCE = 10_000_000  # event pairs in memory: about 0.5 GB
LEAST_WEIGHT = 1e-3  # pairs so far apart that they weigh less are not counted

_ITEMS_PER_BATCH = 4096


def item_similarity(
    history: Sequences,
    num_items: int,
    *,
    neighbours: int,
    shrinkage: float,
    distance_decay: float = 1.0,
    backward: float = 1.0,
    include_self: bool = False,
) -> sparse.csr_array:
    """The most similar items of each item, by the users who have both.

        similarity(i, j) = n_ij / (sqrt(n_i n_j) + shrinkage)

    with n_i the number of users who have i, and n_ij the sum, over the users who have both, of the largest weight of
    an event pair: `distance_decay ** (d - 1)` where j came d events after i, `backward` times that where it came d
    events before. At 1 and 1 order does not count, and n_ij is the number of users who have both.

    Args:
        history: U logs, oldest event first, of items 0..N-1.
        num_items: N.
        neighbours: Largest similarities kept a row; of equal ones those of lower items.
        shrinkage: In users, >= 0: pulls similarities that rest on few users to 0.
        distance_decay: Above 0 up to 1. Pairs that weigh less than 0.001 are not counted. At 1 with `backward` below 1
            all pairs of a log are: the work grows with the square of its length.
        backward: In [0, 1]; 0 counts what came after alone.
        include_self: Keep the diagonal, n_ii = n_i.

    Returns:
        CSR float64 (N, N), at most `neighbours` entries a row, rows sorted by column.

    Raises:
        ValueError: A setting is out of its range.
    """
    check_similarity(neighbours, shrinkage, distance_decay, backward)
    once = sparse.csr_array(
        (np.ones(len(history.items)), history.items.copy(), history.offsets.copy()), shape=(len(history), num_items)
    )
    once.sum_duplicates()
    once.data[:] = 1
    users = np.asarray(once.sum(axis=0)).ravel()
    blocks = []
    for row, column, together in counts_of_pairs(history, once, distance_decay, backward):
        similarity = together / (np.sqrt(users[row] * users[column]) + shrinkage)
        wanted = similarity > 0
        if not include_self:
            wanted &= row != column
        blocks.append(largest_of_rows(row[wanted], column[wanted], similarity[wanted], neighbours))
    row, column, similarity = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    result = sparse.csr_array((similarity, (row, column)), shape=(num_items, num_items))
    result.sort_indices()
    return result


def largest_of_rows(
    row: np.ndarray, column: np.ndarray, value: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The `count` largest entries of each row, best first; of equal ones those of lower columns."""
    order = np.lexsort((column, -value, row))
    order = order[np.arange(len(row)) - np.searchsorted(row[order], row[order]) < count]
    return row[order], column[order], value[order]


def check_similarity(neighbours: int, shrinkage: float, distance_decay: float, backward: float) -> None:
    """Raises ValueError, naming the setting, where one of `item_similarity` is out of its range."""
    if neighbours < 1:
        raise ValueError(f"`neighbours` should be at least 1. Received: {neighbours}.")
    if shrinkage < 0:
        raise ValueError(f"`shrinkage` should be at least 0 users. Received: {shrinkage}.")
    if not 0 < distance_decay <= 1:
        raise ValueError(f"`distance_decay` should be above 0 and at most 1 (no decay). Received: {distance_decay}.")
    if not 0 <= backward <= 1:
        raise ValueError(f"`backward` should be in [0, 1] (1: order does not count). Received: {backward}.")


def counts_of_pairs(
    history: Sequences, once: sparse.csr_array, distance_decay: float, backward: float
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, columns and values of n_ij, all of a row in one part; `once` is 1 where a user has an item, (U, N)."""
    by_item = once.T.tocsr()
    if distance_decay == backward == 1:
        for start in range(0, once.shape[1], _ITEMS_PER_BATCH):
            together = (by_item[start : start + _ITEMS_PER_BATCH] @ once).tocoo()
            yield together.row + start, together.col, together.data
        return
    together = sparse.diags_array(np.asarray(once.sum(axis=0)).ravel(), format="csr")
    for part in ordered_pairs(history, once.shape[1], distance_decay, backward):
        together = together + part
    entries = together.tocoo()
    yield entries.row, entries.col, entries.data


def ordered_pairs(
    history: Sequences, num_items: int, distance_decay: float, backward: float
) -> Iterator[sparse.csr_array]:
    """n_ij of different items, (N, N), of one block of users after the other."""
    farthest = len(history.items)
    if distance_decay < 1:
        farthest = 1 + int(np.log(LEAST_WEIGHT) / np.log(distance_decay) + 1e-9)
    lengths = history.lengths
    work = np.cumsum(lengths * np.minimum(lengths, farthest))
    most = np.iinfo(np.int64).max // num_items**2  # users whose pairs of items have a number
    start = 0
    while start < len(history):
        done = work[start - 1] if start else 0
        stop = int(np.searchsorted(work, done + PAIRS_AT_ONCE, side="right"))
        stop = min(max(stop, start + 1), start + most)
        first, last = history.offsets[start], history.offsets[stop]
        items = history.items[first:last]
        users = np.repeat(np.arange(stop - start), lengths[start:stop])
        earlier, later, weights = [], [], []
        for distance in range(1, min(farthest, int(lengths[start:stop].max(initial=0)) - 1) + 1):
            at = np.flatnonzero((users[:-distance] == users[distance:]) & (items[:-distance] != items[distance:]))
            earlier.append(at)
            later.append(at + distance)
            weights.append(np.full(len(at), distance_decay ** (distance - 1)))
        start = stop
        if not earlier:
            continue
        one, other, weight = np.concatenate(earlier), np.concatenate(later), np.concatenate(weights)
        user = np.concatenate([users[one], users[one]])
        row, column = np.concatenate([items[one], items[other]]), np.concatenate([items[other], items[one]])
        weight = np.concatenate([weight, backward * weight])
        # A user counts an ordered pair of items once, at its largest weight.
        key = (user * num_items + row) * num_items + column
        order = np.argsort(key, kind="stable")
        first = np.flatnonzero(np.diff(key[order], prepend=-1))
        if len(first):
            weight = np.maximum.reduceat(weight[order], first)
        entries = (row[order][first], column[order][first])
        yield sparse.csr_array((weight, entries), shape=(num_items, num_items))


__all__ = ["check_similarity", "item_similarity", "largest_of_rows"]
