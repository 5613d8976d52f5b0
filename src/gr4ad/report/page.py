"""One self-contained HTML page of a run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from . import plots, tables
from .accounting_rows import accounting_rows, accounting_warnings
from .beam_tree import draw_beam_tree
from .contents import RunReport
from .evaluation_plots import reliability_plot


@dataclass(frozen=True)
class Tile:
    """A figure at the head of the page: label, text, and a line under it."""

    label: str
    text: str
    note: str = ""


def write_report(out_path: str | Path, report: RunReport) -> None:
    """Writes the page: no scripts, no other files, readable offline. A killed writer leaves the former page whole.

    Args:
        out_path: file to write; its folder is made.
        report: the content; sections of empty parts are left out.

    Raises:
        ValueError: a beam of `report.beam_tree` names a parent that is not there.
    """
    environment = page_environment()
    environment.filters |= {
        "count": tables.count_text,
        "duration": tables.duration_text,
        "figure": tables.number_text,
    }
    longest = max(report.timings.values(), default=0.0)
    text = environment.get_template("report.html").render(
        report=report,
        tiles=_tiles(report),
        results=[
            # One protocol is drawn; the others differ from it by little and are in the tables.
            (
                table,
                [] if place else plots.bar_plots(report.metrics[table.protocol], report.value_unit).values(),
                tables.paired_rows(report.paired.get(table.protocol, {})),
            )
            for place, table in enumerate(tables.metric_tables(report.metrics))
        ],
        reach=tables.reach_table(report.metrics.get("test", {})),
        reliability=[
            plot
            for part, calibration in report.value_calibration.items()
            if (plot := reliability_plot(part, calibration, report.value_unit)) is not None
        ],
        calibration_columns=tables.CALIBRATION_COLUMNS,
        calibration_rows=tables.calibration_rows(report.value_calibration),
        training=plots.training_plots(report.training_log, report.value_unit),
        alignment=plots.alignment_plots(report.alignment_log, report.value_unit),
        codebook_plots=[
            plots.usage_plot(level, counts) for level, counts in enumerate(report.code_counts, start=1) if sum(counts)
        ],
        codebook_columns=tables.CODEBOOK_COLUMNS,
        codebook_rows=tables.codebook_rows(report.sid_quality, report.code_counts),
        collisions=tables.collision_rows(report.sid_quality),
        tree=draw_beam_tree(report.beam_tree),
        recommendations=report.beam_tree.get("recommendations", []),
        data_facts=tables.data_facts(report.data_summary),
        dropped=tables.dropped_rows(report.data_summary),
        accounting=accounting_rows(report.data_summary),
        data_warnings=accounting_warnings(report.data_summary),
        splits=tables.split_rows(report.data_summary),
        split_text=tables.split_text(report.data_summary.get("split")),
        timings=[(stage, seconds, seconds / longest if longest else 0.0) for stage, seconds in report.timings.items()],
        total_seconds=sum(report.timings.values()),
    )
    write_page(out_path, text)


def write_page(out_path: str | Path, text: str) -> None:
    """Writes a page whole or not at all; its folder is made."""
    out = Path(out_path)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, out)


def page_environment() -> Environment:
    """Jinja for the templates of this folder: values are escaped, and a missing one is an error."""
    return Environment(
        loader=PackageLoader("gr4ad.report", package_path=""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _tiles(report: RunReport) -> list[Tile]:
    """The few figures that say how the run went."""
    tiles = []
    protocol = next((table.protocol for table in tables.metric_tables(report.metrics)), None)
    for metric, figure, rival in tables.headline(report.metrics[protocol] if protocol is not None else {}):
        note = ""
        if rival is not None and rival[1] > 0:
            note = f"{100 * (figure / rival[1] - 1):+.1f}% against {rival[0]}".replace("-", "−")
        tiles.append(Tile(tables.METRICS[metric], tables.figure_text(metric, figure), note))
    if "cpr" in report.sid_quality:
        shared = report.sid_quality.get("items_in_shared_sids")
        note = "" if shared is None else f"{100 * shared:.1f}% of the ads share an SID"
        tiles.append(Tile("Ads per semantic ID", f"{report.sid_quality['cpr']:.3f}", note))
    return tiles
