"""The beam search of one request as a drawing: where each beam stands and which served ad it ends in."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROW = 25.0  # height of one leaf, px
COLUMN = 150.0  # distance of two levels, px
ROOT_X = 222.0  # the history stands to the left of it, px
LEAF_WIDTH = 290.0  # for titles to the right of the last level, px
TOP = 38.0  # for the headings, px
WIDEST = 12.0  # line of probability 1, px
BEAMS = 12  # beams drawn of each level
HISTORY = 6  # items of the history drawn
TOKEN = re.compile(r"<[^<>]*>")


@dataclass
class Node:
    """One beam.

    text: its last token; share: its probability in words; path, width: the line from its parent, SVG and px;
    alive: drawn with children, or complete; on_served_path: it or a descendant holds a served ad; served, title: place
    (from 1) and title of the best ad of a complete beam, None and "" without one.
    """

    x: float
    y: float
    text: str
    share: str
    path: str
    width: float
    alive: bool
    on_served_path: bool
    served: int | None = None
    title: str = ""


@dataclass
class Drawing:
    """Coordinates in px. history: (y, title), oldest first; headings: (x, text); root: (x, y)."""

    width: float
    height: float
    root: tuple[float, float]
    nodes: list[Node] = field(default_factory=list)
    headings: list[tuple[float, str]] = field(default_factory=list)
    history: list[tuple[float, str]] = field(default_factory=list)
    history_left_out: int = 0


@dataclass
class _Beam:
    level: int
    sid: str
    score: float
    children: list[_Beam] = field(default_factory=list)
    y: float = 0.0


def draw_beam_tree(tree: Mapping[str, Any]) -> Drawing | None:
    """Lays out the best beams of each level, those of served ads, and their ancestors, without crossings.

    Args:
        tree: `RunReport.beam_tree`.

    Returns:
        The drawing; None when no level has a beam.

    Raises:
        ValueError: a beam's `parent` is no place of the level before.
    """
    levels = [level for level in tree.get("levels", []) if level]
    if not levels:
        return None
    sids = {str(ad.get("sid", "")) for ad in tree.get("recommendations", [])}
    roots = _grow(levels, sids)
    row = _place(roots, 0)
    height = max(row, 4) * ROW
    last = len(levels) - 1
    middle = sum(beam.y for beam in roots) / len(roots)
    history = [_title(item) for item in tree.get("history", [])]
    shown = history[-HISTORY:]
    drawing = Drawing(
        width=ROOT_X + COLUMN * len(levels) + LEAF_WIDTH,
        height=TOP + height + 8,
        root=(ROOT_X, TOP + middle),
        headings=[(ROOT_X + COLUMN * (level + 1), f"Level {level + 1}") for level in range(len(levels))],
        history=[(TOP + middle + (place - (len(shown) - 1) / 2) * 22, title) for place, title in enumerate(shown)],
        history_left_out=len(history) - len(shown),
    )
    served: dict[str, tuple[int, str]] = {}
    for place, ad in enumerate(tree.get("recommendations", []), start=1):
        served.setdefault(str(ad.get("sid", "")), (place, _title(ad)))

    def on_served_path(beam: _Beam) -> bool:
        return beam.sid in served if beam.level == last else any(on_served_path(child) for child in beam.children)

    def visit(beam: _Beam, x: float, y: float) -> None:
        own_x, own_y = ROOT_X + COLUMN * (beam.level + 1), TOP + beam.y
        bend = (own_x - x) * 0.5
        path = f"M{x:.1f} {y:.1f} C{x + bend:.1f} {y:.1f} {own_x - bend:.1f} {own_y:.1f} {own_x:.1f} {own_y:.1f}"
        probability = math.exp(min(beam.score, 0.0))
        place, title = served.get(beam.sid, (None, "")) if beam.level == last else (None, "")
        drawing.nodes.append(
            Node(
                x=own_x,
                y=own_y,
                text=(TOKEN.findall(beam.sid) or [beam.sid])[-1],
                share=_percent(probability),
                path=path,
                width=max(0.8, WIDEST * math.sqrt(probability)),
                alive=bool(beam.children) or beam.level == last,
                on_served_path=on_served_path(beam),
                served=place,
                title=title,
            )
        )
        for child in beam.children:
            visit(child, own_x, own_y)

    for root in roots:
        visit(root, *drawing.root)
    return drawing


def _grow(levels: Sequence[Sequence[Mapping[str, Any]]], served: set[str]) -> list[_Beam]:
    """The beams to draw, as a forest with the best first; those of served ads are always drawn."""
    chosen = [set(sorted(range(len(level)), key=lambda place: -level[place]["score"])[:BEAMS]) for level in levels]
    chosen[-1] |= {place for place, beam in enumerate(levels[-1]) if str(beam["sid"]) in served}
    for level in range(len(levels) - 1, 0, -1):
        for place in chosen[level]:
            parent = levels[level][place].get("parent")
            if not isinstance(parent, int) or not 0 <= parent < len(levels[level - 1]):
                raise ValueError(
                    f"`parent` of beam {place} of level {level + 1} should be a place 0 to "
                    f"{len(levels[level - 1]) - 1} of the level before. Received: {parent!r}. Count the beams in the "
                    "order in which that level lists them."
                )
            chosen[level - 1].add(parent)
    drawn: list[dict[int, _Beam]] = []
    for level, places in enumerate(chosen):
        drawn.append({})
        for place in sorted(places, key=lambda place: -levels[level][place]["score"]):
            found = levels[level][place]
            drawn[level][place] = _Beam(level, str(found["sid"]), float(found["score"]))
            if level:
                drawn[level - 1][found["parent"]].children.append(drawn[level][place])
    return list(drawn[0].values())


def _place(beams: Sequence[_Beam], row: int) -> int:
    """Gives leaves one row each and parents the middle of their children; returns the next free row."""
    for beam in beams:
        if beam.children:
            row = _place(beam.children, row)
            beam.y = (beam.children[0].y + beam.children[-1].y) / 2
        else:
            beam.y = (row + 0.5) * ROW
            row += 1
    return row


def _percent(probability: float) -> str:
    percent = 100 * probability
    return f"{percent:.0f}%" if percent >= 10 else f"{percent:.1f}%" if percent >= 0.1 else "<0.1%"


def _title(item: Mapping[str, Any]) -> str:
    return str(item.get("title") or item.get("item_id") or "")
