"""Stage that chooses on validation and measures once on test, beside the baselines."""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gr4ad.data import load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import EvaluateConfig

if TYPE_CHECKING:
    from datasets import Dataset

    from gr4ad.trainers.evaluation import SequenceTable

logger = logging.getLogger(__name__)

KS = (5, 10, 20)

KNN_GRID = {"neighbours": (50, 200), "shrinkage": (10.0, 50.0), "decay": (0.6, 0.8, 1.0)}
"""What the item-kNN chooses from on validation; with money in the log also how much an item's mean value counts, and
with repeats whether an item speaks for itself."""


def evaluate_models(
    config: EvaluateConfig,
    *,
    data_dir: Path,
    tokenizer_dir: Path,
    candidates: dict[str, Path],
    out_dir: Path,
    seed: int,
) -> dict:
    """Chooses model and serving weights on validation, then ranks the test users once with each model at its choice.

    Args:
        candidates: Name to model folder, e.g. `{"VSL": ..., "VSL + RSPO": ...}`; the best on validation is the final
            one.

    Returns:
        `final` (name of the final model), `serving` (its weights), `validation` (table of what was tried), `test` and
        `test_history_excluded` (system -> metrics), `users`, `item_knn` (its chosen settings). Also in `metrics.json`.
    """
    from gr4ad import GR4ADForRecommendation, UASIDTokenizer
    from gr4ad.trainers.evaluation import SequenceTable, check_no_leakage, evaluate_rankings
    from gr4ad.trainers.evaluation.model_ranking import rank_users

    data = load_prepared(data_dir)
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    ids = tokenizer.index.item_ids.tolist()
    train, validation, test = (
        SequenceTable.from_dataset(part, ids) for part in (data.train, data.validation, data.test)
    )
    check_no_leakage(train, validation)
    check_no_leakage(train, test)

    sample = sample_users(data.validation, config.tuning_users, seed)
    sample_targets = SequenceTable.from_dataset(sample, ids).held_out
    tried: list[dict] = []
    choices: dict[str, dict] = {}
    for name, folder in candidates.items():
        model = GR4ADForRecommendation.from_pretrained(folder / "model")
        item_weights = config.item_weights if model.config.item_head else [0.0]
        value_weights = config.value_weights if model.value_head is not None else [0.0]
        for item_weight, value_weight in product(item_weights, value_weights):
            rankings = rank_users(
                model,
                tokenizer,
                sample,
                beam_widths=config.beam_widths,
                top_k=max(KS),
                item_weight=item_weight,
                value_weight=value_weight,
                score_history=config.score_history,
                batch_size=config.batch_size,
            )
            scores = evaluate_rankings(rankings.items, sample_targets, ks=KS, catalog_size=len(ids))
            row = {"model": name, "item_weight": item_weight, "value_weight": value_weight, **scores}
            tried.append(row)
            logger.info(
                "validation: %s, item %g, value %g: %s %.4f",
                name,
                item_weight,
                value_weight,
                config.metric,
                scores[config.metric],
            )
        choices[name] = max((row for row in tried if row["model"] == name), key=lambda row: row[config.metric])
    final = max(choices, key=lambda name: choices[name][config.metric])

    results: dict[str, dict[str, dict]] = {"test": {}, "test_history_excluded": {}}
    for name, folder in candidates.items():
        model = GR4ADForRecommendation.from_pretrained(folder / "model")
        for table_name, excluded in (("test", False), ("test_history_excluded", True)):
            rankings = rank_users(
                model,
                tokenizer,
                data.test,
                beam_widths=config.beam_widths,
                top_k=max(KS),
                item_weight=choices[name]["item_weight"],
                value_weight=choices[name]["value_weight"],
                score_history=config.score_history,
                exclude_history=excluded,
                batch_size=config.batch_size,
                progress=True,
            )
            metrics = evaluate_rankings(rankings.items, test.held_out, ks=KS, catalog_size=len(ids))
            metrics |= {"illegal_sids": rankings.illegal, "sids_checked": rankings.checked}
            results[table_name][name] = metrics
    knn_settings = add_baselines(results, config, train, validation, test, seed)
    outcome = {
        "final": final,
        "metric": config.metric,
        "serving": {
            "beam_widths": config.beam_widths,
            "item_weight": choices[final]["item_weight"],
            "value_weight": choices[final]["value_weight"],
            "score_history": config.score_history,
            "exclude_history": config.exclude_history,
        },
        "users": {"validation_sample": len(sample), "test": len(data.test)},
        "item_knn": knn_settings,
        "validation": tried,
        **results,
    }
    write_json(out_dir / "metrics.json", outcome)
    return outcome


def add_baselines(
    results: dict[str, dict[str, dict]],
    config: EvaluateConfig,
    train: SequenceTable,
    validation: SequenceTable,
    test: SequenceTable,
    seed: int,
) -> dict:
    """Adds the baselines to both tables, fitted on the training log as our model is; returns the item-kNN's
    settings."""
    from gr4ad.trainers.evaluation import (
        ItemKNN,
        evaluate_rankings,
        popularity_by_count,
        popularity_by_revenue,
        repeat_then_popularity,
        tune_item_knn,
    )

    values = train.history.values
    priced = bool(len(values)) and bool((values != values[0]).any())
    repeats = has_repeats(train)
    grid = {**KNN_GRID}
    if priced:
        grid["value_power"] = (0.0, 0.5, 0.75, 1.0)
    if repeats:
        grid["include_self"] = (False, True)
    sample = sample_table(validation, config.tuning_users, seed)
    settings, table = tune_item_knn(train, sample, metric=config.metric, grid=grid)
    logger.info("item-kNN: %s", settings)
    knn = ItemKNN(settings).fit(train)
    for table_name, excluded in (("test", False), ("test_history_excluded", True)):
        rankings = {"popularity by count": popularity_by_count(train, test, max(KS), exclude_history=excluded)}
        if priced:
            rankings["popularity by revenue"] = popularity_by_revenue(train, test, max(KS), exclude_history=excluded)
        if not excluded and repeats:
            for popularity in ("count", "revenue") if priced else ("count",):
                rankings[f"repeated items, then popularity by {popularity}"] = repeat_then_popularity(
                    train, test, max(KS), popularity=popularity
                )
        rankings["item-kNN, tuned"] = knn.rank(test, max(KS), exclude_history=excluded)
        for name, ranking in rankings.items():
            results[table_name][name] = evaluate_rankings(
                ranking, test.held_out, ks=KS, catalog_size=len(test.item_ids)
            )
    return {"settings": vars(settings), "tried": len(table)}


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
    from gr4ad.trainers.evaluation import SequenceTable

    if not count or len(table.user_ids) <= count:
        return table
    rows = sample_rows(len(table.user_ids), count, seed)
    return SequenceTable(table.user_ids[rows], table.item_ids, table.history.take(rows), table.held_out.take(rows))


def sample_rows(users: int, count: int, seed: int) -> np.ndarray:
    """Rows of `count` of `users` users, ascending, int64."""
    return np.sort(np.random.default_rng(seed).permutation(users)[:count])


__all__ = ["evaluate_models"]
