"""What was read and what became of it: counts of every step, and warnings where the figures would mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .checking import RowChecks
from .clocks import Clock, moment_text
from .config import DataConfig
from .cross_domain import CrossDomain
from .event_columns import EVENT_NAMES
from .events import EventLog
from .row_order import ties
from .settling import RefundCounts
from .splits import History, Rows
from .user_table import UserFeatures

# Shares and counts from which on a reader has to be told, because the headline figures change their meaning.
MANY_TIES = 0.1
MANY_REPEATS = 0.01
MANY_REPEATED_TARGETS = 0.2
MANY_UNMATCHED = 0.5
FEW_TEST_USERS = 30


def file_facts(role: str, source: str | Path, checks: RowChecks, read: dict[str, Any] | None = None) -> dict[str, Any]:
    """How one table was read: role, file, format, delimiter (None where there is none), rows, rows kept, rows dropped
    by reason, and of `cross_domain` the rows left out as `repeats`, if any. `read`: what the reader says of it."""
    suffixes = [suffix.lstrip(".") for suffix in Path(source).suffixes if suffix not in (".gz", ".zst")]
    return {
        "role": role,
        "file": str(source),
        "format": suffixes[-1] if suffixes else "hub data set",
        "delimiter": None,
        **(read or {}),
        "rows": len(checks.keep),
        "kept": int(checks.keep.sum()),
        "dropped": dict(checks.dropped),
        **({"repeats": checks.notes["repeats"]} if checks.notes.get("repeats") else {}),
    }


def account(
    *,
    files: list[dict[str, Any]],
    checks: dict[str, RowChecks],
    config: DataConfig,
    items: int,
    log: EventLog,
    merged: int,
    refunds: RefundCounts,
    history: History,
    rows: dict[str, Rows],
    users: UserFeatures | None,
    elsewhere: CrossDomain | None,
    leakage: dict[str, Any],
) -> dict[str, Any]:
    """The accounting of `data.json`, JSON values. `rows_in` is the sum of `kept`, `dropped`, `repeats`, `merged` and
    `refunds.rows`.

    Args:
        files: as [`file_facts`]. checks: of each table, by role. items: of the catalog.
        log: as split. merged, refunds: what was left out of it before. rows: the prepared tables.
    """
    events = checks["events"]
    notes = events.notes
    history_rows = history.rows
    tied = ties(log.user[history_rows], log.clock[history_rows])
    facts: dict[str, Any] = {
        "files": files,
        "rows_in": len(events.keep),
        "kept": len(log.user),
        "dropped": dict(events.dropped),
        "repeats": log.repeats,
        "merged": merged,
        "refunds": {"policy": config.refunds, "negative_values": notes.get("negative_values", 0), **vars(refunds)},
        "users": int(len(np.unique(log.user))),
        "items": items,
        "event_names": notes.get("event_names", {}),
        "emptied_events": notes.get("emptied", {}),
        "blank_values": notes.get("blank_values", {}),
        "any_value": notes.get("any_value", False),
        "whole_float_ids": {
            role: part.notes["whole_float_ids"] for role, part in checks.items() if "whole_float_ids" in part.notes
        },
        "time_unit": _times(log, elsewhere, config, events),
        "ties": {"rows": int(tied.sum()), "share": _share(tied.sum(), len(tied))},
        "repeated_targets": _repeated_targets(log, history),
        "joins": _joins(log, users, elsewhere, items),
        "leakage": leakage,
    }
    return facts | {"warnings": _warnings(facts, config, rows, log)}


def _share(part: int, whole: int) -> float:
    return float(part) / whole if whole else 0.0


def _times(
    log: EventLog, elsewhere: CrossDomain | None, config: DataConfig, events: RowChecks
) -> dict[str, dict[str, Any]]:
    """By column: unit, how it is known, and the first and last moment of the rows that are kept."""

    def facts(clock: Clock, values: np.ndarray) -> dict[str, Any]:
        known = "time_unit" if clock.given else "type" if clock.unit == "iso" else "magnitude"
        known = "column" if log.clock_name == "position" and clock is log.time else known
        # What users did elsewhere stands on the clock of the log.
        shown_by = log.time if elsewhere is not None and clock is elsewhere.time else clock
        first, last = (moment_text(shown_by, int(end)) for end in (values.min(), values.max()))
        return {"unit": clock.unit or "own numbers", "known_by": known, "first": first, "last": last}

    units = {events.theirs(log.clock_name): facts(log.time, log.clock)}
    if log.cut_time is not log.time:
        units[config.split_column] = facts(log.cut_time, log.cut)
    if elsewhere is not None:
        units["cross_domain"] = facts(elsewhere.time, elsewhere.clock)
    return units


def _repeated_targets(log: EventLog, history: History) -> dict[str, float]:
    """Of the events of each part of the split, the share whose item is that of the user's event just before; an event
    without one before it counts in none."""
    user, item = log.user[history.rows], log.item[history.rows]
    follows = np.r_[False, user[1:] == user[:-1]] & history.active[user]
    again = follows & np.r_[False, item[1:] == item[:-1]]
    place = np.arange(len(user))
    parts = {
        "train": place < history.first[user],
        "validation": (place >= history.first[user]) & (place < history.second[user]),
        "test": (place >= history.second[user]) & (place < history.last[user]),
    }
    return {name: _share((again & part).sum(), (follows & part).sum()) for name, part in parts.items()}


def _joins(
    log: EventLog, users: UserFeatures | None, elsewhere: CrossDomain | None, items: int
) -> dict[str, dict[str, int]]:
    joins = {
        "events_catalog": {
            "matched": log.matched,
            "unmatched": log.unmatched,
            "items_without_events": items - len(np.unique(log.item)),
        }
    }
    if users is not None:
        joins["events_users"] = {
            "matched": users.matched,
            "unmatched": users.unmatched,
            "users_without_events": users.strangers,
        }
    if elsewhere is not None:
        matched = len(np.unique(elsewhere.user))
        joins["events_cross_domain"] = {
            "matched": matched,
            "unmatched": int(len(np.unique(log.user))) - matched,
            "users_without_events": elsewhere.unmatched_users,
        }
    return joins


def _warnings(facts: dict[str, Any], config: DataConfig, rows: dict[str, Rows], log: EventLog) -> list[str]:
    """One sentence each: what was seen, what it does to the figures, and what can be done."""
    found = []
    for name, count in facts["emptied_events"].items():
        reasons = ", ".join(f"{number:,} {reason}" for reason, number in facts["dropped"].items())
        found.append(f"`drop` left none of the log's {count:,} {name} rows (dropped: {reasons}): mend them instead.")
    if facts["repeats"] > MANY_REPEATS * facts["rows_in"]:
        found.append(
            f"{facts['repeats'] / facts['rows_in']:.0%} of the rows repeat another in every column and were left out: "
            "the log was written more than once."
        )
    if facts["ties"]["share"] > MANY_TIES:
        found.append(
            f"{facts['ties']['share']:.0%} of the events share their moment with another of the same user: their "
            "order means nothing and is drawn by a hash of the ids. `train.target_window` learns visits instead."
        )
    repeated = facts["repeated_targets"]["test"]
    if repeated > MANY_REPEATED_TARGETS:
        found.append(
            f"{repeated:.0%} of the test targets repeat the item just before them: the last item alone scores high. "
            "Compare with repeated items, or raise `merge_seconds`."
        )
    for join, counts in facts["joins"].items():
        table = join.removeprefix("events_")
        what = "rows" if table == "catalog" else "users"
        total = counts["matched"] + counts["unmatched"]
        if counts["unmatched"] > MANY_UNMATCHED * total:
            found.append(
                f"{counts['unmatched']:,} of {total:,} {what} of the log are not in `{table}`: are the ids written "
                "alike?"
            )
    blank = facts["blank_values"].get(EVENT_NAMES[-1], 0)
    if blank and facts["any_value"]:
        found.append(f"{blank:,} {EVENT_NAMES[-1]} rows have no value and are worth 0 {config.value_unit}.")
    if facts["refunds"]["unmatched"] > 0:
        found.append(
            f"refunds of {facts['refunds']['unmatched']:.6g} {config.value_unit} have no earlier purchase in the log "
            "and took nothing off."
        )
    time = facts["time_unit"]
    own = [name for name, told in time.items() if told["unit"] == "own numbers" and log.clock_name == "timestamp"]
    if own and own[0] == next(iter(time)):
        told = time[own[0]]
        found.append(
            f"`{own[0]}` holds {told['first']} to {told['last']}, no times since 1970, and is taken as seconds. Name "
            "the unit in `time_unit`; if it only numbers the events, map it to `position`."
        )
    units = [time[name]["unit"] for name in (next(iter(time)), "cross_domain") if name in time]
    if len(units) == 2 and (units[0] == "own numbers") != (units[1] == "own numbers"):
        told = time["cross_domain"]
        found.append(
            "One of `cross_domain` and the events has numbers that are no times since 1970, the other has times: they "
            f"are taken as one clock, on which `cross_domain` holds {told['first']} to {told['last']}. Write both "
            "alike."
        )
    tested = len(rows["test"].user)
    if tested < FEW_TEST_USERS:
        what = "one user is" if tested == 1 else f"{tested} users are"
        found.append(f"Only {what} tested: the figures mean nothing.")
    if facts["items"] == 1:
        found.append("The catalog has one item: every list is right, and the figures mean nothing.")
    return found
