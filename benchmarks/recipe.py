"""What a recipe reaches: every figure of its tables, as one result file.

    python benchmarks/recipe.py amazon_beauty --data DIR --work OUT --out benchmarks/results/recipe_amazon_beauty.json

Runs `gr4ad run` in the folder OUT (finished stages are kept, so a folder that is already complete is only read) and
writes one row a system, metric and seed: `spread` is the standard error over test users, `low` and `high` the 95%
interval over them. Further seeds get folders OUT-seed1, ... ; then one row a system and metric without a seed follows:
the mean over seeds, `spread` the sample standard deviation over them, and the interval over users and seeds.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from measurement.accuracy import ENDS, METRICS, PREFIXES, metric_rows
from measurement.results import Benchmark, Row, result_row, rounded, seeds_row
from measurement.runs import recipe_of

from gr4ad.pipeline import run_recipe
from gr4ad.pipeline.comparing import compare_runs, load_run, seed_folder


def rows_of(metrics: dict, seed: int, unit: str) -> list[Row]:
    rows = []
    for table, protocol in PREFIXES.items():
        for system, scores in metrics[table].items():
            name = "ours" if system == metrics["final"] else system
            rows += metric_rows(f"{protocol}{name}", scores, unit, seed)
    ours = metrics["test"][metrics["final"]]
    unit = f"of {ours['sids_checked']} SIDs"
    return [*rows, result_row("ours/illegal_sids", "illegal_sids", ours["illegal_sids"], unit, 0, seed=seed)]


def rows_over_seeds(rows: list[Row], comparisons: dict[str, dict]) -> list[Row]:
    """One row for each name that every seed has: the mean over seeds, their sample standard deviation, and the
    interval where one is known (`comparisons`: table -> `compare_runs` of the seeds)."""
    seeds = sorted({row["seed"] for row in rows})
    values: dict[str, list[Row]] = {}
    for row in rows:
        if row["metric"] in METRICS:
            values.setdefault(row["name"], []).append(row)
    intervals = {
        f"{PREFIXES[table]}{system}/{metric}": {end: score[end] for end in ENDS}
        for table, comparison in comparisons.items()
        for system, figures in comparison["systems"].items()
        for metric, score in figures["metrics"].items()
    }
    return [
        seeds_row(name, same[0]["metric"], [row["value"] for row in same], same[0]["unit"], seed=None, seeds=seeds,
                  **intervals.get(name, {}))
        for name, same in values.items()
        if len(same) == len(seeds) > 1
    ]  # fmt: skip


def comparisons_of(folders: list[Path]) -> dict[str, dict]:
    """The seeds together beside their baselines, for each table."""
    known = next(iter(load_run(folders[0]).scores["test"].values()))
    metrics = [name for name in METRICS if name in known]
    return {table: compare_runs({"ours": folders}, protocol=table, metrics=metrics) for table in PREFIXES}


def differences_of(comparison: dict) -> dict[str, dict]:
    """System -> metric -> its difference from ours on the same users, with the interval over users and seeds."""
    return {
        system: {metric: rounded(score["difference"]) for metric, score in figures["metrics"].items()}
        for system, figures in comparison["systems"].items()
        if system != "ours"
    }


def choice_of(metrics: dict) -> dict:
    """What validation was asked and what it chose: the weights that are served, and every candidate's score."""
    names, metric = ("model", "item_weight", "value_weight", "neighbour_weight"), metrics["metric"]
    tried = [{name: row[name] for name in names} | {metric: rounded(row[metric])} for row in metrics["validation"]]
    return {"final": metrics["final"], "serving": metrics["serving"], "validation": tried}


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A recipe that runs in seconds.")
    benchmark.take("recipe", "--data", "--work", seeds=[0])
    arguments = benchmark.start(words)
    rows: list[Row] = []
    seconds: dict[str, float] = {}
    choices: dict[str, dict] = {}
    for seed in arguments.seeds:
        recipe = recipe_of(arguments.recipe, arguments.work, smoke=arguments.smoke, data=arguments.data, seed=seed)
        work = seed_folder(arguments.work, seed)
        metrics = run_recipe(recipe, work, command=f"gr4ad run {arguments.recipe} --data DIR --out OUT")
        rows += rows_of(metrics, seed, recipe.data.value_unit)
        choices[f"seed {seed}"] = choice_of(metrics)
        kept = json.loads((work / "metrics.json").read_text(encoding="utf-8"))
        seconds |= {f"seed {seed}: {stage}": round(spent, 1) for stage, spent in kept["seconds"].items()}
    comparisons = comparisons_of([seed_folder(arguments.work, seed) for seed in arguments.seeds])
    rows += rows_over_seeds(rows, comparisons)
    differences = {table: differences_of(content) for table, content in comparisons.items()}
    benchmark.write(
        arguments, rows, seeds=arguments.seeds, seconds=seconds, choices=choices, differences_from_ours=differences
    )


if __name__ == "__main__":
    main()
