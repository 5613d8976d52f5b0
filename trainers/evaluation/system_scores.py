# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Scores of several systems on the same test users: means, intervals, paired differences, and what each user gave."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .calibration import value_calibration, without_nan
from .intervals import PairedDifference, difference_of_draws, interval, resampled_means
from .item_exposure import cold_counts, cold_recall, shared_sid_exposure, shared_sids, training_events
from .metrics import evaluate_rankings, ranking_metrics
from .per_user import PerUserScores, data_digest
from .sequences import Sequences, SequenceTable

KS = (5, 10, 20)
VALUE_METRICS = ("revenue", "value_ndcg")
CALIBRATION_BINS = 10
SERVED_PLACES = 10


def has_values(train: SequenceTable) -> bool:
    """Whether the training log tells values apart: a log without a value column counts every event as 1."""
    values = train.history.values
    return bool(len(values)) and bool((values != values[0]).any())


def is_value_metric(name: str) -> bool:
    return name.partition("@")[0] in VALUE_METRICS


@dataclass
class SystemScores:
    """Collects systems; `add` each, then `compare` once.

    Args:
        train: What all systems are fitted on.
        test: The users that are scored.
        codes: int (N, T), the SID of each catalog row.
        seed: Of the resampled users.

    Attributes:
        means: protocol -> system -> metric -> figure; `compare` adds `METRIC_low` and `METRIC_high`, the ends of the
            95% interval.
        per_user: protocol -> system -> metric -> float64 (U,), without value metrics where the log has no values.
    """

    train: SequenceTable
    test: SequenceTable
    codes: np.ndarray
    seed: int
    means: dict[str, dict[str, dict[str, float]]] = field(default_factory=dict)
    per_user: dict[str, dict[str, dict[str, np.ndarray]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.events = training_events(self.train)
        self.shared = shared_sids(self.codes)
        self.has_values = has_values(self.train)
        self.cold_counts = cold_counts(self.test.held_out, self.events)

    def add(self, protocol: str, system: str, rankings: np.ndarray, **more: float) -> None:
        """Scores the rankings (int (U, K), catalog rows, -1 = none) of one system.

        Args:
            protocol: What may be ranked: `test`, or `test_history_excluded`.
            more: Further figures of the system.
        """
        targets, size = self.test.held_out, len(self.test.item_ids)
        per_user = ranking_metrics(rankings, targets, ks=KS, catalog_size=size)
        cold = cold_recall(rankings, targets, self.events, ks=KS)
        self.per_user.setdefault(protocol, {})[system] = {
            name: values for name, values in (per_user | cold).items() if self.has_values or not is_value_metric(name)
        }
        # A metric that no user counts for has no mean: it is left out, and its count says why.
        known = {name: float(np.nanmean(values)) for name, values in cold.items() if np.isfinite(values).any()}
        self.means.setdefault(protocol, {})[system] = {
            **evaluate_rankings(rankings, targets, ks=KS, catalog_size=size),
            **known,
            **self.cold_counts,
            **shared_sid_exposure(rankings, targets, self.shared, ks=KS),
            **more,
        }

    def compare(self, ours: str) -> dict[str, dict[str, dict[str, dict[str, float | None]]]]:
        """Intervals of every mean, and the paired differences of `ours` from every other system.

        Returns:
            protocol -> system -> metric -> `difference` (ours less theirs), `low`, `high`, and the same as shares of
            theirs: `relative`, `relative_low`, `relative_high` (None where theirs is 0).
        """
        compared: dict[str, dict[str, dict[str, dict[str, float | None]]]] = {}
        for protocol, systems in self.per_user.items():
            columns = [(system, name) for system, metrics in systems.items() for name in metrics]
            stacked = np.stack([systems[system][name] for system, name in columns], axis=1)
            # One draw of users for all systems: what makes the differences paired.
            draws = dict(zip(columns, resampled_means(stacked, self.seed).T, strict=True))
            means = self.means[protocol]
            for system, name in columns:
                if name in means[system]:
                    low, high = interval(draws[system, name])
                    means[system] |= {f"{name}_low": low, f"{name}_high": high}
            compared[protocol] = {
                system: {
                    name: as_json(
                        difference_of_draws(
                            (means[ours][name], draws[ours, name]), (means[system][name], draws[system, name])
                        )
                    )
                    for name in metrics
                    if name in means[system]
                }
                for system, metrics in systems.items()
                if system != ours
            }
        return compared

    def for_file(self, **facts: Any) -> PerUserScores:
        """All per-user scores with what a later comparison has to know."""
        return PerUserScores(self.test.user_ids, self.per_user, {"data": data_digest(self.train, self.test), **facts})


def as_json(difference: PairedDifference) -> dict[str, float | None]:
    return without_nan(vars(difference))


def calibration_of(predicted: np.ndarray, targets: Sequences, rankings: np.ndarray, seed: int) -> dict[str, dict]:
    """Calibration of predicted values on all held-out pairs, and on those that were served.

    Args:
        predicted: float (E,), the expected value of each entry of `targets`.
        targets: U sequences of held-out items with their values.
        rankings: int (U, K), what was ranked; a pair counts as served within the first 10 places.
        seed: Of the resampled users behind `ratio_low` and `ratio_high`.

    Returns:
        `held_out` and `served@10` -> `pairs`, `mean_true`, `mean_predicted`, `ratio` with the 95% interval over users
        `ratio_low`, `ratio_high`, `ece`, `ece_relative`, `bins`; a part without pairs is left out.
    """
    users = targets.users
    served = (rankings[users, :SERVED_PLACES] == targets.items[:, None]).any(axis=1)
    parts = {"held_out": np.ones(len(users), dtype=bool), f"served@{SERVED_PLACES}": served}
    calibrations: dict[str, dict] = {}
    for name, chosen in parts.items():
        if not chosen.any():
            continue
        true = targets.values[chosen]
        content = value_calibration(predicted[chosen], true, CALIBRATION_BINS).to_json()
        sums = [np.bincount(users[chosen], part, len(targets)) for part in (predicted[chosen], true)]
        draws = resampled_means(np.stack(sums, axis=1), seed)
        with np.errstate(divide="ignore", invalid="ignore"):
            low, high = interval(draws[:, 0] / draws[:, 1])
        calibrations[name] = content | without_nan({"ratio_low": low, "ratio_high": high})
    return calibrations


__all__ = ["KS", "SystemScores", "as_json", "calibration_of", "has_values", "is_value_metric"]
