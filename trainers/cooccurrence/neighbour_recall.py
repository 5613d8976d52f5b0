# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How well an embedding predicts which ads are engaged with together."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np


def cooccurrence_recall(
    embeddings: np.ndarray, groups: Sequence[np.ndarray], *, ks: Sequence[int] = (1, 5, 10), seed: int = 0
) -> dict[str, float]:
    """Recall among the nearest ads, by cosine, of what the same user engaged with.

    For each ad of a group, the other distinct ads of the group are to be found: recall@k = found among the k nearest
    other ads of the catalog / min(k, number to be found), mean over the ads of a user, then over users.

    Args:
        embeddings (float, (N, d)): One row an ad, no zero rows.
        groups: Ad rows of each user, int64; users with fewer than two distinct ads are left out. For a held-out
            figure, engagements after the training cut only.
        seed: Of the order in which ads with equal embeddings are taken (never the order of the catalog).

    Returns:
        `recall@k` for each k, its standard error over users `recall@k_se`, and `users`.

    Raises:
        ValueError: If no user has two distinct ads.
    """
    groups = [np.unique(group) for group in groups]
    groups = [group for group in groups if len(group) >= 2]
    if not groups:
        raise ValueError("`groups` holds no user with two distinct ads: there is nothing to find.")
    order = np.random.default_rng(seed).permutation(len(embeddings))
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(np.ascontiguousarray(unit[order], dtype=np.float32))
    queries = np.unique(np.concatenate(groups))
    count = min(max(ks) + 1, len(embeddings))
    _, places = index.search(np.ascontiguousarray(unit[queries], dtype=np.float32), count)
    nearest = order[places]
    row_of = np.full(len(embeddings), -1)
    row_of[queries] = np.arange(len(queries))
    scores = np.zeros((len(groups), len(ks)))
    for user, group in enumerate(groups):
        for ad in group:
            others = nearest[row_of[ad]]
            hit = np.isin(others[others != ad][: max(ks)], group)
            for column, k in enumerate(ks):
                scores[user, column] += hit[:k].sum() / min(k, len(group) - 1)
        scores[user] /= len(group)
    result: dict[str, float] = {"users": len(groups)}
    for column, k in enumerate(ks):
        result[f"recall@{k}"] = float(scores[:, column].mean())
        result[f"recall@{k}_se"] = float(scores[:, column].std() / np.sqrt(len(groups)))
    return result


__all__ = ["cooccurrence_recall"]
