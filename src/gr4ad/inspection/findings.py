"""What a folder's sample holds, in counts, and what about it is a danger to a run or to its figures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow.compute as pc

from gr4ad.data.event_columns import EVENT_NAMES
from gr4ad.inspection.joins import matched
from gr4ad.inspection.layout import Layout
from gr4ad.inspection.log_view import CLICK, CONVERSION, IMPRESSION, LogView, view_of
from gr4ad.inspection.names import likeness
from gr4ad.inspection.profiles import Column
from gr4ad.inspection.splitting import Split, split_of

MERGE_SECONDS = 1800
TIES_SHARE = 0.2
REPEAT_SHARE = 0.05
LARGEST_WHOLE = 2.0**53


@dataclass
class Findings:
    """Counts and shares of a sample.

    Attributes:
        view, split: The log as arrays, and its cut.
        items: Of the catalog (an estimate of a sampled one). users: With events that make up histories.
        events: Rows that make up histories, of the whole log (an estimate where it was sampled). scale: Events of the
            whole log over those of the sample.
        mean_length, long_length: Mean and 99th percentile of events a user.
        repeats: Share of events whose item the user had before. again: Share whose item is that of the event before.
        ties: Share of events that stand at one moment of their user with another. visit: Events at the moment of an
            event, on average, 1 without ties.
        shared_text: Share of the catalog's items whose text another item has too.
        list_size: Mean size of impression lists, 0 without any. lists: Their number.
        drop: Reason of `gr4ad.data.checking.DROP_REASONS` -> rows.
        negative: Rows with a value below 0. distinct_values: Of the history's rows.
        ordered_items: Rank correlation of the items' numbers with their first appearance, 0 where ids are no numbers.
        counts: What is printed, as (what, how many). warnings: What may mislead. stops: What no run gets past.
    """

    view: LogView
    split: Split
    items: int
    users: int
    events: int
    scale: float
    mean_length: float
    long_length: int
    repeats: float = 0.0
    again: float = 0.0
    ties: float = 0.0
    visit: float = 1.0
    shared_text: float = 0.0
    list_size: float = 0.0
    lists: int = 0
    drop: dict[str, int] = field(default_factory=dict)
    negative: int = 0
    distinct_values: int = 0
    ordered_items: float = 0.0
    counts: list[tuple[str, str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)

    @property
    def events_an_item(self) -> float:
        return self.split.seen * self.scale / max(1, self.items)


def findings_of(layout: Layout) -> Findings:
    """Measures the sample of a layout. Changes its `event_names` as `view_of` does."""
    view = view_of(layout)
    split = split_of(layout, view)
    catalog, log = layout.files[layout.catalog], layout.files[layout.events]
    key = layout.of_catalog(layout.key)
    scale = log.rows / max(1, log.table.num_rows)
    lengths = view.lengths
    found = Findings(
        view=view,
        split=split,
        items=key.distinct if catalog.whole or layout.own_catalog else catalog.rows,
        users=len(lengths),
        events=round(len(view.history) * scale),
        scale=scale,
        mean_length=float(lengths.mean()) if len(lengths) else 0.0,
        long_length=int(np.quantile(lengths, 0.99)) if len(lengths) else 0,
    )
    _count_rows(layout, found)
    _count_history(layout, found)
    _count_catalog(layout, found)
    _count_values(layout, found)
    _count_lists(layout, found)
    _check_clock(layout, found)
    _check_joins(layout, found)
    _check_leaks(layout, found)
    return found


def percent(share: float) -> str:
    """A share in words: 12%, 0.4%, 0%."""
    return f"{share:.0%}" if share >= 0.1 or share == 0 else f"{100 * share:.2g}%"


def _count_rows(layout: Layout, found: Findings) -> None:
    view, log = found.view, layout.columns[layout.events]
    rows = len(view.user)
    found.counts.append(("rows of the log", f"{layout.files[layout.events].rows:,}"))
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
    for name in (layout.user, layout.item):
        _check_lossy(log[name], layout.events, found)


def _check_lossy(column: Column, file: str, found: Findings) -> None:
    import pyarrow as pa

    if pa.types.is_floating(column.values.type):
        worst = np.nanmax(np.abs(column.numbers), initial=0)
        if worst > LARGEST_WHOLE:
            found.stops.append(
                f"`{column.name}` of {file} holds floating numbers above 2^53 ({worst:.0f}): different ids have "
                "become the same. Write the ids as whole numbers or text"
            )


def _count_history(layout: Layout, found: Findings) -> None:
    view = found.view
    user, item, seconds = (part[view.history] for part in (view.user, view.item, view.seconds))
    lengths = view.lengths
    found.counts += [
        ("users with a history", f"{found.users:,}"),
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
    if short > 0.5:
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
    _count_merges(layout, found)


def _count_merges(layout: Layout, found: Findings) -> None:
    view = found.view
    rows = view.history
    if layout.event is None or not layout.is_timed or not (view.kind[rows] == CLICK).any():
        return
    order = rows[np.lexsort((view.seconds[rows], view.item[rows], view.user[rows]))]
    same = (view.user[order][1:] == view.user[order][:-1]) & (view.item[order][1:] == view.item[order][:-1])
    near = same & (np.diff(view.seconds[order]) <= MERGE_SECONDS)
    merged = int((near & (view.kind[order][1:] == CONVERSION) & (view.kind[order][:-1] == CLICK)).sum())
    if merged:
        found.counts.append((f"clicks with their conversion within {MERGE_SECONDS // 60} minutes", f"{merged:,}"))


def _count_catalog(layout: Layout, found: Findings) -> None:
    own, view = layout.columns[layout.catalog], found.view
    key = own[layout.key]
    found.counts.append(("items of the catalog", f"{found.items:,}"))
    if not layout.own_catalog:
        twice = key.filled - key.distinct
        if twice:
            found.drop["duplicate_item"] = twice
        if key.blank.any():
            found.drop["missing"] = found.drop.get("missing", 0) + int(key.blank.sum())
    else:
        found.drop["duplicate_item"] = key.filled - key.distinct
    in_log = len(np.unique(view.item[view.item >= 0]))
    found.counts.append(("items that no event names", f"{max(0, key.distinct - in_log):,}"))
    found.counts.append(("test targets whose item training has not seen", percent(found.split.cold)))
    if found.split.cold > 0.2:
        found.warnings.append(
            f"{percent(found.split.cold)} of the test targets are items that training has not seen: they can only be "
            "found by their text"
        )
    if layout.text:
        import pandas as pd

        text = pd.DataFrame({name: own[name].text.to_pandas() for name in layout.text})
        if layout.own_catalog:
            text = text[~pd.Series(key.text.to_pandas()).duplicated().to_numpy()]
        found.shared_text = float(text.duplicated(keep=False).mean())
        if found.shared_text > 0.99 and len(text) > 1:
            found.warnings.append("nearly all items have one text: it cannot tell them apart")
        bare = float(text.isna().all(axis=1).mean())
        if bare:
            found.counts.append(("items without any text", percent(bare)))
    else:
        found.stops.append(
            f"{layout.catalog}: no column with words was found; an item needs a text to be embedded. Add a title, or "
            "name a column in `embed.text_columns`"
        )
    if found.items < 2:
        found.stops.append("the catalog has one item: there is nothing to choose from")


def _count_values(layout: Layout, found: Findings) -> None:
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
    of_history = view.value[view.history]
    given = of_history[np.isfinite(of_history) & (of_history >= 0)]
    blank = int(np.isnan(of_history).sum())
    if blank:
        found.counts.append((f"clicks and conversions without a `{layout.value}`", f"{blank:,}"))
        found.warnings.append(
            f"{blank:,} clicks and conversions have no `{layout.value}`: each counts as 1, beside amounts of "
            f"{np.median(given) if len(given) else 0:g}"
        )
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


def _count_lists(layout: Layout, found: Findings) -> None:
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


def _check_clock(layout: Layout, found: Findings) -> None:
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


def _check_joins(layout: Layout, found: Findings) -> None:
    log, key = layout.columns[layout.events], layout.of_catalog(layout.key)
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


def _check_leaks(layout: Layout, found: Findings) -> None:
    """Signs that a table was made from the whole log, held-out events too."""
    view, own = found.view, layout.columns[layout.catalog]
    if layout.own_catalog or not len(view.history):
        return
    import pandas as pd

    key = own[layout.key]
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
    for name, column in own.items():
        if column.is_number and not column.is_key and column.distinct > 10 and name != layout.key:
            like = pd.Series(column.numbers[rows]).corr(pd.Series(counts), method="spearman")
            if like > 0.8 or (like > 0.5 and likeness(name, "outcome") >= 0.5):
                found.warnings.append(
                    f"`{name}` of {layout.catalog} goes along with how often the log has an item (rank correlation "
                    f"{like:.2f}): it was perhaps counted on held-out events too. It is not used"
                )
