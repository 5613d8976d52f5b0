"""The accounting of `data.json` as lines: for the terminal, the page and the card."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .tables import count_text

UNITS = {
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
    "date": "dates as numbers",
    "iso": "dates",
}


def accounting_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(what, text) of each step from the files to the rows that are split; without steps that changed nothing. Empty
    for data that an earlier version prepared."""
    found = summary.get("accounting")
    return [(what, text) for part in PARTS for what, text in part(found)] if found else []


def accounting_warnings(summary: Mapping[str, Any]) -> list[str]:
    """Sentences that a reader of the figures has to know."""
    return list(summary.get("accounting", {}).get("warnings", []))


def _files(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for file in found["files"]:
        form = file["format"] + (f", delimiter {file['delimiter']}" if file["delimiter"] else "")
        form += f", {file['packed']}" if "packed" in file else ""
        form += f", {len(file['files'])} files" if "files" in file else ""
        dropped = "".join(f", {count_text(count)} dropped ({_words(why)})" for why, count in file["dropped"].items())
        dropped += f", {count_text(file['repeats'])} equal to another row" if file.get("repeats") else ""
        yield (
            f"{_words(file['role']).capitalize()}",
            f"{file['file']} ({form}): {count_text(file['rows'])} rows{dropped}"
            + "".join(f"; {note}" for note in file.get("notes", [])),
        )


def _held(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    held = found.get("held")  # data that an earlier version prepared says nothing of it
    if held is not None:
        parts = held["user_partitions"]
        yield "Held", (f"in {parts} parts of users on disk" if parts else "in memory") + f": {held['why']}"


def _events(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    refunds = found["refunds"]
    steps = [f"{count_text(found['rows_in'])} in"]
    for count, text in (
        (sum(found["dropped"].values()), "dropped"),
        (found["repeats"], "equal to another row"),
        (found["merged"], "clicks merged into their conversion"),
        (refunds["rows"], "refunds settled"),
    ):
        steps += [f"{count_text(count)} {text}"] if count else []
    yield "Rows of the log", f"{', '.join(steps)}; {count_text(found['kept'])} kept"
    yield "Users and items", f"{count_text(found['users'])} users, {count_text(found['items'])} items"
    names = [
        f"{name} as {told['as']}" + f" ({count_text(told['rows'])})"
        for name, told in found["event_names"].items()
        if told["as"] not in (None, name)
    ]
    if names:
        yield "Names of events", ", ".join(names)


def _values(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if found["blank_values"]:
        told = ", ".join(f"{count_text(count)} {name} rows" for name, count in found["blank_values"].items())
        yield "Without a value", f"{told} (worth 0)"
    refunds = found["refunds"]
    if refunds["negative_values"]:
        text = f"{count_text(refunds['negative_values'])} rows, policy {refunds['policy']}"
        if refunds["rows"]:
            text += f": {refunds['amount']:.6g} returned, {refunds['netted']:.6g} taken off earlier conversions"
            text += (
                f", {refunds['unmatched']:.6g} without one, {refunds['held_back']:.6g} of a later part of the split"
            )
        yield "Negative values", text
    for role, columns in found["whole_float_ids"].items():
        yield "Ids", f"{', '.join(columns)} of the {_words(role)}: floating-point numbers taken as whole ones"


def _times(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for column, told in found["time_unit"].items():
        unit = UNITS.get(told["unit"], told["unit"])
        kind = "Order" if told["unit"] == "own numbers" else "Times"
        yield f"{kind} by {column}", f"{unit} (known by {_words(told['known_by'])}), {told['first']} to {told['last']}"
    ties = found["ties"]
    if ties["rows"]:
        text = f"{count_text(ties['rows'])} events ({ties['share']:.1%}), ordered by a hash of the ids"
        yield "At one moment with another", text
    again = {name: share for name, share in found["repeated_targets"].items() if share}
    if again:
        yield "Repeat the item just before", ", ".join(f"{share:.1%} of {name}" for name, share in again.items())


def _joins(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for join, counts in found["joins"].items():
        table = join.removeprefix("events_")
        what, other = ("rows", "items") if table == "catalog" else ("users", "users")
        idle = counts[f"{other}_without_events"]
        text = f"{count_text(counts['matched'])} {what} matched, {count_text(counts['unmatched'])} not"
        yield f"Log and {_words(table)}", f"{text}; {count_text(idle)} {other} without events"


def _leakage(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    told = found["leakage"]
    entries, events = count_text(told["entries"]), count_text(told["held_out_events"])
    yield "Leakage check", f"none of {events} held-out events among {entries} entries of training rows"


PARTS = (_files, _held, _events, _values, _times, _joins, _leakage)


def _words(name: str) -> str:
    return name.replace("_", " ")
