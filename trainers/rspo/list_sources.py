# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Preference lists of a log without impressions, out of the model's own beams. Those of a log with impressions stand
in the prepared data; lists that a reward model values are made by `gr4ad.trainers.reward.candidate_lists`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from datasets import Dataset, Features, List, Value

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import HISTORY_COLUMNS, HISTORY_FEATURES, UASIDTokenizer, UserHistory

from ..evaluation.model_ranking import rank_users


def beam_lists(
    train: Dataset,
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    *,
    weights: RankingWeights,
    list_size: int = 16,
    held_share: float = 0.3,
) -> Dataset:
    """Lists out of the model's own beams, one a user: the history is the first part of the training log, the
    candidates are what the model ranks first from there, and one that the user bought in the held-back last part has
    its value, the others 0.

    What was bought and not proposed stays out: a list that holds it because it was bought says of everything else that
    it was not, and teaches to push the likeliest ads down.

    Args:
        train: One row a user: `items`, `values`, further columns of [`UserHistory`], and user features.
        weights: How the model ranks, as it will be served; beams and item candidates are as many as a list holds.
        held_share: Share of each log, in (0, 1), that is held back; at least one event.

    Returns rows of histories with `candidates` and `rewards`; users with too short a log are left out. Raises
    ValueError if the log has no `values`.
    """
    if "values" not in train.column_names:
        raise ValueError(
            f"Lists from beams need the column `values`. Received: {', '.join(train.column_names)}. Map the column "
            "that holds the value of an event."
        )
    features = context_features(train)
    kept: list[dict[str, Any]] = []
    bought: list[dict[str, float]] = []
    for row in train:
        cut = len(row["items"]) - max(1, round(held_share * len(row["items"])))
        if cut < 1:
            continue
        history = UserHistory.from_row(row, [name for name in features if name not in HISTORY_COLUMNS])
        kept.append({**dict.fromkeys(features), **history.first(cut).to_row()})
        money: dict[str, float] = {}
        for item, value in zip(row["items"][cut:], row["values"][cut:], strict=True):
            money[item] = money.get(item, 0.0) + value
        bought.append(money)
    histories = Dataset.from_dict({name: [row[name] for row in kept] for name in features}, features=features)
    weights = replace(
        weights,
        beam_widths=(list_size,) * tokenizer.num_levels,
        item_candidates=list_size if weights.item_weight else 0,
    )
    rankings = rank_users(model, tokenizer, histories, weights=weights, top_k=list_size, progress=True)
    ids = tokenizer.index.item_ids
    candidates = [[ids[row] for row in ranked if row >= 0] for ranked in rankings.items]
    rewards = [[money.get(item, 0.0) for item in items] for items, money in zip(candidates, bought, strict=True)]
    return histories.add_column("candidates", candidates).add_column("rewards", rewards)


def context_features(train: Dataset) -> Features:
    """Columns and types of a history out of a log, whose other columns but `user_id` are user features."""
    known = {"items": List(Value("string"))}
    for feature in HISTORY_FEATURES:
        if feature.name in train.column_names:
            known[feature.name] = List(Value("string" if feature.kind in ("id", "text") else "float64"))
    others = [name for name in train.column_names if name not in ("user_id", *HISTORY_COLUMNS)]
    return Features(known | {name: train.features[name] for name in others})


__all__ = ["beam_lists"]
