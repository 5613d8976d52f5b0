# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The item table of a tokenizer: items and their semantic IDs, both ways, and how it changes while it is in use."""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .sid_checks import (
    are_strings,
    check_lengths,
    checked_codes,
    checked_columns,
    checked_ids,
    checked_priority,
    raise_repeated,
)
from .sid_order import SIDOrder, ranked

PRIORITY_COLUMN = "priority"
ACTIVE_COLUMN = "active"
CODE_COLUMN = re.compile(r"code_\d+")
OWN_COLUMN = re.compile(rf"item_id|{PRIORITY_COLUMN}|{ACTIVE_COLUMN}|{CODE_COLUMN.pattern}")
VERSION_KEY = b"sid_index_version"


class SIDIndex:
    """Items <-> semantic IDs.

    Items that share an SID are ranked by `priority`, highest first (by default the training events of the item), and
    then by item id in text order: never by their place in the catalog, which often follows the log.

    `add`, `replace` and `remove` change the index; each does all it was asked or raises and changes nothing. A row is
    never given to another item, so that what is numbered by rows (item embeddings: row + 1) stays valid. A removed
    item is not served any more (`lookup`, `items_of`, `ranked_rows`, `rows_by_sid`), but what a history says of it
    stays readable (`rows`, `codes`, `sid_of`).

    One thread may change an index while no other reads it; to change one that is being read, change a `snapshot`.

    Args:
        item_ids: N distinct strings. codes (int, (N, T)): Codes within their levels, 0..2**31-1.
        priority (float, (N,)): Rank among colliding items; default 0.
        columns: More columns of the table, e.g. `{"title": [...]}`, N values each; what `recommend` shows.
        active (bool, (N,)): False for items that were removed; default all True.

    Attributes:
        item_ids (object, (N,)), codes (int64, (N, T)), priority (float64, (N,)), active (bool, (N,)): Read-only views.
        rows: Item id -> row. columns: Name -> list of N values. Both to be read only.
        version (int): Number of changes since the index was built; saved with it.
        peers: Id of an added item -> ids of the items that are most like it, as far as `add` was told; not saved.

    Raises:
        ValueError: If ids repeat or are no strings, lengths differ, codes are no codes, a priority is NaN, or a column
            has the name of one of the index's own.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray,
        priority: np.ndarray | None = None,
        columns: Mapping[str, Sequence] | None = None,
        active: np.ndarray | None = None,
    ):
        ids = np.array(item_ids, dtype=object)
        codes = np.asarray(codes)
        ranks = np.zeros(len(ids)) if priority is None else np.array(priority, dtype=np.float64)
        if codes.ndim != 2 or not len(ids) == len(codes) == len(ranks):
            raise ValueError(
                "An index needs as many SIDs and priorities as items. "
                f"Received: {len(ids)} items, codes {codes.shape}, {len(ranks)} priorities."
            )
        names = ids.tolist()
        self.rows: dict[str, int] = dict(zip(names, range(len(names)), strict=True))
        if len(self.rows) < len(names):
            raise_repeated(names)
        self._size = len(names)
        self._buffers = {
            "item_ids": ids,
            "codes": checked_codes(codes, len(names), codes.shape[1]).copy(),
            "priority": checked_priority(ranks, len(names)),
            "active": np.ones(len(names), dtype=bool) if active is None else np.array(active, dtype=bool),
        }
        self.columns = {name: list(values) for name, values in (columns or {}).items()}
        reserved = list(filter(OWN_COLUMN.fullmatch, self.columns))
        if reserved:
            raise ValueError(f"`columns` may not be named as the index's own. Received: {reserved[0]!r}. Rename it.")
        wrong = {name: len(values) for name, values in self.columns.items() if len(values) != len(names)}
        if wrong or len(self.active) != len(names) or not are_strings(names):
            raise ValueError(
                f"An index of {len(names)} items needs string ids and as many values in `active` and every column. "
                f"Received: ids of type {sorted({type(name).__name__ for name in names})}, {len(self.active)} in "
                f"`active`, columns of other lengths: {wrong or 'none'}."
            )
        check_lengths(names)
        self.version = 0
        self.peers: dict[str, list[str]] = {}
        self._shared: set[str] = set()
        self._order: SIDOrder | None = None

    def __len__(self) -> int:
        return self._size

    @property
    def num_active(self) -> int:
        """Items that can be served."""
        return int(self.active.sum())

    @property
    def item_ids(self) -> np.ndarray:
        return self._view("item_ids")

    @property
    def codes(self) -> np.ndarray:
        return self._view("codes")

    @property
    def priority(self) -> np.ndarray:
        return self._view("priority")

    @property
    def active(self) -> np.ndarray:
        return self._view("active")

    def _view(self, name: str) -> np.ndarray:
        view = self._buffers[name][: self._size]
        view.flags.writeable = False  # a change behind the index's back would leave its sorted keys wrong
        return view

    def ranked_rows(self) -> np.ndarray:
        """Rows of active items in the order in which colliding items rank: by priority, then id; int64
        (num_active,)."""
        rows = np.flatnonzero(self.active)
        return rows[ranked(np.zeros(len(rows), dtype=np.int8), self.priority[rows], self.item_ids[rows])]

    def rows_by_sid(self) -> np.ndarray:
        """Rows of active items by SID, in lexicographic order, and by rank where items share it; int64 (num_active,),
        read-only."""
        self._order = self._current_order().settled()
        return self._order.rows

    def _current_order(self) -> SIDOrder:
        if self._order is None:
            rows = np.flatnonzero(self.active)
            self._order = SIDOrder.of(rows, self.codes[rows], self.priority[rows], self.item_ids[rows])
        return self._order

    def sid_of(self, item_id: str) -> tuple[int, ...]:
        """Codes of an item, removed or not. Raises KeyError if it is not in the index."""
        return tuple(int(code) for code in self.codes[self.rows[item_id]])

    def items_of(self, sid: Iterable[int]) -> list[str]:
        """Active items of an SID, best rank first; empty if no item has it."""
        return self.lookup(np.asarray(list(sid))[None])[0]

    def lookup(self, sids: np.ndarray) -> list[list[str]]:
        """Active items of many SIDs.

        Args:
            sids (int, (n, T)): Codes; any integer is allowed.

        Returns:
            n lists of item ids, best rank first; empty where no item has the SID. The first lookup of an index, and
            one after many changes, sorts its items: some tenths of a second for a million.

        Raises:
            ValueError: If `sids` is not a table of T integers a row.
        """
        sids = np.asarray(sids)
        if not sids.size:
            return [[] for _ in range(len(sids))]
        if sids.ndim != 2 or sids.shape[1] != self.codes.shape[1] or sids.dtype.kind not in "iu":
            raise ValueError(
                f"`sids` must be integers of shape (n, {self.codes.shape[1]}), one code a level. "
                f"Received: {sids.dtype}, shape {sids.shape}."
            )
        rows, counts = self._current_order().find(sids.astype(np.int64))
        flat, stops = self.item_ids[rows].tolist(), np.cumsum(counts).tolist()
        return [flat[start:stop] for start, stop in zip([0, *stops[:-1]], stops, strict=True)]

    def prefix_ranges(self, codes: np.ndarray) -> np.ndarray:
        """Where in `rows_by_sid()` the active items stand that share the longest possible prefix with each SID.

        Args:
            codes (int64, (n, T)): SIDs, codes >= 0; they need not be in the index.

        Returns:
            int64 (n, 2): First place and one past the last. All active items where none shares even the first code.
        """
        self._order = self._current_order().settled()
        return self._order.prefix_ranges(np.asarray(codes, dtype=np.int64))

    def snapshot(self) -> SIDIndex:
        """An independent index of the same items: later changes of either leave the other as it is. Costs next to
        nothing; whichever is changed first then copies what it changes."""
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        other._buffers = dict(self._buffers)
        self._shared, other._shared = ({*self._buffers, "rows", "columns"} for _ in range(2))
        other._order = None if self._order is None else self._order.copy()
        return other

    def add(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray,
        priority: np.ndarray | None = None,
        columns: Mapping[str, Sequence] | None = None,
        peers: Sequence[Sequence[str]] | None = None,
    ) -> None:
        """Adds items. A removed item comes back on its old row, with what is given here.

        Args:
            item_ids: n distinct strings. codes (int, (n, T)). priority (float, (n,)): Default 0.
            columns: n values of each column; columns that are not given become None.
            peers: Items that each is most like, from which its item vector starts; unknown ids do no harm.

        Raises:
            ValueError: If an id is active or repeats, codes are no SIDs of T levels, lengths differ, a priority is
                NaN, the index has no such column, or a column's values are of another type than those it has. Nothing
                has changed then.
        """
        ids = checked_ids(item_ids)
        active = self.active
        for item in ids:
            if item in self.rows and active[self.rows[item]]:
                raise ValueError(f"`item_ids`: {item!r} is in the index already. Use `replace` to change an item.")
        checked = checked_codes(codes, len(ids), self.codes.shape[1])
        ranks = np.zeros(len(ids)) if priority is None else checked_priority(priority, len(ids))
        given = checked_columns(columns, self.columns, len(ids))
        values = {name: given.get(name, [None] * len(ids)) for name in self.columns}
        fresh = [item for item in ids if item not in self.rows]
        new_rows = dict(zip(fresh, range(self._size, self._size + len(fresh)), strict=True))
        rows = np.array([new_rows[item] if item in new_rows else self.rows[item] for item in ids], dtype=np.int64)
        self._write(rows, True, checked, ranks, values, fresh)
        if peers is not None:  # a dict of its own: a snapshot shares the one before
            self.peers = {**self.peers, **{item: list(own) for item, own in zip(ids, peers, strict=True)}}

    def replace(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray | None = None,
        priority: np.ndarray | None = None,
        columns: Mapping[str, Sequence] | None = None,
    ) -> None:
        """Changes active items, with arguments as of `add`; what is not given stays.

        Raises:
            ValueError: As `add`; if an item is unknown or removed; or if there is nothing to change.
        """
        ids = checked_ids(item_ids)
        if codes is None and priority is None and not columns:
            raise ValueError("`replace` needs `codes`, `priority` or `columns`. Received: none of them.")
        rows = self._active_rows(ids, "Use `add` for a new item or to bring a removed one back.")
        checked = None if codes is None else checked_codes(codes, len(ids), self.codes.shape[1])
        ranks = None if priority is None else checked_priority(priority, len(ids))
        self._write(rows, True, checked, ranks, checked_columns(columns, self.columns, len(ids)))

    def remove(self, item_ids: Sequence[str]) -> None:
        """Takes items out of what is served; their rows stay.

        Raises:
            ValueError: If an id repeats, is unknown, or is removed already. Nothing has changed then.
        """
        ids = checked_ids(item_ids)
        self._write(self._active_rows(ids, "Leave it out."), False)

    def _active_rows(self, ids: list[str], remedy: str) -> np.ndarray:
        active = self.active
        for item in ids:
            if item not in self.rows or not active[self.rows[item]]:
                state = "was removed already" if item in self.rows else "is not in the index"
                raise ValueError(f"`item_ids`: {item!r} {state}. {remedy}")
        return np.array([self.rows[item] for item in ids], dtype=np.int64)

    def _own(self, names: Iterable[str], more: int = 0) -> None:
        """Makes buffers this index's alone, with places for `more` rows; rows are added in amortized constant time."""
        for name in names:
            buffer = self._buffers[name]
            if name in self._shared or len(buffer) < self._size + more:
                spare = more + max(64, self._size // 8) if more else 0
                own = np.empty((self._size + spare, *buffer.shape[1:]), dtype=buffer.dtype)
                own[: self._size] = buffer[: self._size]
                self._buffers[name] = own
                self._shared.discard(name)

    def _write(
        self,
        rows: np.ndarray,
        active: bool,
        codes: np.ndarray | None = None,
        priority: np.ndarray | None = None,
        columns: Mapping[str, list] | None = None,
        fresh: Sequence[str] = (),
    ) -> None:
        """Writes checked values; `fresh` are the ids of the rows that are new, in their order."""
        if not len(rows):
            return
        given = {"active": active, "codes": codes, "priority": priority}
        self._own(self._buffers if fresh else [n for n, v in given.items() if v is not None], len(fresh))
        old = rows[rows < self._size]
        before = self.codes[old[self.active[old]]]
        if fresh:
            self._buffers["item_ids"][self._size : self._size + len(fresh)] = fresh
        for name, new in given.items():
            if new is not None:
                self._buffers[name][rows] = new
        if columns:
            if "columns" in self._shared:
                self.columns = {name: list(values) for name, values in self.columns.items()}
                self._shared.discard("columns")
            for name, values in columns.items():
                column = self.columns[name]
                column.extend([None] * len(fresh))
                for row, value in zip(rows.tolist(), values, strict=True):
                    column[row] = value
        if fresh:
            first, self._size = self._size, self._size + len(fresh)
            if "rows" in self._shared:
                self.rows = dict(self.rows)
                self._shared.discard("rows")
            self.rows.update(zip(fresh, range(first, self._size), strict=True))
        self.version += 1
        if self._order is not None:
            kept = rows[self.active[rows]]
            after, ids, priority = self.codes[kept], self.item_ids, self.priority
            if not self._order.follow(rows, before, kept, after, lambda row: (-priority[row], ids[row])):
                self._order = None  # sorted anew by whoever asks next

    def save(self, path: str | Path) -> None:
        """Writes `item_id`, `code_1`..`code_T`, `priority`, `active` and the further columns as parquet, and the
        version into its metadata. The file appears whole: until then, and after a failure, the earlier one stays.

        Raises:
            ValueError: If the values of a column are of several types. OSError: If the file cannot be written.
        """
        columns = {
            "item_id": pa.array(self.item_ids, pa.string()),
            **{f"code_{t + 1}": pa.array(self.codes[:, t], pa.int32()) for t in range(self.codes.shape[1])},
            PRIORITY_COLUMN: pa.array(self.priority, pa.float64()),
            ACTIVE_COLUMN: pa.array(self.active, pa.bool_()),
        }
        for name, values in self.columns.items():
            try:
                columns[name] = pa.array(values)
            except pa.ArrowException as error:
                raise ValueError(f"Column {name!r} cannot be saved ({error}). Give all items one type.") from error
        table = pa.table(columns).replace_schema_metadata({VERSION_KEY: str(self.version).encode()})
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
        try:
            with open(temporary, "xb") as file:
                pq.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> SIDIndex:
        """Reads a table written by `save`; one without `active` and version has all its items, in version 0.

        Raises:
            ValueError: If the file is missing, damaged, or lacks a column.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path}: not a readable item table ({error}). Build the tokenizer again.") from error
        names = table.column_names
        levels = sorted(filter(CODE_COLUMN.fullmatch, names), key=lambda n: int(n.removeprefix("code_")))
        if "item_id" not in names or not levels or PRIORITY_COLUMN not in names:
            raise ValueError(
                f"{path}: an item table needs `item_id`, `code_1`.. and `priority`. It has: {', '.join(names)}."
            )
        if ACTIVE_COLUMN in names and not pa.types.is_boolean(table.schema.field(ACTIVE_COLUMN).type):
            raise ValueError(
                f"{path}: `active` says which items are served and must be boolean. Received: "
                f"{table.schema.field(ACTIVE_COLUMN).type}. Rename the column."
            )
        own = ("item_id", PRIORITY_COLUMN, ACTIVE_COLUMN, *levels)
        index = cls(
            table["item_id"].to_numpy(),
            np.stack([table[name].to_numpy() for name in levels], 1),
            table[PRIORITY_COLUMN].to_numpy(),
            {name: table[name].to_pylist() for name in names if name not in own},
            table[ACTIVE_COLUMN].to_numpy() if ACTIVE_COLUMN in names else None,
        )
        index.version = int((table.schema.metadata or {}).get(VERSION_KEY, 0))
        return index


__all__ = ["SIDIndex"]
