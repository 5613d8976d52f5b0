"""Plots of an evaluation: reliability of predicted values, and systems compared over seeds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import plots
from .plots import ACCENT, INK, MUTED, RULE, Plot, inline_svg, styled_axes
from .tables import CALIBRATION_PARTS, METRICS

SQUARE = (4.2, 3.4)  # inches: both axes of a reliability plot hold values
WIDE_SPAN = 20.0  # bins that differ more than so many times are drawn on logarithmic axes


def reliability_plot(part: str, calibration: Mapping[str, Any], value_unit: str = "") -> Plot | None:
    """Mean true against mean predicted value of each bin, with 1.96 standard errors of the true mean; on the dashed
    diagonal the two are equal. None with fewer than two bins."""
    bins = calibration.get("bins", [])
    if len(bins) < 2:
        return None
    x, y = [bin_["mean_predicted"] for bin_ in bins], [bin_["mean_true"] for bin_ in bins]
    errors = [1.96 * (bin_["true_se"] or 0.0) for bin_ in bins]
    lows = [value - error for value, error in zip(y, errors, strict=True)]
    highs = [value + error for value, error in zip(y, errors, strict=True)]
    smallest, largest = min(x + y), max(x + highs)
    logarithmic = smallest > 0 and max(x + y) > WIDE_SPAN * smallest
    with styled_axes(SQUARE) as (figure, axes):
        start, stop = (0.6 * smallest, 1.3 * largest) if logarithmic else (0.0, 1.06 * largest or 1.0)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.plot([start, stop], [start, stop], **plots.DASHED)
        for place, low, high in zip(x, lows, highs, strict=True):
            axes.plot([place] * 2, [max(low, start), high], color=ACCENT, linewidth=1.6, alpha=0.75)
        axes.plot(x, y, color=ACCENT, linewidth=1, alpha=0.4)
        plots.dots(axes, x, y, ACCENT, markeredgewidth=0.7, markersize=5)
        axes.set_xlim(start, stop)
        axes.set_ylim(start, stop)
        for axis in (axes.xaxis, axes.yaxis):
            plots.four_digits(axis, None if logarithmic else 5)
        unit = f", {value_unit}" if value_unit else ""
        axes.set_xlabel(f"predicted value{unit}")
        axes.set_ylabel("true value")
        axes.grid(color=RULE, linewidth=0.8)
        ratio = calibration.get("ratio")
        told = "" if ratio is None else f"Predicted / true {ratio:.2f}. "
        note = f"{told}Bins of equally many pairs; bars: 95%; dashed: calibrated"
        return Plot(CALIBRATION_PARTS.get(part, part), inline_svg(figure), note)


def comparison_plot(metric: str, systems: Mapping[str, Mapping[str, Any]]) -> Plot | None:
    """Means of systems with their 95% intervals over users and seeds, one small dot a seed; the first system is the
    one compared with. None with fewer than two systems that have the metric."""
    known = {name: figures["metrics"][metric] for name, figures in systems.items() if metric in figures["metrics"]}
    if len(known) < 2:
        return None
    names = list(known)[::-1]  # the first on top
    with styled_axes((plots.WIDE[0], 0.6 + 0.34 * len(names))) as (figure, axes):
        for place, name in enumerate(names):
            scores = known[name]
            color = ACCENT if place == len(names) - 1 else INK
            axes.plot([scores["low"], scores["high"]], [place] * 2, color=color, linewidth=1.6, alpha=0.75)
            if len(scores["by_run"]) > 1:
                runs = scores["by_run"]
                axes.plot(runs, [place - 0.24] * len(runs), "o", color=MUTED, markersize=3, linestyle="none")
            plots.dots(axes, scores["mean"], place, color, markersize=5.5)
        first = known[names[-1]]["mean"]
        axes.axvline(first, **plots.DASHED, zorder=0)
        axes.set_yticks(range(len(names)), [plots.two_lines(name) for name in names], fontsize=8.5)
        for label, name in zip(axes.get_yticklabels(), names, strict=True):
            label.set_color(ACCENT if name == names[-1] else INK)
        axes.set_ylim(-0.6, len(names) - 0.4)
        plots.four_digits(axes.xaxis, 5)
        axes.grid(axis="x", color=RULE, linewidth=0.8)
        note = "Mean and 95% interval over users and seeds; small dots: single runs"
        return Plot(METRICS.get(metric, metric), inline_svg(figure), note)
