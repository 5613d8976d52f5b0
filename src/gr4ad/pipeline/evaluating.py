"""Stage that chooses on validation and measures once on test, beside the baselines."""

from __future__ import annotations

import logging
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.scoring import KS, SystemScores, calibration_of, has_values, is_value_metric
from gr4ad.pipeline.settings import EvaluateConfig
from gr4ad.trainers.evaluation import (
    ItemKNN,
    SequenceTable,
    check_no_leakage,
    evaluate_rankings,
    popularity_by_count,
    popularity_by_revenue,
    repeat_then_popularity,
    tune_item_knn,
)
from gr4ad.trainers.evaluation.per_user import FILE_NAME

if TYPE_CHECKING:
    from datasets import Dataset

    from gr4ad import UASIDTokenizer

logger = logging.getLogger(__name__)

PROTOCOLS = {"test": False, "test_history_excluded": True}
"""Which tables there are, and whether items of the history are left out in them."""

KNN_GRID = {"neighbours": (50, 200), "shrinkage": (10.0, 50.0), "decay": (0.6, 0.8, 1.0)}
"""What the item-kNN chooses from on validation; with money in the log also how much an item's mean value counts, and
with repeats whether an item speaks for itself."""

ORDER_GRID = {"shrinkage": (10.0, 50.0), "decay": (0.6, 0.8), "distance_decay": (0.8, 0.9), "backward": (0.1, 0.25)}
"""What it then tries where order counts, its other settings kept."""


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
        `test_history_excluded` (system -> metrics, with `METRIC_low` and `METRIC_high` of their 95% intervals over
        users), `paired` (table -> other system -> metric -> difference of the final model with its interval),
        `value_calibration` (model -> `held_out` and `served@10`, for models with a value head), `values` (whether the
        log has any, and their unit), `users`, `item_knn` (its chosen settings). Also in `metrics.json`, with
        `per_user.parquet`, the table `metrics.md` and the folder `plots` beside it.

    Raises:
        ValueError: A model folder is missing, a split is empty, or something held out was trained on.
    """
    from gr4ad import GR4ADForRecommendation, UASIDTokenizer
    from gr4ad.modeling_gr4ad import RankingWeights
    from gr4ad.report import write_evaluation
    from gr4ad.trainers.evaluation.model_ranking import predict_values, rank_users

    for folder in candidates.values():
        if not (folder / "model" / "config.json").is_file():
            raise ValueError(
                f"{folder}: holds no trained model (no model/config.json). Give an `--out` folder of `gr4ad train` or "
                "`gr4ad align`."
            )
    data = load_prepared(data_dir)
    check_not_empty(data, data_dir)
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    ids = tokenizer.index.item_ids.tolist()
    train, validation, test = (
        SequenceTable.from_dataset(part, ids) for part in (data.train, data.validation, data.test)
    )
    check_no_leakage(train, validation)
    check_no_leakage(train, test)
    priced, unit = has_values(train), str(data.summary.get("value_unit") or "")
    if not priced:
        logger.info("evaluate: the log has no values (all events count alike), so value metrics are left out")
        if is_value_metric(config.metric):
            logger.warning("evaluate: models are chosen by %s, which counts events in this log", config.metric)

    sample = sample_users(data.validation, config.tuning_users, seed)
    tried, choices = choose_on_validation(config, tokenizer, sample, candidates)
    final = max(choices, key=lambda name: choices[name][config.metric])

    scores = SystemScores(train, test, tokenizer.index.codes, seed)
    calibrations: dict[str, dict] = {}
    for name, folder in candidates.items():
        model = GR4ADForRecommendation.from_pretrained(folder / "model")
        for protocol, excluded in PROTOCOLS.items():
            rankings = rank_users(
                model,
                tokenizer,
                data.test,
                weights=RankingWeights(
                    tuple(config.beam_widths),
                    value_weight=choices[name]["value_weight"],
                    score_history=config.score_history,
                    exclude_history=excluded,
                    item_weight=choices[name]["item_weight"],
                    item_candidates=config.item_candidates if choices[name]["item_weight"] else 0,
                    neighbour_weight=choices[name]["neighbour_weight"],
                ),
                top_k=max(KS),
                batch_size=config.batch_size,
                progress=True,
            )
            counts = {"illegal_sids": rankings.illegal, "sids_checked": rankings.checked}
            rate = rankings.illegal / max(1, rankings.checked)
            scores.add(protocol, name, rankings.items, **counts, illegal_sid_rate=rate)
            if protocol == "test" and priced and model.value_head is not None:
                predicted = predict_values(model, tokenizer, data.test, test.held_out, batch_size=config.batch_size)
                calibrations[name] = calibration_of(predicted, test.held_out, rankings.items, seed)
    knn_settings = add_baselines(scores, config, validation, seed)
    paired = scores.compare(final)
    outcome = {
        "final": final,
        "metric": config.metric,
        "serving": {
            "beam_widths": config.beam_widths,
            "item_weight": choices[final]["item_weight"],
            "value_weight": choices[final]["value_weight"],
            "item_candidates": config.item_candidates if choices[final]["item_weight"] else 0,
            "neighbour_weight": choices[final]["neighbour_weight"],
            "score_history": config.score_history,
            "exclude_history": config.exclude_history,
        },
        "users": {"validation_sample": len(sample), "test": len(data.test)},
        "values": {"logged": priced, "unit": unit},
        "item_knn": knn_settings,
        "validation": tried,
        **scores.means,
        "paired": paired,
        "value_calibration": calibrations,
    }
    facts = {"final": final, "metric": config.metric, "seed": seed, "value_unit": unit if priced else ""}
    scores.for_file(**facts).save(out_dir / FILE_NAME)
    write_evaluation(out_dir, outcome)
    write_json(out_dir / "metrics.json", outcome)
    return outcome


def check_not_empty(data: PreparedData, data_dir: Path) -> None:
    """Raises ValueError if a split has no users: there would be nothing to choose or measure on."""
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if not len(split):
            raise ValueError(
                f"{data_dir}: the {name} split is empty (0 users). Allowed: at least one user in each split. Prepare "
                "the data with other bounds."
            )


def choose_on_validation(
    config: EvaluateConfig, tokenizer: UASIDTokenizer, sample: Dataset, candidates: dict[str, Path]
) -> tuple[list[dict], dict[str, dict]]:
    """Every model with every combination of serving weights on the sample; returns all rows, and each model's best."""
    from gr4ad import GR4ADForRecommendation
    from gr4ad.modeling_gr4ad import RankingWeights
    from gr4ad.trainers.evaluation.model_ranking import rank_users

    ids = tokenizer.index.item_ids.tolist()
    targets = SequenceTable.from_dataset(sample, ids).held_out
    tried: list[dict] = []
    choices: dict[str, dict] = {}
    for name, folder in candidates.items():
        model = GR4ADForRecommendation.from_pretrained(folder / "model")
        item_weights = config.item_weights if model.config.item_head else [0.0]
        value_weights = config.value_weights if model.value_head is not None else [0.0]
        neighbour_weights = config.neighbour_weights if model.item_neighbours is not None else [0.0]
        for item_weight, value_weight, neighbour_weight in product(item_weights, value_weights, neighbour_weights):
            if neighbour_weight and not item_weight:
                continue  # they add to the item head's score
            rankings = rank_users(
                model,
                tokenizer,
                sample,
                weights=RankingWeights(
                    tuple(config.beam_widths),
                    item_weight=item_weight,
                    value_weight=value_weight,
                    item_candidates=config.item_candidates if item_weight else 0,
                    neighbour_weight=neighbour_weight,
                    score_history=config.score_history,
                ),
                top_k=max(KS),
                batch_size=config.batch_size,
            )
            scores = evaluate_rankings(rankings.items, targets, ks=KS, catalog_size=len(ids))
            weights = {
                "item_weight": item_weight,
                "value_weight": value_weight,
                "neighbour_weight": neighbour_weight,
            }
            row = {"model": name, **weights, **scores}
            tried.append(row)
            logger.info(
                "validation: %s, item %g, value %g, neighbours %g: %s %.4f",
                name,
                *weights.values(),
                config.metric,
                scores[config.metric],
            )
        choices[name] = best_row([row for row in tried if row["model"] == name], config.metric, config.max_ndcg_loss)
    return tried, choices


def best_row(rows: list[dict], metric: str, max_ndcg_loss: float) -> dict:
    """The row that is best by the metric, of those whose NDCG@10 is at least `1 - max_ndcg_loss` of the best without
    value."""
    plain = max((row["ndcg@10"] for row in rows if not row["value_weight"]), default=0.0)
    allowed = [row for row in rows if row["ndcg@10"] >= (1 - max_ndcg_loss) * plain]
    return max(allowed, key=lambda row: row[metric])


def add_baselines(scores: SystemScores, config: EvaluateConfig, validation: SequenceTable, seed: int) -> dict:
    """Adds the baselines to both tables, fitted on the training log as our model is; returns the item-kNN's
    settings."""
    train, test, priced = scores.train, scores.test, scores.has_values
    repeats = has_repeats(train)
    grid = {**KNN_GRID}
    if priced:
        grid["value_power"] = (0.0, 0.5, 0.75, 1.0)
    if repeats:
        grid["include_self"] = (False, True)
    sample = sample_table(validation, config.tuning_users, seed)
    settings, table = tune_item_knn(train, sample, metric=config.metric, grid=grid)
    kept = {name: (value,) for name, value in vars(settings).items()}
    ordered, more = tune_item_knn(train, sample, metric=config.metric, grid={**kept, **ORDER_GRID})
    if more[config.metric].max() > table[config.metric].max():
        settings = ordered
    logger.info("item-kNN: %s", settings)
    knn = ItemKNN(settings).fit(train)
    for protocol, excluded in PROTOCOLS.items():
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
            scores.add(protocol, name, ranking)
    return {"settings": vars(settings), "tried": len(table) + len(more)}


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


__all__ = ["evaluate_models"]
