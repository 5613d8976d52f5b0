# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What is chosen on validation, before anything sees the test users: ranking weights, and the baselines' settings."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, Literal

import numpy as np
from datasets import Dataset

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import UASIDTokenizer

from .baselines import ItemKNN, popularity_by_count, popularity_by_revenue, repeat_then_popularity, tune_item_knn
from .metrics import evaluate_rankings, ranking_metrics
from .model_ranking import rank_users
from .selection import PerUser, best_of, deciding_metrics
from .sequences import SequenceTable
from .system_scores import KS, SystemScores

logger = logging.getLogger(__name__)

PROTOCOLS = {"test": False, "test_history_excluded": True}
"""Which tables there are, and whether items of the history are left out in them."""

KNN_GRID = {"neighbours": (50, 200), "shrinkage": (10.0, 50.0), "decay": (0.6, 0.8, 1.0)}
"""What the item-kNN chooses from on validation; with money in the log also how much an item's mean value counts, and
with repeats whether an item speaks for itself."""

ORDER_GRID = {"shrinkage": (10.0, 50.0), "decay": (0.6, 0.8), "distance_decay": (0.8, 0.9), "backward": (0.1, 0.25)}
"""What it then tries where order counts, its other settings kept."""


def weight_grid(
    model: GR4ADForRecommendation,
    base: RankingWeights,
    *,
    item_weights: Sequence[float],
    value_weights: Sequence[float],
    neighbour_weights: Sequence[float],
) -> list[RankingWeights]:
    """Every combination of the weights that this model has the parts for, with all else as in `base`."""
    grid = product(
        item_weights if model.config.item_head else [0.0],
        value_weights if model.value_head is not None else [0.0],
        neighbour_weights if model.item_neighbours is not None else [0.0],
    )
    return [
        replace(base, value_weight=value, item_weight=1.0, neighbour_weight=neighbour).with_item_weight(item)
        for item, value, neighbour in grid
        if item or not neighbour  # item neighbours add to the item head's score
    ]


@dataclass(frozen=True)
class WeightCandidate:
    """Ranking weights of a model, measured on the validation users.

    Attributes:
        row: For the table of what was tried: `model` (its name), `item_weight`, `value_weight`, `neighbour_weight` and
            the metrics' means.
        per_user: What decides: `deciding_metrics`, each float64 (U,).
    """

    weights: RankingWeights
    row: dict[str, Any]
    per_user: PerUser


def measure_weights(
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    sample: Dataset,
    grid: Sequence[RankingWeights],
    *,
    name: str,
    metric: str,
    batch_size: int,
) -> list[WeightCandidate]:
    """Ranks the users of `sample` with each of the weights in `grid`; `name` is the model's in the table."""
    ids = tokenizer.index.item_ids.tolist()
    targets = SequenceTable.from_dataset(sample, ids).held_out
    found = []
    for weights in grid:
        items = rank_users(model, tokenizer, sample, weights=weights, top_k=max(KS), batch_size=batch_size).items
        means = evaluate_rankings(items, targets, ks=KS, catalog_size=len(ids))
        users = ranking_metrics(items, targets, ks=KS, catalog_size=len(ids))
        chosen = {key: getattr(weights, key) for key in ("item_weight", "value_weight", "neighbour_weight")}
        per_user = {key: users[key] for key in deciding_metrics(metric)}
        found.append(WeightCandidate(weights, {"model": name, **chosen, **means}, per_user))
        logger.info(
            "validation: %s, item %g, value %g, neighbours %g: %s %.4f", name, *chosen.values(), metric, means[metric]
        )
    return found


def best_candidate(candidates: Sequence[WeightCandidate], metric: str, max_ndcg_loss: float = 1.0) -> WeightCandidate:
    """What `best_of` takes of the candidates whose NDCG@10 is at least `1 - max_ndcg_loss` of the best without value.
    Raises ValueError if there is no candidate."""
    plain = max((own.row["ndcg@10"] for own in candidates if not own.row["value_weight"]), default=0.0)
    allowed = [own for own in candidates if own.row["ndcg@10"] >= (1 - max_ndcg_loss) * plain]
    return allowed[best_of([own.per_user for own in allowed], metric)]


def add_baselines(scores: SystemScores, sample: SequenceTable, metric: str) -> dict[str, Any]:
    """Adds the baselines to all tables of `scores`, fitted on the training log as our models are, the item-kNN tuned
    by `metric` on the validation users `sample`. Returns its `settings`, and how many were `tried`."""
    train, test, priced = scores.train, scores.test, scores.has_values
    orders: tuple[Literal["count", "revenue"], ...] = ("count", "revenue") if priced else ("count",)
    repeats = has_repeats(train)
    grid: dict[str, tuple] = {**KNN_GRID}
    if priced:
        grid["value_power"] = (0.0, 0.5, 0.75, 1.0)
    if repeats:
        grid["include_self"] = (False, True)
    settings, table = tune_item_knn(train, sample, metric=metric, grid=grid)
    settings, more = tune_item_knn(train, sample, metric=metric, grid=ORDER_GRID, start=settings)
    chosen = ", ".join(f"{name} {value:g}" for name, value in vars(settings).items())
    logger.info("validation: item-kNN, tuned: %s", chosen)
    knn = ItemKNN(settings).fit(train)
    for protocol, excluded in PROTOCOLS.items():
        popular = {"count": popularity_by_count, "revenue": popularity_by_revenue}
        for by in orders:
            ranking = popular[by](train, test, max(KS), exclude_history=excluded)
            scores.add(protocol, f"popularity by {by}", ranking)
        if not excluded and repeats:
            for by in orders:
                ranking = repeat_then_popularity(train, test, max(KS), popularity=by)
                scores.add(protocol, f"repeated items, then popularity by {by}", ranking)
        scores.add(protocol, "item-kNN, tuned", knn.rank(test, max(KS), exclude_history=excluded))
    return {"settings": vars(settings), "tried": len(table) + len(more) - 1}


def has_repeats(train: SequenceTable) -> bool:
    """Whether any user engaged with an item twice."""
    pairs = train.history.users * len(train.item_ids) + train.history.items
    return len(np.unique(pairs)) < len(pairs)


def sample_users(dataset: Dataset, count: int, seed: int) -> Dataset:
    """`count` rows drawn by the seed, in order; all if there are no more, or `count` is 0."""
    if not count or len(dataset) <= count:
        return dataset
    return dataset.select(sample_rows(len(dataset), count, seed))


def sample_table(table: SequenceTable, count: int, seed: int) -> SequenceTable:
    """The same users as `sample_users` draws, of a table."""
    if not count or len(table.user_ids) <= count:
        return table
    rows = sample_rows(len(table.user_ids), count, seed)
    return SequenceTable(table.user_ids[rows], table.item_ids, table.history.take(rows), table.held_out.take(rows))


def sample_rows(users: int, count: int, seed: int) -> np.ndarray:
    """Rows of `count` of `users` users, ascending, int64."""
    return np.sort(np.random.default_rng(seed).permutation(users)[:count])


__all__ = [
    "KNN_GRID",
    "PROTOCOLS",
    "WeightCandidate",
    "add_baselines",
    "best_candidate",
    "measure_weights",
    "sample_table",
    "sample_users",
    "weight_grid",
]
