"""The plots of the SID report: code usage, prefix purity, SIDs by their number of items, maps of the embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape
from matplotlib.ticker import FuncFormatter

from .plots import ACCENT, INK, MUTED, RULE, WIDE, Plot, inline_svg, styled_axes
from .tables import count_text

MAP_SIZE = 400.0  # width and height of a map, units of its SVG
HUES = 8  # colours of the page's style sheet, --hue-1..8


@dataclass(frozen=True)
class Swatch:
    """A legend entry. hue: 1..HUES, 0 = the quiet colour of all else; label; note: a figure beside it, or ""."""

    hue: int
    label: str
    note: str = ""


@dataclass(frozen=True)
class MapPlot:
    """title, note: as of a `Plot`; svg: the picture; legend: its colours in words."""

    title: str
    note: str
    svg: Markup
    legend: list[Swatch]


def purity_plot(purity: Sequence[Mapping[str, float]]) -> Plot:
    """Purity of the prefixes of each length as bars, with the purity by chance as a mark on each."""
    with styled_axes(WIDE) as (figure, axes):
        for place, figures in enumerate(purity):
            for shift, prefix, alpha in ((-0.2, "", 1.0), (0.2, "shared_", 0.4)):
                height, chance = figures[f"{prefix}purity"], figures[f"{prefix}chance"]
                if not np.isfinite(height):
                    continue
                x = place + shift
                axes.bar(x, height, width=0.34, color=ACCENT, alpha=alpha, linewidth=0)
                axes.plot([x - 0.17, x + 0.17], [chance, chance], color=INK, linewidth=2, solid_capstyle="butt")
                axes.text(x, height + 0.025, f"{height:.2f}", color=MUTED, ha="center", va="bottom")
        axes.set_xticks(range(len(purity)), [f"{n + 1} code{'s' if n else ''}" for n in range(len(purity))])
        axes.set_xlim(-0.5, len(purity) - 0.5)
        axes.set_ylim(0, 1.12)
        axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
        axes.yaxis.set_major_formatter(FuncFormatter(lambda figure, _: f"{figure:g}"))
        axes.set_xlabel("length of the prefix")
        axes.set_ylabel("purity")
        axes.grid(axis="y", color=RULE, linewidth=0.8)
        axes.set_axisbelow(True)
        note = "Far above the dark line, the purity by chance = meaning. Pale: only prefixes of two or more items"
        return Plot("Prefix purity", inline_svg(figure), note)


def sid_size_plot(items_per_sid: Mapping[int, int]) -> Plot:
    """How many SIDs name one item, two items, ...; large numbers of items are drawn together."""
    bins: dict[str, int] = {}
    for items, sids in sorted(items_per_sid.items()):
        low = items if items <= 6 else 7 if items <= 10 else 10 ** int(np.log10(items - 1)) + 1
        high = items if items <= 6 else 10 if items <= 10 else (low - 1) * 10
        name = f"{low}" if low == high else f"{count_text(low)}–{count_text(high)}"
        bins[name] = bins.get(name, 0) + sids
    names, heights = list(bins), list(bins.values())
    with styled_axes((WIDE[0], max(WIDE[1], 0.5 + 0.24 * len(names)))) as (figure, axes):
        places = range(len(names))
        axes.barh(places, heights, height=0.62, color=ACCENT)
        for place, height in zip(places, heights, strict=True):
            axes.text(height + 0.02 * max(heights), place, count_text(height), color=MUTED, va="center")
        axes.set_yticks(places, names)
        axes.set_ylim(max(len(names), 4) - 0.5, -0.5)  # one item on top; few bars do not become fat
        axes.set_xlim(0, max(heights) * 1.2)
        axes.set_xticks([])
        axes.set_xlabel("number of SIDs")
        axes.set_ylabel("items of an SID")
        axes.spines["bottom"].set_visible(False)
        return Plot(
            "Items per SID", inline_svg(figure), "All in the bar of one item = every item has an SID of its own"
        )


def embedding_map(
    title: str,
    note: str,
    points: np.ndarray,
    hues: np.ndarray,
    texts: Sequence[str],
    legend: Sequence[Swatch],
    coloured_radius: float = 2.2,
) -> MapPlot:
    """Points in the plane, coloured, each with a text that shows under the mouse.

    Args:
        title, note: What stands above the figure.
        points (float, (n, 2)): Places, any unit.
        hues (int64, (n,)): 1..HUES, or 0 for a quiet point.
        texts: n texts, any characters.
        legend: The colours in words.
        coloured_radius: Radius of a point with a hue, in 1/400 of the width.
    """
    low, span = points.min(0), np.ptp(points, axis=0).max() or 1.0
    centred = (points - low - np.ptp(points, axis=0) / 2) / span
    places = MAP_SIZE / 2 + centred * (MAP_SIZE - 16)
    parts = [f'<svg viewBox="0 0 {MAP_SIZE:g} {MAP_SIZE:g}" role="img" aria-label="{escape(title)}">']
    for hue in sorted(set(hues.tolist())):  # quiet points first, so that they lie below
        parts.append(f'<g class="hue-{hue}">')
        radius = coloured_radius if hue else 1.6
        for row in np.flatnonzero(hues == hue).tolist():
            x, y = places[row]
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}"><title>{escape(texts[row])}</title></circle>'
            )
        parts.append("</g>")
    return MapPlot(title, note, Markup("".join([*parts, "</svg>"])), list(legend))
