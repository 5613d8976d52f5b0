"""What beams cost and what they bring: widths of each level measured on validation, and which of them to serve."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gr4ad.data import load_prepared
from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.serving import level_widths
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.trainers.evaluation import SequenceTable, ranking_metrics
from gr4ad.trainers.evaluation.intervals import paired_difference
from gr4ad.trainers.evaluation.model_ranking import rank_users

CUT = 10


@dataclass(frozen=True)
class FrontierPoint:
    """One choice of widths, against the widest.

    name; widths: W_1..W_T; ms: median milliseconds of CPU time a user, all threads; spread_ms: (min, max) over rounds;
    metrics: means over users; loss: share of the chosen metric that is lost, with its 95% interval over users (low,
    high).
    """

    name: str
    widths: list[int]
    ms: float
    spread_ms: tuple[float, float]
    metrics: dict[str, float]
    loss: float
    loss_interval: tuple[float, float]


def width_choices(widest: int, levels: int) -> dict[str, list[int]]:
    """Name -> widths: equal, each level alone cut to a quarter, progressive, and progressive and equal ones of half,
    a quarter, ... as many beams, down to 8."""
    choices = {f"equal {widest}": level_widths("equal", widest, levels)}
    for level in range(levels):
        cut = [widest] * levels
        cut[level] = max(1, widest // 4)
        choices[f"level {level + 1} cut"] = cut
    width = widest
    while width >= 8:
        choices[f"progressive {width}"] = level_widths("progressive", width, levels)
        if width < widest:
            choices[f"equal {width}"] = level_widths("equal", width, levels)
        width //= 2
    return choices


def beam_frontier(
    run: str | Path,
    *,
    widest: int = 512,
    metric: str = "ndcg",
    users: int = 1000,
    rounds: int = 3,
    batch_size: int = 16,
    item_weight: float | None = None,
    split: str = "validation",
    seed: int = 0,
) -> list[FrontierPoint]:
    """Ranks the same users with each choice of `width_choices`, in turns, and times it.

    Args:
        run: Finished folder of `gr4ad run`. metric: `ndcg` or `revenue`, at 10.
        users: Drawn at random, all choices the same. rounds: Times each choice is timed.
        item_weight: Share of the item head, 0 = beams alone; default as the artifact is served.
        split: `validation` to choose widths; `test` to report a choice once.

    Raises:
        ValueError: If `metric` is another.
    """
    if metric not in ("ndcg", "revenue"):
        raise ValueError(f"`metric` must be ndcg or revenue. Received: {metric!r}.")
    run = Path(run)
    data = load_prepared(run / "stages" / "data" / "prepared")
    model = GR4ADForRecommendation.from_pretrained(run)
    tokenizer = UASIDTokenizer.from_pretrained(run)
    weights = RankingWeights.from_pretrained(str(run))
    if item_weight is not None:
        weights = replace(
            weights.with_item_weight(item_weight),
            score_history=weights.score_history and item_weight != 0,
            exclude_history=False,
        )
    dataset = getattr(data, split)
    chosen = np.random.default_rng(seed).permutation(len(dataset))[:users]
    dataset = dataset.select(np.sort(chosen))
    ids = list(data.catalog["item_id"])
    targets = SequenceTable.from_dataset(dataset, ids).held_out
    choices = width_choices(widest, tokenizer.num_levels)
    seconds: dict[str, list[float]] = {name: [] for name in choices}
    scores: dict[str, dict[str, np.ndarray]] = {}
    for _ in range(rounds):
        for name, widths in choices.items():
            begun = time.process_time()
            ranked = rank_users(
                model,
                tokenizer,
                dataset,
                weights=replace(weights, beam_widths=tuple(widths)),
                top_k=min(CUT, widths[-1]),
                batch_size=batch_size,
            ).items
            seconds[name].append(time.process_time() - begun)
            padded = np.full((len(ranked), CUT), -1, dtype=np.int64)
            padded[:, : ranked.shape[1]] = ranked
            scores[name] = ranking_metrics(padded, targets, ks=(CUT,), catalog_size=len(ids))
    best = scores[f"equal {widest}"][f"{metric}@{CUT}"]
    points = []
    for name, widths in choices.items():
        own = scores[name][f"{metric}@{CUT}"]
        pair = paired_difference(own, best, seed=seed)
        scale = max(float(best.mean()), 1e-12)
        times = 1000 * np.array(seconds[name]) / len(dataset)
        points.append(
            FrontierPoint(
                name,
                widths,
                float(np.median(times)),
                (float(times.min()), float(times.max())),
                {key: float(scores[name][f"{key}@{CUT}"].mean()) for key in ("ndcg", "recall", "revenue")},
                0.0 - pair.difference / scale,
                (0.0 - pair.high / scale, 0.0 - pair.low / scale),
            )
        )
    return points


def recommended(points: Sequence[FrontierPoint], max_loss: float = 0.005) -> FrontierPoint:
    """The fastest point whose mean loss is at most `max_loss` of the metric, and that can fill a list of ten."""
    return min(
        (point for point in points if point.loss <= max_loss and point.widths[-1] >= CUT), key=lambda point: point.ms
    )
