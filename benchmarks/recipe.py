"""What a recipe reaches: every figure of its tables, as one result file.

    python benchmarks/recipe.py amazon_beauty --data DIR --work OUT --out benchmarks/results/recipe_amazon_beauty.json

Runs `gr4ad run` in the folder OUT (finished stages are kept, so a folder that is already complete is only read) and
writes one row a system, metric and seed: `spread` is the standard error over test users, `low` and `high` the 95%
interval over them. Further seeds get folders OUT-seed1, ... ; then one row a system and metric without a seed follows:
the mean over seeds, `spread` the sample standard deviation over them, and the interval over users and seeds.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from importlib.metadata import version
from pathlib import Path

import numpy as np

from gr4ad.pipeline import load_recipe, run_recipe
from gr4ad.pipeline.comparing import compare_runs, load_run, seed_folder
from gr4ad.pipeline.run import VERSIONS, machine

PROTOCOLS = {"test": "", "test_history_excluded": "history excluded: "}
METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "revenue@10", "value_ndcg@10", "coverage@10")
ENDS = ("low", "high")


def unit_of(metric: str, value_unit: str) -> str:
    return f"{value_unit} per user" if metric.startswith("revenue") else "share"


def rows_of(metrics: dict, seed: int, unit: str) -> list[dict]:
    """Common result rows of one run's metrics."""
    rows = []
    for table, protocol in PROTOCOLS.items():
        for system, scores in metrics[table].items():
            name = "ours" if system == metrics["final"] else system
            for metric in METRICS:
                rows.append(
                    {
                        "name": f"{protocol}{name}/{metric}",
                        "metric": metric,
                        "value": round(scores[metric], 5),
                        "spread": round(scores.get(f"{metric}_se", 0.0), 5),
                        "unit": unit_of(metric, unit),
                        "seed": seed,
                        **{end: round(scores[f"{metric}_{end}"], 5) for end in ENDS if f"{metric}_{end}" in scores},
                    }
                )
    ours = metrics["test"][metrics["final"]]
    rows.append({"name": "ours/illegal_sids", "metric": "illegal_sids", "value": ours["illegal_sids"], "spread": 0,
                 "unit": f"of {ours['sids_checked']} SIDs", "seed": seed})  # fmt: skip
    return rows


def rows_over_seeds(rows: list[dict], comparisons: dict[str, dict]) -> list[dict]:
    """One row for each name that every seed has: the mean over seeds, their sample standard deviation, and where the
    runs kept their scores per user (`comparisons`: table -> `compare_runs` of the seeds) the interval."""
    seeds = sorted({row["seed"] for row in rows})
    values: dict[str, list[dict]] = {}
    for row in rows:
        if row["metric"] in METRICS:
            values.setdefault(row["name"], []).append(row)
    intervals = {
        f"{PROTOCOLS[table]}{system}/{metric}": {end: round(score[end], 5) for end in ENDS}
        for table, comparison in comparisons.items()
        for system, figures in comparison["systems"].items()
        for metric, score in figures["metrics"].items()
    }
    return [
        {
            **{key: same[0][key] for key in ("name", "metric", "unit")},
            "value": round(float(np.mean([row["value"] for row in same])), 5),
            "spread": round(float(np.std([row["value"] for row in same], ddof=1)), 5),
            "seed": None,
            "seeds": seeds,
            **intervals.get(name, {}),
        }
        for name, same in values.items()
        if len(same) == len(seeds) > 1
    ]


def comparisons_of(folders: list[Path]) -> dict[str, dict]:
    """The seeds together beside their baselines, for each table; {} if a run kept no scores per user."""
    try:
        known = next(iter(load_run(folders[0]).scores["test"].values()))
        metrics = [name for name in METRICS if name in known]
        return {table: compare_runs({"ours": folders}, protocol=table, metrics=metrics) for table in PROTOCOLS}
    except ValueError as error:
        logging.warning("no intervals over seeds: %s", error)
        return {}


def differences_of(comparison: dict) -> dict[str, dict]:
    """System -> metric -> its difference from ours on the same users, with the interval over users and seeds."""
    return {
        system: {
            metric: {name: None if value is None else round(value, 5) for name, value in score["difference"].items()}
            for metric, score in figures["metrics"].items()
        }
        for system, figures in comparison["systems"].items()
        if system != "ours"
    }


def choice_of(metrics: dict) -> dict:
    """What validation was asked and what it chose: the weights that are served, and every candidate's score."""
    tried = [
        {
            "model": row["model"],
            "item_weight": row["item_weight"],
            "value_weight": row["value_weight"],
            "neighbour_weight": row["neighbour_weight"],
            metrics["metric"]: round(row[metrics["metric"]], 5),
        }
        for row in metrics["validation"]
    ]
    return {"final": metrics["final"], "serving": metrics["serving"], "validation": tried}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="YAML file or name of a packaged recipe.")
    parser.add_argument("--data", help="Folder of the recipe's data files.")
    parser.add_argument("--work", required=True, help="Folder of the run.")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO)
    rows: list[dict] = []
    seconds: dict[str, float] = {}
    choices: dict[str, dict] = {}
    for seed in arguments.seeds:
        recipe = load_recipe(arguments.recipe, data_root=arguments.data, seed=seed)
        work = seed_folder(arguments.work, seed)
        metrics = run_recipe(recipe, work, command=f"gr4ad run {arguments.recipe} --data DIR --out OUT")
        rows += rows_of(metrics, seed, recipe.data.value_unit)
        choices[f"seed {seed}"] = choice_of(metrics)
        kept = json.loads((work / "metrics.json").read_text(encoding="utf-8"))
        seconds |= {f"seed {seed}: {stage}": round(spent, 1) for stage, spent in kept["seconds"].items()}
    comparisons = comparisons_of([seed_folder(arguments.work, seed) for seed in arguments.seeds])
    rows += rows_over_seeds(rows, comparisons)
    name = Path(arguments.recipe).stem
    result = {
        "command": f"python benchmarks/recipe.py {name} --data DIR --work OUT --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": arguments.seeds,
        "seconds": seconds,
        "choices": choices,
        "rows": rows,
        "differences_from_ours": {table: differences_of(content) for table, content in comparisons.items()},
        "ratios": {},
    }
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, arguments.out)


if __name__ == "__main__":
    main()
