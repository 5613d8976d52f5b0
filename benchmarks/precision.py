"""What a lower precision of the served model costs in quality, and what it brings in time.

    python benchmarks/precision.py --runs NAME=RUN ... --out benchmarks/results/precision.json

Finished folders of `gr4ad run`, served as they are but for the precision of their layers. The same test users are
ranked with each, in turns, 16 at a time on one thread; time is that of the CPU. `loss` is the share of NDCG@10 lost
against float32, with its 95% interval over users; `same ads` the share of float32's first ten that are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from gr4ad import Recommender
from gr4ad.data import load_prepared
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.trainers.evaluation import SequenceTable, ranking_metrics
from gr4ad.trainers.evaluation.intervals import paired_difference
from gr4ad.trainers.evaluation.model_ranking import rank_users

TOP_K = 10
REFERENCE = "float32"


def compared(folder: Path, precisions: list[str], users: int, rounds: int) -> list[dict]:
    """Rows of one artifact."""
    data = load_prepared(folder / "stages" / "data" / "prepared")
    chosen = np.sort(np.random.default_rng(0).permutation(len(data.test))[:users])
    test, ids = data.test.select(chosen), list(data.catalog["item_id"])
    targets = SequenceTable.from_dataset(test, ids).held_out
    served = {name: Recommender.from_pretrained(folder, dtype=name) for name in precisions}
    seconds: dict[str, list[float]] = {name: [] for name in precisions}
    ranked: dict[str, np.ndarray] = {}
    for _ in range(rounds):
        for name, recommender in served.items():
            settings = recommender.generation_config
            begun = time.process_time()
            ranked[name] = rank_users(
                recommender.model,
                recommender.tokenizer,
                test,
                beam_widths=recommender.beam_widths,
                top_k=TOP_K,
                item_weight=settings.item_weight,
                value_weight=settings.value_weight,
                item_candidates=settings.item_candidates,
                neighbour_weight=getattr(settings, "neighbour_weight", 0.0),
                score_history=settings.score_history,
                batch_size=16,
            ).items
            seconds[name].append(1000 * (time.process_time() - begun) / len(test))
    scores = {
        name: ranking_metrics(items, targets, ks=(TOP_K,), catalog_size=len(ids)) for name, items in ranked.items()
    }
    rows = []
    best = scores[REFERENCE][f"ndcg@{TOP_K}"]
    for name in precisions:
        pair = paired_difference(scores[name][f"ndcg@{TOP_K}"], best, seed=0)
        same = [len(set(a) & set(b)) / TOP_K for a, b in zip(ranked[name], ranked[REFERENCE], strict=True)]
        scale = float(best.mean()) or 1.0
        figures = {
            "CPU ms a user": (np.median(seconds[name]), [min(seconds[name]), max(seconds[name])], "ms"),
            "ndcg@10": (scores[name][f"ndcg@{TOP_K}"].mean(), None, ""),
            "revenue@10": (scores[name][f"revenue@{TOP_K}"].mean(), None, ""),
            "loss of ndcg@10": (0.0 - pair.difference / scale, [0.0 - pair.high / scale, 0.0 - pair.low / scale],
                                "share"),
            "same ads": (np.mean(same), None, "share"),
        }  # fmt: skip
        for metric, (value, spread, unit) in figures.items():
            rows.append({"name": name, "metric": metric, "value": round(float(value), 5),
                         "spread": spread and [round(float(end), 5) for end in spread], "unit": unit})  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--precisions", nargs="+", default=[REFERENCE, "int8", "bfloat16"])
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.users, arguments.rounds = 20, 1
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rows, ratios = [], {}
    for label, _, folder in (run.partition("=") for run in arguments.runs):
        found = compared(Path(folder), arguments.precisions, arguments.users, arguments.rounds)
        times = {row["name"]: row["value"] for row in found if row["metric"] == "CPU ms a user"}
        ratios |= {f"speed, {label}, {name}": round(times[REFERENCE] / took, 3) for name, took in times.items()}
        rows += [{**row, "name": f"{label}, {row['name']}"} for row in found]
    result = {
        "command": "python benchmarks/precision.py --runs NAME=RUN ... --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": [0],
        "users": arguments.users,
        "rows": rows,
        "ratios": ratios,
    }
    write_json(arguments.out, result)
    print(json.dumps(ratios, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
