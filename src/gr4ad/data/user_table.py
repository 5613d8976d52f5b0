"""The users table: the features that the recipe chooses, checked and joined to the users of the log."""

from __future__ import annotations

from collections.abc import Mapping
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
class UserMatches:
    """Which rows of the users table a log, or a part of it, has; `+` is those of both.

    Attributes:
        matched: users of the log that the table has. unmatched: those that it has not.
        used: (rows,) bool, good rows of the table whose user stands in the log, be it in rows that were dropped.
        examples: of each feature its first value in the order of the log, after the row in which that user stands
            first.
        first_user: of the log, with the row in which that user stands first.
    """

    matched: int
    unmatched: int
    used: np.ndarray
    examples: dict[str, tuple[int, str]]
    first_user: tuple[int, str] | None

    def __add__(self, other: UserMatches) -> UserMatches:
        examples = dict(self.examples)
        for name, example in other.examples.items():
            examples[name] = min(examples.get(name, example), example)
        users = [user for user in (self.first_user, other.first_user) if user is not None]
        return UserMatches(
            self.matched + other.matched,
            self.unmatched + other.unmatched,
            self.used | other.used,
            examples,
            min(users, default=None),
        )


class UserTable:
    """The good rows of the users table: ids, and the chosen features as text. Numbers that are to be binned stay
    numbers, written out: their bins are fitted on training users by the stage that builds the tokenizer.

    Args:
        raw: the users table with our column names. checks: the verdicts on its rows; filled here.

    Raises:
        DataError: `user_features` is missing or names a column that the table does not have; a bad row whose reason
            `drop` does not name.
    """

    def __init__(self, raw: pa.Table, checks: RowChecks, config: DataConfig):
        self._raw, self._checks = raw, checks
        self._bins = bins = _chosen(raw, checks, config)
        taken = ("user_id", *HISTORY_LISTS, *OTHER_LISTS)
        clash = [name for name in bins if name in taken]
        if clash:
            raise DataError(
                f"{checks.file}: column `{clash[0]}` has the name of a prepared column. Allowed: any name but "
                f"{', '.join(taken)}. Rename it."
            )
        ids = as_ids(raw["user_id"], "user_id", checks)
        first_of_each(ids, "duplicate_user", "user_id", raw, checks)
        texts = {name: _as_feature(raw[name], name, count, checks) for name, count in bins.items()}
        rows = pa.array(np.flatnonzero(checks.keep))
        self._ids = ids.take(rows)
        self._texts = {name: column.take(rows) for name, column in texts.items()}

    def join(self, log: EventLog) -> tuple[pa.Table | None, UserMatches]:
        """The features of the users of a log: a row for each of `EventLog.user_ids`, text, null where a user has none;
        None where no features are chosen."""
        place = pc.index_in(log.user_ids, value_set=self._ids.cast(log.user_ids.type))
        there = np.zeros(len(log.user_ids), dtype=bool)  # users whose rows were all dropped are not
        there[log.user] = True
        found = ~nulls(place)
        used = np.zeros(len(self._ids), dtype=bool)
        used[place.drop_null().to_numpy()] = True
        table = pa.table({name: column.take(place) for name, column in self._texts.items()}) if self._texts else None
        examples = {}
        for name in self._texts:
            assert table is not None
            known = pc.index(table[name].is_valid(), True).as_py()
            if known >= 0:
                examples[name] = int(log.first_rows[known]), table[name][known].as_py()
        first = (int(log.first_rows[0]), log.user_ids[0].as_py()) if len(log.user_ids) else None
        matched = int((there & found).sum())
        return table, UserMatches(matched, int(there.sum()) - matched, used, examples, first)

    def joins(self, found: UserMatches) -> dict[str, int]:
        """What of the whole log matched and what did not.

        Raises:
            DataError: no user of the log stands in the table; a feature that tells users apart instead of describing
                them.
        """
        checks = self._checks
        if not found.matched:
            theirs = self._ids[0].as_py() if len(self._ids) else None
            assert found.first_user is not None
            raise DataError(
                f"{checks.file}: column {checks.named('user_id')}: none of its users stands in the event log. "
                f"Received e.g. {shown(theirs)}, allowed: ids of the events such as {shown(found.first_user[1])}. "
                "Write the ids alike (leading zeros count), correct `user_columns`, or leave `users` out."
            )
        for name, count in self._bins.items():
            if not count and name in found.examples:
                column = self._texts[name].filter(pa.array(found.used))
                _require_shared(column, name, self._raw[name], checks.file, found.examples[name][1])
        return {
            "matched": found.matched,
            "unmatched": found.unmatched,
            "users_without_events": len(self._ids) - found.matched,
        }


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


def count_values(table: pa.Table, training: np.ndarray) -> dict[str, dict[str, int]]:
    """Of each feature of the users of a log, or of a part of it: how many users have a value, how many have none, and
    of the training users ((m,) rows of the table) how many have one."""
    rows = pa.array(training)
    return {
        name: {
            "known": len(table) - table[name].null_count,
            "blank": table[name].null_count,
            "training": len(rows) - table[name].take(rows).null_count,
        }
        for name in table.column_names
    }


def require_training_values(counts: Mapping[str, Mapping[str, int]], users: int, file: str) -> None:
    """Raises DataError for a feature that none of the training users has: nothing could be learned of it."""
    for name, found in counts.items():
        if found["blank"] and not found["training"]:
            raise DataError(
                f"{file}: column `{name}` (`user_features`) is blank for all {users} users of the training split; "
                f"{found['known']} users of the log have a value. Allowed: a feature that training users have. Leave "
                "it out of `user_features`, or mend the file."
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


def _require_shared(column: pa.ChunkedArray, name: str, raw: pa.ChunkedArray, file: str, example: str) -> None:
    """Raises DataError for a feature that has a value of its own for most users, as an address or a name has."""
    known = len(column) - column.null_count
    values = pc.count_distinct(column).as_py()
    if not nearly_unique(values, known):
        return
    numeric = np.isfinite(as_numbers(raw)).sum() > len(raw) // 2
    remedy = f"Put its numbers into bins, {{{name}: {{bins: 5}}}}, or leave" if numeric else "Leave"
    raise DataError(
        f"{file}: column `{name}` is nearly unique: {values} values for {known} users, e.g. {shown(example)}. A "
        f"feature is shared by many users; such a column names them, and its values would be stored with the model. "
        f"{remedy} it out of `user_features`."
    )
