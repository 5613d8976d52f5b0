"""What the semantic IDs (SIDs) reach by themselves: beams alone, the whole ranking, and the likelihoods behind them.

    python benchmarks/generative.py amazon_beauty --data DIR --work OUT --out benchmarks/results/generative_beauty.json

OUT, OUT-seed1, ... hold the recipe's runs, as `benchmarks/recipe.py` leaves them (finished stages are kept). Three
rankings of the users of validation and test, with the artifact's beam widths:

- `beams alone`: by p(SID); no item head, no item neighbours, no candidates beside the beams, no history's own ads put
  in. Where the recipe ranks by expected value, so do they.
- `served`: as validation chose.
- `item weight 1`: without a share of p(SID): beams propose, item head and item neighbours rank.

Each with the weights that validation chooses for it, from the recipe's grid and by its rule.

Nats are the mean of -log p of the test users' targets after the history that the user has: of the SID, of the item by
the item head without and with the item neighbours, and of a uniform guess over the catalog. SIDs that several items
share are counted as one: `items per SID` says how many there are.

`value` is the mean over seeds, `spread` the sample standard deviation over them, `low` and `high` the 95% interval
over users and seeds; `differences` are those of `served` from the others on the same users. The baselines are those of
the last run: seeds differ in the validation users that they are tuned on.

Where a log has no time, only an order, `order` says what that order holds beside time: the share of steps that go to a
larger id, in training and from the last item of a history to its target, and every figure on the users whose last step
does and on the others.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from measurement.accuracy import METRICS, unit_of
from measurement.likelihoods import nats_of
from measurement.log_order import last_steps_ascend, order_rows, training_steps_ascend
from measurement.results import Benchmark, Row, result_row, rounded
from measurement.runs import FinishedRun, recipe_of

from gr4ad import GR4ADForRecommendation
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe, run_recipe
from gr4ad.pipeline.comparing import load_run, seed_folder
from gr4ad.trainers.evaluation import SequenceTable
from gr4ad.trainers.evaluation.choosing import best_candidate, measure_weights, sample_users, weight_grid
from gr4ad.trainers.evaluation.intervals import paired_difference, seed_interval
from gr4ad.trainers.evaluation.model_ranking import rank_users
from gr4ad.trainers.evaluation.system_scores import KS, SystemScores, as_json

SYSTEMS = ("served", "beams alone", "item weight 1")
SPLITS = ("validation", "test")
Scores = dict[str, dict[str, dict[str, np.ndarray]]]


def rankings_of(recipe: Recipe, metrics: Mapping[str, Any], run: FinishedRun, seed: int) -> dict[str, RankingWeights]:
    """The three ways to rank."""
    served, settings = RankingWeights.from_dict(metrics["serving"]), recipe.evaluate
    model = GR4ADForRecommendation.from_pretrained(run.folder)
    sample = sample_users(run.data.validation, settings.tuning_users, seed)
    base = replace(served, item_candidates=settings.item_candidates, score_history=settings.score_history)
    values = settings.value_weights

    def best(name: str, grid: Sequence[RankingWeights]) -> RankingWeights:
        if len(grid) == 1:
            return grid[0]
        options: dict[str, Any] = {"metric": settings.metric, "batch_size": settings.batch_size}
        tried = measure_weights(model, run.tokenizer, sample, grid, name=name, **options)
        return best_candidate(tried, settings.metric, settings.max_ndcg_loss).weights

    alone = weight_grid(
        model, replace(base, score_history=False), item_weights=[0.0], value_weights=values, neighbour_weights=[0.0]
    )
    first = weight_grid(
        model, base, item_weights=[1.0], value_weights=values, neighbour_weights=settings.neighbour_weights
    )
    return {
        "served": served,
        "beams alone": best("beams alone", alone),
        "item weight 1": best("item weight 1", first),
    }


def scores_of(run: FinishedRun, ways: Mapping[str, RankingWeights], batch_size: int, users: int) -> Scores:
    """Split -> way to rank -> metric -> float64 (users,); of validation, so many users, 0 = all."""
    model, found = GR4ADForRecommendation.from_pretrained(run.folder), {}
    train = SequenceTable.from_dataset(run.data.train, run.item_ids)
    for split in SPLITS:
        rows = getattr(run.data, split)
        if split == "validation":
            rows = sample_users(rows, users, 0)
        held_out = SequenceTable.from_dataset(rows, run.item_ids)
        scores = SystemScores(train, held_out, run.tokenizer.index.codes, 0)
        for name, weights in ways.items():
            lists = rank_users(model, run.tokenizer, rows, weights=weights, top_k=max(KS), batch_size=batch_size)
            scores.add(split, name, lists.items)
        found[split] = scores.per_user[split]
    return found


def score_rows(scores: Sequence[Scores], unit: str) -> tuple[list[Row], dict[str, dict]]:
    """Rows of the means over seeds, and the differences of what is served from the other ways."""
    rows, differences = [], {}
    for split in reversed(SPLITS):
        prefix = "" if split == "test" else f"{split}: "
        for system in SYSTEMS:
            for metric in METRICS:
                if metric not in scores[0][split][system]:
                    continue
                values = np.stack([seed[split][system][metric] for seed in scores])
                by_seed = np.nanmean(values, axis=1)
                low, high = seed_interval(values, 0)
                rows.append(
                    result_row(
                        f"{prefix}{system}/{metric}", metric, float(by_seed.mean()), unit_of(metric, unit),
                        float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None, low=float(low), high=float(high),
                        by_seed=rounded(by_seed.tolist()),
                    )
                )  # fmt: skip
                if system != "served":
                    ours = np.stack([seed[split]["served"][metric] for seed in scores])
                    difference = as_json(paired_difference(ours, values, 0))
                    differences[f"{prefix}served over {system}/{metric}"] = rounded(difference)
    return rows, differences


def rows_by_order(run: FinishedRun, final: str, scores: Sequence[Scores], unit: str) -> list[Row]:
    """How far the order of the log is that of ids, and what that order is worth to every system."""
    ascends = last_steps_ascend(SequenceTable.from_dataset(run.data.test, run.item_ids))
    steps = {"training": training_steps_ascend(run.data, run.item_ids), "last": float(ascends.mean())}
    rows = [result_row(f"{name} steps to a larger id", "share", share, "", None) for name, share in steps.items()]
    ours: dict[str, Mapping[str, np.ndarray]] = {
        system: {
            metric: np.stack([seed["test"][system][metric] for seed in scores])
            for metric in METRICS
            if metric in scores[0]["test"][system]
        }
        for system in SYSTEMS
    }
    theirs = {
        system: {metric: values for metric, values in figures.items() if metric in METRICS}
        for system, figures in load_run(run.folder).scores["test"].items()
        if system != final
    }
    return rows + order_rows(ascends, ours | theirs, lambda metric: unit_of(metric, unit))


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A recipe that runs in seconds.")
    benchmark.take("recipe", "--data", "--work", seeds=3, validation_users=(0, "Users of validation; 0 = all."))
    arguments = benchmark.start(words, seeds=2)
    scores, nats, chosen, baselines, unit = [], [], {}, {}, ""
    for seed in range(arguments.seeds):
        recipe = recipe_of(arguments.recipe, arguments.work, smoke=arguments.smoke, data=arguments.data, seed=seed)
        folder = seed_folder(arguments.work, seed)
        run_recipe(recipe, folder, command=benchmark.command(arguments))
        run, metrics = FinishedRun(folder), json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        unit = str(metrics["values"]["unit"])
        ways = rankings_of(recipe, metrics, run, seed)
        chosen[seed] = {name: weights.to_dict() for name, weights in ways.items()}
        scores.append(scores_of(run, ways, recipe.evaluate.batch_size, arguments.validation_users))
        weight = ways["item weight 1"].neighbour_weight
        nats.append(nats_of(run, weight, recipe.evaluate.batch_size))
        baselines = {name: found for name, found in metrics["test"].items() if name != metrics["final"]}
    rows, differences = score_rows(scores, unit)
    for name in nats[0]:
        values = [of_seed[name] for of_seed in nats]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        rows.append(result_row(name, "nats" if "nats" in name else "items", float(np.mean(values)), "", spread,
                               by_seed=rounded(values)))  # fmt: skip
    for system, figures in baselines.items():
        ends = {metric: {end: figures[f"{metric}_{end}"] for end in ("low", "high") if f"{metric}_{end}" in figures}
                for metric in METRICS}  # fmt: skip
        rows += [
            result_row(f"{system}/{metric}", metric, figures[metric], unit_of(metric, unit), None, **ends[metric])
            for metric in METRICS
            if metric in figures
        ]
    if run.data.summary["clock"] == "position":
        rows += rows_by_order(run, str(metrics["final"]), scores, unit)
    ratio = np.mean([of_seed["sid nats"] / of_seed["item nats"] for of_seed in nats])
    benchmark.write(
        arguments, rows, {"sid_nats_over_item_nats": float(ratio)}, seeds=range(arguments.seeds), weights=chosen,
        differences=differences,
    )  # fmt: skip


if __name__ == "__main__":
    main()
