# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Validation of a model that never stops training: predict each engagement, then learn it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import UASIDTokenizer

from ..evaluation.metrics import ranking_metrics
from ..evaluation.model_ranking import rank_users
from ..evaluation.sequences import Sequences

logger = logging.getLogger(__name__)

TOP = 10


@dataclass(frozen=True)
class Verdict:
    """Mean NDCG@10 of the candidate and of the published weights over the same `users`; `good` if the candidate may
    be published, None while there are too few users to tell."""

    users: int
    candidate: float
    published: float
    good: bool | None


class ProgressiveValidation:
    """Ranks for users whose newest engagements no weights have seen yet, by the weights in training and by the
    published ones, and says whether the former may take their place.

    Both rank for the same users. A best value of the past would be measured on other users, in another market: after
    a drift every model falls short of it, and the one that recovers could never be published.

    Args:
        window: Users remembered, the newest.
        needed: Users measured since the last publication before there is a verdict.
        max_ndcg_loss: Share of the published weights' NDCG@10 that may be lost, in [0, 1].
    """

    def __init__(self, window: int, needed: int, max_ndcg_loss: float):
        self.needed, self.max_ndcg_loss = needed, max_ndcg_loss
        self.scores: deque[tuple[float, float]] = deque(maxlen=window)

    def measure(
        self,
        model: GR4ADForRecommendation,
        published: GR4ADForRecommendation,
        tokenizer: UASIDTokenizer,
        rows: Sequence[Mapping[str, Any]],
        serving: RankingWeights,
    ) -> tuple[float, float]:
        """Ranks for validation rows of [`LogRecords`] before they are learned, exactly as servers do with `serving`;
        rows may differ in what they have. Returns the mean NDCG@10 of both weights."""
        names = sorted({name for row in rows for name in row})
        dataset = Dataset.from_list([{name: row.get(name) for name in names} for row in rows])
        index = tokenizer.index
        targets = Sequences.from_lists(
            [[index.rows[item] for item in row["target_items"]] for row in rows],
            [row["target_values"] for row in rows],
        )
        top_k = min(TOP, serving.widths(tokenizer.num_levels)[-1])
        ndcg = []
        for each in (model, published):
            ranked = rank_users(each, tokenizer, dataset, weights=serving, top_k=top_k).items
            items = np.pad(ranked, ((0, 0), (0, TOP - ranked.shape[1])), constant_values=-1)
            ndcg.append(ranking_metrics(items, targets, ks=(TOP,), catalog_size=len(index))[f"ndcg@{TOP}"])
        self.scores.extend(zip(ndcg[0].tolist(), ndcg[1].tolist(), strict=True))
        return float(ndcg[0].mean()), float(ndcg[1].mean())

    def verdict(self) -> Verdict:
        users = len(self.scores)
        if not users:
            return Verdict(0, 0.0, 0.0, None)
        candidate, published = np.array(self.scores).mean(0).tolist()
        good = candidate >= (1 - self.max_ndcg_loss) * published
        return Verdict(users, candidate, published, good if users >= self.needed else None)

    def begin_anew(self) -> None:
        """Forgets what was measured: other weights are published now."""
        self.scores.clear()


__all__ = ["ProgressiveValidation", "Verdict"]
