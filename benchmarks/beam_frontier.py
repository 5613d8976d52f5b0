"""What beams of each level cost and bring (dynamic beam width): the shape of table 4 of arXiv 2602.22732.

    python benchmarks/beam_frontier.py --runs NAME=RUN ... --out benchmarks/results/beam_frontier.json

Finished folders of `gr4ad run`. The same test users are ranked with equal widths, with one level cut to a quarter, and
with progressive ones, in turns, 16 at a time on one thread; time is that of the CPU. `loss` is the share of the metric
lost against the widest, with its 95% interval over users. Beams alone and the whole ranking with its item head are
measured apart: the item head's candidates do not depend on beams.
"""

from __future__ import annotations

import argparse
import json
import os
from importlib.metadata import version
from pathlib import Path

import torch

from gr4ad.pipeline.beam_frontier import beam_frontier, recommended
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--widest", type=int, default=512)
    parser.add_argument("--users", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.widest, arguments.users, arguments.rounds = 16, 20, 1
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rows, ratios, chosen = [], {}, {}
    for name, _, folder in (run.partition("=") for run in arguments.runs):
        for kind, item_weight in (("beams alone", 0.0), ("as served", None)):
            points = beam_frontier(
                folder, widest=arguments.widest, users=arguments.users, rounds=arguments.rounds, split="test",
                item_weight=item_weight,
            )  # fmt: skip
            slowest = points[0].ms
            for point in points:
                label = f"{name}, {kind}, {point.name}"
                spread = [round(value, 4) for value in point.spread_ms]
                rows.append({"name": label, "metric": "CPU ms a user", "value": round(point.ms, 4), "spread": spread,
                             "unit": "ms", "widths": point.widths})  # fmt: skip
                for metric, value in point.metrics.items():
                    rows.append(
                        {"name": label, "metric": f"{metric}@10", "value": round(value, 5), "spread": None, "unit": ""}
                    )
                interval = [round(value, 5) for value in point.loss_interval]
                rows.append({"name": label, "metric": "loss of ndcg@10", "value": round(point.loss, 5),
                             "spread": interval, "unit": "share"})  # fmt: skip
                ratios[f"speed, {label}"] = round(slowest / point.ms, 3)
            choice = recommended(points)
            chosen[f"{name}, {kind}"] = {"name": choice.name, "widths": choice.widths}
    result = {
        "command": "python benchmarks/beam_frontier.py --runs NAME=RUN ... --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in VERSIONS},
        "seeds": [0],
        "users": arguments.users,
        "rows": rows,
        "ratios": ratios,
        "fastest_within_half_a_percent": chosen,
    }
    write_json(arguments.out, result)
    print(json.dumps(chosen, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
