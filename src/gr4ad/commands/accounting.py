"""What `gr4ad data` says on the terminal: what was read, what became of it, and what a reader has to know."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gr4ad.commands import terminal


def print_accounting(summary: Mapping[str, Any]) -> None:
    """Prints the accounting and the splits of a `data.json`, and its warnings last, where they are seen."""
    from rich.table import Table
    from rich.text import Text

    from gr4ad.report.accounting_rows import accounting_rows, accounting_warnings
    from gr4ad.report.tables import split_rows, split_text

    console = terminal.console()
    table = Table("what was read", "", show_edge=False)
    for what, text in accounting_rows(summary):
        table.add_row(Text(what), Text(text))
    console.print(table)
    columns, rows = split_rows(summary)
    splits = Table(*columns, show_edge=False)
    for row in rows:
        splits.add_row(*map(Text, row))
    console.print(splits)
    console.print(Text(split_text(summary.get("split"))))
    for warning in accounting_warnings(summary):
        console.print(Text(f"warning: {warning}", style="yellow"), soft_wrap=True)
