"""Where commands print: a terminal in its width, a file or a pipe without a limit of width."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

UNCUT = 100_000  # columns; tables take no more than they need


def console(*, stderr: bool = False) -> Console:
    """A console of rich. Where the output is no terminal, rich takes 80 columns, and cuts the cells of wider tables:
    ids, titles and notes that somebody may want to read or to search. `COLUMNS` still says another width."""
    from rich.console import Console

    found = Console(stderr=stderr)
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(stderr=stderr, width=UNCUT)
