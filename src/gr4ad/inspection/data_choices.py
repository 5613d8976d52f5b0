"""The `data` section of a recipe: files, columns, units, split and remedies."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gr4ad.data.checking import DROP_REASONS
from gr4ad.data.presets import PRESETS
from gr4ad.data.user_table import nearly_unique
from gr4ad.inspection.choices import Choice
from gr4ad.inspection.findings import Findings, percent
from gr4ad.inspection.layout import FEATURE_VALUES, Layout
from gr4ad.inspection.log_view import CONVERSION, MERGE_SECONDS
from gr4ad.inspection.names import likeness
from gr4ad.inspection.profiles import Column

UNIT_WORDS = {"date": "numbers such as 20171105", "s": "seconds since 1970", "ms": "milliseconds since 1970",
              "us": "microseconds since 1970", "ns": "nanoseconds since 1970"}  # fmt: skip
CURRENCIES = re.compile(r"(?<![a-z])(usd|eur|gbp|jpy|cny|rmb|chf|inr|brl|krw)(?![a-z])", re.IGNORECASE)
MATCHED_USERS = 0.5
BINS = 10


def data_choices(layout: Layout, found: Findings) -> list[Choice]:
    """The settings of `data`. Adds what is left out, and why, to the warnings."""
    if layout.preset is not None:
        preset = PRESETS[layout.preset]
        drop = [reason for reason in preset.settings.get("drop", []) if reason not in found.drop]
        found.drop |= dict.fromkeys(drop, 0)
        return [
            Choice("data", "preset", layout.preset, f"{preset.about}: names files, columns, events and units"),
            *_split(layout, found),
            *_remedies(layout, found),
        ]
    choices = [
        Choice("data", "catalog", layout.catalog, _catalog_reason(layout)),
        Choice("data", "events", layout.events, f"{layout.files[layout.events].rows:,} rows"),
    ]
    choices += _users(layout, found)
    choices += [
        Choice("data", "catalog_columns", _catalog_columns(layout, found), "our name: the file's"),
        Choice("data", "event_columns", _event_columns(layout), "our name: the file's"),
    ]
    if layout.users is not None and layout.user_key != "user_id" and choices[2].field == "users":
        choices.append(Choice("data", "user_columns", {"user_id": layout.user_key}, "our name: the file's"))
    choices += _numbers(layout)
    choices += _meaning(layout, found)
    choices += _split(layout, found)
    choices += _remedies(layout, found)
    return [choice for choice in choices if choice.value not in ({}, [])]


def _catalog_reason(layout: Layout) -> str:
    if layout.own_catalog:
        return "no table of items was found: the log's own columns, its first row of each item"
    join = layout.joins["items of the log in the catalog"]
    return f"`{layout.key}` holds {percent(join.share)} of the items of the log"


def _catalog_columns(layout: Layout, found: Findings) -> dict[str, str]:
    columns = {"item_id": layout.key}
    other = _other_key(layout) if found.ordered_items > 0.9 else None
    if other is not None:
        found.warnings.append(
            f"ids of ads are taken from `{other}`, not from the telling numbers of `{layout.key}`: requests name ads "
            "by it"
        )
        columns = {"item_id": other, "event_key": layout.key}
    if layout.account is not None:
        columns["account_id"] = layout.account
    return {ours: theirs for ours, theirs in columns.items() if ours != theirs}


def _other_key(layout: Layout) -> str | None:
    """Another column that names each item: short text without blanks."""
    for name, column in layout.columns[layout.catalog].items():
        short = column.is_id and not column.is_number and not column.has_spaces and column.mean_length < 40
        if name != layout.key and short and column.distinct == column.rows and likeness(name, "opaque") < 0.5:
            return name
    return None


def _event_columns(layout: Layout) -> dict[str, str]:
    columns = {"user_id": layout.user, "item_id": layout.item}
    if layout.clock is not None:
        columns["timestamp" if layout.is_timed else "position"] = layout.clock
    for ours, theirs in (("event", layout.event), ("value", layout.value), ("request_id", layout.request)):
        if theirs is not None:
            columns[ours] = theirs
    return {ours: theirs for ours, theirs in columns.items() if ours != theirs}


def _users(layout: Layout, found: Findings) -> list[Choice]:
    if layout.users is None:
        return []
    share = layout.joins["users of the log in the users table"].share
    if share < MATCHED_USERS:
        found.warnings.append(
            f"{layout.users} has features of {percent(share)} of the log's users: it is left out. Add `users: "
            f"{layout.users}` and `user_features` to the recipe to try it"
        )
        return []
    features: dict[str, Any] = {}
    for name, column in layout.columns[layout.users].items():
        if name == layout.user_key:
            continue
        reason = _no_feature(column, layout, found)
        if reason:
            found.warnings.append(f"`{name}` of {layout.users} is left out of the user features: {reason}")
        else:
            many = column.is_number and column.distinct > 2 * BINS
            features[name] = {"bins": BINS} if many else {}
    if not features:
        return []
    reason = f"features of {percent(share)} of the log's users"
    return [
        Choice("data", "users", layout.users, reason),
        Choice("data", "user_features", features, "numbers of many values are put into bins"),
    ]


def _no_feature(column: Column, layout: Layout, found: Findings) -> str | None:
    """Why a column of the users table is no feature; None if it is one. Its values, which may be those of persons, are
    not shown."""
    if column.is_nested:
        return "lists are no single value"
    values, users = _of_log_users(column, layout)
    if not users:
        return "no user of the log has a value"
    if column.distinct < 2:
        return "it has one value"
    if column.time_unit is not None:
        return "it holds times"
    if column.has_decimal_commas:
        return "it has decimal commas, which are not read as numbers: write points, then put it into bins"
    if likeness(column.name, "opaque") >= 0.5:
        return "by its name it tells single persons"
    if not column.is_number and (column.distinct > FEATURE_VALUES or column.distinct > max(20, 0.2 * column.filled)):
        return f"{column.distinct:,} values of {column.filled:,} users: nearly unique"
    binned = column.is_number and column.distinct > 2 * BINS
    if not binned and nearly_unique(values, users):
        return f"{values:,} values of {users:,} users of the log: nearly unique"
    if column.is_whole and column.distinct > 0.98 * column.filled and column.distinct > 20:
        return f"{column.distinct:,} values of {column.filled:,} users: a number of each user"
    if column.is_number and _tells_activity(column, layout, found):
        return "it goes along with how many events a user has: it was perhaps counted on held-out events too"
    return None


def _of_log_users(column: Column, layout: Layout) -> tuple[int, int]:
    """Distinct values of a column of the users table, and users who have one: among the users of the log where all of
    it was read, as a run counts them, else in the table."""
    assert layout.users is not None
    if not layout.files[layout.events].whole:
        return column.distinct, column.filled
    keys = layout.columns[layout.users][layout.user_key].text
    there = pc.is_in(keys, value_set=layout.of_log(layout.user).unique).to_numpy(zero_copy_only=False)
    text = column.text.filter(pa.array(there & ~column.blank))
    return pc.count_distinct(text).as_py(), len(text)


def _tells_activity(column: Column, layout: Layout, found: Findings) -> bool:
    import pandas as pd

    assert layout.users is not None
    log_user = layout.of_log(layout.user)
    counts = pd.Series(log_user.text.to_pandas()).value_counts()
    keys = layout.columns[layout.users][layout.user_key].text.to_pandas()
    pairs = pd.DataFrame({"count": keys.map(counts), "value": column.numbers}).dropna()
    return len(pairs) > 50 and abs(float(pairs["count"].corr(pairs["value"], method="spearman"))) > 0.8


def _numbers(layout: Layout) -> list[Choice]:
    if layout.price is None or not layout.files[layout.catalog].is_text or layout.own_catalog:
        return []
    return [Choice("data", "number_columns", [layout.price], "other columns of a csv are text")]


def _meaning(layout: Layout, found: Findings) -> list[Choice]:
    choices = []
    unit = None if layout.clock is None else layout.of_log(layout.clock).time_unit
    if unit in UNIT_WORDS:
        choices.append(Choice("data", "time_unit", unit, f"`{layout.clock}` holds {UNIT_WORDS[unit]}, by magnitude"))
    if layout.event_names and any(name != kind for name, kind in layout.event_names.items()):
        choices.append(
            Choice("data", "event_names", layout.event_names, f"what `{layout.event}` holds: what it means here")
        )
    if found.view.merged:
        reason = f"a click and its conversion within half an hour are one event: {found.view.merged:,}"
        choices.append(Choice("data", "merge_seconds", MERGE_SECONDS, reason))
    if found.negative:
        choices.append(Choice("data", "refunds", *_refunds(layout, found)))
    if layout.value is not None:
        currency = CURRENCIES.search(layout.value.replace("_", " "))
        unit_name = currency[1].upper() if currency else layout.value
        reason = "" if currency else "the data do not say the currency: write it here"
        choices.append(Choice("data", "value_unit", unit_name, reason))
    return choices


def _refunds(layout: Layout, found: Findings) -> tuple[str, str]:
    view = found.view
    assert view.value is not None
    known = view.covered_refunds
    if (view.kind[view.value < 0] != CONVERSION).any():
        return "zero", f"{found.negative:,} rows, of other kinds than conversions too: they are worth nothing"
    if view.refunds_are_netted:
        return "net", f"{percent(known)} of the {found.negative:,} negative rows have a purchase that they take back"
    return (
        "zero",
        f"only {percent(known)} of the {found.negative:,} negative rows have a purchase that they could take back",
    )


def _split(layout: Layout, found: Findings) -> list[Choice]:
    split = found.split
    choices = [Choice("data", "split", split.kind, split.reason)]
    if split.kind == "temporal":
        if split.column:
            choices.append(Choice("data", "split_column", split.column, "goes along with the time"))
        assert split.validation is not None and split.test is not None
        choices += [
            Choice("data", "validation_start", split.validation, "the log's events up to here, 82%, are training"),
            Choice("data", "test_start", split.test, "the last 10% are test"),
        ]
    return choices


def _remedies(layout: Layout, found: Findings) -> list[Choice]:
    drop = dict(found.drop)
    known = {reason: rows for reason, rows in drop.items() if reason in DROP_REASONS}
    if not known:
        return []
    parts = [f"{rows:,} {reason}" if rows else f"{reason} if there are any" for reason, rows in known.items()]
    return [
        Choice("data", "drop", list(known), f"rows that are put right or left out, and counted: {', '.join(parts)}")
    ]
