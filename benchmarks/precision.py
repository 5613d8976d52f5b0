"""What a lower precision of the served model costs in quality, and what it brings in time.

    python benchmarks/precision.py --runs NAME=RUN ... --out benchmarks/results/precision.json

Finished folders of `gr4ad run`, served as they are but for the precision of their layers. The same test users are
ranked with each, in turns, 16 at a time on one thread; time is that of the CPU. `loss` is the share of NDCG@10 lost
against float32, with its 95% interval over users; `same ads` the share of float32's first ten that are kept.
"""

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from measurement import one_core  # noqa: F401  before numpy is loaded

# isort: split
import numpy as np
from measurement.results import Benchmark, Row, result_row
from measurement.runs import FinishedRun, named_runs
from measurement.timing import interleaved

from gr4ad import Recommender
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.trainers.evaluation import ranking_metrics
from gr4ad.trainers.evaluation.intervals import paired_difference
from gr4ad.trainers.evaluation.model_ranking import rank_users

TOP_K = 10
REFERENCE = "float32"


def compared(label: str, folder: Path, precisions: list[str], users: int, rounds: int) -> tuple[list[Row], dict]:
    """Rows of one artifact, and how many times as fast as the reference each precision is."""
    run = FinishedRun(folder)
    test = run.data.test
    test = test.select(np.sort(np.random.default_rng(0).permutation(len(test))[:users]))
    targets, weights = run.held_out(test), RankingWeights.from_pretrained(folder)
    ranked: dict[str, np.ndarray] = {}

    def rank(name: str, recommender: Recommender) -> float:
        begun = time.process_time()
        ranked[name] = rank_users(
            recommender.model, recommender.tokenizer, test, weights=weights, top_k=TOP_K, batch_size=16
        ).items
        return 1000 * (time.process_time() - begun) / len(test)

    served = {name: partial(rank, name, Recommender.from_pretrained(folder, dtype=name)) for name in precisions}
    times = interleaved(served, rounds, warm_up=False)
    scores = {
        name: ranking_metrics(items, targets, ks=(TOP_K,), catalog_size=len(run.item_ids))
        for name, items in ranked.items()
    }
    rows = []
    best = scores[REFERENCE][f"ndcg@{TOP_K}"]
    scale = float(best.mean()) or 1.0
    for name in precisions:
        pair = paired_difference(scores[name][f"ndcg@{TOP_K}"], best, seed=0)
        same = [len(set(a) & set(b)) / TOP_K for a, b in zip(ranked[name], ranked[REFERENCE], strict=True)]
        ends = [0.0 - pair.high / scale, 0.0 - pair.low / scale]
        system = f"{label}, {name}"
        rows += [
            result_row(system, "CPU ms a user", np.median(times[name]), "ms", [times[name].min(), times[name].max()]),
            result_row(system, "ndcg@10", scores[name][f"ndcg@{TOP_K}"].mean(), ""),
            result_row(system, "revenue@10", scores[name][f"revenue@{TOP_K}"].mean(), ""),
            result_row(system, "loss of ndcg@10", 0.0 - pair.difference / scale, "share", ends),
            result_row(system, "same ads", np.mean(same), "share"),
        ]
    middle = {name: float(np.median(values)) for name, values in times.items()}
    return rows, {f"speed, {label}, {name}": middle[REFERENCE] / took for name, took in middle.items()}


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take("--runs", precisions=[REFERENCE, "int8", "bfloat16"], users=1000, rounds=3)
    arguments = benchmark.start(words, users=20, rounds=1)
    if REFERENCE not in arguments.precisions:
        benchmark.error(f"--precisions should hold {REFERENCE}, which the others are measured against.")
    rows, ratios = [], {}
    for label, folder in named_runs(arguments.runs).items():
        found, speeds = compared(label, folder, arguments.precisions, arguments.users, arguments.rounds)
        rows += found
        ratios |= speeds
    benchmark.write(arguments, rows, ratios, users=arguments.users)


if __name__ == "__main__":
    main()
