"""Figures of the results, the same bytes for the same numbers."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure


def save_figure(figure: Figure, path: Path) -> None:
    """Writes an .svg without date, random ids, and the frame's upper and right edge."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.hashsalt": "gr4ad"}):
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
