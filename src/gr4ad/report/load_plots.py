"""Plots of a load test: arrivals, latency and beam widths over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

SYSTEM_COLORS = ("#2a6f97", "#c98b3a", "#2f8f4e", "#8a8a8a")
QUIET: Any = {"axes.spines.top": False, "axes.spines.right": False, "svg.fonttype": "none", "font.size": 9}


def load_figure(systems: Mapping[str, Sequence[Mapping[str, float]]], slo_ms: float | None) -> Figure:
    """Three panels over time, one line a system.

    Args:
        systems: Name -> slices as of `gr4ad.serving.load_test.timeline`; all met the same arrivals.
        slo_ms: Objective, drawn into the latencies.
    """
    with matplotlib.rc_context(QUIET):
        figure = Figure(figsize=(7.2, 6.0), layout="constrained")
        rate, latency, width = figure.subplots(3, 1, sharex=True)
        for (name, parts), color in zip(systems.items(), SYSTEM_COLORS, strict=False):
            times = [part["time"] for part in parts]
            latency.plot(times, [part["p99_ms"] for part in parts], color=color, label=name)
            width.plot(times, [part["beam_rows"] for part in parts], color=color, label=name)
        rate.plot(times, [part["rate"] for part in parts], color="#444444")
        rate.set(ylabel="requests a second", ylim=(0, None))
        if slo_ms is not None:
            latency.axhline(slo_ms, color="#c0392b", linewidth=0.8, linestyle="--")
        latency.set(ylabel="99th percentile, ms", yscale="log")
        width.set(ylabel="beam rows a request", xlabel="seconds", ylim=(0, None))
        latency.legend(frameon=False)
    return figure
