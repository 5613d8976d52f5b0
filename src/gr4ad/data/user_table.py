"""The users table: the features that the recipe chooses, checked and joined to the users of the log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks, shown
from .columns import as_ids, as_numbers, blanks, decoded, is_text, nulls
from .config import DataConfig
from .events import EventLog
from .tables import HISTORY_LISTS, OTHER_LISTS

FEW_VALUES, SOME_VALUES = 5, 20
MOST = {FEW_VALUES: 1.0, SOME_VALUES: 0.8}
"""Values -> how many a feature with at most so many may have, as a share of the users who have one; with more: half.
A few users rarely share a genuine category of a dozen, but five age groups of eight users name nobody."""


@dataclass
class UserFeatures:
    """Features of the users of a log.

    Attributes:
        table: one row per row of `EventLog.user_ids`, text; null where a user has none. None without columns.
        matched: users of the log that the file has. unmatched: those that it has not. strangers: users of the file
            that are not in the log.
    """

    table: pa.Table | None
    matched: int
    unmatched: int
    strangers: int


def read_users(raw: pa.Table, checks: RowChecks, log: EventLog, config: DataConfig) -> UserFeatures:
    """The chosen features of the log's users as text. Numbers that are to be binned stay numbers, written out: their
    bins are fitted on training users by the stage that builds the tokenizer.

    Args:
        raw: the users table with our column names. checks: the verdicts on its rows; filled here.

    Raises:
        DataError: `user_features` is missing or names a column that the table does not have, or one that tells users
            apart instead of describing them; a bad row whose reason `drop` does not name; no user of the log.
    """
    file = checks.file
    bins = _chosen(raw, checks, config)
    taken = ("user_id", *HISTORY_LISTS, *OTHER_LISTS)
    clash = [name for name in bins if name in taken]
    if clash:
        raise DataError(
            f"{file}: column `{clash[0]}` has the name of a prepared column. Allowed: any name but "
            f"{', '.join(taken)}. Rename it."
        )
    ids = as_ids(raw["user_id"], "user_id", checks)
    first_of_each(ids, "duplicate_user", "user_id", raw, checks)
    texts = {name: _as_feature(raw[name], name, count, checks) for name, count in bins.items()}
    rows = np.flatnonzero(checks.keep)
    place = pc.index_in(log.user_ids, value_set=ids.take(pa.array(rows)).cast(log.user_ids.type))
    there = np.zeros(len(log.user_ids), dtype=bool)  # users whose rows were all dropped are not
    there[log.user] = True
    matched = int((there & ~nulls(place)).sum())
    if not matched:
        theirs = ids[int(rows[0])].as_py() if len(rows) else None
        raise DataError(
            f"{file}: column {checks.named('user_id')}: none of its users stands in the event log. Received e.g. "
            f"{shown(theirs)}, allowed: ids of the events such as {shown(log.user_ids[0].as_py())}. Write the ids "
            "alike (leading zeros count), correct `user_columns`, or leave `users` out."
        )
    place = pa.array(rows).take(place)
    table = pa.table({name: column.take(place) for name, column in texts.items()}) if texts else None
    for name, count in bins.items():
        assert table is not None
        if not count:
            _require_shared(table[name], name, raw[name], file)
    return UserFeatures(table, matched, int(there.sum()) - matched, len(rows) - matched)


def first_of_each(ids: pa.Array, reason: str, column: str, raw: pa.Table, checks: RowChecks) -> None:
    """Refuses rows of `raw` whose id is missing or stands in an earlier row."""
    checks.refuse(nulls(ids), "missing", column, raw[column], "a non-empty id")
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    repeated = np.ones(len(ids), dtype=bool)
    rows = np.flatnonzero(checks.keep)
    repeated[rows[np.unique(codes[rows], return_index=True)[1]]] = False
    checks.refuse(repeated, reason, column, raw[column], "each id once")


def nearly_unique(values: int, users: int) -> bool:
    """Whether a column of `values` distinct values, for `users` users who have one, names them as an address does."""
    share = next((share for most, share in MOST.items() if values <= most), 0.5)
    return values > share * users


def require_training_values(table: pa.Table, training: np.ndarray, file: str) -> None:
    """Raises DataError for a feature that none of the training users ((m,) rows of the table) has: nothing could be
    learned of it."""
    rows = pa.array(training)
    for name in table.column_names:
        if table[name].null_count and table[name].take(rows).null_count == len(rows):
            there = len(table) - table[name].null_count
            raise DataError(
                f"{file}: column `{name}` (`user_features`) is blank for all {len(rows)} users of the training split; "
                f"{there} users of the log have a value. Allowed: a feature that training users have. Leave it out of "
                "`user_features`, or mend the file."
            )


def _chosen(raw: pa.Table, checks: RowChecks, config: DataConfig) -> dict[str, int]:
    columns = [name for name in raw.column_names if name != "user_id"]
    if config.user_features is None:
        raise DataError(
            f"{checks.file}: `user_features` should say which of its columns the model may learn; a name or an "
            f"address is no feature. Columns there are: {', '.join(columns)}. Write e.g. `user_features: "
            f"[{', '.join(columns[:2])}]`, numbers as {{age: {{bins: 5}}}}, or leave `users` out."
        )
    bins = config.bins_of_features()
    ours = {theirs: name for name, theirs in config.columns_of("users").items()}
    for name in bins:
        if name not in columns:
            hint = f" It is known as `{ours[name]}` (`user_columns`)." if name in ours else ""
            raise DataError(
                f"{checks.file}: `user_features` names {shown(name)}, which is no column.{hint} Columns there are: "
                f"{', '.join(columns)}."
            )
    return bins


def _as_feature(column: pa.ChunkedArray, name: str, bins: int, checks: RowChecks) -> pa.ChunkedArray:
    """A column as text, null where blank; refuses cells that are no number where numbers are to be binned."""
    column = decoded(column)
    try:
        text = column.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(
            f"{checks.file}: column {checks.named(name)} is of type {column.type}. Allowed: text, numbers, booleans, "
            "dates: one feature value a user. Convert it, or leave it out of `user_features`."
        ) from error
    blank = blanks(column)
    if bins:
        numbers = as_numbers(column)
        checks.refuse(
            ~blank & ~np.isfinite(numbers), "bad_value", name, column, "a number, since `user_features` bins it"
        )
        if is_text(column.type):
            text = pa.chunked_array([pa.array(numbers).cast(pa.string())])
    return pc.if_else(pa.array(~blank), text, None)


def _require_shared(column: pa.ChunkedArray, name: str, raw: pa.ChunkedArray, file: str) -> None:
    """Raises DataError for a feature that has a value of its own for most users, as an address or a name has."""
    known = len(column) - column.null_count
    values = pc.count_distinct(column).as_py()
    if not nearly_unique(values, known):
        return
    example = next(value for value in column.to_pylist() if value is not None)
    numeric = np.isfinite(as_numbers(raw)).sum() > len(raw) // 2
    remedy = f"Put its numbers into bins, {{{name}: {{bins: 5}}}}, or leave" if numeric else "Leave"
    raise DataError(
        f"{file}: column `{name}` is nearly unique: {values} values for {known} users, e.g. {shown(example)}. A "
        f"feature is shared by many users; such a column names them, and its values would be stored with the model. "
        f"{remedy} it out of `user_features`."
    )
