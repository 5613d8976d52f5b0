"""`gr4ad inspect`: what a folder of data holds, and a recipe for it."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from gr4ad.commands import terminal
from gr4ad.commands.arguments import CommandParser
from gr4ad.data.event_columns import EVENT_NAMES


def inspect(arguments: list[str]) -> None:
    parser = CommandParser(
        prog="gr4ad inspect",
        description="Reads a sample of the tables in a folder, says what it makes of them, and writes a recipe.",
    )
    parser.add_argument("folder", help="folder with the catalog, the event log and, if there is one, the users table")
    parser.add_argument("--recipe", help="file to write: a recipe ready to run, with the reason beside each choice")
    parser.add_argument("--rows", type=int, help="rows of a file that are read, about (default: 500,000)")
    parser.add_argument(
        "--event-names",
        "--event_names",
        default="{}",
        help="what the log's events are where the guess is wrong: impression, click, conversion, or null: left out; "
        """JSON, e.g. '{"view": "click"}'""",
    )
    options = parser.parse_args(arguments)
    event_names = told_events(options.event_names)

    from gr4ad.inspection.inspecting import ROWS, inspect_folder, write_recipe

    rows = ROWS if options.rows is None else options.rows
    if rows < 1000:
        raise ValueError(f"`--rows` must be 1000 or more. Received: {rows}.")
    inspection = inspect_folder(options.folder, rows=rows, event_names=event_names)
    if options.recipe is not None:
        write_recipe(inspection, Path(options.recipe))
    show(inspection)
    name = options.recipe or "RECIPE.yaml"
    folder = shlex.quote(str(options.folder))
    if options.recipe is None:
        say(f"write the recipe: gr4ad inspect {folder} --recipe {name}")
    else:
        say(f"recipe: {name}   a run takes about {inspection.duration} on two CPU cores:")
        say(f"gr4ad run {shlex.quote(name)} --data {folder} --out out")


def told_events(given: str) -> dict[str, str | None]:
    """The events of `--event-names`. Raises ValueError if it is no JSON object of our kinds."""
    try:
        names = json.loads(given)
    except json.JSONDecodeError as error:
        raise ValueError(f"`--event-names` must be JSON ({error}). Received: {given!r:.100}.") from error
    kinds = (*EVENT_NAMES, None)
    if not isinstance(names, dict) or any(kind not in kinds for kind in names.values()):
        raise ValueError(
            f"`--event-names` must map events of the log to {', '.join(EVENT_NAMES)} or null. Received: "
            f"{given!r:.100}."
        )
    return names


def show(inspection: object) -> None:
    """Prints files, columns, counts, warnings and what has to be mended."""
    from rich.markup import escape
    from rich.table import Column, Table

    from gr4ad.inspection.inspecting import Inspection

    assert isinstance(inspection, Inspection)
    console = terminal.console()
    files = Table("file", "what it is", "how it is written", show_edge=False)
    for name, role in inspection.roles.items():
        file = inspection.files.get(name)
        files.add_row(escape(name), escape(role), escape(file.described()) if file else "")
    console.print(files)
    console.print()
    settings = Table(Column("chosen", no_wrap=True), "", "why", show_edge=False)
    for choice in inspection.choices:
        if choice.section == "data" or choice.reason:
            settings.add_row(f"{choice.section}.{choice.field}", escape(shown(choice.value)), escape(choice.reason))
    console.print(settings)
    console.print()
    counts = Table("found", "", show_edge=False)
    for what, how_many in inspection.found.counts:
        counts.add_row(escape(what), escape(how_many))
    console.print(counts)
    for text in (*inspection.layout.remarks, *inspection.found.warnings):
        say(f"warning: {text}")
    for text in inspection.found.stops:
        say(f"to be mended before a run: {text}")


def shown(value: object) -> str:
    """A value in a few words."""
    if isinstance(value, dict):
        entries = ((ours, f"{theirs['bins']} bins" if theirs else "") if isinstance(theirs, dict) else (ours, theirs)
                   for ours, theirs in value.items())  # fmt: skip
        return ", ".join(f"{ours}: {theirs}" if theirs else str(ours) for ours, theirs in entries)
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def say(text: str) -> None:
    """A line as it is, not wrapped: it is there to be copied."""
    print(text)  # noqa: T201
