# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Open-loop load on a server of `/v1/recommend`: requests come when they come, whether or not the server keeps up.

A closed loop, in which a client waits for an answer before it asks again, hides overload: a slow server is asked less.
Here the moments of arrival are drawn beforehand, and latency counts from them, not from the moment of sending.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import numpy as np

PERCENTILES = (50, 90, 95, 99)
RECOMMEND_PATH = "/v1/recommend"


@dataclass(frozen=True)
class Outcome:
    """One request. arrival: seconds since the start. latency: seconds from its arrival to the end of its answer.
    status: HTTP status, 0 = no answer. answer: its JSON, None unless status is 200. request: its number."""

    request: int
    arrival: float
    latency: float
    status: int
    answer: dict[str, Any] | None


def poisson_arrivals(rate: Callable[[float], float], peak: float, seconds: float, seed: int) -> np.ndarray:
    """Moments of a Poisson process whose rate changes (thinning, Lewis and Shedler 1979).

    Args:
        rate: Requests a second at a moment, in 0..`peak`. seconds: How long.

    Returns:
        float64 (n,), seconds, ascending.

    Raises:
        ValueError: If `peak` or `seconds` is not above 0.
    """
    if not peak > 0 or not seconds > 0:
        raise ValueError(f"`peak` and `seconds` must be above 0. Received: {peak} and {seconds}.")
    rng = np.random.default_rng(seed)
    count = rng.poisson(peak * seconds)
    moments = np.sort(rng.uniform(0, seconds, count))
    kept = rng.uniform(0, peak, count) < [rate(moment) for moment in moments]
    return moments[kept]


def constant_rate(rate: float) -> Callable[[float], float]:
    """The same number of requests a second throughout."""
    return lambda moment: rate


def day_rate(trough: float, peak: float, seconds: float) -> Callable[[float], float]:
    """A day squeezed into `seconds`: from the trough at both ends to the peak in the middle, as a cosine."""
    return lambda moment: trough + (peak - trough) * (1 - math.cos(2 * math.pi * moment / seconds)) / 2


async def run_load(
    url: str, bodies: Sequence[dict[str, Any]], arrivals: np.ndarray, *, timeout: float = 10.0
) -> list[Outcome]:
    """Sends `bodies[n % len(bodies)]` at `arrivals[n]`.

    Args:
        url: Of the server, e.g. http://127.0.0.1:8000. timeout: Seconds after which a request counts as unanswered.

    Returns:
        One outcome an arrival, in their order.
    """
    limits = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=limits, timeout=aiohttp.ClientTimeout(total=timeout)) as session:
        begun = time.perf_counter()

        async def send(number: int) -> Outcome:
            arrival = float(arrivals[number])
            status, answer = 0, None
            try:
                async with session.post(url + RECOMMEND_PATH, json=bodies[number % len(bodies)]) as response:
                    status = response.status
                    content = await response.json()
                    answer = content if status == 200 else None
            except (aiohttp.ClientError, TimeoutError, OSError):
                status = 0
            return Outcome(number, arrival, time.perf_counter() - begun - arrival, status, answer)

        tasks = []
        for number, arrival in enumerate(arrivals):
            wait = arrival - (time.perf_counter() - begun)
            if wait > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(send(number)))
        return list(await asyncio.gather(*tasks))


def summarize(outcomes: Sequence[Outcome], slo: float | None, seconds: float) -> dict[str, float]:
    """Figures of a load, or of a part of it.

    Returns:
        `requests`, `answered` (share with status 200), `refused` (share with 429), `failed` (share with any other
        status or none), `p50_ms`..`p99_ms` and `max_ms` of what was answered, `throughput` (answers a second),
        `beam_rows` (mean rows an answer was searched with), and with `slo` (seconds) `within_slo` (share of all
        requests that were answered within it) and `goodput` (such answers a second).
    """
    latencies = np.array([outcome.latency for outcome in outcomes if outcome.status == 200])
    rows = [sum(outcome.answer["beam_widths"]) for outcome in outcomes if outcome.answer is not None]
    count = max(len(outcomes), 1)
    figures = {
        "requests": float(len(outcomes)),
        "answered": len(latencies) / count,
        "refused": sum(outcome.status == 429 for outcome in outcomes) / count,
        "failed": sum(outcome.status not in (200, 429) for outcome in outcomes) / count,
        "throughput": len(latencies) / seconds,
        "beam_rows": float(np.mean(rows)) if rows else 0.0,
    }
    for percentile in PERCENTILES:
        value = float(np.percentile(latencies, percentile)) if len(latencies) else math.nan
        figures[f"p{percentile}_ms"] = 1000 * value
    figures["max_ms"] = 1000 * float(latencies.max()) if len(latencies) else math.nan
    if slo is not None:
        good = int((latencies <= slo).sum())
        figures["within_slo"] = good / count
        figures["goodput"] = good / seconds
    return figures


def timeline(outcomes: Sequence[Outcome], seconds: float, slices: int = 48) -> list[dict[str, float]]:
    """`summarize` of equal slices of the time of arrival, each with its `time` (its middle, seconds) and `rate`
    (arrivals a second)."""
    width = seconds / slices
    parts: list[list[Outcome]] = [[] for _ in range(slices)]
    for outcome in outcomes:
        parts[min(int(outcome.arrival / width), slices - 1)].append(outcome)
    return [
        {"time": (place + 0.5) * width, "rate": len(part) / width, **summarize(part, None, width)}
        for place, part in enumerate(parts)
    ]
