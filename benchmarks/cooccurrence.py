"""What co-occurrence tuning does to an ad embedding, on engagements after the training cut; and the speed of Swing.

    python benchmarks/cooccurrence.py --data DIR --work OUT --out benchmarks/results/cooccurrence.json

Both logs below DIR (amazon_beauty/, complete_journey/): the encoder is tuned on the training log (Swing neighbours,
InfoNCE), and recall@1, 5, 10 asks how many of the other ads that the same user engaged with after the cut (validation
and test items) are among the nearest. Settings were fixed beforehand; nothing is fitted on, or chosen by, what comes
after the cut. Ads of equal text count as one, since no text encoder can tell them apart; `every ad` rows count each.
Swing: 10 million made-up interactions of 1,000,000 users with 200,000 ads in 500 topics. `spread` is the standard
error over users.
"""

import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measurement.own_process import in_own_process, peak_gb
from measurement.results import Benchmark, Row, result_row, values_of
from measurement.runs import FinishedRun, recipe_of, run_up_to

from gr4ad.pipeline.embedding import ENCODER_FOLDER, ad_embedder
from gr4ad.trainers.cooccurrence import cooccurrence_recall, swing_similarity

TUNE: dict[str, dict[str, Any]] = {
    "amazon_beauty": {"epochs": 3, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True},
    "complete_journey": {"epochs": 1, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True},
}
SMOKE_TUNE = {"epochs": 1, "batch_size": 16}
KS = (1, 5, 10)
UNITS = {"seconds": "s", "peak_gb": "GB", "log_gb": "GB, before it starts", "neighbours": "an ad"}


def recall_rows(log: str, data_root: Path | None, work: Path, smoke: bool) -> tuple[list[Row], dict[str, float]]:
    """Result rows of one log, and its seconds by stage; a finished tuning in `work` is kept."""
    recipe = recipe_of(log, work, smoke=smoke, data=data_root and data_root / log)
    recipe.tune = SMOKE_TUNE if smoke else TUNE[log]
    runner, run = run_up_to(recipe, work / log, "tune"), FinishedRun(work / log)
    data = run.data
    place = {item: row for row, item in enumerate(data.catalog["item_id"])}
    held_out: dict[str, list[int]] = {}
    for part in (data.validation, data.test):
        for user, targets in zip(part["user_id"], part["target_items"], strict=True):
            held_out.setdefault(user, []).extend(place[item] for item in targets)
    groups = [np.array(rows) for rows in held_out.values()]
    rows = []
    for name, encoder in (("raw", None), ("tuned", run.stage("tune") / ENCODER_FOLDER)):
        embedder = ad_embedder(recipe.embed, encoder)
        embeddings, _ = embedder.embed(data.catalog)
        _, first, content = np.unique(embedder.texts(data.catalog), return_index=True, return_inverse=True)
        for counted, vectors, sets in (
            ("", embeddings[first], [content[group] for group in groups]),
            (", every ad", embeddings, groups),
        ):
            scores = cooccurrence_recall(vectors, sets, ks=KS, seed=recipe.seed)
            logging.info("%s, %s%s: %s", log, name, counted, scores)
            unit = f"share, mean of {scores['users']:.0f} users"
            rows += [
                result_row(
                    f"{log}/{name}{counted}/recall@{k}", f"recall@{k}", scores[f"recall@{k}"], unit,
                    scores[f"recall@{k}_se"],
                )
                for k in KS
            ]  # fmt: skip
    return rows, {f"{log}/{name}": round(seconds, 1) for name, seconds in runner.seconds.items()}


def time_swing(interactions: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    num_users, num_ads, topics = 1_000_000, 200_000, 500
    popularity = np.arange(1, num_ads // topics + 1) ** -0.9
    users = rng.integers(0, num_users, interactions)
    own = rng.random(interactions) < 0.7  # of the user's topic, else of any
    topic = np.where(own, rng.integers(0, topics, num_users)[users], rng.integers(0, topics, interactions))
    ads = topic * (num_ads // topics) + rng.choice(num_ads // topics, interactions, p=popularity / popularity.sum())
    before = peak_gb()
    start = time.perf_counter()
    similarity = swing_similarity(users, ads, num_ads)
    seconds = time.perf_counter() - start
    return {
        "seconds": round(seconds, 2),
        "peak_gb": round(peak_gb(), 2),
        "log_gb": round(before, 2),
        "neighbours": round(similarity.nnz / num_ads, 2),
    }


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A small simulated market as the only log, and little of Swing.")
    benchmark.take("--data", "--work", interactions=10_000_000)
    benchmark.add_argument("--logs", nargs="*", default=list(TUNE), choices=list(TUNE))
    arguments = benchmark.start(words, logs=["amazon_beauty"], interactions=100_000)
    measured = in_own_process(time_swing, arguments.interactions)
    rows = [
        result_row(f"swing/{arguments.interactions}/{name}", name, value, UNITS[name], 0)
        for name, value in measured.items()
    ]
    seconds: dict[str, float] = {}
    for log in arguments.logs:
        found, spent = recall_rows(log, arguments.data, arguments.work, arguments.smoke)
        rows += found
        seconds |= spent
    value = values_of(rows)
    ratios = {
        f"{log}/tuned_vs_raw_{metric}": value[f"{log}/tuned/{metric}", metric] / value[f"{log}/raw/{metric}", metric]
        for log in arguments.logs
        for metric in (f"recall@{k}" for k in KS)
        if value[f"{log}/raw/{metric}", metric]
    }
    benchmark.write(arguments, rows, ratios, seconds=seconds)


if __name__ == "__main__":
    main()
