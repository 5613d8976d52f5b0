# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How wide the beams of a request are: by level (DBW) and by load (TABS), arXiv 2602.22732, section on serving.

Pure: no tensors, no threads, no clock of its own; both engines ask the same object. Seconds are of any one clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from .latency_model import LatencyModel

# Few steps, so that an engine that compiles or captures by shape meets few shapes.
SCALES = (0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0, 1.2, 1.4, 1.6)
PRESETS = ("equal", "progressive")


def level_widths(preset: str, widest: int, levels: int) -> list[int]:
    """Dynamic beam width (DBW): W_1..W_T of a preset whose last level has `widest` beams.

    `equal`: the same at each level. `progressive`: half as many at each earlier level, e.g. 128, 256, 512: early
    levels have fewer prefixes worth keeping, and their beams cost as much.

    Raises:
        ValueError: If there is no such preset, or `widest` or `levels` is below 1.
    """
    if preset not in PRESETS:
        raise ValueError(f"`preset` must be one of {', '.join(PRESETS)}. Received: {preset!r}.")
    if widest < 1 or levels < 1:
        raise ValueError(f"`widest` and `levels` must be at least 1. Received: {widest} and {levels}.")
    if preset == "equal":
        return [widest] * levels
    return [max(1, widest >> (levels - 1 - level)) for level in range(levels)]


def check_range(name: str, received: object, fits: bool, allowed: str, remedy: str = "") -> None:
    """Raises ValueError unless an argument is in its range."""
    if not fits:
        raise ValueError(" ".join([f"`{name}` must be {allowed}. Received: {received}.", remedy]).rstrip())


@dataclass(frozen=True)
class Load:
    """What an engine sees when it is about to start a batch.

    now: seconds. waiting: requests that wait, those of the coming batch included. oldest_wait: seconds that the first
    of them has waited. running: requests in work that the coming batch must wait for.
    """

    now: float
    waiting: int
    oldest_wait: float = 0.0
    running: int = 0


class WidthPolicy(Protocol):
    """What engines ask before a batch, and tell after it. [`BeamPolicy`] is one; `ServingOptions.beam_policy` says
    which one is asked."""

    base_widths: tuple[int, ...]
    """W_1..W_T of the weights that are served; set anew when others take their place."""
    max_batch: int
    scales: list[float]
    """All factors that it may choose, ascending; 1 is among them."""

    @property
    def scale(self) -> float:
        """Factor of the base widths now."""

    @property
    def learns(self) -> bool:
        """Whether it needs to know what batches cost, so that some are run before the first request."""

    def scaled(self, scale: float) -> tuple[int, ...]:
        """W_1..W_T of a scale, each at least 1."""

    def arrived(self, now: float, requests: int = 1) -> None:
        """Takes note of requests that joined the queue."""

    def finished(self, requests: int, rows: int, context_items: int, seconds: float) -> None:
        """Takes note of a batch: its requests, beam rows (all levels of all requests), history items, and seconds."""

    def widths(self, load: Load) -> tuple[int, ...]:
        """Decides W_1..W_T of the batch that is about to start."""

    def admits(self, load: Load, deadline: float) -> bool:
        """Whether one more request, behind all that wait, can be answered within `deadline` seconds at the narrowest
        beams; True while nothing is known of what a batch costs."""

    def backlog(self, load: Load) -> float:
        """Seconds until one more request, behind all that wait, is answered at the narrowest beams; 0 while nothing is
        known."""


class BeamPolicy(WidthPolicy):
    """Base widths by level, scaled by load: B_t = B_base,t * f(Q_t, C_avail).

    The service level objective is the one knob. The policy learns what a batch costs (`finished`) and how many
    requests arrive (`arrived`), and gives each batch the widest beams with which

    - everything that waits now is answered within the objective,
    - a request that arrives just after a batch has begun, and so waits for two, is too, and
    - the engine is busy for at most `max_utilization` of the time,

    down to `min_scale`, the quality floor, and up to `max_scale` when there is little to do. Beams narrow at once, and
    widen one step at a time, each after `patience` seconds in which the wider ones would have held.

    Args:
        base_widths: W_1..W_T >= 1, used until the policy knows what a batch costs, and always where `slo` is None.
        slo: Seconds from arrival to answer that 99 of 100 requests should stay within; None = constant widths.
        min_scale, max_scale: Least and largest factor, in (0, 1] and [1, 1.6].
        max_batch: Requests a batch, at most.
        max_utilization: In (0, 1]. patience: Seconds >= 0. rate_window: Seconds over which arrivals are averaged.

    Raises:
        ValueError: If an argument is out of its range; names it.

    ```python
    >>> policy = BeamPolicy([128, 256, 512], slo=0.1)
    >>> widths = policy.widths(Load(now=loop.time(), waiting=12, oldest_wait=0.02))
    ```
    """

    def __init__(
        self,
        base_widths: Sequence[int],
        *,
        slo: float | None = None,
        min_scale: float = 0.25,
        max_scale: float = 1.6,
        max_batch: int = 16,
        max_utilization: float = 0.85,
        patience: float = 1.0,
        rate_window: float = 1.0,
        latency: LatencyModel | None = None,
    ):
        for name, received, fits, allowed in (
            ("base_widths", list(base_widths), min(base_widths, default=0) >= 1, "1 or more each"),
            ("slo", slo, slo is None or 0 < slo < math.inf, "above 0 seconds, or None for constant widths"),
            ("min_scale", min_scale, 0 < min_scale <= 1, "in (0, 1]"),
            ("max_scale", max_scale, 1 <= max_scale <= SCALES[-1], f"in [1, {SCALES[-1]}]"),
            ("max_batch", max_batch, max_batch >= 1, "1 or more"),
            ("max_utilization", max_utilization, 0 < max_utilization <= 1, "in (0, 1]"),
            ("patience", patience, 0 <= patience < math.inf, "0 seconds or more"),
            ("rate_window", rate_window, 0 < rate_window < math.inf, "above 0 seconds"),
        ):
            check_range(name, received, fits, allowed)
        self.base_widths = tuple(base_widths)
        self.slo, self.max_batch, self.max_utilization = slo, max_batch, max_utilization
        self.patience = patience
        self.latency = LatencyModel() if latency is None else latency
        self.scales: list[float] = (
            [1.0]
            if slo is None
            else sorted({min_scale, max_scale, *(step for step in SCALES if min_scale < step < max_scale)})
        )
        self._place = self.scales.index(1.0)
        self._wider_since: float | None = None  # since when the next scale up would have held without a break
        self._rate = _DecayingRate(rate_window)
        self._context_items = _Mean(0.1)  # of a request

    @property
    def scale(self) -> float:
        return self.scales[self._place]

    @property
    def learns(self) -> bool:
        return self.slo is not None

    def scaled(self, scale: float) -> tuple[int, ...]:
        return tuple(max(1, round(width * scale)) for width in self.base_widths)

    def arrived(self, now: float, requests: int = 1) -> None:
        self._rate.add(now, requests)

    def finished(self, requests: int, rows: int, context_items: int, seconds: float) -> None:
        self.latency.observe(requests, rows, context_items, seconds)
        self._context_items.add(context_items / max(requests, 1))

    def widths(self, load: Load) -> tuple[int, ...]:
        if self.slo is None or not self.latency.ready:
            return self.scaled(self.scale)
        self._rate.decay(load.now)
        holds = max((place for place, scale in enumerate(self.scales) if self._holds(scale, load)), default=0)
        if holds < self._place:
            self._place, self._wider_since = holds, None
        elif holds == self._place:
            self._wider_since = None
        elif self._wider_since is None:
            self._wider_since = load.now
        elif load.now - self._wider_since >= self.patience:
            self._place, self._wider_since = self._place + 1, load.now
        return self.scaled(self.scale)

    def admits(self, load: Load, deadline: float) -> bool:
        return not self.latency.ready or self.backlog(load) <= deadline

    def backlog(self, load: Load) -> float:
        if not self.latency.ready:
            return 0.0
        return self._batches_seconds(load.waiting + load.running + 1, self.scales[0])

    def _batch_seconds(self, requests: float, scale: float) -> float:
        rows = requests * sum(self.scaled(scale))
        return self.latency.seconds(requests, rows, requests * self._context_items.value)

    def _batches_seconds(self, requests: int, scale: float) -> float:
        full, rest = divmod(requests, self.max_batch)
        seconds = full * self._batch_seconds(self.max_batch, scale)
        return seconds + (self._batch_seconds(rest, scale) if rest else 0.0)

    def _holds(self, scale: float, load: Load) -> bool:
        assert self.slo is not None
        if load.oldest_wait + self._batches_seconds(load.waiting + load.running, scale) > self.slo:
            return False
        rate, full = self._rate.value, self._batch_seconds(self.max_batch, scale)
        if rate * full > self.max_utilization * self.max_batch:
            return False
        return 2 * self._steady_seconds(rate, scale, full) <= self.slo

    def _steady_seconds(self, rate: float, scale: float, full: float) -> float:
        """Seconds of the batches that form by themselves when requests arrive at `rate`: as many wait at the end of a
        batch as arrived during it, and a burst of two standard deviations (Poisson) more."""
        fixed = self._batch_seconds(0, scale)
        each = (full - fixed) / self.max_batch
        share = min(rate * each, 0.99)
        arrivals = max(1.0, rate * fixed / (1 - share))
        return self._batch_seconds(min(arrivals + 2 * math.sqrt(arrivals), self.max_batch), scale)


class _DecayingRate:
    """Events a second over a window that forgets exponentially."""

    def __init__(self, window: float):
        self.window, self.value = window, 0.0
        self._last: float | None = None

    def decay(self, now: float) -> None:
        if self._last is not None:
            self.value *= math.exp(-max(0.0, now - self._last) / self.window)
        self._last = now

    def add(self, now: float, events: int) -> None:
        self.decay(now)
        self.value += events / self.window


class _Mean:
    """Exponentially weighted mean; the first value stands for itself."""

    def __init__(self, weight: float):
        self.weight, self.value = weight, 0.0
        self._empty = True

    def add(self, value: float) -> None:
        self.value += (value - self.value) * (1.0 if self._empty else self.weight)
        self._empty = False
