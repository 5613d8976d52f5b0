"""What a recipe reaches: every figure of its tables, as one result file.

    python benchmarks/recipe.py amazon_beauty --data DIR --work OUT --out benchmarks/results/recipe_amazon_beauty.json

Runs `gr4ad run` in the folder OUT (finished stages are kept, so a folder that is already complete is only read) and
writes one row a system and metric. `spread` is the standard error over test users; further seeds get folders
OUT-seed1, ... .
"""

from __future__ import annotations

import argparse
import json
import logging
import os
from importlib.metadata import version
from pathlib import Path

from gr4ad.pipeline import load_recipe, run_recipe
from gr4ad.pipeline.run import VERSIONS, machine

METRICS = ("recall@5", "ndcg@5", "recall@10", "ndcg@10", "revenue@10", "value_ndcg@10", "coverage@10")


def rows_of(metrics: dict, seed: int, unit: str) -> list[dict]:
    """Common result rows of one run's metrics."""
    rows = []
    for protocol, systems in (("", metrics["test"]), ("history excluded: ", metrics["test_history_excluded"])):
        for system, scores in systems.items():
            name = "ours" if system == metrics["final"] else system
            for metric in METRICS:
                rows.append(
                    {
                        "name": f"{protocol}{name}/{metric}",
                        "metric": metric,
                        "value": round(scores[metric], 5),
                        "spread": round(scores.get(f"{metric}_se", 0.0), 5),
                        "unit": f"{unit} per user" if metric.startswith("revenue") else "share",
                        "seed": seed,
                    }
                )
    ours = metrics["test"][metrics["final"]]
    rows.append({"name": "ours/illegal_sids", "metric": "illegal_sids", "value": ours["illegal_sids"], "spread": 0,
                 "unit": f"of {ours['sids_checked']} SIDs", "seed": seed})  # fmt: skip
    return rows


def choice_of(metrics: dict) -> dict:
    """What validation was asked and what it chose: the weights that are served, and every candidate's score."""
    tried = [
        {
            "model": row["model"],
            "item_weight": row["item_weight"],
            "value_weight": row["value_weight"],
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
        work = arguments.work if seed == 0 else f"{arguments.work}-seed{seed}"
        metrics = run_recipe(recipe, work, command=f"gr4ad run {arguments.recipe} --data DIR --out OUT")
        rows += rows_of(metrics, seed, recipe.data.value_unit)
        choices[f"seed {seed}"] = choice_of(metrics)
        kept = json.loads((Path(work) / "metrics.json").read_text(encoding="utf-8"))
        seconds |= {f"seed {seed}: {stage}": round(spent, 1) for stage, spent in kept["seconds"].items()}
    name = Path(arguments.recipe).stem
    result = {
        "command": f"python benchmarks/recipe.py {name} --data DIR --work OUT --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": arguments.seeds,
        "seconds": seconds,
        "choices": choices,
        "rows": rows,
        "ratios": {},
    }
    temporary = arguments.out.with_suffix(".tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, arguments.out)


if __name__ == "__main__":
    main()
