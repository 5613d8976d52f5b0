# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Which of several ways to rank is taken, from what each of them reached with every validation user.

Money is heavy-tailed: among a few thousand users, a handful of large baskets can decide which weights earn most. So
the largest mean revenue is not enough. Of the ways whose revenue cannot be told from the largest (the paired 95%
interval over users holds 0), the one with the best value-NDCG is taken: it wants expensive items first too, but no
user counts more than 1 in it. Of users with one target it is their NDCG, which knows no values: where most are of that
kind, the largest mean revenue is taken after all. So are metrics in which every user counts at most 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .intervals import interval, resampled_means

PerUser = Mapping[str, np.ndarray]
"""Metric with its cut-off -> float64 (U,)."""


def deciding_metrics(metric: str) -> tuple[str, ...]:
    """What `best_of` needs of each user: `metric`, and of `revenue@k` also `value_ndcg@k` and `ndcg@k`."""
    name, _, cut = metric.partition("@")
    return (metric, f"value_ndcg@{cut}", f"ndcg@{cut}") if name == "revenue" else (metric,)


def best_of(candidates: Sequence[PerUser], metric: str) -> int:
    """The place of the candidate that is taken, the first of equals.

    Args:
        candidates: `deciding_metrics(metric)` of each, of the same users in the same order.

    Raises:
        ValueError: There is no candidate, or a metric is not finite.
    """
    if not candidates:
        raise ValueError("`candidates` should hold at least one way to rank. Received: none.")
    values = np.stack([own[metric] for own in candidates])
    if not np.isfinite(values).all():
        place, user = np.argwhere(~np.isfinite(values))[0]
        raise ValueError(
            f"`{metric}` must be finite for every user. Received: {values[place, user]} for user {user} of candidate "
            f"{place}. Leave users without targets out."
        )
    best = int(values.mean(axis=1).argmax())
    if len(deciding_metrics(metric)) == 1:
        return best
    _, steadier, plain = (np.stack([own[name] for own in candidates]) for name in deciding_metrics(metric))
    served = (values > 0).any(axis=0)
    if 2 * (steadier != plain).any(axis=0).sum() <= served.sum():
        return best
    as_good = list(range(len(values)))
    if values.shape[1] > 1:  # of one user nothing can be told apart
        losses = resampled_means((values[best] - values).T, seed=0)
        as_good = [place for place in as_good if place == best or interval(losses[:, place])[0] <= 0]
    return as_good[int(steadier[as_good].mean(axis=1).argmax())]


__all__ = ["PerUser", "best_of", "deciding_metrics"]
