"""Calibration of predicted values: expected against true values of labelled (user, item) pairs.

For pairs e = 1..E with the predicted value p_e = E[v | user, SID of the item] and the true value v_e, both in value
units; pairs sorted by p fall into B bins of equally many, bin b holding n_b pairs:

| figure | formula | calibrated at |
|---|---|---|
| `ratio` | sum_e p_e / sum_e v_e | 1; above: predicts too much |
| `mean_predicted(b)`, `mean_true(b)` | sum_{e in b} p_e / n_b, sum_{e in b} v_e / n_b | equal |
| `ece` | sum_b (n_b / E) abs(mean_predicted(b) - mean_true(b)), value units | 0 |
| `ece_relative` | ece / (sum_e v_e / E), a share of the mean value | 0 |
| `true_se(b)` | sample standard deviation of v in b / sqrt(n_b), value units | - |
| bin of e | floor(B r_e / E), r_e the number of pairs with p < p_e | - |

Pairs of equal p share a bin, whatever the order of the pairs, so that bins may be uneven or empty (then left out). A
sum of predictions can be right while each is wrong: read `ratio` and `ece` together. Even a perfect predictor has an
`ece` above 0, about 0.8 times the mean `true_se`: noise of the true values alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CalibrationBin:
    """low, high: smallest and largest prediction of the bin; pairs: its pairs; mean_predicted, mean_true, true_se: see
    the table above, nan for the last of one pair. All but `pairs` in value units."""

    low: float
    high: float
    pairs: int
    mean_predicted: float
    mean_true: float
    true_se: float


@dataclass(frozen=True)
class ValueCalibration:
    """pairs: E; mean_predicted, mean_true, ece: in value units; ratio, ece_relative: nan where no pair has a value
    above 0; bins: by ascending prediction."""

    pairs: int
    mean_predicted: float
    mean_true: float
    ratio: float
    ece: float
    ece_relative: float
    bins: list[CalibrationBin]

    def to_json(self) -> dict[str, Any]:
        """Plain values, None for nan."""
        content = asdict(self)
        content["bins"] = [without_nan(part) for part in content["bins"]]
        return without_nan(content)


def value_calibration(predicted: np.ndarray, true: np.ndarray, bins: int = 10) -> ValueCalibration:
    """Calibration of predicted values.

    Args:
        predicted: float (E,), expected values >= 0, in value units.
        true: float (E,), the values that came, >= 0.
        bins: Equal-frequency bins B of the prediction, at least 1.

    Raises:
        ValueError: No pairs, lengths that differ, a value that is negative or not finite, or `bins` < 1.
    """
    if predicted.ndim != 1 or predicted.shape != true.shape or not len(predicted):
        raise ValueError(
            "`predicted` and `true` should hold one value each for at least one pair. Received: shapes "
            f"{predicted.shape} and {true.shape}."
        )
    if bins < 1:
        raise ValueError(f"`bins` should be at least 1. Received: {bins}.")
    for name, values in (("predicted", predicted), ("true", true)):
        wrong = ~(np.isfinite(values) & (values >= 0))
        if wrong.any():
            raise ValueError(f"`{name}` should hold finite values of at least 0. Received: {values[wrong][0]}.")
    predicted, true = predicted.astype(np.float64), true.astype(np.float64)
    pairs = len(predicted)
    ordered = np.sort(predicted)
    place = np.searchsorted(ordered, predicted, side="left") * bins // pairs
    counts = np.bincount(place, minlength=bins)
    filled = np.flatnonzero(counts)
    number = counts[filled]
    mean_predicted = np.bincount(place, predicted, bins)[filled] / number
    mean_true = np.bincount(place, true, bins)[filled] / number
    spread = np.bincount(place, (true - np.bincount(place, true, bins)[place] / counts[place]) ** 2, bins)[filled]
    with np.errstate(divide="ignore", invalid="ignore"):
        true_se = np.sqrt(spread / (number - 1) / number)
    ends = np.cumsum(number)
    lows, highs = ordered[ends - number], ordered[ends - 1]
    ece = float((number * np.abs(mean_predicted - mean_true)).sum() / pairs)
    total = float(true.sum())
    return ValueCalibration(
        pairs=pairs,
        mean_predicted=float(predicted.mean()),
        mean_true=total / pairs,
        ratio=float(predicted.sum()) / total if total else math.nan,
        ece=ece,
        ece_relative=ece * pairs / total if total else math.nan,
        bins=[
            CalibrationBin(float(low), float(high), int(n), float(predicted_mean), float(true_mean), float(error))
            for low, high, n, predicted_mean, true_mean, error in zip(
                lows, highs, number, mean_predicted, mean_true, true_se, strict=True
            )
        ],
    )


def without_nan(content: Mapping[str, Any]) -> dict[str, Any]:
    """The same for JSON: None for a float that is not finite."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in content.items()
    }


__all__ = ["CalibrationBin", "ValueCalibration", "value_calibration", "without_nan"]
