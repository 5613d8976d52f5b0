"""Prepared tables that were written in parts, merged into the files that one pass would have written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from .tables import chunks, write_tables


class TableParts:
    """A prepared table in parts on disk, each of some of the users.

    Args:
        folder: where the parts are. name: of the table.
    """

    def __init__(self, folder: Path, name: str):
        self.folder, self.name = folder, name
        self._paths: list[Path] = []
        self._order: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    def add(self, tables: Iterator[pa.Table], order: np.ndarray, sizes: np.ndarray) -> None:
        """Writes a part.

        Args:
            tables: its rows in pieces. order: (m,) int64, numbers that rise along its rows and order those of all
                parts; rows of one number are in one part. sizes: (m,) int64, list entries of each row.
        """
        path = self.folder / f"{self.name}-{len(self._paths)}.arrow"
        first = next(tables)
        with pa.OSFile(str(path), "wb") as target, pa.ipc.new_file(target, first.schema) as writer:
            writer.write_table(first.combine_chunks())
            for table in tables:
                writer.write_table(table.combine_chunks())
        self._paths.append(path)
        self._order.append(order)
        self._sizes.append(sizes)

    def write(self, path: Path) -> None:
        """Writes the merged table as one parquet file, and removes its parts."""
        order = np.argsort(np.concatenate(self._order), kind="stable")
        part = np.repeat(np.arange(len(self._paths)), [len(own) for own in self._order])[order].astype(np.int32)
        sizes = np.concatenate(self._sizes)[order]
        self._order, self._sizes = [], []
        write_tables(path, self._merged(part, sizes))
        for own in self._paths:
            own.unlink()

    def _merged(self, part: np.ndarray, sizes: np.ndarray) -> Iterator[pa.Table]:
        readers = [_Rows(path) for path in self._paths]
        for piece in chunks(sizes):
            own = part[piece]
            counts = np.bincount(own, minlength=len(readers))
            taken = pa.concat_tables([reader.take(count) for reader, count in zip(readers, counts, strict=True)])
            place = np.empty(len(own), np.int64)
            place[np.argsort(own, kind="stable")] = np.arange(len(own))
            yield taken.combine_chunks().take(pa.array(place))


class _Rows:
    """Rows of a file, read one after the other, a batch in memory."""

    def __init__(self, path: Path):
        self._reader = pa.ipc.open_file(pa.OSFile(str(path)))
        self._next = 0
        self._rest = self._reader.schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """The next rows."""
        found = []
        while count > self._rest.num_rows:
            found.append(self._rest)
            count -= self._rest.num_rows
            self._rest = pa.Table.from_batches([self._reader.get_batch(self._next)])
            self._next += 1
        found.append(self._rest.slice(0, count))
        self._rest = self._rest.slice(count)
        return pa.concat_tables(found)
