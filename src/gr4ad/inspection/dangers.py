"""What no run gets past, and what may mislead: clocks, joins, lossy ids, signs of leakage."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gr4ad.inspection.findings import Findings, percent
from gr4ad.inspection.joins import matched
from gr4ad.inspection.layout import Layout
from gr4ad.inspection.names import likeness

LARGEST_WHOLE = 2.0**53


def check_ids(layout: Layout, found: Findings) -> None:
    """Ids that became floating numbers, and so others' ids."""
    for name in (layout.user, layout.item):
        column = layout.of_log(name)
        if pa.types.is_floating(column.values.type):
            worst = np.nanmax(np.abs(column.numbers), initial=0)
            if worst > LARGEST_WHOLE:
                found.stops.append(
                    f"`{name}` of {layout.events} holds floating numbers above 2^53 ({worst:.0f}): different ids have "
                    "become the same. Write the ids as whole numbers or text"
                )


def check_clock(layout: Layout, found: Findings) -> None:
    if layout.clock is None:
        found.stops.append(
            f"{layout.events}: no column of times or positions was found: histories have no order. Add a `timestamp` "
            "or a `position`"
        )
        return
    column = layout.of_log(layout.clock)
    unit = column.time_unit
    if unit == "unreadable":
        found.stops.append(
            f"`{layout.clock}` of {layout.events} holds dates such as {column.seen[0]!r}. Write them as "
            "2023-11-05T10:22:33"
        )
    elif unit is None:
        if layout.is_timed or layout.clock is None:
            return
        user, place = found.view.user[found.view.history], found.view.seconds[found.view.history]
        twice = int(((user[1:] == user[:-1]) & (place[1:] == place[:-1])).sum())
        if twice:
            found.drop["duplicate_position"] = twice
    else:
        bad = ~np.isfinite(column.seconds) & ~column.blank
        if bad.any():
            found.drop["bad_time"] = int(bad.sum())
        if unit != "iso":
            other = {name: share for name, share in column.unit_shares.items() if name != unit}
            if other:
                found.stops.append(
                    f"`{layout.clock}` of {layout.events} mixes units: {percent(column.unit_shares[unit])} look like "
                    f"{unit}, "
                    + ", ".join(f"{percent(share)} like {name}" for name, share in other.items())
                    + ". Write one unit"
                )
    if unit is not None and np.isfinite(column.seconds).any():
        first, last = (
            np.datetime64(int(value), "s") for value in (np.nanmin(column.seconds), np.nanmax(column.seconds))
        )
        found.counts.append(("times", f"{first} to {last}, in {'dates' if unit in ('iso', 'unreadable') else unit}"))


def check_own_names(layout: Layout, found: Findings) -> None:
    """Columns that have a name of ours and were not made out: a run reads them all the same."""
    if layout.preset is not None:
        return
    log, catalog = layout.columns[layout.events], layout.columns[layout.catalog]
    if layout.event is None and "event" in log:
        names = ", ".join(repr(name) for name in log["event"].seen[:5])
        found.stops.append(
            f"`event` of {layout.events} is read as the kind of each event, but holds {names}. Say in `event_names` "
            "which are impressions, clicks and conversions, or rename the column"
        )
    if layout.value is None and "value" in log and not log["value"].is_number and log["value"].filled:
        found.stops.append(
            f"`value` of {layout.events} is read as money, but holds {log['value'].seen[0]!r}. Write numbers such as "
            "12.5, or rename the column"
        )
    own = {} if layout.own_catalog else catalog
    for name in (name for name, column in own.items() if column.has_decimal_commas):
        found.warnings.append(
            f"`{name}` of {layout.catalog} has decimal commas (such as {catalog[name].seen[0]!r}), which are not read "
            "as numbers: write points, then name it in `number_columns`"
        )
    if "event_key" in catalog and layout.key != "event_key":
        found.stops.append(
            f"`event_key` of {layout.catalog} is read as what the log calls its items, but they are in "
            f"`{layout.key}`. Rename the column"
        )


def check_joins(layout: Layout, found: Findings) -> None:
    log, key = layout.columns[layout.events], layout.key_column
    items = matched(log[layout.item], key)
    if not layout.own_catalog:
        found.counts.append(("rows whose item the catalog has", f"{int(items.sum()):,} of {len(items):,}"))
        if not items.all() and items.mean() < 0.99:
            found.warnings.append(
                f"{percent(1 - float(items.mean()))} of the log's rows name an item that {layout.catalog} does not "
                "have: they are dropped"
            )
    if layout.users is not None:
        users = layout.columns[layout.users][layout.user_key]
        share = layout.joins["users of the log in the users table"].share
        found.counts.append(("users of the log in the users table", percent(share)))
        if users.filled - users.distinct:
            found.drop["duplicate_user"] = users.filled - users.distinct


def check_leaks(layout: Layout, found: Findings) -> None:
    """Signs that a table was made from the whole log, held-out events too."""
    view, own = found.view, layout.columns[layout.catalog]
    if layout.own_catalog or not len(view.history):
        return
    import pandas as pd

    key = layout.key_column
    counts = np.bincount(view.item[view.history], minlength=key.distinct)
    rows = pc.index_in(key.unique, value_set=key.text).to_numpy(zero_copy_only=False)
    if key.is_whole:
        by_time = np.argsort(view.seconds, kind="stable") if layout.is_timed else np.arange(len(view.item))
        items, first = np.unique(view.item[by_time], return_index=True)
        first, items = first[items >= 0], items[items >= 0]
        numbers = key.numbers[rows][items]
        if len(items) > 50:
            found.ordered_items = float(pd.Series(numbers).corr(pd.Series(first), method="spearman"))
        if found.ordered_items > 0.9:
            found.warnings.append(
                f"item numbers rise with the items' first appearance in the log (rank correlation "
                f"{found.ordered_items:.2f}): the number of an item tells when it was first taken"
            )
    for name, column in own.items() if layout.keys is None else ():
        if column.is_number and not column.is_key and column.distinct > 10 and name != layout.key:
            like = pd.Series(column.numbers[rows]).corr(pd.Series(counts), method="spearman")
            if like > 0.8 or (like > 0.5 and likeness(name, "outcome") >= 0.5):
                found.warnings.append(
                    f"`{name}` of {layout.catalog} goes along with how often the log has an item (rank correlation "
                    f"{like:.2f}): it was perhaps counted on held-out events too. It is not used"
                )
