"""The checked event log: arrays sorted by user and time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks, shown
from .clocks import ISO_DATE, MICROSECONDS, NAMES, Clock, clock_facts, read_clock
from .columns import as_ids, decoded, is_text, nulls
from .config import DataConfig
from .event_columns import EVENT_FEATURES, EVENT_NAMES, IMPRESSION, read_event_names
from .row_order import by_time, check_order, encoded, exact_repeats, mixed, tie_hashes, ties, without_file_order

CONVERSION = EVENT_NAMES.index("conversion")


@dataclass(frozen=True)
class WholeLog:
    """What a log as a whole says, for the users of a part of it.

    Attributes:
        last_cut: the latest moment of the column that a temporal split cuts.
        first_held_out: the earliest moment of a held-out event, on the log's clock; None: not known yet.
    """

    last_cut: int
    first_held_out: int | None = None


@dataclass(frozen=True)
class CatalogIds:
    """What the events need of a catalog.

    Attributes:
        keys: (items,) text by which the events refer to its rows. ids: (items,) text.
        hashes: (items,) uint64, of the ids.
    """

    keys: pa.Array
    ids: pa.Array
    hashes: np.ndarray


@dataclass
class EventLog:
    """The good rows of an event log, sorted by (user, clock). The file's order means nothing: rows of one moment are
    sorted by the split's column, a hash of user and item, the kind, and the value. Impressions alone, where histories
    have none, keep the order of the file: it is that of the list in which the ads were shown.

    Attributes:
        user: (n,) int64, rows of `user_ids`.
        item: (n,) int64, rows of the catalog.
        event: (n,) int8, rows of `EVENT_NAMES`.
        features: (n,) entries of each of `EVENT_FEATURES` that the log has, by the history's column.
        clock: (n,) int64, the time or position; microseconds when `clock_is_date`.
        cut: (n,) int64, the column that a temporal split cuts, on its own clock.
        request: (n,) int64, code of `request_id`, or None when the log has no such column.
        refund: (n,) bool, negative conversions that are to be taken off earlier ones and are no events.
        user_ids: (users,) text.
        clock_name: the column the clock was read from: `timestamp` or, in a log without, `position`.
        time, cut_time: the columns that `clock` and `cut` are from, as read: by row of the file, with their units.
        unsorted: rows that stood before an earlier row of the same user in the file.
        repeats: rows of the file that equalled an earlier one in every column, and were left out.
        matched: rows of the file whose item is in the catalog. unmatched: those whose item is not.
        first_rows: (users,) int64, the row of the file (0-based) in which each user stands first: they rise.
        whole: of a part of a log, what the whole log says; None: it is the whole log.
    """

    user: np.ndarray
    item: np.ndarray
    event: np.ndarray
    features: dict[str, pa.Array]
    clock: np.ndarray
    cut: np.ndarray
    request: np.ndarray | None
    refund: np.ndarray
    user_ids: pa.Array
    clock_name: str
    time: Clock
    cut_time: Clock
    unsorted: int
    repeats: int
    matched: int
    unmatched: int
    first_rows: np.ndarray
    whole: WholeLog | None = None

    @property
    def clock_is_date(self) -> bool:
        """The clock counts microseconds since 1970 UTC."""
        return self.time.is_date

    @property
    def value(self) -> np.ndarray:
        """(n,) float64, >= 0 but for refunds; of rows without one: 0 for impressions, 1 for the others."""
        return self.features["values"].to_numpy()

    def times(self, clock: np.ndarray) -> np.ndarray:
        """Whole seconds since 1970 UTC, or the log's own numbers, int64, of moments on its clock."""
        return clock // MICROSECONDS if self.clock_is_date else clock

    def take(self, keep: np.ndarray, values: np.ndarray | None = None) -> EventLog:
        """The log of the rows where `keep` ((n,) bool) holds; `values` ((n,) float64) replaces theirs."""
        rows = pa.array(np.flatnonzero(keep))
        features = self.features if values is None else {**self.features, "values": pa.array(values)}
        return replace(
            self,
            user=self.user[keep],
            item=self.item[keep],
            event=self.event[keep],
            features={name: column.take(rows) for name, column in features.items()},
            clock=self.clock[keep],
            cut=self.cut[keep],
            request=None if self.request is None else self.request[keep],
            refund=self.refund[keep],
        )


def read_log(table: pa.Table, checks: RowChecks, catalog: CatalogIds, config: DataConfig) -> EventLog:
    """Checks every row of the raw events and encodes them.

    Args:
        table: raw events with our column names, or those of some of the users, in the order of the file.
        checks: the verdicts on its rows; filled here.

    Raises:
        DataError: the first row that is bad for a reason not in `config.drop`; a missing column; no row of an item of
            the catalog.
    """
    file = checks.file
    names = table.column_names
    clock_name = name_of_clock(names, file)
    ids = read_ids(table, ("user_id", "item_id"), checks)
    time = read_time(table, clock_name, checks, config.time_unit if clock_name == "timestamp" else "")
    cut_time = time
    if config.split == "temporal":
        cut_name = split_column(names, file, config)
        if cut_name != clock_name:
            cut_time = _read_cut(table, cut_name, checks)
    event = read_event_names(table, checks, config.names_of_events())
    read = {feature.history: feature.read(table, checks, event) for feature in EVENT_FEATURES}
    refund = _read_refunds(read, event, table, checks, config)
    item = _items_of(ids["item_id"], catalog.keys, table, checks)
    user, user_ids = encoded(ids["user_id"])
    request = None
    if "request_id" in names:
        request_ids = as_ids(table["request_id"], "request_id", checks, coded=True)
        checks.refuse(
            nulls(request_ids) & (event == IMPRESSION), "missing", "request_id", table["request_id"], "a non-empty id"
        )
        request = _requests_of_users(user, encoded(request_ids)[0])
    checks.require_rows()

    first_rows = checks.numbers(np.flatnonzero(user > np.r_[-1, np.maximum.accumulate(user)][:-1]))
    hashes = mixed(np.r_[tie_hashes(user_ids), np.uint64(0)][user], catalog.hashes[item])
    rows = by_time(user, time.values, checks.keep)
    in_file_order = not ((user[rows][1:] == user[rows][:-1]) & (rows[1:] < rows[:-1])).any()
    tied = ties(user[rows], time.values[rows])
    values = read["values"]
    assert values is not None
    keys = (user, time.values, cut_time.values, hashes, item, event, refund, values.to_numpy())
    rows = without_file_order(rows, tied, keys)
    alike = np.zeros(len(rows), dtype=bool)
    second = np.flatnonzero(tied[1:] & tied[:-1]) + 1  # only rows of one moment can be alike
    alike[second] = np.logical_and.reduce([key[rows[second]] == key[rows[second - 1]] for key in keys])
    repeats = exact_repeats(table, rows, alike)
    checks.keep[repeats] = False
    is_shown = event == IMPRESSION
    if "impression" not in config.history_events and is_shown.any():
        # The ads of a list stand from the top; clicks and conversions follow them in the order that they have.
        place = np.where(is_shown, np.arange(len(event)), 0)
        rows = without_file_order(rows, tied, (user, time.values, cut_time.values, ~is_shown, place, *keys[3:]))

    if clock_name == "position":
        own = np.flatnonzero(checks.keep & (event != IMPRESSION))
        own = own[np.lexsort((time.values[own], user[own]))]
        second = (user[own][1:] == user[own][:-1]) & (time.values[own][1:] == time.values[own][:-1])
        repeated = np.zeros(len(user), dtype=bool)
        repeated[own[1:][second]] = True
        checks.refuse(
            repeated, "duplicate_position", "position", table["position"], "one click or conversion row a position"
        )
    unsorted = check_order(table, clock_name, user, time.values, checks, in_file_order)
    checks.notes["kept_kinds"] = np.bincount(event[checks.keep], minlength=len(EVENT_NAMES)).tolist()

    rows = rows[checks.keep[rows]]
    cut = cut_time.values[rows]
    _check_cut(user[rows], cut, rows, clock_name, first_rows, checks, config)
    return EventLog(
        user=user[rows],
        item=item[rows],
        event=event[rows],
        features={name: column.take(pa.array(rows)) for name, column in read.items() if column is not None},
        clock=time.values[rows],
        cut=cut,
        request=None if request is None else request[rows],
        refund=refund[rows],
        user_ids=user_ids,
        clock_name=clock_name,
        time=time,
        cut_time=cut_time,
        unsorted=unsorted,
        repeats=len(repeats),
        matched=checks.notes["matched_items"],
        unmatched=checks.notes["unmatched_items"],
        first_rows=first_rows,
    )


def name_of_clock(names: list[str], file: str) -> str:
    """The column that places the events in time. Raises DataError if there is none."""
    clock_name = next((name for name in ("timestamp", "position") if name in names), None)
    if clock_name is None:
        raise DataError(
            f"{file}: no column `timestamp` or `position`. Columns there are: {', '.join(names)}. Map one of them to "
            "`timestamp` (seconds or dates) or `position` (whole numbers) in the column map of the events."
        )
    return clock_name


def read_ids(table: pa.Table, names: tuple[str, ...], checks: RowChecks) -> dict[str, pa.Array]:
    """Columns of ids as text, coded where the reader has coded them; refuses rows without one."""
    ids = {name: as_ids(table[name], name, checks, coded=True) for name in names}
    for name, column in ids.items():
        checks.refuse(nulls(column), "missing", name, table[name], "a non-empty id")
    return ids


def read_time(table: pa.Table, name: str, checks: RowChecks, unit: str) -> Clock:
    """A column of times in a unit, or of positions (unit ""); refuses rows without one or of another unit."""
    column = table[name]
    clock, missing = read_clock(column, unit, checks.facts.get(("clock", name))), nulls(column)
    checks.refuse(missing, "missing", name, column, ISO_DATE if clock.unit == "iso" else "a whole number")
    checks.refuse(clock.bad & ~missing, "bad_time", name, column, clock.allowed)
    if clock.unit:
        most = f"{NAMES.get(clock.unit, '')}, as most rows have; say another unit in `time_unit`"
    else:
        most = "numbers of one unit: most rows are no times since 1970; say the unit in `time_unit`"
    checks.refuse(clock.mixed, "bad_time", name, column, most)
    return clock


def _read_cut(table: pa.Table, name: str, checks: RowChecks) -> Clock:
    """The column that a temporal split cuts, where it is not the log's clock: a number of any meaning, or a date."""
    column = decoded(table[name])
    facts = checks.facts.get(("clock", name)) or clock_facts(column)
    words = is_text(column.type) and facts.mostly_words
    return read_time(table, name, checks, "" if facts.mixed and not words else "auto")  # numbers that look like times


def split_column(names: list[str], file: str, config: DataConfig) -> str:
    """The column of the events that a temporal split cuts, by our name. Raises DataError if there is none."""
    ours = {theirs: ours for ours, theirs in config.columns_of("events").items()}
    name = config.split_column if config.split_column in names else ours.get(config.split_column)
    if name is None:
        raise DataError(
            f"{file}: no column `{config.split_column}` (`split_column`). Columns there are: {', '.join(names)}. Name "
            "one of them."
        )
    return name


def _read_refunds(
    read: dict[str, pa.Array | None], event: np.ndarray, table: pa.Table, checks: RowChecks, config: DataConfig
) -> np.ndarray:
    """Rows of negative value that `refunds: net` settles later, bool (n,). Refuses those that the policy does not
    settle, and sets them to 0 in `read` under `refunds: zero`."""
    assert read["values"] is not None
    values = read["values"].to_numpy()
    negative = (values < 0) & checks.keep
    none = np.zeros(len(values), dtype=bool)
    if "value" not in table.column_names:
        return none
    if negative.any():
        checks.notes["negative_values"] = int(negative.sum())
    if config.refunds == "zero":
        read["values"] = pa.array(np.maximum(values, 0.0))
        return none
    settled = negative & (event == CONVERSION) if config.refunds == "net" else none
    allowed = "a finite number >= 0"
    if config.refunds == "refuse":
        allowed += "; for refunds say `refunds: zero` or `refunds: net`"
    else:
        allowed += ", or a negative conversion, which is a refund"
    checks.refuse(negative & ~settled, "bad_value", "value", table["value"], allowed)
    return settled


def _items_of(ids: pa.Array, keys: pa.Array, table: pa.Table, checks: RowChecks) -> np.ndarray:
    """The catalog's row of each event, int64 (n,), 0 where it has none; refuses those. Raises DataError where none has
    one: then it is the columns that do not fit, not the rows."""
    if isinstance(ids, pa.DictionaryArray):
        found = pc.index_in(ids.dictionary, value_set=keys.cast(ids.dictionary.type)).take(ids.indices)
    else:
        found = pc.index_in(ids, value_set=keys.cast(ids.type))
    unknown = nulls(found)
    checks.notes["matched_items"] = int((checks.keep & ~unknown).sum())
    checks.notes["unmatched_items"] = int((checks.keep & unknown).sum())
    first = int(checks.keep.argmax()) if checks.keep.any() else None
    checks.require(
        not unknown.all(),
        first,
        lambda whole: (
            f"{whole.file}: column {checks.named('item_id')}: none of its {whole.rows} rows is of an item of the "
            f"catalog. Received e.g. {shown(ids[first].as_py())}, the catalog has e.g. {shown(keys[0].as_py())}. "
            "Correct the column maps (`item_id` or `event_key` of the catalog, `item_id` of the events), or write the "
            "ids alike."
        ),
    )
    checks.refuse(unknown, "unknown_item", "item_id", table["item_id"], "an item of the catalog; see also `event_key`")
    return pc.fill_null(found, 0).to_numpy(zero_copy_only=False).astype(np.int64)


def _requests_of_users(user: np.ndarray, request: np.ndarray) -> np.ndarray:
    """A code for each request of each user, int64 (n,), in order of first occurrence, -1 where there is none: a
    user's requests have the same order whoever else is in the log."""
    import pandas as pd

    pairs, _ = pd.factorize((user + 1) * (int(request.max(initial=0)) + 1) + request)
    return np.where(request < 0, -1, pairs)


def _check_cut(
    user: np.ndarray,
    cut: np.ndarray,
    rows: np.ndarray,
    clock_name: str,
    first_rows: np.ndarray,
    checks: RowChecks,
    config: DataConfig,
) -> None:
    backwards = (user[1:] == user[:-1]) & (cut[1:] < cut[:-1])
    checks.reject(
        rows[1:][backwards],
        lambda row, count: (
            f"{checks.file}: column `{config.split_column}`, row {checks.number(row)} (0-based): goes back although "
            f"`{clock_name}` goes on ({count} such rows). Allowed: a split column that never decreases along a user's "
            f"log, else histories would hold later events. Split by `{clock_name}`, or fix the file."
        ),
        first_rows[user[1:][backwards]],
    )
