"""Finished runs side by side, user by user: seeds of one recipe, or different models on the same users."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gr4ad.pipeline.runner import write_json
from gr4ad.report import write_comparison
from gr4ad.trainers.evaluation import PerUserScores
from gr4ad.trainers.evaluation.intervals import (
    difference_of_draws,
    interval,
    resampled_means,
    resampled_seeds,
    seed_mean,
)
from gr4ad.trainers.evaluation.per_user import FILE_NAME
from gr4ad.trainers.evaluation.system_scores import as_json

METRICS = ("recall@10", "ndcg@10", "revenue@10", "value_ndcg@10")


def seed_folder(out: str | Path, seed: int) -> Path:
    """Where a run of one seed lies when there are several: OUT for seed 0, else OUT-seedN."""
    return Path(out) if seed == 0 else Path(f"{Path(out)}-seed{seed}")


def load_run(folder: str | Path) -> PerUserScores:
    """The scores per user of a finished run or evaluation. Raises ValueError if the folder holds none."""
    folder = Path(folder)
    for path in (folder / FILE_NAME, folder / "stages" / "evaluate" / FILE_NAME):
        if path.is_file():
            return PerUserScores.load(path)
    raise ValueError(
        f"{folder}: holds no {FILE_NAME}. Give the `--out` folder of a finished `gr4ad run` or `gr4ad evaluate`. A "
        "run of an earlier version has to be evaluated again: remove its folder stages/evaluate and run it once more."
    )


def compare_runs(
    groups: Mapping[str, Sequence[str | Path]],
    *,
    protocol: str = "test",
    metrics: Sequence[str] | None = None,
    seed: int = 0,
) -> dict:
    """Compares systems on the same users; each is one run, or several seeds of one.

    Args:
        groups: Name -> folders of its runs. A single group is compared with its own baselines.
        protocol: `test` or `test_history_excluded`.
        metrics: What to compare; default recall, NDCG, revenue and value NDCG at 10, of those that all runs have.
        seed: Of the resampled users and seeds.

    Returns:
        `protocol`, `users`, `data` (digest), `metrics`, `systems`: name -> `runs` (folders), `seeds`, `metrics` ->
        `mean`, `spread` (sample standard deviation over runs, None for one), `by_run`, `low` and `high` (95% interval
        over users and seeds), and except for the first system `difference` (from the first, see
        `SystemScores.compare`).

    Raises:
        ValueError: No runs, a run without scores per user, runs of other users or data, or a metric or protocol that
            they do not have.
    """
    if not groups or not all(groups.values()):
        raise ValueError("`groups` should name at least one run each. Received: none. Give folders of finished runs.")
    runs = {name: [(str(folder), load_run(folder)) for folder in folders] for name, folders in groups.items()}
    first_folder, first = next(iter(runs.values()))[0]
    for group in runs.values():
        for place, (folder, run) in enumerate(group):
            group[place] = (folder, matched(run, folder, first, first_folder, protocol))
    systems = one_with_baselines(runs, protocol) if len(runs) == 1 else finals(runs, protocol)
    known = [
        name
        for name in next(iter(systems.values()))[0][1]
        if all(name in scores for members in systems.values() for _, scores in members)
    ]
    unknown = [name for name in metrics or () if name not in known]
    if unknown:
        raise ValueError(
            f"`metrics` should be among what all runs have: {', '.join(known)}. Received: {unknown[0]!r}. Value "
            "metrics need a log with values."
        )
    chosen = list(metrics or [name for name in METRICS if name in known])
    seeds = {folder: run.facts.get("seed") for group in runs.values() for folder, run in group}
    content: dict[str, dict] = {}
    for name, members in systems.items():
        folders = [folder for folder, _ in members]
        content[name] = {"runs": folders, "seeds": [seeds[folder] for folder in folders], "metrics": {}}
    for metric in chosen:
        values = {name: np.stack([scores[metric] for _, scores in members]) for name, members in systems.items()}
        stacked = np.concatenate(list(values.values()))
        draws = resampled_means(stacked.T, seed)
        rng = np.random.default_rng([seed, 1])
        start, reference = 0, None
        for name, lines in values.items():
            drawn = resampled_seeds(draws[:, start : start + len(lines)], rng)
            start += len(lines)
            by_run = [seed_mean(line[None]) for line in lines]
            mean = float(np.mean(by_run))
            if not np.isfinite(mean):
                raise ValueError(
                    f"`metrics`: {metric} has no value for any user of {name}, so there is nothing to compare. Leave "
                    "it out."
                )
            low, high = interval(drawn)
            spread = float(np.std(by_run, ddof=1)) if len(by_run) > 1 else None
            scores: dict[str, Any] = {"mean": mean, "spread": spread, "by_run": by_run, "low": low, "high": high}
            if reference is None:
                reference = (mean, drawn)
            else:
                scores["difference"] = as_json(difference_of_draws((mean, drawn), reference))
            content[name]["metrics"][metric] = scores
    return {
        "protocol": protocol,
        "users": len(first.user_ids),
        "data": first.facts.get("data"),
        "value_unit": first.facts.get("value_unit", ""),
        "metrics": chosen,
        "systems": content,
    }


def save_comparison(comparison: dict, out_dir: str | Path) -> list[Path]:
    """Writes `comparison.json`, `comparison.md` and `plots/`; returns the files."""
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "comparison.json", comparison)
    return [out / "comparison.json", *write_comparison(out, comparison)]


def matched(run: PerUserScores, folder: str, first: PerUserScores, first_folder: str, protocol: str) -> PerUserScores:
    """The run with its users in the order of the first one's."""
    if protocol not in run.scores:
        raise ValueError(f"`protocol` should be one of {', '.join(run.scores)}. Received: {protocol!r}.")
    try:
        run = run.aligned(first.user_ids)
    except ValueError as error:
        raise ValueError(f"{folder} and {first_folder}: {error}") from error
    if run.facts.get("data") != first.facts.get("data"):
        raise ValueError(
            f"{folder}: `data` should be that of {first_folder} ({str(first.facts.get('data'))[:12]}). Received: "
            f"{str(run.facts.get('data'))[:12]}. Their catalog, training log or held-out items differ; evaluate both "
            "on the same prepared data."
        )
    return run


Members = list[tuple[str, dict[str, np.ndarray]]]


def finals(runs: Mapping[str, list[tuple[str, PerUserScores]]], protocol: str) -> dict[str, Members]:
    """The final model of each run."""
    return {
        name: [(folder, run.scores[protocol][run.facts["final"]]) for folder, run in group]
        for name, group in runs.items()
    }


def one_with_baselines(runs: Mapping[str, list[tuple[str, PerUserScores]]], protocol: str) -> dict[str, Members]:
    """The final model of one group, and every other system that all of its runs have."""
    (name, group), *_ = runs.items()
    models = {run.facts["final"] for _, run in group}
    others = [
        system
        for system in group[0][1].scores[protocol]
        if system not in models and all(system in run.scores[protocol] for _, run in group)
    ]
    systems = finals(runs, protocol)
    return systems | {
        system: [(folder, run.scores[protocol][system]) for folder, run in group]
        for system in others
        if system != name
    }


def read_groups(arguments: Sequence[str]) -> dict[str, list[str]]:
    """Groups from words `FOLDER[,FOLDER...]` or `NAME=FOLDER[,FOLDER...]`; without a name the first folder's. Raises
    ValueError if two groups have one name, or a word names no folder."""
    groups: dict[str, list[str]] = {}
    for word in arguments:
        name, equals, rest = word.partition("=")
        folders = [folder for folder in (rest if equals else word).split(",") if folder]
        if not folders:
            raise ValueError(
                f"A run should be FOLDER, or NAME=FOLDER[,FOLDER...] of several seeds. Received: {word!r}."
            )
        label = name if equals else Path(folders[0]).name or folders[0]
        if label in groups and not equals:
            label = folders[0]
        if label in groups:
            raise ValueError(f"Each group needs its own name. Received: {label!r} twice. Write NAME=FOLDER.")
        groups[label] = folders
    return groups
