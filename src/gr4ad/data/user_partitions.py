"""A table that does not fit into memory, on disk in parts: each holds all rows of some of the users."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError
from .column_types import plain_column
from .columns import FLOAT_TEXT, decoded, is_text, nulls
from .config import DataConfig
from .file_batches import FileBatches, TableBatches, sequences_of
from .file_formats import table_file
from .reading import (
    RawTable,
    Wanted,
    found_files,
    in_our_names,
    joined,
    our_names,
    plain,
    require_rows,
    told_of,
    wanted_of,
)
from .roles import FileRole
from .row_order import tie_hashes

ROW = "#"
"""Column of the parts on disk: the row of the whole table, 0-based."""


class UserPartitions:
    """A table of a recipe in `count` parts by a hash of the user's id, on disk under `folder`.

    Reading it a first time writes the parts as they are read, and finds out what the whole table's columns are; `part`
    then gives the rows of some users as the reader of the whole table gives them, in the order of the table.

    Attributes:
        raw: the table without its rows, and what is told of it.
        rows: of the table.
    """

    def __init__(self, config: DataConfig, role: FileRole, count: int, folder: Path):
        self.count, self.folder = count, folder
        self.rows = 0
        self._wanted: Wanted = wanted_of(config, role)
        self._segments: list[int] = []  # the file of each run of batches of one schema, in order
        folder.mkdir(parents=True)
        self.raw, found = found_files(config.sources()[role], config.root, role)
        self._files: list[FileBatches | TableBatches] = []
        self._names: list[str] = []
        empty: list[pa.Table] = []
        for name, file in self._batches_of(found):
            self._files.append(file)
            self._names.append(name)
            self._write(file)
            if isinstance(file, FileBatches):
                self.raw.files.append(told_of(file.file, role, file.rows))
                self.raw.notes += file.notes
            else:
                self.raw.files.append({"role": role, "file": name, "format": "hub", "rows": file.rows})
            empty.append(plain(file.whole(file.schema.empty_table()), name, self._wanted, self.raw, file.types))
        self._found = found
        table = empty[0] if len(empty) == 1 else joined(empty, self.raw, found)
        require_rows(self.rows, self.raw, role)
        self.raw.table = in_our_names(table, self.raw, self._wanted)

    def part(self, number: int) -> tuple[pa.Table, np.ndarray]:
        """The rows of the users of a part, in the order of the table, and their row numbers, int64 (n,)."""
        by_file: dict[int, list[pa.Table]] = defaultdict(list)
        rows = [np.zeros(0, np.int64)]
        for segment, place in enumerate(self._segments):
            path = self._path(segment, number)
            if not path.exists():
                continue
            with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as reader:
                table = reader.read_all()
            rows.append(table[ROW].to_numpy())
            by_file[place].append(self._files[place].whole(table.drop_columns([ROW])))
        tables = []
        told = RawTable(self.raw.table, self.raw.name)  # its notes and names are told already
        for place, (file, name) in enumerate(zip(self._files, self._names, strict=True)):
            own = by_file.get(place) or [file.whole(file.schema.empty_table())]
            tables.append(plain(pa.concat_tables(own), name, self._wanted, told, file.types))
        table = tables[0] if len(tables) == 1 else joined(tables, told, self._found)
        for place, column in enumerate(table.column_names):
            if column in self._wanted.coded and is_text(table[column].type):
                table = table.set_column(place, column, table[column].dictionary_encode())
        return in_our_names(table, told, self._wanted), np.concatenate(rows)

    def drop(self, number: int) -> None:
        """Removes a part from disk."""
        for segment in range(len(self._segments)):
            self._path(segment, number).unlink(missing_ok=True)

    def _path(self, segment: int, number: int) -> Path:
        return self.folder / f"{number}-{segment}.arrow"

    def _batches_of(self, found: list[Path] | pa.Table) -> Iterator[tuple[str, FileBatches | TableBatches]]:
        wanted = self._wanted
        if isinstance(found, pa.Table):
            yield self.raw.name, TableBatches(found)
            return
        layout = None if wanted.preset is None else wanted.preset.layouts.get(wanted.role)
        for path in found:
            file = table_file(path, wanted.role, layout)
            if sequences := sequences_of(file):
                raise DataError(
                    f"{path}: column `{sequences[0]}` is a list of numbers, with which a log is not read in parts. "
                    "Allowed: `user_partitions: 0`, or the log without this column."
                )
            yield str(path), FileBatches(file, wanted.numbers, self.folder)

    def _write(self, file: FileBatches | TableBatches) -> None:
        """Reads a file and appends its rows to the parts."""
        writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
        schema: pa.Schema | None = None
        theirs = self._wanted.columns.get("user_id", "user_id")
        try:
            for table in file:
                names = table.column_names
                if len(set(names)) < len(names):
                    our_names(names, self.raw.name, self._wanted.role, self._wanted.columns)  # says which stands twice
                if schema is None or schema != table.schema:
                    _close(writers)
                    schema = table.schema
                    self._segments.append(len(self._files) - 1)
                if ROW in table.column_names:
                    raise DataError(
                        f"{self.raw.name}: a column is called `{ROW}`, which a log that is read in parts may not "
                        "have. Rename it, or say `user_partitions: 0`."
                    )
                if not table.num_rows:
                    continue
                numbers = pa.array(np.arange(self.rows, self.rows + table.num_rows))
                self.rows += table.num_rows
                part = self._parts_of(table, file, theirs)
                order = np.argsort(part, kind="stable")
                table = table.append_column(ROW, numbers).take(pa.array(order))
                ends = np.cumsum(np.bincount(part, minlength=self.count))
                for number in np.flatnonzero(np.diff(ends, prepend=0)).tolist():
                    if number not in writers:
                        path = self._path(len(self._segments) - 1, number)
                        writers[number] = pa.ipc.new_stream(str(path), table.schema)
                    start = int(ends[number - 1]) if number else 0
                    writers[number].write_table(table.slice(start, int(ends[number]) - start))
        finally:
            _close(writers)

    def _parts_of(self, table: pa.Table, file: FileBatches | TableBatches, theirs: str) -> np.ndarray:
        """The part of each row, int64 (n,). Ids that may become one, such as 7 and 7.0, are in one part; rows without
        an id in the first."""
        typed = isinstance(file, FileBatches) and file.file.layout.typed_header
        names = {name.rpartition(":")[0] if typed else name: place for place, name in enumerate(table.column_names)}
        if theirs not in names:
            return np.zeros(table.num_rows, np.int64)
        column = decoded(table.column(names[theirs]))
        if pa.types.is_timestamp(column.type):
            raise DataError(
                f"{self.raw.name}: column `{theirs}` holds moments, by which a log is not read in parts. Write ids "
                "as text, or say `user_partitions: 0`."
            )
        ids_in = plain_column(column, lists=False, moments=True)
        if ids_in is None:
            return np.zeros(table.num_rows, np.int64)  # whose type is refused once the file is read
        if pa.types.is_floating(ids_in.type):
            ids_in = pc.if_else(pc.is_finite(ids_in), ids_in, None).cast(pa.int64(), safe=False)
        text = decoded(ids_in).cast(pa.string()).combine_chunks().dictionary_encode()
        ids = pc.if_else(
            pc.match_substring_regex(text.dictionary, FLOAT_TEXT),
            pc.replace_substring_regex(text.dictionary, r"\.0$", ""),
            text.dictionary,
        )
        part = np.r_[(tie_hashes(ids) % np.uint64(self.count)).astype(np.int64), 0]
        codes = np.where(nulls(text), len(ids), pc.fill_null(text.indices, 0).to_numpy(zero_copy_only=False))
        return part[codes]


def _close(writers: dict[int, pa.ipc.RecordBatchStreamWriter]) -> None:
    for writer in writers.values():
        writer.close()
    writers.clear()
