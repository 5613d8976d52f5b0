"""User sequences as flat arrays: what metrics and baselines read instead of lists of ids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .ties import tie_order

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Sequences:
    """One list of (item, value) per user, in CSR form.

    Args:
        offsets: int64 (U + 1,); user u owns entries `offsets[u]` to `offsets[u + 1]`.
        items: int64 (E,), catalog rows, chronological within a user when the entries are events.
        values: float64 (E,), one per item, in the value unit of the data.

    Raises:
        ValueError: The three arrays do not describe lists of the same lengths.
    """

    offsets: np.ndarray
    items: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        offsets, n = self.offsets, len(self.items)
        if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != n or (np.diff(offsets) < 0).any():
            raise ValueError(
                f"`offsets` should rise from 0 to the number of items, {n}. Received: {len(offsets)} offsets from "
                f"{offsets[:1].tolist()} to {offsets[-1:].tolist()}. Build them with `Sequences.from_lists`."
            )
        if len(self.values) != n:
            raise ValueError(f"`values` should hold one value per item, {n}. Received: {len(self.values)} values.")

    @classmethod
    def from_lists(
        cls, items: Sequence[Sequence[int] | np.ndarray], values: Sequence[Sequence[float] | np.ndarray]
    ) -> Sequences:
        """From one list (or array) of catalog rows and one of values per user. Raises ValueError where they differ in
        length."""
        lengths = np.fromiter(map(len, items), np.int64, len(items))
        value_lengths = np.fromiter(map(len, values), np.int64, len(values))
        if not np.array_equal(lengths, value_lengths):
            raise ValueError(
                "`values` should hold one list per list of `items`, of the same length. Received: "
                f"{len(lengths)} lists of items and {len(value_lengths)} lists of values with other lengths."
            )
        empty = [np.empty(0)]
        return cls(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([*items, *empty]).astype(np.int64),
            np.concatenate([*values, *empty]).astype(np.float64),
        )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> np.ndarray:
        """int64 (U,), entries per user."""
        return np.diff(self.offsets)

    @property
    def users(self) -> np.ndarray:
        """int64 (E,), the user row of each entry."""
        return np.repeat(np.arange(len(self)), self.lengths)

    @property
    def age(self) -> np.ndarray:
        """int64 (E,), entries of the same user that come after this one: 0 for the newest."""
        return np.repeat(self.offsets[1:], self.lengths) - 1 - np.arange(len(self.items))

    def take(self, rows: np.ndarray) -> Sequences:
        """The sequences of int (R,) user rows, in that order."""
        lengths = self.lengths[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        entries = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(offsets, self.items[entries], self.values[entries])


@dataclass(frozen=True)
class SequenceTable:
    """A prepared split with its ids resolved to catalog rows.

    Args:
        user_ids: (U,) str, distinct.
        item_ids: (N,) str, the catalog in its own order; row i of it is item i everywhere in this package.
        history: U sequences: the training log, or the history before the cut of an evaluation split.
        targets: U sequences of held-out items, or None for the training split.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    history: Sequences
    targets: Sequences | None = None

    @classmethod
    def from_dataset(cls, dataset: Dataset, item_ids: Sequence[str]) -> SequenceTable:
        """From a prepared `datasets.Dataset` (`train`, `validation` or `test`).

        Args:
            dataset: Columns `user_id`, `items`, `values`; with `target_items` and `target_values` when evaluated.
            item_ids: N distinct ids, the catalog's `item_id` column.

        Raises:
            ValueError: A column is missing, a user or catalog id occurs twice, two list columns differ in length, or
                an item is not in the catalog (the message names it).
        """
        return cls.from_arrow(dataset.with_format("arrow")[:], item_ids)

    @classmethod
    def from_arrow(cls, table: pa.Table, item_ids: Sequence[str]) -> SequenceTable:
        """From a `pyarrow.Table` with the columns and errors of `from_dataset`."""
        catalog = pa.array(item_ids, pa.large_string())
        _require_distinct("item_id", catalog, "Keep one catalog row per item.")
        evaluated = "target_items" in table.column_names or "target_values" in table.column_names
        needed = ["user_id", "items", "values", *(["target_items", "target_values"] if evaluated else [])]
        if missing := [name for name in needed if name not in table.column_names]:
            raise ValueError(
                f"Column `{missing[0]}` should be in the prepared data. Received columns: {table.column_names}. "
                "Prepare the data again."
            )
        users = table["user_id"].cast(pa.large_string()).combine_chunks()
        _require_distinct("user_id", users, "Keep one row per user in a split.")
        return cls(
            users.to_numpy(zero_copy_only=False),
            catalog.to_numpy(zero_copy_only=False),
            _read_lists(table, "items", "values", users, catalog),
            _read_lists(table, "target_items", "target_values", users, catalog) if evaluated else None,
        )

    def require_same_catalog(self, other: SequenceTable) -> None:
        """Raises ValueError unless item rows mean the same items in both tables."""
        if self.item_ids is not other.item_ids and not np.array_equal(self.item_ids, other.item_ids):
            raise ValueError(
                f"`item_ids` should be the same catalog in both tables. Received: {len(self.item_ids)} and "
                f"{len(other.item_ids)} ids, or another order. Read both with the same `item_ids`."
            )

    def latest(self, later: SequenceTable) -> SequenceTable:
        """Every user's latest known history: that of `later` where it has the user, else that of this table. A table
        without targets: the users of `later`, then the users of this table alone. Raises ValueError for tables of
        different catalogs.

        Fit baselines on `train.latest(test)` to give them all that is known at the test cut.
        """
        self.require_same_catalog(later)
        alone = np.flatnonzero(~pc.is_in(pa.array(self.user_ids), pa.array(later.user_ids)).to_numpy(False))
        rest = self.history.take(alone)
        history = Sequences(
            np.concatenate([later.history.offsets, later.history.offsets[-1] + rest.offsets[1:]]),
            np.concatenate([later.history.items, rest.items]),
            np.concatenate([later.history.values, rest.values]),
        )
        return SequenceTable(np.concatenate([later.user_ids, self.user_ids[alone]]), self.item_ids, history)

    @property
    def held_out(self) -> Sequences:
        """The targets. Raises ValueError for the table of a training split."""
        if self.targets is None:
            raise ValueError("`targets` should be in an evaluation split. Received: a training split, without them.")
        return self.targets

    @cached_property
    def ties(self) -> np.ndarray:
        """int64 (N,), `tie_order(item_ids)`, computed once."""
        return tie_order(self.item_ids.tolist())


def _require_distinct(field: str, ids: pa.Array, remedy: str) -> None:
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        raise ValueError(
            f"`{field}` should be distinct. Received: {len(repeated)} repeated ids, among them "
            f"{repeated[0]['values'].as_py()!r}. {remedy}"
        )


def _read_lists(table: pa.Table, items: str, values: str, users: pa.Array, catalog: pa.Array) -> Sequences:
    # A null list counts as empty on both sides: list_flatten skips it too.
    lengths = pc.fill_null(pc.list_value_length(table[items]), 0).to_numpy().astype(np.int64)
    value_lengths = pc.fill_null(pc.list_value_length(table[values]), 0).to_numpy()
    uneven = np.flatnonzero(lengths != value_lengths)
    if len(uneven):
        u = uneven[0]
        raise ValueError(
            f"`{values}` should hold one value per entry of `{items}`. Received: {value_lengths[u]} values for "
            f"{lengths[u]} items of user {users[u].as_py()!r}. Prepare the data again."
        )
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    flat = pc.list_flatten(table[items]).cast(pa.large_string())
    rows = pc.index_in(flat, value_set=catalog)
    if rows.null_count:
        unknown = pc.indices_nonzero(pc.is_null(rows))
        first = unknown[0].as_py()
        user = users[int(np.searchsorted(offsets, first, side="right")) - 1].as_py()
        raise ValueError(
            f"`{items}` should name items of the catalog. Received: {flat[first].as_py()!r} (user {user!r}), one of "
            f"{rows.null_count} such entries. Add the item to the catalog or drop its events."
        )
    money = pc.list_flatten(table[values]).cast(pa.float64())
    return Sequences(offsets, rows.to_numpy().astype(np.int64), money.to_numpy())
