"""What was read and what became of it: counts of every step, and warnings where the figures would mislead."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .checking import Verdict
from .clocks import Clock, moment_text
from .config import DataConfig
from .counting import ElsewhereCounts, LogCounts
from .event_columns import EVENT_NAMES

# Shares and counts from which on a reader has to be told, because the headline figures change their meaning.
MANY_TIES = 0.1
MANY_REPEATS = 0.01
MANY_REPEATED_TARGETS = 0.2
MANY_UNMATCHED = 0.5
FEW_TEST_USERS = 30


def file_facts(role: str, source: str | Path, found: Verdict, read: dict[str, Any] | None = None) -> dict[str, Any]:
    """How one table was read: role, file, format, delimiter (None where there is none), rows, rows kept, rows dropped
    by reason, and of `cross_domain` the rows left out as `repeats`, if any. `read`: what the reader says of it."""
    suffixes = [suffix.lstrip(".") for suffix in Path(source).suffixes if suffix not in (".gz", ".zst")]
    return {
        "role": role,
        "file": str(source),
        "format": suffixes[-1] if suffixes else "hub data set",
        "delimiter": None,
        **(read or {}),
        "rows": found.rows,
        "kept": found.kept,
        "dropped": dict(found.dropped),
        **({"repeats": found.notes["repeats"]} if found.notes.get("repeats") else {}),
    }


@dataclass
class Account:
    """What [`account`] and [`summary`] tell of.

    Attributes:
        config: the settings. files: as [`file_facts`]. verdicts: on the rows of each table, by role.
        items: of the catalog. log: of the events. user_joins, elsewhere: of the other tables, where they are given.
        clocks: columns of times, with their units: `log`, `cut` where the split's is another one, `elsewhere`.
        clock_name: `timestamp`, or `position` in a log without times.
        held: how the log was held while it was prepared.
    """

    config: DataConfig
    files: list[dict[str, Any]]
    verdicts: dict[str, Verdict]
    items: int
    log: LogCounts
    user_joins: dict[str, int] | None
    elsewhere: ElsewhereCounts | None
    clocks: dict[str, Clock]
    clock_name: str
    held: dict[str, Any]


def account(of: Account, clock_column: str) -> dict[str, Any]:
    """The accounting of `data.json`, JSON values. `rows_in` is the sum of `kept`, `dropped`, `repeats`, `merged` and
    `refunds.rows`. `clock_column`: how the file calls the column of the clock."""
    events, log, config = of.verdicts["events"], of.log, of.config
    notes = events.notes
    facts: dict[str, Any] = {
        "files": of.files,
        "held": of.held,
        "rows_in": events.rows,
        "kept": log.events,
        "dropped": dict(events.dropped),
        "repeats": log.repeats,
        "merged": log.merged,
        "refunds": {
            "policy": config.refunds,
            "negative_values": notes.get("negative_values", 0),
            **log.refunds.facts(),
        },
        "users": log.users,
        "items": of.items,
        "event_names": notes.get("event_names", {}),
        "emptied_events": _emptied(notes),
        "blank_values": notes.get("blank_values", {}),
        "any_value": notes.get("any_value", False),
        "whole_float_ids": {
            role: part.notes["whole_float_ids"]
            for role, part in of.verdicts.items()
            if "whole_float_ids" in part.notes
        },
        "time_unit": _times(of, clock_column),
        "ties": {"rows": log.tied, "share": _share(log.tied, log.history)},
        "repeated_targets": {name: _share(log.repeated[name], count) for name, count in log.followed.items()},
        "joins": _joins(of),
        "leakage": log.leakage,
    }
    return facts | {"warnings": _warnings(facts, of)}


def summary(of: Account, account: dict[str, Any]) -> dict[str, Any]:
    """The content of `data.json`, JSON values."""
    config, log = of.config, of.log
    description: dict[str, object] = {"kind": config.split}
    if config.split == "temporal":
        description |= {
            "column": config.split_column,
            "validation_start": config.validation_start,
            "test_start": config.test_start,
            "test_end": config.test_end,
        }
    dropped = sum((Counter(part.dropped) for part in of.verdicts.values()), Counter())
    told: dict[str, Any] = {
        "items": of.items,
        "users": log.users,
        "events": log.events,
        "events_by_name": dict(zip(EVENT_NAMES, log.by_kind.tolist(), strict=True)),
        "event_names": config.names_of_events(),
        "history_events": config.history_events,
        "value_unit": config.value_unit,
        "clock": of.clock_name,
        "split": description,
        "dropped": dict(dropped),
        "sorted_rows": log.unsorted,
        "left_out_min_user_events": log.too_few,
    }
    for name, part in log.tables.items():
        if name == "impressions":
            told[name] = {
                "lists": part.rows,
                "rows": part.entries,
                "outcomes_held_out": part.hidden,
                "left_out": part.left_out,
            }
            continue
        told[name] = {
            "users": part.rows,
            "mean_history": part.history / part.rows,
            "left_out": part.left_out,
        }
        if name != "train":
            told[name]["mean_targets"] = part.entries / part.rows
            told[name]["mean_target_value"] = float(part.target_values) / part.rows
    if of.elsewhere is not None:
        told["cross_domain"] = _cross_domain(of.elsewhere, log)
    if of.user_joins is not None and config.user_features:
        told["user_features"] = config.bins_of_features()
    return told | {"accounting": account}


def _cross_domain(elsewhere: ElsewhereCounts, log: LogCounts) -> dict[str, Any]:
    return {
        "entries": elsewhere.entries,
        "users": elsewhere.users,
        "users_without": log.users - elsewhere.users,
        "unmatched_users": elsewhere.unmatched_users,
        "unmatched_entries": elsewhere.unmatched_entries,
        "sorted_rows": elsewhere.unsorted,
        "repeats": elsewhere.repeats,
        **{f"mean_{name}": _share(elsewhere.by_table[name], part.rows) for name, part in log.tables.items()},
    }


def _emptied(notes: dict[str, Any]) -> dict[str, int]:
    """The kinds of events of which dropping left nothing, and their rows."""
    there = dict.fromkeys(EVENT_NAMES, 0)
    for facts in notes.get("event_names", {}).values():
        if facts["as"] is not None:
            there[facts["as"]] += facts["rows"]
    left = notes["kept_kinds"]
    return {name: count for (name, count), kept in zip(there.items(), left, strict=True) if count and not kept}


def _share(part: int, whole: int) -> float:
    return float(part) / whole if whole else 0.0


def _times(of: Account, clock_column: str) -> dict[str, dict[str, Any]]:
    """By column: unit, how it is known, and the first and last moment of the rows that are kept."""
    log, clock = of.log, of.clocks["log"]

    def facts(own: Clock, shown_by: Clock, first: int, last: int) -> dict[str, Any]:
        known = "time_unit" if own.given else "type" if own.unit == "iso" else "magnitude"
        known = "column" if of.clock_name == "position" and own is clock else known
        ends = {name: moment_text(shown_by, end) for name, end in (("first", first), ("last", last))}
        return {"unit": own.unit or "own numbers", "known_by": known, **ends}

    units = {clock_column: facts(clock, clock, log.first, log.last)}
    if "cut" in of.clocks:
        units[of.config.split_column] = facts(of.clocks["cut"], of.clocks["cut"], log.first_cut, log.last_cut)
    if of.elsewhere is not None:  # what users did elsewhere stands on the clock of the log
        own = of.clocks["elsewhere"]
        units["cross_domain"] = facts(own, clock, of.elsewhere.first, of.elsewhere.last)
    return units


def _joins(of: Account) -> dict[str, dict[str, int]]:
    log, elsewhere = of.log, of.elsewhere
    joins = {
        "events_catalog": {
            "matched": log.matched,
            "unmatched": log.unmatched,
            "items_without_events": of.items - int(log.has_item.sum()),
        }
    }
    if of.user_joins is not None:
        joins["events_users"] = of.user_joins
    if elsewhere is not None:
        joins["events_cross_domain"] = {
            "matched": elsewhere.users,
            "unmatched": log.users - elsewhere.users,
            "users_without_events": elsewhere.unmatched_users,
        }
    return joins


def _warnings(facts: dict[str, Any], of: Account) -> list[str]:
    """One sentence each: what was seen, what it does to the figures, and what can be done."""
    config = of.config
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
    own = [name for name, told in time.items() if told["unit"] == "own numbers" and of.clock_name == "timestamp"]
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
    tested = of.log.tables["test"].rows
    if tested < FEW_TEST_USERS:
        what = "one user is" if tested == 1 else f"{tested} users are"
        found.append(f"Only {what} tested: the figures mean nothing.")
    if facts["items"] == 1:
        found.append("The catalog has one item: every list is right, and the figures mean nothing.")
    return found
