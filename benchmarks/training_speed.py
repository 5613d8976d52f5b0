"""How soon training reaches an accuracy: beside cornac's TIGER, of the same size and on the same content embeddings.

    pip install cornac==3.0.1
    python benchmarks/training_speed.py amazon_beauty --data DIR --run RECIPE_OUT --out FILE

Both start from the content embeddings that a run of the recipe left in RECIPE_OUT: neither is charged for them, and
neither gets anything learned from sequences (no teacher). TIGER is a T5 with cornac's GRID configuration, its width
chosen to match our parameters; ours is the recipe's model and schedule. Each trains alone, one after the other. The
clock runs while identifiers are fitted and batches are trained; it stops while the same sample of validation users is
ranked: TIGER by its own constrained beam search, ours by beams alone and, as it is served, with its item head. TIGER
stops at `--minutes` on that clock, long before it has converged: what is compared is the way to what it did reach.
"""

import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from matplotlib.figure import Figure
from measurement.figures import save_figure
from measurement.results import Benchmark, result_row
from measurement.runs import FinishedRun, recipe_of
from safetensors.numpy import load_file, save_file
from transformers import TrainerCallback

from gr4ad import GR4ADForRecommendation, UASIDTokenizer, VSLConfig, VSLTrainer
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe
from gr4ad.pipeline.tokenizing import build_tokenizer
from gr4ad.pipeline.training import model_config, trainer_arguments
from gr4ad.trainers.evaluation import SequenceTable, evaluate_rankings
from gr4ad.trainers.evaluation.choosing import sample_users
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
    def __init__(self, every: int, measure: Callable) -> None:
        self.every, self.measure = every, measure

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step % self.every == 0:
            self.measure(state.global_step, model)


def train_ours(recipe: Recipe, run: FinishedRun, sample: Dataset, seed: int, per_epoch: int) -> tuple[dict, Clock]:
    data, targets = run.data, run.held_out(sample)
    served = RankingWeights(
        tuple(recipe.evaluate.beam_widths),
        item_weight=recipe.train.get("eval_item_weight", 1.0),
        item_candidates=recipe.evaluate.item_candidates,
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        vectors = load_file(run.stage("embed") / "embeddings.safetensors")
        save_file({"content": vectors["content"]}, folder / "embeddings.safetensors")
        clock = Clock(limit=float("inf"))
        data_dir = run.stage("data") / "prepared"
        build_tokenizer(recipe.tokenize, data_dir=data_dir, embeddings_dir=folder, out_dir=folder, seed=seed)
        tokenizer = UASIDTokenizer.from_pretrained(folder / "tokenizer")
        torch.manual_seed(seed)
        model = GR4ADForRecommendation(model_config(recipe.model, tokenizer))

        def score(model: GR4ADForRecommendation) -> dict[str, float]:
            found = {}
            for name, weights in (("beams", served.with_item_weight(0.0)), ("served", served)):
                ranked = rank_users(model, tokenizer, sample, weights=weights, top_k=TOP_K)
                scores = evaluate_rankings(ranked.items, targets, ks=(TOP_K,), catalog_size=len(tokenizer.index))
                found |= {f"{name}: {metric}": scores[metric] for metric in METRICS}
            return found

        settings = {**recipe.train, "eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False,
                    "metric_for_best_model": None}  # fmt: skip
        args = trainer_arguments(VSLConfig, "train", settings, folder / "training", seed)
        rows = args.per_device_train_batch_size
        steps = -(-len(data.train) // rows)
        trained = sum(min(len(items), recipe.model.max_context_items + 1) - 1 for items in data.train["items"])

        def measure(step: int, model: GR4ADForRecommendation) -> None:
            clock.measure("ours", round(step * trained / steps), lambda: score(model))

        trainer = VSLTrainer(model=model, args=args, train_dataset=data.train, processing_class=tokenizer)
        trainer.add_callback(Milestones(max(1, steps // per_epoch), measure))
        trainer.train()
        parameters = model.num_parameters()
    return {"parameters": parameters, "batch of histories": rows}, clock


def train_tiger(
    run: FinishedRun, sample: Dataset, seed: int, steps: int, minutes: float, beams: int
) -> tuple[dict, Clock]:
    """cornac's TIGER; its epoch is cut to `steps` random batches so that validation comes more often."""
    from cornac.data import FeatureModality, SequentialDataset
    from cornac.models.tiger import GRID_CONFIG, TIGER, recom_tiger

    data, ids = run.data, run.item_ids
    table = SequenceTable.from_dataset(sample, ids)
    histories = np.split(table.history.items, table.history.offsets[1:-1])
    events = [
        (str(user), item, place) for user, items in enumerate(data.train["items"]) for place, item in enumerate(items)
    ]
    log = SequentialDataset.build(
        events, fmt="SIT", global_iid_map=OrderedDict((item, row) for row, item in enumerate(ids))
    )
    content = load_file(run.stage("embed") / "embeddings.safetensors")["content"]
    log.item_feature = FeatureModality(features=content, ids=ids).build(id_map=log.iid_map)
    clock = Clock(limit=minutes * 60)

    class TimedTIGER(TIGER):
        def _val_sessions(self, val_set: Any) -> list[np.ndarray]:
            return histories

        def _validate(self, val_sessions: Any, metric: Any) -> float:
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
    save_figure(figure, path)


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="A run that `recipe.py --smoke` left, and seconds of TIGER.")
    benchmark.take(
        "recipe", "--data", "--run", "--figure", minutes=(30.0, "Of TIGER's training."),
        steps=(64, "TIGER's batches between two validations."), per_epoch=(4, "Our validations an epoch."),
        beams=(20, "TIGER's beam width; cornac's default is 20."), users=(1000, "Validation users that are ranked."),
        threads=1, seed=0,
    )  # fmt: skip
    arguments = benchmark.start(words, minutes=0.02, steps=2, users=20)
    torch.set_num_threads(arguments.threads)
    if find_spec("cornac") is None:
        benchmark.error("cornac is not installed: pip install cornac==3.0.1")
    seed, run = arguments.seed, FinishedRun(arguments.run)
    recipe = recipe_of(arguments.recipe, arguments.run, smoke=arguments.smoke, data=arguments.data, seed=seed)
    sample = sample_users(run.data.validation, arguments.users, seed)
    facts, rows = {}, []
    facts["ours"], ours = train_ours(recipe, run, sample, seed, arguments.per_epoch)
    facts["TIGER"], tiger = train_tiger(run, sample, seed, arguments.steps, arguments.minutes, arguments.beams)
    points = {"ours": ours.points, "TIGER": tiger.points}
    throughput = {}
    for name, line in points.items():
        first, last = line[0], line[-1]
        throughput[name] = (last["targets"] - first["targets"]) / (last["seconds"] - first["seconds"])
        rows.append(result_row(name, "targets_per_s", throughput[name], "next-item targets trained / s"))
    goal = max(point["beams: recall@10"] for point in tiger.points)
    tiger_seconds = seconds_to(tiger.points, "beams: recall@10", goal)
    unit = f"s to validation recall@10 {goal:.4f}"
    rows.append(result_row("TIGER", "seconds_to_goal", tiger_seconds, unit))
    ratios: dict[str, Any] = {"targets_per_s_vs_cornac_tiger": throughput["ours"] / throughput["TIGER"]}
    for kind, label in (("beams", "ours, beams alone"), ("served", "ours, as served")):
        seconds = seconds_to(ours.points, f"{kind}: recall@10", goal)
        rows.append(result_row(label, "seconds_to_goal", seconds, unit))
        ratios["speedup_vs_cornac_tiger" + ("_beams_alone" if kind == "beams" else "")] = (
            tiger_seconds / seconds if seconds and tiger_seconds else None
        )
    benchmark.write(
        arguments, rows, ratios, seeds=[seed], threads=arguments.threads, packages=("cornac",), users=len(sample),
        systems=facts, points=points,
    )  # fmt: skip
    if arguments.figure:
        draw(points, arguments.figure)


if __name__ == "__main__":
    main()
