"""Which file is the log, the catalog and the users table, and which of their columns is what."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from gr4ad.data.checking import DataError
from gr4ad.inspection.joins import Join, join_of, near_match
from gr4ad.inspection.names import event_kind, likeness
from gr4ad.inspection.profiles import Column, columns_of
from gr4ad.inspection.samples import FileSample

LEAST_JOIN = 0.2  # of a log's items in a table, for the table to be its catalog
FEATURE_VALUES = 1000


@dataclass
class Layout:
    """What was made of a folder.

    Attributes:
        files: By name. columns: File -> its columns by name.
        events, catalog, users: Names of files; `catalog` may be the log itself, `users` None.
        user, item, clock: Columns of the log; `clock` None where it has neither times nor positions.
        key: Column of the catalog that the log's items are. user_key: Of the users table, "" without one.
        event, value, request: Further columns of the log, None where it has none of that meaning.
        event_names: The log's name of a kind of event -> ours. told: Those that the user gave.
        account, text, categories, price: Columns of the catalog.
        joins: Meaning of a join -> how much of it matches.
        others: File that is not used -> what it seems to be.
        remarks: What the guesses were not sure of.
        keys: All ids of the catalog by which the log refers to it, where the catalog itself was sampled.
        preset: By which the files were read; their columns then have our names, and `files` the names of roles.
    """

    files: dict[str, FileSample]
    columns: dict[str, dict[str, Column]]
    events: str
    catalog: str
    user: str
    item: str
    key: str
    clock: str | None = None
    users: str | None = None
    user_key: str = ""
    event: str | None = None
    value: str | None = None
    request: str | None = None
    event_names: dict[str, str] = field(default_factory=dict)
    told: frozenset[str] = frozenset()
    account: str | None = None
    text: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)
    price: str | None = None
    joins: dict[str, Join] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    keys: Column | None = None
    preset: str | None = None

    def of_log(self, name: str) -> Column:
        return self.columns[self.events][name]

    def of_catalog(self, name: str) -> Column:
        return self.columns[self.catalog][name]

    def replace_log(self, log: FileSample) -> None:
        """Measures the log by another sample of it."""
        if log is not self.files[self.events]:
            self.files[self.events] = log
            self.columns[self.events] = columns_of(log.table)

    @property
    def key_column(self) -> Column:
        """The ids by which the log refers to the catalog."""
        return self.keys or self.of_catalog(self.key)

    @property
    def is_timed(self) -> bool:
        """The log's clock are times, not positions."""
        return self.clock is not None and self.of_log(self.clock).time_unit is not None

    @property
    def own_catalog(self) -> bool:
        """There is no catalog: the log's own rows say what its items are."""
        return self.catalog == self.events


def layout_of(files: Mapping[str, FileSample], event_names: Mapping[str, str | None] | None = None) -> Layout:
    """Makes out the files and columns. `event_names`: the log's name of an event -> ours, None to leave it out, of
    those that are not to be guessed. Raises DataError where no file could be a log with a catalog, or where no
    column of the log holds the names of the events."""
    columns = {name: columns_of(file.table) for name, file in files.items()}
    layout = _log_and_catalog(dict(files), columns)
    _find_users(layout)
    _find_log_columns(layout, event_names or {})
    _find_catalog_columns(layout)
    _name_others(layout)
    return layout


def layout_of_preset(files: Mapping[str, FileSample], preset: str) -> Layout:
    """The layout of a public data set, whose columns have our names. `files`: by role."""
    columns = {role: columns_of(file.table) for role, file in files.items()}
    log = columns["events"]
    layout = Layout(dict(files), columns, "events", "catalog", "user_id", "item_id", "item_id", preset=preset)
    layout.clock = next((name for name in ("timestamp", "position") if name in log), None)
    layout.joins["items of the log in the catalog"] = join_of(log["item_id"], columns["catalog"]["item_id"])
    if "users" in columns:
        layout.users, layout.user_key = "users", "user_id"
        layout.joins["users of the log in the users table"] = join_of(log["user_id"], columns["users"]["user_id"])
    layout.value, layout.request = (
        ("value" if "value" in log else None),
        ("request_id" if "request_id" in log else None),
    )
    if "event" in log:
        layout.event, layout.event_names = "event", {name: name for name in log["event"].unique.to_pylist()}
    _find_catalog_columns(layout)
    return layout


def _log_and_catalog(files: dict[str, FileSample], columns: dict[str, dict[str, Column]]) -> Layout:
    best: tuple[float, Layout] | None = None
    for name, own in columns.items():
        ids = [column for column in own.values() if column.is_id and not column.is_unique and _tells_or_named(column)]
        clocks = _clocks(own)
        for user, item in itertools.permutations(ids, 2):
            named = likeness(user.name, "user"), likeness(item.name, "item")
            if likeness(user.name, "item") == 1 or likeness(item.name, "user") == 1:
                continue
            catalog, key, joined = _catalog_of(item, name, columns, files)
            if max(named) == 0 or named[1] + joined == 0 or (named[0] == 0 and joined < 0.5):
                continue
            score = 3 * named[0] + 3 * named[1] + 3 * joined + 2 * bool(clocks) + math.log10(files[name].rows) / 2
            score -= 2 * ((user.distinct == 1) + (item.distinct == 1))
            if best is None or score > best[0]:
                best = score, Layout(files, columns, name, catalog or "", user.name, item.name, key)
    if best is None:
        raise DataError(
            "no file looks like an event log. One is needed with a column of user ids, a column of item ids and a "
            f"time{_without_history(columns)}; the files hold: {_held(columns)}. Rename its columns (user_id, "
            "item_id, timestamp), or write the recipe by hand."
        )
    layout = best[1]
    if not layout.catalog:
        _use_log_as_catalog(layout)
    clock = _clocks(columns[layout.events], without=(layout.user, layout.item))
    layout.clock = clock[0] if clock else None
    item = layout.of_log(layout.item)
    layout.joins["items of the log in the catalog"] = join_of(
        item, layout.of_catalog(layout.key), layout.files[layout.catalog].looked_at
    )
    return layout


def _tells_or_named(column: Column) -> bool:
    """Of one value are only the ids of a log of one user or one item, which then say so by their name."""
    return column.distinct > 1 or max(likeness(column.name, "user"), likeness(column.name, "item")) == 1


def _held(columns: Mapping[str, Mapping[str, Column]]) -> str:
    return "; ".join(f"{file} ({', '.join(names)})" for file, names in columns.items())


def _without_history(columns: Mapping[str, Mapping[str, Column]]) -> str:
    """Which file would be a log by its names, but names each user or each item once; "" where none is."""
    for name, own in columns.items():
        named = [next((c for c in own.values() if likeness(c.name, role) == 1), None) for role in ("user", "item")]
        if all(named) and _clocks(own):
            once = next((column for column in named if column is not None and column.is_unique), None)
            if once is not None:
                return f", where these ids come back: `{once.name}` of {name} has another one in each row"
    return ""


def _catalog_of(
    item: Column, log: str, columns: dict[str, dict[str, Column]], files: dict[str, FileSample]
) -> tuple[str | None, str, float]:
    """The table, its key and how well a log's items join it, in [0, 1.5]; None where no table does."""
    best: tuple[float, str, str] | None = None
    for name, own in columns.items():
        if name == log:
            continue
        for key in own.values():
            if not (key.is_key and key.is_id):
                continue
            named = max(likeness(key.name, "item"), float(key.name.lower() == item.name.lower()))
            if likeness(key.name, "user") == 1:
                continue
            join = join_of(item, key, files[name].looked_at)
            if join.share < LEAST_JOIN or (not named and join.share < 0.9):
                continue
            words = sum(column.has_words for column in own.values() if column is not key)
            score = join.share * (0.5 + 0.5 * join.covered) + 0.3 * named + 0.2 * bool(words)
            if best is None or score > best[0]:
                best = score, name, key.name
    return (best[1], best[2], best[0]) if best is not None else (None, "", 0.0)


def _use_log_as_catalog(layout: Layout) -> None:
    """Without a catalog, takes the log's own columns about its items. Raises DataError if it has none."""
    own, item = layout.columns[layout.events], layout.of_log(layout.item)
    telling = [column.name for column in own.values() if column.has_words and _tells_items(column, item)]
    if not telling:
        raise DataError(f"{layout.events}: {_why_no_catalog(layout)}")
    layout.catalog, layout.key, layout.text = layout.events, layout.item, telling
    layout.remarks.append(
        f"no table of items was found: the catalog is made of the log itself, one row of each `{layout.item}`, with "
        f"{', '.join(telling)}"
    )


def _why_no_catalog(layout: Layout) -> str:
    item = layout.of_log(layout.item)
    for name, own in layout.columns.items():
        for key in own.values():
            if name != layout.events and key.is_key and key.is_id and likeness(key.name, "item") >= 0.5:
                reason = near_match(item, key)
                if reason is not None:
                    return (
                        f"its items `{layout.item}` (such as {item.seen[0]!r}) and `{key.name}` of {name} (such as "
                        f"{key.seen[0]!r}) are the same but for {reason}. Write both alike."
                    )
    return (
        f"no table holds its items `{layout.item}` (such as {item.seen[0]!r}), and the log does not describe them. "
        "A catalog with their ids and titles is needed: put it into the folder."
    )


def _tells_items(column: Column, item: Column) -> bool:
    """Whether a column of the log says the same of an item in all of its rows, or nearly."""
    import pandas as pd

    pairs = pd.DataFrame({"item": item.text.to_pandas(), "text": column.text.to_pandas()}).dropna().drop_duplicates()
    return 1 < column.distinct and len(pairs) <= 1.3 * pairs["item"].nunique()


def _clocks(own: Mapping[str, Column], without: tuple[str, ...] = ()) -> list[str]:
    """Columns that can order a log, best first: times before positions."""
    times = [column for column in own.values() if column.time_unit is not None and column.name not in without]
    places = [
        column
        for column in own.values()
        if column.name not in without and column.is_whole and likeness(column.name, "position") == 1
    ]
    times.sort(key=lambda column: (column.time_unit == "unreadable", -likeness(column.name, "time"), -column.distinct))
    return [column.name for column in (*times, *places)]


def _find_users(layout: Layout) -> None:
    user = layout.of_log(layout.user)
    best: tuple[float, str, str] | None = None
    for name, own in layout.columns.items():
        if name in (layout.events, layout.catalog):
            continue
        for key in own.values():
            named = max(likeness(key.name, "user"), float(key.name.lower() == user.name.lower()))
            if not (key.is_key and key.is_id and named):
                continue
            join = join_of(user, key, layout.files[name].looked_at)
            if not join.share:
                reason = near_match(user, key)
                why = f" but for {reason}" if reason else ""
                layout.remarks.append(
                    f"no `{user.name}` of {layout.events} (such as {user.seen[0]!r}) stands in `{key.name}` of {name} "
                    f"(such as {key.seen[0]!r}): the users table cannot be used"
                    + (f". They are the same{why}: write both alike" if reason else "")
                )
            elif len(own) > 1 and (best is None or join.share * named > best[0]):
                best = join.share * named, name, key.name
    if best is not None:
        layout.users, layout.user_key = best[1], best[2]
        layout.joins["users of the log in the users table"] = join_of(
            user, layout.columns[best[1]][best[2]], layout.files[best[1]].looked_at
        )


def _find_log_columns(layout: Layout, event_names: Mapping[str, str | None]) -> None:
    own = layout.columns[layout.events]
    taken = {layout.user, layout.item, layout.clock}
    free = [column for name, column in own.items() if name not in taken]
    _find_event(layout, free)
    if event_names:
        _take_event_names(layout, free, event_names)
    free = [column for column in free if column.name != layout.event]
    amounts = []
    for column in free:
        like = likeness(column.name, "value")
        if column.has_decimal_commas and like:
            layout.remarks.append(
                f"`{column.name}` of {layout.events} has decimal commas (such as {column.seen[0]!r}), which are not "
                "read as numbers: write points, then map it to `value`"
            )
        elif column.is_number and column.time_unit is None and column.distinct > 1 and like >= 0.5:
            sums = any(
                word in column.name.lower() for word in ("total", "revenue", "sales", "amount", "umsatz", "gmv")
            )
            amounts.append((like + 0.3 * sums, column.name))
    layout.value = max(amounts)[1] if amounts else None
    if "impression" in layout.event_names.values():
        requests = [c for c in free if c.is_id and likeness(c.name, "request") >= 0.5 and c.name != layout.value]
        layout.request = max(requests, key=lambda c: likeness(c.name, "request")).name if requests else None


def _find_event(layout: Layout, free: list[Column]) -> None:
    best: tuple[float, str, dict[str, str]] | None = None
    for column in free:
        if column.is_nested or not 1 <= column.distinct <= 40 or likeness(column.name, "value") == 1:
            continue
        values = column.unique.to_pylist()
        flag = event_kind(column.name)
        if column.is_number:
            if flag in ("click", "conversion") and set(values) <= {"0", "1"} and len(values) == 2:
                score, names = 0.4, {"0": "impression", "1": flag}
            else:
                continue
        else:
            names = {value: kind for value in values if (kind := event_kind(value)) is not None}
            known = sum(value in names for value in values) / len(values)
            if not names or (known < 0.34 and column.name != "event"):
                continue
            score = known + likeness(column.name, "event")
        if best is None or score > best[0]:
            best = score, column.name, names
    if best is not None:
        layout.event, layout.event_names = best[1], best[2]


def _take_event_names(layout: Layout, free: list[Column], given: Mapping[str, str | None]) -> None:
    """Reads events as the user says; what he does not name stays as it was guessed."""
    few = [column for column in free if not column.is_nested and 1 <= column.distinct <= 40]
    few.sort(key=lambda column: column.name != layout.event)
    column = next((column for column in few if set(given) <= set(column.unique.to_pylist())), None)
    if column is None:
        held = layout.of_log(layout.event).unique.drop_null().to_pylist() if layout.event else []
        known = f"Those of `{layout.event}` are {', '.join(held)}." if held else "Write them as they stand in the log."
        raise DataError(f"{layout.events}: no column holds all of the events {', '.join(given)}. {known}")
    guessed = layout.event_names if column.name == layout.event else {}
    names: dict[str, str | None] = {**guessed, **given}
    layout.event, layout.told = column.name, frozenset(given)
    layout.event_names = {name: kind for name, kind in names.items() if kind is not None}


def _find_catalog_columns(layout: Layout) -> None:
    own = layout.columns[layout.catalog]
    candidates = [column for name, column in own.items() if name != layout.key]
    if layout.own_catalog:
        candidates = [column for column in candidates if column.name in layout.text]
    accounts = [
        column
        for column in candidates
        if likeness(column.name, "account") == 1 and 1 < column.distinct < 0.5 * column.rows and not column.is_nested
    ]
    layout.account = accounts[0].name if accounts else None
    words = []
    for column in candidates:
        if column.name == layout.account or column.distinct < 2 or likeness(column.name, "opaque") >= 0.5:
            continue
        if column.is_list or (column.is_whole and likeness(column.name, "text") == 1 and not column.is_key):
            layout.categories.append(column.name)
        elif column.has_words and not (column.is_key and not column.has_spaces) and not column.has_decimal_commas:
            words.append(column)
    words.sort(key=lambda column: (-likeness(column.name, "title"), -column.distinct))
    layout.text = [column.name for column in words[:8]] or _described(layout, candidates)
    prices = [c for c in candidates if c.is_number and likeness(c.name, "value") >= 0.5 and c.time_unit is None]
    layout.price = prices[0].name if prices else None


def _described(layout: Layout, candidates: list[Column]) -> list[str]:
    """What items are described by where no column has words: any value that items share; else their ids."""
    shared = [c.name for c in candidates if not c.is_nested and 1 < c.distinct < c.rows and c.name != layout.account]
    names = shared[:8] or [layout.key]
    layout.remarks.append(
        f"no column of {layout.catalog} has words that tell items apart: they are described to the encoder by "
        f"{', '.join(names)}, which says little. A title would say more"
    )
    return names


def _name_others(layout: Layout) -> None:
    user = layout.of_log(layout.user)
    for name, own in layout.columns.items():
        if name in (layout.events, layout.catalog, layout.users):
            continue
        users = [c for c in own.values() if likeness(c.name, "user") == 1 and c.is_id and join_of(user, c).share > 0]
        ids = [c for c in own.values() if c.is_id and c not in users and not c.is_key]
        if users and ids and any(c.time_unit not in (None, "unreadable") for c in own.values()):
            layout.others[name] = (
                f"what users did elsewhere, perhaps: `{users[0].name}` are users of the log and it has times. If so, "
                "name it in `data.cross_domain`"
            )
        else:
            layout.others[name] = "neither log, catalog nor users table; not used"
