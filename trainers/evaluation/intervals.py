"""Bootstrap intervals of means over users, of differences between systems, and over several training seeds.

All of them are percentile intervals. U users are drawn with replacement n times, the same users for every system and
seed, so that differences are paired: what makes a user easy or hard for both systems cancels. With S seeds a second
level draws S of the seeds with replacement, independently for each system, and a resample's mean is that over the
drawn seeds and users. Users whose value is nan have none (no cold item to find, say) and do not count.

| interval | one resample | says |
|---|---|---|
| `bootstrap_interval` | mean of the drawn users | which means other users like these would give |
| `seed_interval` | mean of the drawn users over the drawn seeds | the same, for another training run as well |
| `paired_difference` | mean of ours - mean of theirs, on the same drawn users | whether a difference outlasts both |

Few seeds say little of their spread: drawn from S of them, its variance comes out (S - 1) / S of the sample variance,
0 for one seed. Report the spread over seeds beside the interval.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000
LEVEL = 0.95
SECOND_LEVEL = 1  # beside the seed: one seed's interval stays the same whether or not more seeds are drawn
_BLOCK = 4_000_000  # (resample, user) cells at once: n x U at once would take gigabytes for a million users


@dataclass(frozen=True)
class PairedDifference:
    """Ours less theirs, over the users of both.

    Attributes:
        difference: Mean of ours - mean of theirs, in the metric's unit.
        low, high: Ends of its interval. 0 outside: users (and seeds) alone do not explain the difference.
        relative, relative_low, relative_high: The same as shares of the mean of theirs; nan where that is 0.
    """

    difference: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float


def resampled_means(values: np.ndarray, seed: int, n: int = RESAMPLES) -> np.ndarray:
    """Means over `n` resampled sets of users, float64 (n, M), all columns on the same draws; nan where no user drawn
    counts.

    Args:
        values: float (U, M), one column a metric, system or seed; nan where a user does not count.
        seed: Of the draws: equal seeds and U draw equal users.

    Raises:
        ValueError: `values` is empty or not two-dimensional, or `n` < 1.
    """
    if values.ndim != 2 or not len(values):
        raise ValueError(f"`values` should be a (U, M) array of at least one user. Received: shape {values.shape}.")
    if n < 1:
        raise ValueError(f"`n` should be at least 1 resample. Received: {n}.")
    rng = np.random.default_rng(seed)
    users = len(values)
    counted = np.isfinite(values)
    complete = bool(counted.all())
    known = values if complete else np.where(counted, values, 0.0)
    size = max(1, _BLOCK // users)
    means = np.empty((n, values.shape[1]))
    for start in range(0, n, size):
        rows = min(size, n - start)
        drawn = rng.integers(users, size=(rows, users)) + np.arange(rows)[:, None] * users
        times = np.bincount(drawn.ravel(), minlength=rows * users).reshape(rows, users).astype(np.float64)
        totals = times @ counted if not complete else np.full((rows, 1), float(users))
        with np.errstate(invalid="ignore"):
            means[start : start + rows] = (times @ known) / totals
    return means


def resampled_seeds(draws: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The second level: of each resample's means by seed (n, S), the mean over S seeds drawn anew; float64 (n,)."""
    n, seeds = draws.shape
    chosen = rng.integers(seeds, size=(n, seeds))
    return np.take_along_axis(draws, chosen, axis=1).mean(axis=1)


def interval(draws: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Low and high end that hold the share `level` of float (n,) draws; nan draws are left out, (nan, nan) if all are.
    Raises ValueError unless `level` is between 0 and 1."""
    if not 0 < level < 1:
        raise ValueError(f"`level` should lie between 0 and 1, for instance 0.95. Received: {level}.")
    known = draws[np.isfinite(draws)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_interval(values: np.ndarray, seed: int, n: int = RESAMPLES, level: float = LEVEL) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean over users.

    Args:
        values: float (U,), one value per user; nan where a user does not count.
        seed, n: See `resampled_means`. level: Confidence, between 0 and 1.

    Returns:
        Low and high end, in the unit of `values`.

    Raises:
        ValueError: `values` is empty or not one-dimensional, `n` < 1, or `level` is not between 0 and 1.
    """
    if values.ndim != 1 or not len(values):
        raise ValueError(f"`values` should be a non-empty (U,) array. Received: shape {values.shape}.")
    return interval(resampled_means(values[:, None], seed, n)[:, 0], level)


def seed_interval(values: np.ndarray, seed: int, n: int = RESAMPLES, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a mean over users and seeds, of float (S, U), one line a seed, the same users in the same order:
    resampled users, and seeds as a second level. Otherwise as `bootstrap_interval`."""
    if values.ndim != 2 or not values.size:
        raise ValueError(f"`values` should be a non-empty (S, U) array. Received: shape {values.shape}.")
    return interval(
        resampled_seeds(resampled_means(values.T, seed, n), np.random.default_rng([seed, SECOND_LEVEL])), level
    )


def paired_difference(
    ours: np.ndarray, theirs: np.ndarray, seed: int, n: int = RESAMPLES, level: float = LEVEL
) -> PairedDifference:
    """Difference of two systems on the same users, with its interval.

    Args:
        ours, theirs: float (U,) or, of several seeds, (S, U) and (S', U); users in the same order.

    Raises:
        ValueError: The two have different users, or as `bootstrap_interval`.
    """
    first, second = np.atleast_2d(ours), np.atleast_2d(theirs)
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size or not second.size:
        raise ValueError(
            "`ours` and `theirs` should be (U,) or (S, U) arrays of the same users. Received: shapes "
            f"{ours.shape} and {theirs.shape}. Align them by user id first."
        )
    draws = resampled_means(np.concatenate([first, second]).T, seed, n)
    rng = np.random.default_rng([seed, SECOND_LEVEL])
    return difference_of_draws(
        (seed_mean(first), resampled_seeds(draws[:, : len(first)], rng)),
        (seed_mean(second), resampled_seeds(draws[:, len(first) :], rng)),
        level,
    )


def difference_of_draws(
    ours: tuple[float, np.ndarray], theirs: tuple[float, np.ndarray], level: float = LEVEL
) -> PairedDifference:
    """The difference of two systems from their means and float (n,) resampled means on the same draws."""
    (our_mean, our_draws), (their_mean, their_draws) = ours, theirs
    low, high = interval(our_draws - their_draws, level)
    relative_low = relative_high = relative = float("nan")
    if their_mean:
        relative = (our_mean - their_mean) / their_mean
        with np.errstate(divide="ignore", invalid="ignore"):
            relative_low, relative_high = interval(our_draws / their_draws - 1, level)
    return PairedDifference(our_mean - their_mean, low, high, relative, relative_low, relative_high)


def seed_mean(values: np.ndarray) -> float:
    """Mean over seeds of the means over the users that count, of float (S, U)."""
    counted = np.isfinite(values)
    totals = counted.sum(axis=1)
    if not totals.all():
        return float("nan")
    return float((np.where(counted, values, 0.0).sum(axis=1) / totals).mean())


__all__ = [
    "PairedDifference",
    "bootstrap_interval",
    "difference_of_draws",
    "interval",
    "paired_difference",
    "resampled_means",
    "resampled_seeds",
    "seed_interval",
    "seed_mean",
]
