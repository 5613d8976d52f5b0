"""An evaluation, or a comparison of several, as files to read: Markdown tables and SVG plots."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from . import tables
from .evaluation_plots import comparison_plot, reliability_plot
from .markdown import markdown_table, metric_markdown, one_line
from .page import write_page
from .plots import Plot, bar_plots

# The page's light colours: a picture in a file of its own has no style sheet to ask.
FILE_COLORS = {
    "var(--ink)": "#1c1d1f",
    "var(--muted)": "#66696f",
    "var(--rule)": "#e6e6e3",
    "var(--accent)": "#2f55d4",
    "var(--bar)": "#c9ccd2",
    "var(--card)": "#ffffff",
}
FAMILY = "ui-sans-serif, system-ui, Segoe UI, Helvetica Neue, Liberation Sans, Arial, sans-serif"
PLOTS_FOLDER = "plots"


def as_report(outcome: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Protocol -> system -> metrics of an evaluation, the final model named `ours`; without value metrics where the
    log has no values."""
    priced = outcome.get("values", {}).get("logged", True)
    final = outcome["final"]
    return {
        protocol: {
            tables.OURS if system == final else system: {
                name: figure
                for name, figure in scores.items()
                if priced or not name.startswith(("revenue@", "value_ndcg@", "spend"))
            }
            for system, scores in outcome[protocol].items()
        }
        for protocol in ("test", "test_history_excluded")
    }


def write_evaluation(folder: Path, outcome: Mapping[str, Any]) -> list[Path]:
    """Writes `metrics.md` and `plots/` of what `evaluate_models` found; returns the files."""
    metrics = as_report(outcome)
    unit = outcome.get("values", {}).get("unit", "")
    plots: dict[str, Plot | None] = {**bar_plots(metrics["test"], unit)}
    for part, calibration in outcome.get("value_calibration", {}).get(outcome["final"], {}).items():
        plots[f"reliability_{part}"] = reliability_plot(part, calibration, unit)
    return write_files(folder / "metrics.md", evaluation_markdown(outcome), plots)


def evaluation_markdown(outcome: Mapping[str, Any]) -> str:
    """The tables of one evaluation."""
    parts = [f"# Evaluation: {one_line(outcome['final'])}"]
    if not outcome.get("values", {}).get("logged", True):
        parts.append("The log has no values: value metrics are left out.")
    metrics = as_report(outcome)
    for protocol, systems in metrics.items():
        table = tables.metric_table(protocol, systems)
        if table is None:
            continue
        parts += [
            f"## {table.heading}",
            "In brackets: 95% interval over users. Bold: best of the column.",
            metric_markdown(table, lambda cell: f" ({cell.interval})" if cell.interval else ""),
        ]
        columns, paired = tables.paired_rows(outcome.get("paired", {}).get(protocol, {}))
        if paired:
            parts += [
                "This model less each other system, on the same users; bold: the 95% interval leaves out 0.",
                differences_table(columns, paired),
            ]
    reach, told = tables.reach_table(metrics["test"])
    if reach is not None:
        rows = [[name, *(cell.text for cell in cells)] for name, _, cells in reach.rows]
        parts += ["## Which ads are reached", told, markdown_table(["System", *reach.columns], rows)]
    calibration = outcome.get("value_calibration", {}).get(outcome["final"], {})
    if calibration:
        unit = outcome["values"]["unit"]
        parts += [
            "## Predicted values",
            f"Values and ECE in {one_line(unit)}." if unit else "",
            markdown_table(tables.CALIBRATION_COLUMNS, tables.calibration_rows(calibration)),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_comparison(folder: Path, comparison: Mapping[str, Any]) -> list[Path]:
    """Writes `comparison.md` and `plots/` of what `compare_runs` found; returns the files."""
    plots = {metric: comparison_plot(metric, comparison["systems"]) for metric in comparison["metrics"]}
    return write_files(folder / "comparison.md", comparison_markdown(comparison), plots)


def comparison_markdown(comparison: Mapping[str, Any]) -> str:
    """The tables of a comparison."""
    systems = comparison["systems"]
    headings, differences = tables.comparison_rows(comparison)
    rows = []
    for name, figures in systems.items():
        means = [mean_text(metric, figures["metrics"].get(metric)) for metric in comparison["metrics"]]
        rows.append([name, str(len(figures["runs"])), *means])
    parts = [
        f"# {tables.PROTOCOLS.get(comparison['protocol'], comparison['protocol'])}, "
        f"{tables.count_text(comparison['users'])} users",
        "Mean over runs ± standard deviation over seeds (95% interval over users and seeds).",
        markdown_table(["System", "Runs", *headings], rows),
    ]
    if differences:
        parts += [
            f"Each less {one_line(next(iter(systems)))}, on the same users; bold: the 95% interval leaves out 0.",
            markdown_table(
                ["System", *headings], [[name, *map(difference_text, cells)] for name, cells in differences]
            ),
        ]
    return "\n\n".join(parts) + "\n"


def mean_text(metric: str, score: Mapping[str, Any] | None) -> str:
    """ "0.0475 ± 0.0004 (0.0421 to 0.0529)"; without the spread for one seed, "–" where unknown."""
    return "–" if score is None else "{} ({})".format(*tables.mean_texts(metric, score))


def difference_text(cell: tables.PairedCell) -> str:
    """ "**+0.0123** (+0.0101 to +0.0145; +12.3%)"."""
    if not cell.interval:
        return cell.text
    share = f"; {cell.relative}" if cell.relative else ""
    return (f"**{cell.text}**" if cell.clear else cell.text) + f" ({cell.interval}{share})"


def differences_table(columns: Sequence[str], rows: Sequence[tuple[str, list[tables.PairedCell]]]) -> str:
    """Differences of systems as a Markdown table."""
    return markdown_table(["System", *columns], [[name, *map(difference_text, cells)] for name, cells in rows])


def write_files(page: Path, text: str, plots: Mapping[str, Plot | None]) -> list[Path]:
    """Writes a Markdown page, and each plot that there is as `plots/NAME.svg` beside it, readable on its own; returns
    the files."""
    contents = {page: text}
    for name, plot in plots.items():
        if plot is not None:
            contents[page.parent / PLOTS_FOLDER / f"{name.replace('@', '_at_')}.svg"] = stand_alone(plot)
    for path, content in contents.items():
        write_page(path, content)
    return list(contents)


def stand_alone(plot: Plot) -> str:
    """The picture as an SVG document: colours filled in, title and note above the drawing."""
    svg = str(plot.svg)
    for variable, color in FILE_COLORS.items():
        svg = svg.replace(variable, color)
    inner = svg[svg.index(">") + 1 : svg.rindex("</svg>")]
    width, height = map(float, svg.split('viewBox="')[1].split('"')[0].split()[2:])
    lines: Sequence[str] = textwrap.wrap(plot.note, int(width / 5))
    head = 26 + 14 * len(lines)
    box = (-10.0, -head - 4.0, width + 20.0, height + head + 14.0)
    title = escape(plot.title)
    texts = [f'<text x="0" y="{16 - head}" font-size="13" font-weight="600" fill="#1c1d1f">{title}</text>']
    texts += [
        f'<text x="0" y="{32 + 14 * number - head}" font-size="10" fill="#66696f">{escape(line)}</text>'
        for number, line in enumerate(lines)
    ]
    view = " ".join(f"{number:g}" for number in box)
    place = f'x="{box[0]:g}" y="{box[1]:g}" width="{box[2]:g}" height="{box[3]:g}"'
    return (
        '<?xml version="1.0" encoding="utf-8"?>\n<svg xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view}" width="{2 * box[2]:g}" height="{2 * box[3]:g}" '
        f'font-family="{FAMILY}">\n<rect {place} fill="#ffffff"/>\n' + "\n".join(texts) + f"\n{inner}\n</svg>\n"
    )
