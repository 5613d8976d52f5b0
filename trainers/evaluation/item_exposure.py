"""Which items a ranking reaches: those with few training events, and those whose semantic ID is shared.

An item is cold at limit c when the training log (`train.history`: what models and baselines are fitted on) has at most
c events of it; c = 0 are items that no user engaged with in training. For one user with the distinct held-out items T,
of which C are cold:

| metric | formula | of |
|---|---|---|
| `coldC_recall@k` | abs(C and the first k places) / abs(C); no value where C is empty | users with a cold target |
| `coldC_targets` | sum over users of abs(C) | a count |
| `coldC_users` | users with a cold target: those the recall is a mean over | a count |
| `shared_sid_targets` | share of all (user, target) pairs whose item shares its SID with another item | 0 to 1 |
| `shared_sid@k` | share of all filled places <= k that hold an item which shares its SID with another | 0 to 1 |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .sequences import Sequences, SequenceTable

COLD_LIMITS = (0, 5)


def training_events(train: SequenceTable) -> np.ndarray:
    """int64 (N,), events of each catalog row in the training log."""
    return np.bincount(train.history.items, minlength=len(train.item_ids))


def cold_recall(
    rankings: np.ndarray,
    targets: Sequences,
    events: np.ndarray,
    *,
    ks: Sequence[int] = (5, 10, 20),
    limits: Sequence[int] = COLD_LIMITS,
) -> dict[str, np.ndarray]:
    """Recall of each user among the cold targets.

    Args:
        rankings: int (U, K), catalog rows from best to worst, -1 where nothing was ranked.
        targets: U sequences of held-out items.
        events: int (N,), training events of each catalog row.
        ks: Cut-offs, each between 1 and K. limits: Largest numbers of training events that still count as cold.

    Returns:
        float64 (U,) under `coldC_recall@k`, nan for users without a cold target.

    Raises:
        ValueError: Rankings and targets of different users.
    """
    if len(rankings) != len(targets):
        raise ValueError(
            f"`rankings` should hold one line per user of `targets`, {len(targets)}. Received: {len(rankings)}."
        )
    users, items = _distinct_pairs(targets, len(events))
    place = np.full(len(users), rankings.shape[1])
    block = max(1, 4_000_000 // rankings.shape[1])
    for start in range(0, len(users), block):
        part = slice(start, start + block)
        same = rankings[users[part]] == items[part][:, None]
        place[part] = np.where(same.any(axis=1), same.argmax(axis=1), rankings.shape[1])
    metrics: dict[str, np.ndarray] = {}
    for limit in limits:
        cold = events[items] <= limit
        owners = users[cold]
        wanted = np.bincount(owners, minlength=len(targets)).astype(np.float64)
        for k in ks:
            found = np.bincount(owners, place[cold] < k, len(targets))
            metrics[f"cold{limit}_recall@{k}"] = np.divide(
                found, wanted, out=np.full(len(targets), np.nan), where=wanted > 0
            )
    return metrics


def cold_counts(targets: Sequences, events: np.ndarray, limits: Sequence[int] = COLD_LIMITS) -> dict[str, float]:
    """`coldC_targets` and `coldC_users` of each limit."""
    users, items = _distinct_pairs(targets, len(events))
    counts: dict[str, float] = {}
    for limit in limits:
        cold = events[items] <= limit
        counts[f"cold{limit}_targets"] = float(cold.sum())
        counts[f"cold{limit}_users"] = float(len(np.unique(users[cold])))
    return counts


def shared_sids(codes: np.ndarray) -> np.ndarray:
    """bool (N,), whether the SID of an item is also that of another; of SIDs int (N, T)."""
    _, place, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    return counts[place.reshape(-1)] > 1


def shared_sid_exposure(
    rankings: np.ndarray, targets: Sequences, shared: np.ndarray, *, ks: Sequence[int] = (5, 10, 20)
) -> dict[str, float]:
    """`shared_sid_targets` and `shared_sid@k`, from rankings int (U, K) and `shared` (bool, (N,))."""
    _, items = _distinct_pairs(targets, len(shared))
    exposure = {"shared_sid_targets": float(shared[items].mean()) if len(items) else 0.0}
    for k in ks:
        top = rankings[:, :k]
        served = top[top >= 0]
        exposure[f"shared_sid@{k}"] = float(shared[served].mean()) if len(served) else 0.0
    return exposure


def _distinct_pairs(targets: Sequences, n_items: int) -> tuple[np.ndarray, np.ndarray]:
    """User and item (int64 each) of the distinct held-out pairs."""
    return np.divmod(np.unique(targets.users * n_items + targets.items), n_items)


__all__ = ["COLD_LIMITS", "cold_counts", "cold_recall", "shared_sid_exposure", "shared_sids", "training_events"]
