"""What was measured, on a terminal; and `gr4ad compare` over finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gr4ad.commands import terminal
from gr4ad.commands.arguments import CommandParser

if TYPE_CHECKING:
    from gr4ad.report.tables import PairedCell

TITLES = {"test": "test", "test_history_excluded": "test, items of the history excluded"}


def compare(arguments: list[str]) -> None:
    parser = CommandParser(
        prog="gr4ad compare", description="Compares finished runs on the same users: seeds, or different models."
    )
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="folder of a finished run or evaluation; NAME=FOLDER,FOLDER for several seeds of one. A single group is "
        "compared with its own baselines, others with the first",
    )
    parser.add_argument("--out", help="folder for comparison.json, comparison.md and plots/")
    parser.add_argument("--metrics", nargs="+", help="e.g. ndcg@10 cold5_recall@20 (default: four at 10)")
    parser.add_argument("--protocol", default="test", choices=list(TITLES), help="which table (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the resampled users (default: %(default)s)")
    options = parser.parse_args(arguments)

    from gr4ad.pipeline.comparing import compare_runs, read_groups, save_comparison

    comparison = compare_runs(
        read_groups(options.runs), protocol=options.protocol, metrics=options.metrics, seed=options.seed
    )
    console = terminal.console()
    show_comparison(comparison, console)
    if options.out:
        files = save_comparison(comparison, options.out)
        console.print(f"written: {', '.join(map(str, files))}", markup=False, highlight=False, soft_wrap=True)


def show_metrics(metrics: dict, console: Console) -> None:
    """Prints both tables, the differences from the other systems, and how far predicted values can be trusted."""
    from gr4ad.report import tables
    from gr4ad.report.evaluation_files import as_report

    users = metrics["users"]["test"]
    for protocol, systems in as_report(metrics).items():
        keys = [name for name in tables.COMPARED if any(name in scores for scores in systems.values())]
        table = Table("system", title=f"{TITLES[protocol]} ({users} users; 95% intervals)")
        for key in keys:
            # Names of systems wrap before figures do.
            table.add_column(tables.METRICS[key], justify="right", overflow="fold", no_wrap=console.width >= 80)
        for system, scores in systems.items():
            own = system == tables.OURS
            intervals = [dashed(tables.interval_text(key, scores)) or f"± {scores[key + '_se']:.4f}" for key in keys]
            figures = [tables.figure_text(key, scores[key]) for key in keys]
            name = metrics["final"] if own else tables.system_name(system)
            table.add_row(escape(name), *map(two_lines, figures, intervals), style="bold" if own else None)
        console.print(table)
        columns, rows = tables.paired_rows(metrics["paired"].get(protocol, {}))
        if rows:
            print_differences(console, f"{metrics['final']} minus", columns, rows)
    show_notes(metrics, console)


def show_notes(metrics: dict, console: Console) -> None:
    """Prints what is no table of systems: calibration, cold items, illegal SIDs."""
    from gr4ad.report import tables

    values = metrics["values"]
    calibration = metrics["value_calibration"].get(metrics["final"], {})
    if calibration:
        # Figures as lines: two columns fit any terminal, eight do not.
        lines = list(zip(tables.CALIBRATION_COLUMNS, *tables.calibration_rows(calibration), strict=True))
        table = Table(*lines[0], title=f"predicted values ({values['unit'] or 'value units'})")
        for line in lines[1:]:
            table.add_row(*line)
        console.print(table)
    if not values["logged"]:
        console.print("the log has no values: value metrics are left out")
    _, told = tables.reach_table(metrics["test"])
    if told:
        console.print(told, markup=False, highlight=False)
    final = metrics["test"][metrics["final"]]
    console.print(
        f"final: [bold]{escape(metrics['final'])}[/bold]; illegal SIDs: {final['illegal_sids']} of "
        f"{final['sids_checked']}"
    )


def show_comparison(comparison: dict, console: Console) -> None:
    """Prints means with seed spread and interval, and the differences from the first system."""
    from gr4ad.report import tables

    systems = comparison["systems"]
    first = next(iter(systems))
    headings, differences = tables.comparison_rows(comparison)
    table = Table("system", title=f"{TITLES[comparison['protocol']]} ({comparison['users']} users; 95% intervals)")
    for heading in ("runs", *headings):
        table.add_column(heading, justify="right")
    for name, figures in systems.items():
        cells = [two_lines(*tables.mean_texts(metric, score)) for metric, score in figures["metrics"].items()]
        table.add_row(escape(name), str(len(figures["runs"])), *cells, style="bold" if name == first else None)
    console.print(table)
    if any(len(figures["runs"]) > 1 for figures in systems.values()):
        console.print("±: standard deviation over seeds; intervals: over users and seeds")
    if differences:
        print_differences(console, f"minus {first}", headings, differences)


def print_differences(
    console: Console, corner: str, columns: Sequence[str], rows: Sequence[tuple[str, list[PairedCell]]]
) -> None:
    """Prints differences on the same users; starred where the interval leaves out 0."""
    table = Table(escape(corner), title="differences on the same users; *: the 95% interval leaves out 0")
    for column in columns:
        table.add_column(column, justify="right")
    for name, cells in rows:
        texts = []
        for cell in cells:
            text = f"[bold]*{cell.text}[/bold]" if cell.clear else cell.text
            texts.append(two_lines(f"{text} ({cell.relative})" if cell.relative else text, cell.interval))
        table.add_row(escape(name), *texts)
    console.print(table)


def dashed(interval: str) -> str:
    """ "0.0421 to 0.0475" in the width of a column."""
    return interval.replace(" to ", "–")


def two_lines(text: str, below: str) -> str:
    return f"{text}\n[dim not bold]{below}[/]" if below else text
