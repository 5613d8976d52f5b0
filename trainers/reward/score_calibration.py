# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Maps from a model's scores to what came of them, fitted by scikit-learn on held-out exposures and kept as plain
numbers.

| method | click, conversion | value |
|---|---|---|
| `platt` | sigmoid(slope score + intercept): logistic regression | exp(slope score + intercept): Poisson regression |
| `isotonic` | a non-decreasing step map of the score | the same |

Platt's maps (Platt 1999) keep every order; an isotonic map fits any shape but makes ties, which teach a list-wise
loss nothing.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

LEAST_EVENTS = 10
"""Fewer positive outcomes than this fit no map."""


def fit_calibration(method: str, scores: np.ndarray, outcomes: np.ndarray, *, probability: bool) -> dict[str, object]:
    """The map of one head.

    Args:
        method: platt or isotonic.
        scores (float, (N,)): Logits, or logs of relative values. outcomes (float, (N,)): 0 or 1, or relative values.
        probability: Whether the outcomes are 0 or 1.

    Returns:
        `{"slope", "intercept"}` or `{"x", "y"}`, plain floats. An order that the held-out outcomes contradict (a
        slope that is not above 0) is left as it is, at slope 1, and only the level is fitted.

    Raises:
        ValueError: Fewer than ten outcomes above 0, or, of a probability, none at 0.
    """
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression, PoissonRegressor

    if (outcomes > 0).sum() < LEAST_EVENTS or (probability and (outcomes > 0).all()):
        raise ValueError(
            f"A calibration needs at least {LEAST_EVENTS} held-out outcomes above 0, and of a probability some at 0. "
            f"Received: {int((outcomes > 0).sum())} of {len(outcomes)}. Hold out more exposures, or set `calibration` "
            "to none."
        )
    if method == "isotonic":
        fitted = IsotonicRegression(out_of_bounds="clip").fit(scores, outcomes)
        return {"x": fitted.X_thresholds_.tolist(), "y": np.maximum(fitted.y_thresholds_, 0).tolist()}
    columns = scores.reshape(-1, 1).astype(np.float64)
    if probability:
        regression = LogisticRegression(C=1e6, max_iter=1000).fit(columns, outcomes > 0)
        slope, intercept = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    else:
        regression = PoissonRegressor(alpha=0, max_iter=1000, tol=1e-8).fit(columns, outcomes)
        slope, intercept = float(regression.coef_[0]), float(regression.intercept_)
    if slope <= 0:
        level = _logit(outcomes.mean()) if probability else float(np.log(outcomes.mean()))
        here = _logit(_sigmoid(scores).mean()) if probability else float(np.log(np.exp(scores).mean()))
        slope, intercept = 1.0, float(level - here)
    return {"slope": slope, "intercept": intercept}


def apply_calibration(
    fitted: dict | None, scores: torch.Tensor, link: Callable[[torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """Probabilities or relative values of scores, same shape; `link` of the scores themselves without a map."""
    if fitted is None:
        return link(scores)
    if "slope" in fitted:
        return link(fitted["slope"] * scores + fitted["intercept"])
    x, y = (torch.tensor(fitted[name], dtype=scores.dtype, device=scores.device) for name in ("x", "y"))
    if len(x) == 1:
        return y.expand_as(scores)
    right = torch.searchsorted(x, scores.detach().contiguous()).clamp(1, len(x) - 1)
    share = ((scores - x[right - 1]) / (x[right] - x[right - 1]).clamp(min=1e-12)).clamp(0, 1)
    return y[right - 1] + share * (y[right] - y[right - 1])


def check_calibration(maps: dict | None) -> None:
    """Raises ValueError for maps that are not of this file's making."""
    for name, fitted in (maps or {}).items():
        keys = set(fitted) if isinstance(fitted, dict) else set()
        line = keys == {"slope", "intercept"}
        knots = keys == {"x", "y"} and len(fitted["x"]) == len(fitted["y"]) > 0
        if name not in ("click", "conversion", "value") or not (line or knots):
            raise ValueError(
                "`calibration` must map click, conversion and value to slope and intercept, or to knots x and y of "
                f"one length. Received: {name!r}: {str(fitted)[:80]}. Fit it with `RewardTrainer.calibrate`."
            )
        numbers = np.array([np.ravel(part) for part in fitted.values()], dtype=np.float64)
        if not np.isfinite(numbers).all():
            raise ValueError(f"`calibration` must hold finite numbers. Received: {name!r}: {str(fitted)[:80]}.")


def _sigmoid(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def _logit(share: float) -> float:
    return float(np.log(share / (1 - share)))


__all__ = ["apply_calibration", "check_calibration", "fit_calibration"]
