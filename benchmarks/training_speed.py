"""How soon training reaches an accuracy: beside cornac's TIGER, of the same size and on the same content embeddings.

    pip install cornac==3.0.1
    python benchmarks/training_speed.py amazon_beauty --data DIR --run RECIPE_OUT --out results/training.json

Both start from the content embeddings that a run of the recipe left in RECIPE_OUT: neither is charged for them, and
neither gets anything learned from sequences (no teacher). TIGER is a T5 with cornac's GRID configuration (residual
k-means, constant learning rate), its width chosen to match our parameters; ours is the recipe's model and schedule.
Each trains alone on the given threads, one after the other. The clock runs while identifiers are fitted and batches
are trained; it stops while the same sample of validation users is ranked: TIGER by its own constrained beam search,
ours by beams alone and, as it is served, with its item head. TIGER stops at `--minutes` on that clock, long before it
has converged: what is compared is the way to the accuracies that it did reach.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from safetensors.numpy import load_file, save_file
from transformers import TrainerCallback

from gr4ad import GR4ADForRecommendation, UASIDTokenizer, VSLConfig, VSLTrainer
from gr4ad.cli import keep_freed_memory
from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline import Recipe, load_recipe
from gr4ad.pipeline.evaluating import sample_users
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.training import model_config, start_item_embeddings, start_item_head, trainer_arguments
from gr4ad.trainers.evaluation import SequenceTable, evaluate_rankings
from gr4ad.trainers.evaluation.model_ranking import rank_users

TOP_K = 10
METRICS = ("recall@10", "ndcg@10")
TIGER_SHAPE = {"d_model": 96, "d_ff": 368, "num_heads": 6, "d_kv": 16, "num_enc_layers": 4, "num_dec_layers": 4}
"""Nearest to the 1.16 million parameters of the recipe's model, two thirds of which are item vectors."""
logger = logging.getLogger("training_speed")


class OutOfTime(Exception):
    """A training has used its minutes."""


@dataclass
class Clock:
    """Seconds of training, without those of validation, and what validation found."""

    limit: float
    points: list[dict] = field(default_factory=list)
    spent: float = 0.0
    since: float = field(default_factory=time.monotonic)

    def measure(self, name: str, targets_trained: int, score: Callable[[], dict[str, float]]) -> None:
        """Stops the clock for `score()`. Raises OutOfTime beyond the limit."""
        self.spent += time.monotonic() - self.since
        self.points.append({"seconds": round(self.spent, 1), "targets": targets_trained, **score()})
        logger.info("%s: %s", name, self.points[-1])
        if self.spent > self.limit:
            raise OutOfTime
        self.since = time.monotonic()


class Milestones(TrainerCallback):
    """Ranks the validation users every so many steps, on the clock of a training."""

    def __init__(self, clock: Clock, every: int, batch_size: int, targets_a_step: float, score: Callable):
        self.clock, self.every, self.batch_size = clock, every, batch_size
        self.targets_a_step, self.score = targets_a_step, score

    def on_step_end(self, args, state, control, model=None, **kwargs):
        if state.global_step % self.every == 0:
            targets = round(state.global_step * self.targets_a_step)
            self.clock.measure("ours", targets, lambda: self.score(model))


def train_ours(recipe: Recipe, data: PreparedData, run: Path, sample, seed: int, per_epoch: int) -> tuple[dict, Clock]:
    """The recipe's model on SIDs and starts of the content alone."""
    from gr4ad.pipeline.tokenizing import build_tokenizer

    targets = SequenceTable.from_dataset(sample, list(data.catalog["item_id"])).held_out
    item_weight = recipe.train["eval_item_weight"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors = load_file(run / "stages" / "embed" / "embeddings.safetensors")
        save_file({"content": vectors["content"]}, folder / "embeddings.safetensors")
        clock = Clock(limit=float("inf"))
        data_dir = run / "stages" / "data" / "prepared"
        build_tokenizer(recipe.tokenize, data_dir=data_dir, embed_dir=folder, out_dir=folder, seed=seed)
        tokenizer = UASIDTokenizer.from_pretrained(folder / "tokenizer")
        torch.manual_seed(seed)
        model = GR4ADForRecommendation(model_config(recipe.model, tokenizer))
        start_item_embeddings(model, vectors["content"], recipe.model.item_embedding_std)
        start_item_head(model, tokenizer, data.train)

        def score(model) -> dict[str, float]:
            found = {}
            for name, weight, candidates in (
                ("beams", 0.0, 0),
                ("served", item_weight, recipe.evaluate.item_candidates),
            ):
                ranked = rank_users(
                    model,
                    tokenizer,
                    sample,
                    beam_widths=recipe.evaluate.beam_widths,
                    top_k=TOP_K,
                    item_weight=weight,
                    item_candidates=candidates,
                )
                scores = evaluate_rankings(ranked.items, targets, ks=(TOP_K,), catalog_size=len(tokenizer.index))
                found |= {f"{name}: {metric}": scores[metric] for metric in METRICS}
            return found

        settings = {**recipe.train, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
                    "metric_for_best_model": None}  # fmt: skip
        args = trainer_arguments(VSLConfig, "train", settings, folder / "training", seed)
        rows = args.per_device_train_batch_size
        steps = -(-len(data.train) // rows)
        trained = sum(min(len(items), recipe.model.max_context_items + 1) - 1 for items in data.train["items"])
        milestones = Milestones(clock, max(1, steps // per_epoch), rows, trained / steps, score)
        trainer = VSLTrainer(model=model, args=args, train_dataset=data.train, processing_class=tokenizer)
        trainer.add_callback(milestones)
        trainer.train()
        parameters = model.num_parameters()
    return {"parameters": parameters, "batch of histories": rows}, clock


def train_tiger(
    data: PreparedData, run: Path, sample, seed: int, steps: int, minutes: float, beams: int
) -> tuple[dict, Clock]:
    """cornac's TIGER; its epoch is cut to `steps` random batches so that validation comes more often."""
    from cornac.data import FeatureModality, SequentialDataset
    from cornac.models.tiger import GRID_CONFIG, TIGER, recom_tiger

    ids = list(data.catalog["item_id"])
    table = SequenceTable.from_dataset(sample, ids)
    histories = np.split(table.history.items, table.history.offsets[1:-1])
    events = [
        (str(user), item, place) for user, items in enumerate(data.train["items"]) for place, item in enumerate(items)
    ]
    log = SequentialDataset.build(
        events, fmt="SIT", global_iid_map=OrderedDict((item, row) for row, item in enumerate(ids))
    )
    content = load_file(run / "stages" / "embed" / "embeddings.safetensors")["content"]
    log.item_feature = FeatureModality(features=content, ids=ids).build(id_map=log.iid_map)
    clock = Clock(limit=minutes * 60)

    class TimedTIGER(TIGER):
        def _val_sessions(self, val_set):
            return histories

        def _validate(self, val_sessions, metric) -> float:
            self.rounds = getattr(self, "rounds", 0) + 1
            clock.measure("TIGER", self.rounds * steps * self.batch_size, self.scores)
            return clock.points[-1]["beams: ndcg@10"]

        def scores(self) -> dict[str, float]:
            ranked = np.full((len(histories), TOP_K), -1, dtype=np.int64)
            for user, history in enumerate(histories):
                # Items beyond the beams have one low score, in the order of nothing.
                found = self.score(user, history.tolist())
                best = np.argsort(-found, kind="stable")[:TOP_K]
                ranked[user] = np.where(found[best] > -1e9, best, -1)
            scores = evaluate_rankings(ranked, table.held_out, ks=(TOP_K,), catalog_size=len(ids))
            return {f"beams: {metric}": scores[metric] for metric in METRICS}

    def first_batches(*args: Any, **kwargs: Any) -> Iterator:
        return islice(session_seq_iter(*args, **kwargs), steps)

    settings = {**GRID_CONFIG, **TIGER_SHAPE, "n_beams": beams, "n_epochs": 10**6, "seed": seed, "device": "cpu"}
    model = TimedTIGER(**settings)
    session_seq_iter, recom_tiger.session_seq_iter = recom_tiger.session_seq_iter, first_batches
    try:
        model.fit(log, log)
    except OutOfTime:
        pass
    finally:
        recom_tiger.session_seq_iter = session_seq_iter
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    return {"parameters": parameters, **{k: settings[k] for k in ("batch_size", "learning_rate", *TIGER_SHAPE)}}, clock


def seconds_to(points: list[dict], metric: str, goal: float) -> float | None:
    """When `metric` first reached the goal, on the line between two validations; None if it never did."""
    before = {"seconds": 0.0, metric: 0.0}
    for point in points:
        if point[metric] >= goal:
            share = (goal - before[metric]) / (point[metric] - before[metric])
            return before["seconds"] + share * (point["seconds"] - before["seconds"])
        before = point
    return None


def draw(points: dict[str, list[dict]], path: Path) -> None:
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    lines = (
        ("ours, as served", "ours", "served"),
        ("ours, beams alone", "ours", "beams"),
        ("TIGER (cornac)", "TIGER", "beams"),
    )
    for label, system, kind in lines:
        seconds = [point["seconds"] for point in points[system]]
        axes.plot(seconds, [point[f"{kind}: recall@10"] for point in points[system]], marker=".", label=label)
    axes.set(xscale="log", xlabel="seconds of training (log scale)", ylabel="validation Recall@10", ylim=(0, None))
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="YAML file or name of a packaged recipe.")
    parser.add_argument("--data", help="Folder of the recipe's data files.")
    parser.add_argument(
        "--run", type=Path, required=True, help="A run of the recipe: its data and embeddings are used."
    )
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--figure", type=Path, help="Where to draw accuracy against time, .svg.")
    parser.add_argument("--minutes", type=float, default=30.0, help="Of TIGER's training.")
    parser.add_argument("--steps", type=int, default=64, help="TIGER's batches between two validations.")
    parser.add_argument("--per-epoch", type=int, default=4, help="Our validations an epoch.")
    parser.add_argument("--beams", type=int, default=20, help="TIGER's beam width; cornac's default is 20.")
    parser.add_argument("--users", type=int, default=1000, help="Validation users that are ranked.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)

    recipe = load_recipe(arguments.recipe, data_root=arguments.data, seed=arguments.seed)
    data = load_prepared(arguments.run / "stages" / "data" / "prepared")
    sample = sample_users(data.validation, arguments.users, arguments.seed)
    facts, points, rows = {}, {}, []
    facts["ours"], ours = train_ours(recipe, data, arguments.run, sample, arguments.seed, arguments.per_epoch)
    facts["TIGER"], tiger = train_tiger(
        data, arguments.run, sample, arguments.seed, arguments.steps, arguments.minutes, arguments.beams
    )
    points = {"ours": ours.points, "TIGER": tiger.points}
    throughput = {}
    for name, line in points.items():
        first, last = line[0], line[-1]
        throughput[name] = (last["targets"] - first["targets"]) / (last["seconds"] - first["seconds"])
        rows.append({"name": name, "metric": "targets_per_s", "value": round(throughput[name], 1), "spread": None,
                     "unit": "next-item targets trained / s"})  # fmt: skip
    goal = max(point["beams: recall@10"] for point in tiger.points)
    tiger_seconds = seconds_to(tiger.points, "beams: recall@10", goal)
    ratios = {"targets_per_s_vs_cornac_tiger": round(throughput["ours"] / throughput["TIGER"], 2)}
    rows.append({"name": "TIGER", "metric": "seconds_to_goal", "value": tiger_seconds, "spread": None,
                 "unit": f"s to validation recall@10 {goal:.4f}"})  # fmt: skip
    for kind, label in (("beams", "ours, beams alone"), ("served", "ours, as served")):
        seconds = seconds_to(ours.points, f"{kind}: recall@10", goal)
        rows.append({"name": label, "metric": "seconds_to_goal", "value": seconds, "spread": None,
                     "unit": f"s to validation recall@10 {goal:.4f}"})  # fmt: skip
        ratios["speedup_vs_cornac_tiger" + ("_beams_alone" if kind == "beams" else "")] = (
            None if seconds is None else round(tiger_seconds / seconds, 2)
        )
    result = {
        "command": f"python benchmarks/training_speed.py {arguments.recipe} --data DIR --run RUN --out FILE",
        "machine": machine(),
        "versions": {package: version(package) for package in (*VERSIONS, "cornac")},
        "threads": arguments.threads,
        "seeds": [arguments.seed],
        "users": len(sample),
        "systems": facts,
        "points": points,
        "rows": rows,
        "ratios": ratios,
    }
    write_json(arguments.out, result)
    if arguments.figure:
        draw(points, arguments.figure)
    print(json.dumps({"rows": rows, "ratios": ratios}, indent=1))  # noqa: T201


if __name__ == "__main__":
    main()
