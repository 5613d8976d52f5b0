"""What the traffic-aware beam policy does for latency and for what is served, on a real server under open-loop load.

    python benchmarks/serving_load.py --run RUN --out benchmarks/results/serving_load.json

The artifact of RUN is served by `gr4ad serve` with one thread on one core, and its test users' requests come from
another core by a Poisson process. Three servers take the same arrivals: base widths throughout (`fixed`), the widths
with which the highest load can be carried throughout (`narrow`), and the policy with a service level objective
(`adaptive`). First constant loads relative to the capacity at base widths, then a day squeezed into some minutes whose
load runs through the same range. What is served is scored against what the users then took; a request that is refused
or not answered scores 0. One run a system; the rest of the machine should be idle.
"""

import asyncio
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measurement.figures import save_figure
from measurement.results import Benchmark, Row, result_row, values_of
from measurement.runs import FinishedRun
from measurement.server_process import CLIENT_CORES, artifact_with, request_bodies, requests_per_second, server_on_core

from gr4ad import GR4ADConfig, UASIDTokenizer
from gr4ad.report.load_plots import load_figure
from gr4ad.serving.load_test import Outcome, constant_rate, day_rate, poisson_arrivals, run_load, summarize, timeline
from gr4ad.trainers.evaluation import ranking_metrics

TOP_K = 10
logger = logging.getLogger("serving_load")


class Scoring:
    def __init__(self, folder: Path) -> None:
        run = FinishedRun(folder)
        self.rows = {item: row for row, item in enumerate(run.item_ids)}
        self.targets = run.held_out(run.data.test)
        self.bodies = request_bodies(
            run.data, UASIDTokenizer.from_pretrained(folder), GR4ADConfig.from_pretrained(folder), TOP_K
        )

    def means(self, outcomes: list[Outcome]) -> dict[str, float]:
        """NDCG@10 and revenue@10 a request, 0 for one without an answer."""
        users = np.array([outcome.request % len(self.bodies) for outcome in outcomes])
        rankings = np.full((len(outcomes), TOP_K), -1, dtype=np.int64)
        for place, outcome in enumerate(outcomes):
            for rank, ad in enumerate([] if outcome.answer is None else outcome.answer["recommendations"]):
                rankings[place, rank] = self.rows[ad["item_id"]]
        scores = ranking_metrics(rankings, self.targets.take(users), ks=(TOP_K,), catalog_size=len(self.rows))
        return {name: float(scores[f"{name}@{TOP_K}"].mean()) for name in ("ndcg", "revenue")}


def loaded(url: str, bodies: list[dict], arrivals: np.ndarray, timeout: float = 10.0) -> list[Outcome]:
    return asyncio.run(run_load(url, bodies, arrivals, timeout=timeout))


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take(
        "--run", "--figure", widths=([128, 256, 512], "Base widths."), loads=[0.3, 0.6, 0.9, 1.2, 1.6, 2.0],
        floor=(0.25, "Least share of the base widths; `narrow` throughout."), day_seconds=240.0, seed=0,
        seconds=(30.0, "Of each constant load."),
    )  # fmt: skip
    benchmark.add_argument("--slo-ms", type=float, help="Default: four full batches at base widths.")
    benchmark.add_argument("--item-weight", type=float, help="Share of the item head; default: the artifact's.")
    arguments = benchmark.start(words, seconds=1.0, day_seconds=2.0, loads=[0.5, 1.5])
    os.sched_setaffinity(0, CLIENT_CORES)

    scoring = Scoring(arguments.run)
    base = list(arguments.widths)
    changes: dict[str, Any] = {} if arguments.item_weight is None else {"item_weight": arguments.item_weight}
    if arguments.item_weight == 0:
        changes["item_candidates"] = 0
        changes["neighbour_weight"] = 0.0
    rows: list[Row] = []
    ratios: dict[str, float] = {}
    days: dict[str, list[dict[str, float]]] = {}

    def note(system: str, load: str, figures: dict[str, float]) -> None:
        logger.info("%s, %s: %s", system, load, {name: round(value, 4) for name, value in figures.items()})
        for metric, value in figures.items():
            rows.append(result_row(f"{system}, {load}", metric, value, "ms" if metric.endswith("_ms") else ""))

    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        narrow = [max(1, round(width * arguments.floor)) for width in base]
        artifacts = {
            "fixed": artifact_with(arguments.run, work / "base", beam_widths=base, **changes),
            "narrow": artifact_with(arguments.run, work / "narrow", beam_widths=[*narrow[:-1], max(narrow[-1], TOP_K)],
                                    **changes),
        }  # fmt: skip
        artifacts["adaptive"] = artifacts["fixed"]
        queue = {"max_queue": 4096, "max_wait_ms": 1.0, "max_beam_width": 4096}
        with server_on_core(artifacts["fixed"], work / "capacity.log", {**queue, "deadline_ms": 600_000.0}) as server:
            loaded(server.url, scoring.bodies, np.zeros(32))  # first calls are slow
            full = requests_per_second(server.url, scoring.bodies, 64 if arguments.smoke else 512)
        slo = arguments.slo_ms or round(4 * 1000 * 16 / full)
        logger.info("capacity at %s: %.1f requests/s; objective %g ms", base, full, slo)
        rows.append(result_row("fixed", "capacity", full, "requests/s"))
        loads = {f"{load:g}x": load for load in arguments.loads}
        # What waits longer than a second is of no use to anybody: the same deadline for all.
        queue |= {"deadline_ms": max(1000.0, 2 * slo)}
        for system, artifact in artifacts.items():
            options = {**queue, "slo_ms": slo, "min_beam_scale": arguments.floor} if system == "adaptive" else queue
            with server_on_core(artifact, work / f"{system}.log", options) as server:
                url = server.url
                loaded(url, scoring.bodies, np.zeros(16))
                for place, (label, load) in enumerate(loads.items()):
                    rate = load * full
                    arrivals = poisson_arrivals(constant_rate(rate), rate, arguments.seconds, arguments.seed + place)
                    outcomes = loaded(url, scoring.bodies, arrivals)
                    settled = [outcome for outcome in outcomes if outcome.arrival > arguments.seconds / 6]
                    spent = arguments.seconds * 5 / 6
                    note(system, label, {**summarize(settled, slo / 1000, spent), **scoring.means(settled)})
                shape = day_rate(min(loads.values()) * full, max(loads.values()) * full, arguments.day_seconds)
                arrivals = poisson_arrivals(shape, max(loads.values()) * full, arguments.day_seconds, arguments.seed)
                outcomes = loaded(url, scoring.bodies, arrivals)
                figures = summarize(outcomes, slo / 1000, arguments.day_seconds)
                note(system, "day", {**figures, **scoring.means(outcomes)})
                days[system] = timeline(outcomes, arguments.day_seconds)
    held = values_of(rows)
    off_peak = min(days["adaptive"], key=lambda part: part["rate"])
    ratios["off_peak_width_over_base"] = max(part["beam_rows"] for part in days["adaptive"]) / sum(base)
    ratios["width_at_the_quietest_over_base"] = off_peak["beam_rows"] / sum(base)
    for other in ("fixed", "narrow"):
        for metric in ("ndcg", "revenue", "within_slo", "goodput"):
            if held[f"{other}, day", metric]:
                ratios[f"day_{metric}_adaptive_vs_{other}"] = (
                    held["adaptive, day", metric] / held[f"{other}, day", metric]
                )
    settings = {name: value for name, value in vars(arguments).items() if name not in ("run", "out", "figure")}
    benchmark.write(arguments, rows, ratios, seeds=[arguments.seed], settings=settings, slo_ms=slo, day=days)
    if arguments.figure is not None:
        save_figure(load_figure(days, slo), arguments.figure)


if __name__ == "__main__":
    main()
