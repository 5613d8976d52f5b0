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
        self._users: list[np.ndarray] = []  # of each part, the number of each user, rising
        self._counts: list[np.ndarray] = []  # and the user's rows
        self._sizes: list[np.ndarray] = []

    def add(self, tables: Iterator[pa.Table], order: np.ndarray, sizes: np.ndarray) -> None:
        """Writes a part.

        Args:
            tables: its rows in pieces. order: (m,) int64, a number >= 0 of the user of each row, which rises
                along them and orders the users of all parts. sizes: (m,) int64, list entries of each row.
        """
        path = self.folder / f"{self.name}-{len(self._paths)}.arrow"
        first = next(tables)
        with pa.OSFile(str(path), "wb") as target, pa.ipc.new_file(target, first.schema) as writer:
            writer.write_table(first.combine_chunks())
            for table in tables:
                writer.write_table(table.combine_chunks())
        self._paths.append(path)
        starts = np.flatnonzero(np.diff(order, prepend=-1))
        self._users.append(order[starts])
        self._counts.append(np.diff(starts, append=len(order)))
        self._sizes.append(sizes.astype(np.int32))

    def write(self, path: Path) -> None:
        """Writes the merged table as one parquet file, and removes its parts."""
        numbers = np.arange(len(self._paths), dtype=np.int16)
        order = np.argsort(np.concatenate(self._users))
        part = np.repeat(
            np.repeat(numbers, [len(own) for own in self._users])[order], np.concatenate(self._counts)[order]
        )
        sizes = np.empty(len(part), np.int32)
        for number in numbers.tolist():
            sizes[part == number] = self._sizes[number]
        self._users, self._counts, self._sizes = [], [], []
        readers = [_Rows(own) for own in self._paths]
        write_tables(path, self._merged(readers, part, sizes))
        for reader, own in zip(readers, self._paths, strict=True):
            reader.close()
            own.unlink()

    def _merged(self, readers: list[_Rows], part: np.ndarray, sizes: np.ndarray) -> Iterator[pa.Table]:
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
        self._file = pa.OSFile(str(path))
        self._reader = pa.ipc.open_file(self._file)
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

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
