"""Stage that chooses on validation and measures once on test, beside the baselines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from gr4ad import GR4ADForRecommendation, UASIDTokenizer
from gr4ad.data import PreparedData, load_prepared
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline.runner import StageRecord, write_json
from gr4ad.pipeline.settings import EvaluateConfig
from gr4ad.report import write_evaluation
from gr4ad.trainers.evaluation import SequenceTable, check_no_leakage
from gr4ad.trainers.evaluation.choosing import (
    PROTOCOLS,
    WeightCandidate,
    add_baselines,
    best_candidate,
    measure_weights,
    sample_table,
    sample_users,
    weight_grid,
)
from gr4ad.trainers.evaluation.model_ranking import predict_values, rank_users
from gr4ad.trainers.evaluation.per_user import FILE_NAME
from gr4ad.trainers.evaluation.system_scores import KS, SystemScores, calibration_of, has_values, is_value_metric

logger = logging.getLogger(__name__)


def evaluate_models(
    config: EvaluateConfig,
    *,
    data_dir: Path,
    tokenizer_dir: Path,
    models: Mapping[str, Path],
    out_dir: Path,
    seed: int,
) -> dict[str, Any]:
    """Chooses model and serving weights on validation, then ranks the test users once with each model at its choice.

    Args:
        models: Name to model folder, e.g. `{"VSL": ..., "VSL + RSPO": ...}`; the best on validation is the final
            one.

    Returns:
        `final` (name of the final model), `choices` (model -> the `RankingWeights` chosen for it), `serving` (those
        of the final one, as the artifact serves), `validation` (table of what was tried),
        `test` and `test_history_excluded` (system -> metrics, with `METRIC_low` and `METRIC_high` of their 95%
        intervals over users), `paired` (table -> other system -> metric -> difference of the final model with its
        interval), `value_calibration` (model -> `held_out` and `served@10`, for models with a value head), `values`
        (whether the log has any, and their unit), `users`, `item_knn` (its chosen settings). Also in `metrics.json`,
        with `per_user.parquet`, the table `metrics.md` and the folder `plots` beside it. Not there: `models` (model ->
        key of the stage that trained it, "" without a record).

    Raises:
        ValueError: A split is empty, or something held out was trained on.
    """
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
    base = RankingWeights(
        tuple(config.beam_widths), item_weight=1.0, item_candidates=config.item_candidates,
        score_history=config.score_history,
    )  # fmt: skip
    tried: list[dict] = []
    choices: dict[str, WeightCandidate] = {}
    for name, folder in models.items():
        model = GR4ADForRecommendation.from_pretrained(folder / "model")
        grid = weight_grid(
            model,
            base,
            item_weights=config.item_weights,
            value_weights=config.value_weights,
            neighbour_weights=config.neighbour_weights,
        )
        candidates = measure_weights(
            model, tokenizer, sample, grid, name=name, metric=config.metric, batch_size=config.batch_size
        )
        choices[name] = best_candidate(candidates, config.metric, config.max_ndcg_loss)
        tried += [candidate.row for candidate in candidates]
    final = best_candidate(list(choices.values()), config.metric).row["model"]

    scores = SystemScores(train, test, tokenizer.index.codes, seed)
    calibrations: dict[str, dict] = {}
    for name, folder in models.items():
        model = GR4ADForRecommendation.from_pretrained(folder / "model")
        for protocol, excluded in PROTOCOLS.items():
            rankings = rank_users(
                model,
                tokenizer,
                data.test,
                weights=replace(choices[name].weights, exclude_history=excluded),
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
    knn_settings = add_baselines(scores, sample_table(validation, config.tuning_users, seed), config.metric)
    paired = scores.compare(final)
    outcome = {
        "final": final,
        "metric": config.metric,
        "choices": {name: choice.weights.to_dict() for name, choice in choices.items()},
        "serving": replace(choices[final].weights, exclude_history=config.exclude_history).to_dict(),
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
    records = {name: StageRecord.read(folder) for name, folder in models.items()}
    return {**outcome, "models": {name: record.key if record else "" for name, record in records.items()}}


def check_not_empty(data: PreparedData, data_dir: Path) -> None:
    """Raises ValueError if a split has no users: there would be nothing to choose or measure on."""
    for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test)):
        if not len(split):
            raise ValueError(
                f"{data_dir}: the {name} split is empty (0 users). Allowed: at least one user in each split. Prepare "
                "the data with other bounds."
            )
