# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How well a reward model tells exposures apart, and whether its numbers can be taken for what they say.

| metric | formula | good |
|---|---|---|
| `click_auc`, `conversion_auc` | share of (positive, negative) pairs in the right order, ties half | 1; chance 0.5 |
| `click_logloss`, `conversion_logloss` | mean of -log p of what came, nats | below `*_entropy` |
| `click_entropy`, `conversion_entropy` | the same of the constant rate, nats | - |
| `click_ece`, `conversion_ece` | expected calibration error, ten equal-frequency bins, over the rate | 0 |
| `value_ece` | the same of the value over its mean | 0 |
| `value_bias` | sum of predicted / sum of true values - 1 | 0 |
| `value_rank` | Spearman's rank correlation of predicted and true values | 1 |

Conversions are measured among clicks, values among exposures that carry one.
"""

from __future__ import annotations

import numpy as np

from ..evaluation.calibration import value_calibration


def reward_metrics(
    outcomes: np.ndarray,
    values: np.ndarray,
    click_probs: np.ndarray,
    conversion_probs: np.ndarray,
    expected_values: np.ndarray,
) -> dict[str, float]:
    """Metrics of E exposures.

    Args:
        outcomes: int (E,), 0 nothing, 1 click, 2 conversion. values: float (E,), true value of each impression >= 0.
        click_probs: float (E,), P(click) at the place where each stood. conversion_probs: float (E,), given a click.
        expected_values: float (E,) >= 0, of an impression.

    Returns:
        The table above; a metric that its exposures cannot tell (no clicks, all clicks, no values) is left out.
        `exposures`, `clicks`, `conversions`: counts.
    """
    from scipy.stats import spearmanr

    clicked = outcomes >= 1
    metrics = {
        "exposures": float(len(outcomes)),
        "clicks": float(clicked.sum()),
        "conversions": float((outcomes >= 2).sum()),
    }
    metrics |= _probability("click", clicked, click_probs)
    metrics |= _probability("conversion", outcomes[clicked] >= 2, conversion_probs[clicked])
    if values.sum() > 0:
        calibration = value_calibration(expected_values, values)
        metrics["value_ece"] = calibration.ece_relative
        metrics["value_bias"] = calibration.ratio - 1
        if np.ptp(values) > 0 and np.ptp(expected_values) > 0:
            metrics["value_rank"] = float(spearmanr(expected_values, values).statistic)
    return metrics


def _probability(name: str, positive: np.ndarray, probs: np.ndarray) -> dict[str, float]:
    from sklearn.metrics import log_loss, roc_auc_score

    if not positive.any() or positive.all():
        return {}
    rate = np.full(len(positive), positive.mean())
    return {
        f"{name}_auc": float(roc_auc_score(positive, probs)),
        f"{name}_logloss": float(log_loss(positive, probs)),
        f"{name}_entropy": float(log_loss(positive, rate)),
        f"{name}_ece": value_calibration(probs, positive.astype(np.float64)).ece_relative,
    }


__all__ = ["reward_metrics"]
