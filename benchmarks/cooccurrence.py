"""What co-occurrence tuning does to an ad embedding, on engagements after the training cut; and the speed of Swing.

    python benchmarks/cooccurrence.py --data DIR --work OUT --out benchmarks/results/cooccurrence.json

Both logs below DIR (amazon_beauty/, complete_journey/): the encoder is tuned on the training log (Swing neighbours,
InfoNCE), and recall@1, 5, 10 asks how many of the other ads that the same user engaged with after the cut (validation
and test items) are among the nearest. Settings were fixed beforehand; nothing is fitted on, or chosen by, what comes
after the cut. Ads of equal text count as one, since no text encoder can tell them apart; `every ad` rows count each.
Swing: 10 million made-up interactions of 1,000,000 users with 200,000 ads in 500 topics. `spread` is the standard
error over users.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

TUNE = {
    "amazon_beauty": {"epochs": 3, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True},
    "complete_journey": {"epochs": 1, "learning_rate": 1.0e-4, "max_length": 32, "bf16": True},
}
KS = (1, 5, 10)


def recall_rows(log: str, data_root: Path, work: Path) -> tuple[list[dict], dict[str, float]]:
    """Result rows of one log, and its seconds by stage; a finished tuning in `work` is kept."""
    from gr4ad.data import load_prepared, prepare
    from gr4ad.pipeline import load_recipe
    from gr4ad.pipeline.embedding import ENCODER_FOLDER, ad_embedder, tune_ad_encoder
    from gr4ad.pipeline.runner import StageRunner
    from gr4ad.trainers.cooccurrence import cooccurrence_recall

    recipe = load_recipe(log, data_root=data_root / log)
    runner, tune = StageRunner(work / log), TUNE[log]
    runner.run("data", lambda folder: prepare(recipe.data, folder / "prepared").summary, settings=[vars(recipe.data)])
    data_dir = runner.folder("data") / "prepared"
    runner.run(
        "tune",
        lambda folder: tune_ad_encoder(recipe.embed, tune, data_dir=data_dir, out_dir=folder, seed=recipe.seed),
        settings=[recipe.embed, tune, recipe.seed],
        after=("data",),
    )
    data = load_prepared(data_dir)
    place = {item: row for row, item in enumerate(data.catalog["item_id"])}
    held_out: dict[str, list[int]] = {}
    for part in (data.validation, data.test):
        for user, targets in zip(part["user_id"], part["target_items"], strict=True):
            held_out.setdefault(user, []).extend(place[item] for item in targets)
    groups = [np.array(rows) for rows in held_out.values()]
    rows = []
    for name, encoder in (("raw", None), ("tuned", runner.folder("tune") / ENCODER_FOLDER)):
        embedder = ad_embedder(recipe.embed, encoder)
        embeddings, _ = embedder.embed(data.catalog)
        _, first, content = np.unique(embedder.texts(data.catalog), return_index=True, return_inverse=True)
        for counted, vectors, sets in (
            ("", embeddings[first], [content[group] for group in groups]),
            (", every ad", embeddings, groups),
        ):
            scores = cooccurrence_recall(vectors, sets, ks=KS, seed=recipe.seed)
            logging.info("%s, %s%s: %s", log, name, counted, scores)
            rows += [
                {
                    "name": f"{log}/{name}{counted}/recall@{k}",
                    "metric": f"recall@{k}",
                    "value": round(scores[f"recall@{k}"], 5),
                    "spread": round(scores[f"recall@{k}_se"], 5),
                    "unit": f"share, mean of {scores['users']:.0f} users",
                }
                for k in KS
            ]
    return rows, {f"{log}/{name}": round(seconds, 1) for name, seconds in runner.seconds.items()}


def swing_rows(interactions: int) -> list[dict]:
    """Seconds and peak memory of Swing on a made-up log, in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--swing", str(interactions)], capture_output=True, text=True, check=True
    )
    measured = json.loads(done.stdout.strip().splitlines()[-1])
    units = {
        "seconds": "s",
        "peak_gb": "GB",
        "log_gb": "GB, before it starts",
        "neighbours": "an ad",
    }
    return [
        {"name": f"swing/{interactions}/{name}", "metric": name, "value": value, "spread": 0, "unit": units[name]}
        for name, value in measured.items()
    ]


def time_swing(interactions: int) -> dict[str, float]:
    from gr4ad.trainers.cooccurrence import swing_similarity

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


def peak_gb() -> float:
    """Peak resident memory of this process. Not getrusage: its figure starts at that of the process that forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="Folder of the two logs.")
    parser.add_argument("--work", type=Path, help="Folder of the runs.")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--logs", nargs="*", default=list(TUNE), choices=list(TUNE))
    parser.add_argument("--interactions", type=int, default=10_000_000)
    parser.add_argument("--swing", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.swing:
        print(json.dumps(time_swing(arguments.swing)))  # noqa: T201
        return
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    from gr4ad.pipeline.run import VERSIONS, machine
    from gr4ad.pipeline.runner import write_json

    rows, seconds, logs = swing_rows(arguments.interactions), {}, " ".join(arguments.logs)
    for log in arguments.logs:
        found, spent = recall_rows(log, arguments.data, arguments.work)
        rows += found
        seconds.update(spent)
    value = {row["name"]: row["value"] for row in rows}
    ratios = {
        f"{log}/tuned_vs_raw_recall@{k}": round(value[f"{log}/tuned/recall@{k}"] / value[f"{log}/raw/recall@{k}"], 3)
        for log in arguments.logs
        for k in KS
    }
    result = {
        "command": f"python benchmarks/cooccurrence.py --data DIR --work OUT --logs {logs} --out FILE",
        "machine": {**machine(), "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1))},
        "versions": {name: version(name) for name in VERSIONS},
        "seeds": [0],
        "seconds": seconds,
        "rows": rows,
        "ratios": ratios,
    }
    print(json.dumps({"rows": rows, "ratios": ratios}, indent=1))  # noqa: T201
    if arguments.out:
        write_json(arguments.out, result)


if __name__ == "__main__":
    main()
