"""Counter-based uniform draws: a number is a function of a seed and its keys, never of the draws made before it.

Two policies replayed on one request therefore meet the same user behaviour (common random numbers), and the state of
a user at a time can be recomputed without simulating the time before.
"""

from collections.abc import Sequence

import numpy as np

INTENT, DEPTH, CLICK, CONVERSION, DELAY, LOT = range(1, 7)
"""Streams: the session's intent, how far the user scrolls, click, conversion, delay of the conversion, an
account's lot to take part (pilot)."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


def _mix(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def uniform(seed: int, stream: int, keys: Sequence[np.ndarray]) -> np.ndarray:
    """Uniform numbers in [0, 1) keyed by `(seed, stream, *keys)`, by splitmix64.

    Args:
        seed: Seed of the market, >= 0.
        stream: One of the stream constants of this module.
        keys: Integer arrays >= 0 that broadcast against each other.

    Returns:
        float64 array of the broadcast shape.
    """
    state = _mix(np.array([seed], dtype=np.uint64) * _GAMMA + np.uint64(stream))
    for key in keys:
        state = _mix((state ^ np.asarray(key).astype(np.uint64)) + _GAMMA)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53
