"""A file in batches of bounded size, and the types that its columns have as a whole.

What a column of the whole file is, only its last row tells: whole or floating-point numbers, moments of seconds or of
microseconds. A first reading gathers that, and `FileBatches.whole` makes of some of the rows, as they were read, what
the reader of the whole file makes of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from .checking import DataError
from .column_types import TypeFacts
from .columns import decoded
from .file_formats import TableFile, unreadable
from .file_readers import (
    BLOCK_BYTES,
    NO_JSON,
    SPANNING,
    bad_line,
    first_object,
    rows_of_several_lines,
    text_options,
    with_types,
)
from .text_columns import NumberFacts

BATCH_ROWS = 1 << 17
TEXT_BLOCK = 8 << 20


class FileBatches:
    """A file that is read in batches.

    Args:
        file: it. numbers: columns of delimited text that are numbers.
        scratch: folder for a file that has to be unpacked to be read in parts.

    Attributes:
        rows: read so far. schema: of the columns as they are read, once all are. notes: sentences about the file.
        types: of columns of the file, what decides on their types.
    """

    def __init__(self, file: TableFile, numbers: Collection[str], scratch: Path):
        self.file, self.numbers, self.scratch = file, numbers, scratch
        self.rows = 0
        self.schema = pa.schema([])
        self.notes: list[str] = []
        self.types: dict[str, TypeFacts] = {}
        self._numbers: dict[str, NumberFacts] = {}

    def __iter__(self) -> Iterator[pa.Table]:
        """The rows in order, columns as the file has them: text of delimited text; of JSON lines a type each batch.

        Raises:
            DataError: as `read_file` does for the whole file.
        """
        kind = self.file.format
        batches = {"parquet": self._parquet, "jsonl": self._jsonl}.get(kind, self._text)()
        schemas: list[pa.Schema] = []
        try:
            for table in batches:
                table = pa.table([decoded(column) for column in table.columns], names=table.column_names)
                self._gather(table)
                self.rows += table.num_rows
                if not schemas or schemas[-1] != table.schema:
                    schemas.append(table.schema)
                yield table
            self._finish(schemas)
        except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError) as error:
            raise unreadable(self.file, error) from error

    def whole(self, table: pa.Table) -> pa.Table:
        """Some of the rows, as they were read, with the columns and types of the whole file (before
        `column_types.with_plain_types`)."""
        if self.file.is_text:
            return with_types(table, self.file, self.numbers, self._numbers)
        columns = [
            table[field.name].cast(field.type, safe=False)
            if field.name in table.column_names
            else pa.chunked_array([pa.nulls(table.num_rows, field.type)])
            for field in self.schema
        ]
        return pa.table(columns, schema=self.schema)

    def _parquet(self) -> Iterator[pa.Table]:
        import pyarrow.parquet as pq

        source: Path = self.file.path
        if self.file.codec is not None:
            source = self.scratch / "unpacked.parquet"
            with self.file.open() as packed, open(source, "wb") as target:
                shutil.copyfileobj(packed, target, BLOCK_BYTES)
        with pq.ParquetFile(source) as parquet:
            empty = parquet.schema_arrow.remove_metadata()
            yield empty.empty_table()
            for batch in parquet.iter_batches(batch_size=BATCH_ROWS, use_threads=False):
                yield pa.Table.from_batches([batch]).replace_schema_metadata(None)

    def _text(self) -> Iterator[pa.Table]:
        from pyarrow import csv as pa_csv

        names = list(self.file.columns)
        if len(set(names)) < len(names):
            yield pa.table([pa.nulls(1, pa.string())] * len(names), names=names)  # the caller names the column
            return
        with self.file.open() as stream:
            with pa_csv.open_csv(stream, *text_options(self.file, (), self._block_bytes())) as reader:
                yield reader.schema.empty_table()
                for batch in reader:
                    yield pa.Table.from_batches([batch])

    def _block_bytes(self) -> int:
        """Small blocks, but of quoted text those of the whole reader: a cell of many lines has to fit into one."""
        return BLOCK_BYTES if self.file.layout.quotes else TEXT_BLOCK

    def _jsonl(self) -> Iterator[pa.Table]:
        from pyarrow import json as pa_json

        first = first_object(self.file)
        known = {key: pa.string() for key, value in first.items() if isinstance(value, str)}

        def parsed(block: bytes) -> pa.Table:
            options = pa_json.ParseOptions(explicit_schema=pa.schema(known), newlines_in_values=False)
            return pa_json.read_json(pa.BufferReader(block), pa_json.ReadOptions(False, len(block) + 1), options)

        for block in self._lines():
            try:
                table = parsed(block)
                dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
                if dates:  # JSON itself has no dates
                    known |= dict.fromkeys(dates, pa.string())
                    table = parsed(block)
            except pa.ArrowInvalid as error:
                raise DataError(bad_line(self.file, first) or NO_JSON.format(self.file.path, error)) from error
            settled = (pa.string(), pa.float64(), pa.bool_())  # whole numbers may go on as others
            known |= {field.name: field.type for field in table.schema if field.type in settled}
            yield table

    def _lines(self) -> Iterator[bytes]:
        """Blocks of whole lines, one with text at least in each."""
        rest = b""
        with self.file.open() as stream:
            while block := stream.read(TEXT_BLOCK):
                rest += block
                end = rest.rfind(b"\n") + 1
                if rest[:end].strip():
                    yield rest[:end]
                    rest = rest[end:]
        if rest.strip():
            yield rest

    def _gather(self, table: pa.Table) -> None:
        if len(set(table.column_names)) < len(table.column_names):
            return
        for name in table.column_names:
            own, number = name, name in self.numbers
            if self.file.layout.typed_header:
                own, _, kind = name.rpartition(":")
                number = kind == "float" or (kind == "token" and own in self.numbers)
            if self.file.is_text and number:
                facts = NumberFacts.of(table[name], self.rows)
                self._numbers[own] = self._numbers.get(own, NumberFacts()) + facts
            if not self.file.is_text:
                facts_of_type = TypeFacts.of(table[name])
                self.types[name] = self.types.get(name, facts_of_type) | facts_of_type

    def _finish(self, schemas: list[pa.Schema]) -> None:
        if self.file.is_text:
            for name, facts in self._numbers.items():
                facts.check(name, str(self.file.path))
            if self.file.layout.quotes and (spanning := rows_of_several_lines(self.file, self.rows)):
                self.notes.append(SPANNING.format(spanning))
            self.schema = schemas[0]
            return
        if self.file.format == "jsonl":
            schemas = _without_nested_dates(schemas)
        try:
            self.schema = pa.unify_schemas(schemas, promote_options="permissive")
            # A number and a text are no one column, as they are none within a block.
            for name in self.schema.names:
                kinds = {_sort(schema.field(name).type) for schema in schemas if name in schema.names} - {"null"}
                if len(kinds) > 1:
                    raise pa.ArrowInvalid(f"Column({name}) changed its type")
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(
                bad_line(self.file, first_object(self.file)) or NO_JSON.format(self.file.path, error)
            ) from error


class TableBatches:
    """A table of a hub data set, which lies in a file already, with the interface of [`FileBatches`]."""

    def __init__(self, table: pa.Table):
        self.table, self.schema = table, table.schema
        self.rows = 0
        self.notes: list[str] = []
        self.types: dict[str, TypeFacts] = {}

    def __iter__(self) -> Iterator[pa.Table]:
        yield self.schema.empty_table()
        for batch in self.table.to_batches(max_chunksize=BATCH_ROWS):
            table = pa.Table.from_batches([batch])
            table = pa.table([decoded(column) for column in table.columns], names=table.column_names)
            for name in table.column_names:
                facts = TypeFacts.of(table[name])
                self.types[name] = self.types.get(name, facts) | facts
            self.schema = table.schema
            self.rows += table.num_rows
            yield table

    def whole(self, table: pa.Table) -> pa.Table:
        """Some of the rows as they are."""
        return table


def _without_nested_dates(schemas: list[pa.Schema]) -> list[pa.Schema]:
    """Schemas of blocks of JSON lines, of which texts within lists and objects are moments in blocks where all of them
    look so: text where they are text in another block, as they are within one."""
    found: dict[str, list[pa.DataType]] = {}
    for schema in schemas:
        for field in schema:
            found.setdefault(field.name, []).append(field.type)
    texts = set()
    for name, kinds in found.items():
        if not all(pa.types.is_nested(kind) or pa.types.is_null(kind) for kind in kinds):
            continue
        try:
            pa.unify_schemas([pa.schema([(name, kind)]) for kind in kinds], promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            texts.add(name)
    return [
        pa.schema([(field.name, _undated(field.type) if field.name in texts else field.type) for field in schema])
        for schema in schemas
    ]


def _undated(kind: pa.DataType) -> pa.DataType:
    """A nested type with text in place of moments."""
    if pa.types.is_list(kind):
        return pa.list_(_undated(kind.value_type))
    if pa.types.is_struct(kind):
        return pa.struct([(field.name, _undated(field.type)) for field in kind])
    return pa.string() if pa.types.is_timestamp(kind) else kind


def _sort(kind: pa.DataType) -> Any:
    if pa.types.is_null(kind):
        return "null"
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return "number"
    return "nested" if pa.types.is_nested(kind) else kind


def sequences_of(file: TableFile) -> list[str]:
    """Columns of a text file that are lists of numbers by its header: these are not read in batches."""
    return [name for name in file.columns if file.layout.typed_header and name.endswith(":float_seq")]
