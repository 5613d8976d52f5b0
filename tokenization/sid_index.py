# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The item table of a tokenizer: items and their semantic IDs, both ways."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

PRIORITY_COLUMN = "priority"


class SIDIndex:
    """Items <-> semantic IDs.

    Items that share an SID are ranked by `priority`, highest first (by default the training events of the item), and
    then by
    item id in text order: never by their place in the catalog, which often follows the log.

    Args:
        item_ids: N distinct strings. codes (int64, (N, T)): Codes within their levels.
        priority (float, (N,)): Rank among colliding items; default 0.
        columns: More columns of the table, e.g. `{"title": [...]}`, N values each; what `recommend` shows.

    Raises:
        ValueError: If ids repeat or lengths differ.
    """

    def __init__(
        self,
        item_ids: Sequence[str],
        codes: np.ndarray,
        priority: np.ndarray | None = None,
        columns: Mapping[str, Sequence] | None = None,
    ):
        self.item_ids = np.asarray(item_ids, dtype=object)
        self.codes = np.ascontiguousarray(codes, dtype=np.int64)
        self.priority = np.zeros(len(self.item_ids)) if priority is None else np.asarray(priority, dtype=np.float64)
        self.columns = {name: list(values) for name, values in (columns or {}).items()}
        if self.codes.ndim != 2 or not len(self.item_ids) == len(self.codes) == len(self.priority):
            raise ValueError(
                "An index needs as many SIDs and priorities as items. "
                f"Received: {len(self.item_ids)} items, codes {self.codes.shape}, {len(self.priority)} priorities."
            )
        self.rows = {item: row for row, item in enumerate(self.item_ids)}
        if len(self.rows) < len(self.item_ids):
            seen: set[str] = set()
            repeated = next(item for item in self.item_ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
            raise ValueError(f"`item_ids` must be distinct. Received twice: {repeated!r}. Drop one of the two.")

    def __len__(self) -> int:
        return len(self.item_ids)

    def ranked_rows(self) -> np.ndarray:
        """Rows in the order in which colliding items rank: by priority, then id; int64 (N,)."""
        return np.lexsort((self.item_ids.astype(str), -self.priority))

    def sid_of(self, item_id: str) -> tuple[int, ...]:
        """Codes of an item. Raises KeyError if it is not in the index."""
        return tuple(int(code) for code in self.codes[self.rows[item_id]])

    def items_of(self, sid: Iterable[int]) -> list[str]:
        """Items of an SID, best rank first; empty if no item has it."""
        rows = np.flatnonzero((self.codes == np.asarray(list(sid))).all(1))
        order = np.lexsort((self.item_ids[rows].astype(str), -self.priority[rows]))
        return self.item_ids[rows[order]].tolist()

    def save(self, path: str | Path) -> None:
        """Writes `item_id`, `code_1`..`code_T`, `priority` and the further columns as parquet."""
        columns = {
            "item_id": pa.array(self.item_ids.tolist(), pa.string()),
            **{f"code_{t + 1}": pa.array(self.codes[:, t], pa.int32()) for t in range(self.codes.shape[1])},
            PRIORITY_COLUMN: pa.array(self.priority, pa.float64()),
            **{name: pa.array(values) for name, values in self.columns.items()},
        }
        temporary = f"{path}.tmp"
        pq.write_table(pa.table(columns), temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> SIDIndex:
        """Reads a table written by `save`.

        Raises:
            ValueError: If the file is missing, damaged, or lacks a column.
        """
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise ValueError(f"{path}: not a readable item table ({error}). Build the tokenizer again.") from error
        names = table.column_names
        levels = sorted((n for n in names if n.startswith("code_")), key=lambda n: int(n.removeprefix("code_")))
        if "item_id" not in names or not levels or PRIORITY_COLUMN not in names:
            raise ValueError(
                f"{path}: an item table needs `item_id`, `code_1`.. and `priority`. It has: {', '.join(names)}."
            )
        return cls(
            table["item_id"].to_pylist(),
            np.stack([table[name].to_numpy() for name in levels], 1),
            table[PRIORITY_COLUMN].to_numpy(),
            {n: table[n].to_pylist() for n in names if n not in ("item_id", PRIORITY_COLUMN, *levels)},
        )


__all__ = ["SIDIndex"]
