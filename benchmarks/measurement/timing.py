"""Systems timed in turns: what slows a machine for a while slows all of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

Key = TypeVar("Key")
Result = TypeVar("Result")


def timed(call: Callable[[], Result]) -> tuple[float, Result]:
    synchronize = torch.cuda.synchronize if torch.cuda.is_initialized() else lambda: None
    synchronize()
    start = time.perf_counter()
    result = call()
    synchronize()
    return 1e3 * (time.perf_counter() - start), result


def milliseconds(call: Callable[[], Any]) -> float:
    return timed(call)[0]


def cpu_milliseconds(call: Callable[[], Any]) -> float:
    """CPU time of all threads of this process: what else runs on the machine counts little."""
    start = time.process_time()
    call()
    return 1e3 * (time.process_time() - start)


def interleaved(
    systems: Mapping[Key, Callable[[], float]], rounds: int, *, warm_up: bool = True
) -> dict[Key, np.ndarray]:
    """Figures of each system, float64 (rounds,).

    Args:
        systems: What measures itself once and returns a figure.
        rounds: Each takes all systems in turns.
        warm_up: Whether a further round comes first, which does not count.
    """
    found: dict[Key, list[float]] = {name: [] for name in systems}
    for number in range(rounds + warm_up):
        for name, measure in systems.items():
            figure = measure()
            if number >= warm_up:
                found[name].append(figure)
    return {name: np.array(values) for name, values in found.items()}


def ratio(above: Any, below: Any) -> float:
    """The median of the rounds' ratios."""
    return float(np.median(np.asarray(above) / np.asarray(below)))
