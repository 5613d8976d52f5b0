"""Markdown in which text from the data stays plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from .tables import Cell, MetricTable


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]], align: str = "") -> str:
    """A Markdown table; align: "l" or "r" a column, by default the first left and the others right."""
    sides = align or "l" + "r" * (len(columns) - 1)
    rule = "|".join({"l": ":--", "r": "--:"}[side] for side in sides)
    lines = ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in [columns, *rows]]
    return "\n".join([lines[0], f"|{rule}|", *lines[1:]])


def metric_markdown(table: MetricTable, beside: Callable[[Cell], str]) -> str:
    """A table of systems, the own one and the best figures bold; beside: what follows a figure, from its cell."""
    rows = []
    for name, own, cells in table.rows:
        texts = [(f"**{cell.text}**" if cell.best else cell.text) + beside(cell) for cell in cells]
        rows.append([f"**{name}**" if own else name, *texts])
    return markdown_table(["System", *table.columns], rows)


def one_line(text: Any) -> str:
    """One line in which markup of the data stays text."""
    return " ".join(str(text).split()).replace("<", "&lt;")


def _cell(text: str) -> str:
    return one_line(text).replace("|", "\\|")
