"""Counts of a sample: rows, histories, the catalog, values, impression lists."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.compute as pc

from gr4ad.data.event_columns import EVENT_NAMES
from gr4ad.inspection.findings import REPEAT_SHARE, TIES_SHARE, Findings, percent
from gr4ad.inspection.layout import Layout
from gr4ad.inspection.log_view import CLICK, CONVERSION, IMPRESSION, MERGE_SECONDS
from gr4ad.inspection.names import words_of

SINGLE = 1.5  # items of an impression list on average, below which nothing was shown beside an ad
MANY_VIEWS = 0.2  # of the rows
QUANTITIES = frozenset("quantity qty units pieces menge anzahl cantidad".split())


def count_rows(layout: Layout, found: Findings) -> None:
    view, log = found.view, layout.columns[layout.events]
    rows = len(view.user)
    log_file = layout.files[layout.events]
    found.counts.append(("rows of the log", f"{log_file.rows:,}"))
    if not log_file.whole:
        which = "all rows of some users" if log_file.of_users else "pieces from all over it"
        found.counts.append(("of which the counts below are", f"{rows:,}: {which}"))
        if not log_file.of_users:
            found.warnings.append(
                "the log is too long to look at whole users: histories seem shorter here than they are. Give `--rows` "
                "a larger number to see more of them"
            )
    if layout.event is not None:
        names = layout.of_log(layout.event)
        for entry in pc.value_counts(names.text.drop_null()).to_pylist():
            ours = layout.event_names.get(entry["values"])
            found.counts.append(
                (f"  {layout.event} = {entry['values']}", f"{entry['counts']:,}, read as {ours or 'nothing: dropped'}")
            )
    needed = [layout.user, layout.item, *filter(None, (layout.clock, layout.event))]
    missing = np.zeros(rows, dtype=bool)
    for name in needed:
        if log[name].blank.any():
            found.counts.append((f"  blank `{name}`", f"{int(log[name].blank.sum()):,}"))
            missing |= log[name].blank
    if missing.any():
        found.drop["missing"] = int(missing.sum())
    repeated = int(view.repeated.sum())
    if repeated:
        found.counts.append(("exact repeats", f"{repeated:,} ({percent(repeated / rows)} of the rows)"))
        found.warnings.append(
            f"{percent(repeated / rows)} of the rows stand in the log twice or more, the same in every column: a log "
            "that is written at least once. Each counts once; left in, they would make the next item easy to guess"
        )
    if layout.event is not None and (view.kind[~log[layout.event].blank] < 0).any():
        found.drop["unknown_event"] = int((view.kind[~log[layout.event].blank] < 0).sum())
    unknown = (view.item < 0) & ~log[layout.item].blank
    if unknown.any():
        found.drop["unknown_item"] = int(unknown.sum())
    if layout.clock is not None:
        order = np.argsort(view.user, kind="stable")
        back = (view.user[order][1:] == view.user[order][:-1]) & (np.diff(view.seconds[order]) < 0)
        if back.any() or not layout.files[layout.events].whole:
            found.drop["unsorted_time"] = int(back.sum())


def count_history(layout: Layout, found: Findings) -> None:
    view = found.view
    user, item, seconds = (part[view.history] for part in (view.user, view.item, view.seconds))
    lengths = view.lengths
    found.counts += [
        ("users with a history", f"{len(lengths):,}"),
        ("events that make up histories", f"{len(view.history):,}"),
    ]
    if not len(user):
        found.stops.append(
            "no row of the log can be part of a history: no click or conversion of an item of the catalog"
        )
        return
    found.counts.append(
        (
            "events a user",
            f"median {np.median(lengths):.0f}, mean {lengths.mean():.1f}, 99% have at most {found.long_length}",
        )
    )
    short = float((lengths < 3).mean())
    found.counts.append(("users with fewer than 3 events", f"{int((lengths < 3).sum()):,} ({percent(short)})"))
    if found.users < 2:
        found.warnings.append("the log has one user: figures of a run will mean nothing")
    elif found.users < 200:
        found.warnings.append(
            f"only {found.users} users have a history: figures of a run will swing from seed to seed"
        )
    log = layout.files[layout.events]
    none_left = int(lengths.max()) < 3 and found.split.kind == "leave_one_out"
    if none_left and (log.whole or log.of_users):
        found.stops.append(
            "no user has three events that make up histories: of each, the last two are for validation and test, and "
            "none is left to train on"
        )
    elif short > 0.5:
        found.warnings.append(
            f"{percent(short)} of the users have fewer than 3 events: little can be learned from them"
        )
    same_user = user[1:] == user[:-1]
    pairs = user * (int(item.max()) + 1) + item
    found.repeats = 1 - len(np.unique(pairs)) / len(pairs)
    found.again = float((same_user & (item[1:] == item[:-1])).sum() / max(1, same_user.sum()))
    found.counts.append(("events whose item the user had before", percent(found.repeats)))
    if layout.is_timed:
        tied = np.zeros(len(user), dtype=bool)
        same = same_user & (seconds[1:] == seconds[:-1])
        tied[1:] |= same
        tied[:-1] |= same
        found.ties = float(tied.mean())
        opens = np.flatnonzero(np.r_[True, ~same])
        sizes = np.diff(np.r_[opens, len(user)])
        found.visit = float((sizes**2).sum() / sizes.sum())
        found.counts.append(("events at the moment of another of the user", percent(found.ties)))
        if found.ties > TIES_SHARE:
            found.warnings.append(
                f"{percent(found.ties)} of the events stand at one moment with another of their user (baskets of "
                f"{found.visit:.1f} on average): the order within says nothing, and the file's order must not be read "
                "as one"
            )
    if found.again > REPEAT_SHARE:
        found.warnings.append(
            f"{percent(found.again)} of the events are of the item just before: a guess that repeats the last item "
            "looks good on this log"
        )
    if view.merged:
        found.counts.append((f"clicks within {MERGE_SECONDS // 60} minutes of their conversion", f"{view.merged:,}"))


def count_catalog(layout: Layout, found: Findings) -> None:
    own, view = layout.columns[layout.catalog], found.view
    key = layout.key_column
    found.counts.append(("items of the catalog", f"{found.items:,}"))
    if not layout.own_catalog:
        twice = key.filled - key.distinct
        if twice:
            found.drop["duplicate_item"] = twice
        if key.blank.any():
            found.drop["missing"] = found.drop.get("missing", 0) + int(key.blank.sum())
    else:
        found.drop["duplicate_item"] = key.filled - key.distinct
    if layout.files[layout.events].whole:
        in_log = len(np.unique(view.item[view.item >= 0]))
        found.counts.append(("items that no event names", f"{max(0, key.distinct - in_log):,}"))
        found.counts.append(("test targets whose item training has not seen", percent(found.split.cold)))
    if found.split.cold > 0.2 and layout.files[layout.events].whole:
        found.warnings.append(
            f"{percent(found.split.cold)} of the test targets are items that training has not seen: they can only be "
            "found by their text"
        )
    if layout.text:
        import pandas as pd

        text = pd.DataFrame({name: own[name].text.to_pandas() for name in layout.text})
        if layout.own_catalog:
            text = text[~pd.Series(own[layout.key].text.to_pandas()).duplicated().to_numpy()]
        found.shared_text = float(text.duplicated(keep=False).mean())
        if found.shared_text > 0.99 and len(text) > 1:
            found.warnings.append("nearly all items have one text: it cannot tell them apart")
        bare = float(text.isna().all(axis=1).mean())
        if bare:
            found.counts.append(("items without any text", percent(bare)))
    if found.items < 2:
        found.stops.append("the catalog has one item: there is nothing to choose from")


def count_values(layout: Layout, found: Findings) -> None:
    view = found.view
    if layout.value is None or view.value is None:
        return
    column = layout.of_log(layout.value)
    bad = ~np.isfinite(view.value) & ~column.blank
    if bad.any():
        found.drop["bad_value"] = int(bad.sum())
    found.negative = int((view.value < 0).sum())
    if found.negative:
        found.counts.append((f"rows with a negative `{layout.value}`", f"{found.negative:,}"))
        found.warnings.append(f"{found.negative:,} rows have a negative `{layout.value}`: refunds, by the look of it")
    _count_returns(layout, found)
    of_history = view.value[view.history]
    given = of_history[np.isfinite(of_history) & (of_history >= 0)]
    blank = int(np.isnan(of_history).sum())
    if blank:
        found.counts.append((f"clicks and conversions without a `{layout.value}`", f"{blank:,}"))
        found.warnings.append(f"{blank:,} clicks and conversions have no `{layout.value}`: they are worth 0")
    if not len(given):
        return
    found.distinct_values = len(np.unique(given))
    total = max(given.sum(), 1e-12)
    top = np.sort(given)[-max(1, len(given) // 100) :].sum() / total
    found.counts.append(
        (
            f"`{layout.value}` of an event",
            f"median {np.median(given):g}, mean {given.mean():.4g}, largest {given.max():g}",
        )
    )
    found.counts.append(("of its sum, the top 1% of events have", percent(float(top))))
    if top > 0.3:
        found.warnings.append(
            f"the top 1% of the events have {percent(float(top))} of all `{layout.value}`: revenue on test rests on "
            "few purchases"
        )
    kinds = view.kind[view.history]
    if (kinds == CLICK).any() and (kinds == CONVERSION).any() and np.nansum(of_history[kinds == CLICK]) > 0:
        found.warnings.append(
            f"`{layout.value}` stands on clicks too, not on {EVENT_NAMES[CONVERSION]}s alone: Revenue counts both. "
            "Blank it there if a click brings nothing"
        )


def _count_returns(layout: Layout, found: Findings) -> None:
    """Rows that take something back by a negative number of pieces, although their value is not negative."""
    assert found.view.value is not None
    for name, column in layout.columns[layout.events].items():
        if set(words_of(name)) & QUANTITIES and column.is_number and name != layout.value:
            returned = int(((column.numbers < 0) & ~(found.view.value < 0)).sum())
            if returned:
                found.warnings.append(
                    f"{returned:,} rows have a negative `{name}` but a positive `{layout.value}`: returns that "
                    "count as purchases. Take them out, or make the value negative"
                )


def count_lists(layout: Layout, found: Findings) -> None:
    view = found.view
    rows = np.flatnonzero((view.kind == IMPRESSION) & (view.user >= 0) & (view.item >= 0))
    if not len(rows):
        return
    label = view.seconds[rows]
    if layout.request is not None:
        encoded = layout.of_log(layout.request).text.dictionary_encode()
        label = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)[rows].astype(np.float64)
        blank = int(layout.of_log(layout.request).blank[rows].sum())
        if blank:
            found.drop["missing"] = found.drop.get("missing", 0) + blank
    order = np.lexsort((label, view.user[rows]))
    user, label = view.user[rows][order], label[order]
    found.lists = int(1 + ((np.diff(user) != 0) | (np.diff(label) != 0)).sum())
    found.list_size = len(rows) / found.lists
    found.counts.append(("impression lists", f"{found.lists:,} of {found.list_size:.1f} items on average"))
    share = len(rows) / len(view.user)
    views = [name for name, kind in layout.event_names.items() if kind == "impression" and name not in layout.told]
    if views and layout.preset is None and found.list_size < SINGLE and share > MANY_VIEWS:
        told = json.dumps(dict.fromkeys(views, "click"), ensure_ascii=False)
        found.warnings.append(
            f"{percent(share)} of the rows are {' and '.join(f'`{name}`' for name in views)}, read as impressions: "
            "shown, and in no history. If they are visits to an item's page, as in a shop, they are clicks: inspect "
            f"again with --event-names '{told}', since sizes depend on it"
        )
