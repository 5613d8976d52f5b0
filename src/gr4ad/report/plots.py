"""Small plots as inline SVG that take their colours from the page, so that one page suits light and dark screens."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from .tables import COMPARED, METRICS, OURS, system_name

# Stand-ins that matplotlib can draw; each is replaced by a variable of the page's style sheet.
COLORS = {
    "#010101": "var(--ink)",
    "#020202": "var(--muted)",
    "#030303": "var(--rule)",
    "#040404": "var(--accent)",
    "#050505": "var(--bar)",
    "#060606": "var(--card)",
}
INK, MUTED, RULE, ACCENT, BAR, CARD = COLORS
# Inches, for two and three plots side by side; 1/72 inch is one unit of the SVG.
WIDE, NARROW = (4.2, 2.45), (3.5, 2.3)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gr4ad",  # the same run writes the same page
    "font.size": 9,
    "text.parse_math": False,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.labelsize": 9,
    "axes.linewidth": 1,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
}
STEPS = [1, 2, 2.5, 5, 10]
DASHED: dict[str, Any] = {"color": MUTED, "linewidth": 1, "linestyle": (0, (4, 3))}
DASHES = ["-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 3))]
STAIRS = 400  # steps of a usage curve; a codebook of 16,384 codes drawn code by code would make the page heavy


@dataclass(frozen=True)
class Plot:
    """title: what is shown; svg: the picture; note: a line under the title, or ""; narrow: three fit side by side."""

    title: str
    svg: Markup
    note: str = ""
    narrow: bool = False


@dataclass(frozen=True)
class Line:
    """Points of one series, drawn in the order given; accent: the series that the plot is about."""

    label: str
    x: list[float]
    y: list[float]
    accent: bool = False


def training_plots(log: Sequence[Mapping[str, float]], value_unit: str) -> list[Plot]:
    """Loss with its parts, and validation over epochs, as far as the log holds them."""
    parts = {"loss_sid": "SID", "loss_value": "value", "loss_mtp": "multi-token", "loss_item": "item head"}
    levels = sorted({int(key[10:]) for entry in log for key in entry if re.fullmatch(r"acc_level_\d+", key)})
    accuracies = {**{f"acc_level_{level}": f"level {level}" for level in levels}, "acc_item": "item"}
    told = "Share of targets whose code, given those before, is the likeliest"
    accuracy = panel(log, "Accuracy by level", accuracies, told, accent="acc_item")
    calibrated = "Expected over true value; dashed: 1, calibrated"
    drawn = [
        panel(log, "Training loss", {"loss": "total", **parts}, "Weighted total, and its parts before weighting"),
        *validation_plots(log, value_unit, narrow_revenue=accuracy is None),  # rows stay full either way
        accuracy,
        panel(log, "Learning rate", {"learning_rate": ""}, "As scheduled", narrow=True),
        panel(log, "Gradient norm", {"grad_norm": ""}, "Before clipping", narrow=True),
        panel(log, "Value calibration", {"value_ratio": ""}, calibrated, narrow=True, reference=1.0),
    ]
    return [plot for plot in drawn if plot is not None]


def alignment_plots(log: Sequence[Mapping[str, float]], value_unit: str) -> list[Plot]:
    """The curves of the preference stage and its validation."""
    order = {"rspo/accuracy": "accuracy", "rspo/gate_open": "open gates"}
    losses = {"loss": "total", "rspo/rspo": "RSPO", "rspo/vsl": "VSL"}
    drawn = [
        panel(log, "Preference accuracy", order, "Share of pairs in the right order", narrow=True),
        panel(log, "Margin", {"rspo/margin": ""}, "Log-ratio of better over worse ads", narrow=True),
        panel(log, "Alignment loss", losses, "Total and its parts", narrow=True),
        *validation_plots(log, value_unit, narrow_revenue=False),
    ]
    return [plot for plot in drawn if plot is not None]


def validation_plots(
    log: Sequence[Mapping[str, float]], value_unit: str, narrow_revenue: bool = True
) -> list[Plot | None]:
    """Ranking and revenue over epochs, None for what the log lacks."""
    ranking = {"eval_recall@10": "Recall@10", "eval_ndcg@10": "NDCG@10"}
    note, best = "By beam search; dot: best NDCG@10", f"{value_unit or 'Value'} per user in the first ten; dot: best"
    return [
        panel(log, "Validation ranking", ranking, note, accent="eval_ndcg@10", mark_best=True),
        panel(log, "Validation revenue", {"eval_revenue@10": ""}, best, mark_best=True, narrow=narrow_revenue),
    ]


def panel(
    log: Sequence[Mapping[str, float]],
    title: str,
    labels: Mapping[str, str],
    note: str,
    accent: str | None = None,
    **options: Any,
) -> Plot | None:
    """[`line_plot`] of logged figures: key of the log -> label; accent: the key that the plot is about, default the
    first."""
    main = accent or next(iter(labels))
    lines = [_line(log, key, label, accent=key == main) for key, label in labels.items()]
    return line_plot(title, lines, note, **options)


def line_plot(
    title: str,
    lines: Sequence[Line],
    note: str = "",
    mark_best: bool = False,
    narrow: bool = False,
    reference: float | None = None,
) -> Plot | None:
    """Series over epochs with their names at their ends; None when no series has two points. reference: a height to
    mark by a dashed line."""
    lines = [line for line in lines if len(line.x) > 1]
    if not lines:
        return None
    with styled_axes(NARROW if narrow else WIDE) as (figure, axes):
        plain = 0
        for line in lines:
            if line.accent:
                axes.plot(line.x, line.y, color=ACCENT, linewidth=2, zorder=3, solid_capstyle="round")
            else:
                axes.plot(line.x, line.y, color=MUTED, linewidth=1.3, linestyle=DASHES[plain % len(DASHES)])
                plain += 1
            if mark_best and line.accent:
                best = max(range(len(line.y)), key=line.y.__getitem__)
                dots(axes, line.x[best], line.y[best], ACCENT, markersize=7, clip_on=False)
        low, high = min(min(line.y) for line in lines), max(max(line.y) for line in lines)
        if reference is not None:
            axes.axhline(reference, **DASHED)
            low, high = min(low, reference), max(high, reference)
        pad = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
        # Zero is part of the picture unless it would flatten the curve.
        floor = 0.0 if 0 <= low < 0.45 * high else low - pad
        axes.set_ylim(floor, high + pad)
        start, stop = min(line.x[0] for line in lines), max(line.x[-1] for line in lines)
        axes.set_xlim(0.0 if 0 < start < 0.2 * stop else start, stop)
        round_ticks(axes.xaxis, 5, integer=stop - start > 3)
        four_digits(axes.yaxis, 5)
        axes.set_xlabel("epoch")
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        if len(lines) > 1:
            _label_ends(axes, lines)
        return Plot(title, inline_svg(figure), note, narrow)


def usage_plot(level: int, counts: Sequence[int]) -> Plot:
    """Items of each code of a level (1-based), most used first, with the balanced level marked."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    edges = np.unique(np.linspace(0, len(ordered), min(len(ordered), STAIRS) + 1).astype(int))
    heights = np.add.reduceat(ordered, edges[:-1]) / np.diff(edges)
    balanced = ordered.mean()
    with styled_axes(NARROW) as (figure, axes):
        axes.stairs(heights, edges, fill=True, color=ACCENT, alpha=0.22)
        axes.stairs(heights, edges, color=ACCENT, linewidth=1.6, baseline=None)
        axes.axhline(balanced, **{**DASHED, "color": INK})
        axes.set_xlim(0, len(ordered))
        axes.set_ylim(0, max(ordered[0], 1) * 1.08)
        round_ticks(axes.yaxis, 4, integer=True)
        round_ticks(axes.xaxis, 4, integer=True)
        axes.set_xlabel("codes, most used first")
        axes.set_ylabel("items")
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        note = f"Flat along the dashed line = balanced, {balanced:.3g} items a code. Steep = few codes hold much"
        return Plot(f"Level {level}", inline_svg(figure), note, narrow=True)


def bar_plots(systems: Mapping[str, Mapping[str, float]], value_unit: str) -> dict[str, Plot]:
    """`metric_plot` of each of `COMPARED` that two systems have."""
    drawn = {}
    for metric in COMPARED:
        note = "95% interval over users" if has_intervals(metric, systems) else "± one standard error"
        unit = f"{value_unit or 'Value'} per user, " if metric == "revenue@10" else ""
        drawn[metric] = metric_plot(metric, systems, unit + note)
    return {metric: plot for metric, plot in drawn.items() if plot is not None}


def has_intervals(metric: str, systems: Mapping[str, Mapping[str, float]]) -> bool:
    """Whether all systems that have the metric have its 95% interval."""
    known = [figures for figures in systems.values() if _finite(figures.get(metric))]
    return bool(known) and all(
        _finite(figures.get(f"{metric}_low")) and _finite(figures.get(f"{metric}_high")) for figures in known
    )


def metric_plot(metric: str, systems: Mapping[str, Mapping[str, float]], note: str = "") -> Plot | None:
    """Systems as bars with their 95% intervals, or one standard error to either side where they have none; best on
    top; None with fewer than two systems."""
    known = {name: figures[metric] for name, figures in systems.items() if _finite(figures.get(metric))}
    if len(known) < 2:
        return None
    names = sorted(known, key=lambda name: known[name])
    if has_intervals(metric, systems):
        spans = [(float(systems[name][f"{metric}_low"]), float(systems[name][f"{metric}_high"])) for name in names]
    else:
        errors = [systems[name].get(f"{metric}_se") for name in names]
        spans = [
            (known[name] - error, known[name] + error) if error is not None and _finite(error) else (known[name],) * 2
            for name, error in zip(names, errors, strict=True)
        ]
    labels = [two_lines(system_name(name)) for name in names]
    row = 0.36 if any("\n" in label for label in labels) else 0.3
    with styled_axes((WIDE[0], 0.35 + row * len(names))) as (figure, axes):
        colors = [ACCENT if name == OURS else BAR for name in names]
        values = [known[name] for name in names]
        axes.barh(range(len(names)), values, height=0.62, color=colors)
        ends = [max(value, high) for value, (_, high) in zip(values, spans, strict=True)]
        for place, (low, high) in enumerate(spans):
            if low < high:
                axes.plot([low, high], [place, place], color=INK, linewidth=1.2, solid_capstyle="butt")
        longest = max(ends) or 1.0
        form = "{:.4f}" if max(values) < 1 else "{:.3g}" if max(values) < 1000 else "{:,.0f}"
        for place, name in enumerate(names):
            color = ACCENT if name == OURS else MUTED
            axes.text(ends[place] + 0.02 * longest, place, form.format(values[place]), color=color, va="center")
        axes.set_yticks(range(len(names)), labels, linespacing=1.0)
        for label, name in zip(axes.get_yticklabels(), names, strict=True):
            label.set_color(ACCENT if name == OURS else INK)
            if "\n" in label.get_text():
                label.set_fontsize(8)
        axes.set_xlim(0, longest * 1.2)
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        return Plot(METRICS.get(metric, metric), inline_svg(figure), note)


def _label_ends(axes: Axes, lines: Sequence[Line]) -> None:
    """Names at the right ends of the lines, moved apart where they would overlap."""
    low, high = axes.get_ylim()
    gap = 0.085 * (high - low)
    ends = sorted(lines, key=lambda line: line.y[-1])
    places = [line.y[-1] for line in ends]
    for place in range(1, len(places)):
        places[place] = max(places[place], places[place - 1] + gap)
    over = places[-1] - high
    if over > 0:
        places[-1] = high
        for place in range(len(places) - 2, -1, -1):
            places[place] = min(places[place], places[place + 1] - gap)
    for line, height in zip(ends, places, strict=True):
        axes.annotate(
            line.label,
            (1, height),
            xycoords=axes.get_yaxis_transform(),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            color=ACCENT if line.accent else MUTED,
            fontweight="bold" if line.accent else "normal",
            annotation_clip=False,
        )


def _line(log: Sequence[Mapping[str, float]], key: str, label: str, accent: bool = False) -> Line:
    """The finite points of one logged figure, by epoch."""
    points = [(entry["epoch"], entry[key]) for entry in log if "epoch" in entry and _finite(entry.get(key))]
    points.sort(key=lambda point: point[0])
    if key.startswith("eval_"):  # one repeated at an epoch, as at the end of training, replaces the earlier one
        points = list(dict(points).items())
    return _thinned(Line(label, [float(x) for x, _ in points], [float(y) for _, y in points], accent))


def _thinned(line: Line, most: int = 400) -> Line:
    """At most `most` points, each the mean of its neighbours: more would only make the page heavy."""
    if len(line.x) <= most:
        return line
    starts = np.arange(0, len(line.x), math.ceil(len(line.x) / most))
    sizes = np.diff(starts, append=len(line.x))
    x, y = ((np.add.reduceat(values, starts) / sizes).tolist() for values in (line.x, line.y))
    return replace(line, x=x, y=y)


def _finite(figure: float | None) -> bool:
    return isinstance(figure, int | float) and math.isfinite(figure)


def dots(axes: Axes, x: Any, y: Any, color: str, **style: Any) -> None:
    """Points that stand out from the lines below them."""
    axes.plot(x, y, "o", color=color, markeredgecolor=CARD, linestyle="none", zorder=4, **style)


def round_ticks(axis: Axis, most: int, *, integer: bool = False) -> None:
    """Puts at most `most` ticks on an axis, at round numbers."""
    axis.set_major_locator(MaxNLocator(most, integer=integer, steps=STEPS))


def four_digits(axis: Axis, most: int | None) -> None:
    """Labels ticks with four significant digits; `most` as in `round_ticks`, None leaves the ticks where they are."""
    if most is not None:
        round_ticks(axis, most)
    axis.set_major_formatter(FuncFormatter(lambda figure, _: f"{figure:.4g}"))


def two_lines(name: str) -> str:
    """A label in two lines if one would be long: baselines often differ in their last word."""
    return textwrap.fill(name if len(name) <= 46 else name[:45].rstrip() + "…", 24)


@contextmanager
def styled_axes(size: tuple[float, float]) -> Iterator[tuple[Figure, Axes]]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=size, layout="constrained")
        axes = figure.add_subplot()
        axes.spines[["top", "right", "left"]].set_visible(False)
        yield figure, axes


def inline_svg(figure: Figure) -> Markup:
    """The figure as an SVG element without size, ids that clash, or addresses.

    Labels may hold anything: matplotlib escapes them, and mathematics in dollar signs is off.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None, "matplotlib writes a viewBox"
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.DOTALL)
    for stand_in, variable in COLORS.items():
        body = body.replace(stand_in, variable)
    # The family is the page's; size and weight stay.
    body = re.sub(r"font: (?:(\d+|bold) )?([\d.]+px) [^;\"]*", _font, body)
    referenced = set(re.findall(r'(?:url\(#|href="#)([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in referenced else "", body)
    return Markup(f'<svg {box[0]} role="img" aria-hidden="true">{body.strip()}')


def _font(found: re.Match[str]) -> str:
    return f"font-size: {found[2]}" + (f"; font-weight: {found[1]}" if found[1] else "")
