"""Parquet, delimited text and JSON lines as arrow tables, with every failure told in one line.

All three are read by arrow: beside polars and DuckDB it takes the least memory and about the same time, and it is here
already (`benchmarks/data_reading.py`).
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from .checking import DataError, shown
from .columns import is_text
from .file_formats import TableFile, unreadable
from .text_columns import NumberFacts, numbers_of, typed_columns

CODES = pa.dictionary(pa.int32(), pa.string())
BLOCK_BYTES = 16 << 20
"""A row must fit into one block, so this also bounds the length of a row."""
NO_JSON = "{}: cannot be read as json lines ({})."
SPANNING = "{} rows span several lines, within quotes"


def read_file(
    file: TableFile,
    numbers: Collection[str] = (),
    limit: int | None = None,
    notes: list[str] | None = None,
    coded: Collection[str] = (),
) -> pa.Table:
    """A file as a table, rows in its order.

    Args:
        numbers: columns of delimited text that are numbers; all others are text, as written.
        limit: about how many rows to read from its beginning; None: all.
        notes: sentences about the file; filled here.
        coded: columns of text that are read as dictionaries; JSON lines are not.

    Raises:
        DataError: a file that is damaged, of another format or not UTF-8, a row of another width, quotes that do not
            match, a cell that is no number in a column of `numbers`, JSON lines of several types.
    """
    try:
        if file.format == "parquet":
            return _read_parquet(file, limit, coded)
        if file.format == "jsonl":
            return _read_jsonl(file, limit)
        table = _read_text(file, numbers, limit, coded)
        if limit is None and file.layout.quotes and (spanning := rows_of_several_lines(file, table.num_rows)):
            (notes if notes is not None else []).append(SPANNING.format(spanning))
        return table
    except (pa.ArrowException, OSError, UnicodeDecodeError, EOFError) as error:
        raise unreadable(file, error) from error


def columns_in(file: TableFile) -> list[str] | None:
    """Names of a file's columns, from its head or foot alone; None where they cannot be known without all of it."""
    import pyarrow.parquet as pq

    if file.is_text:
        empty = pa.table([pa.nulls(0, pa.string())] * len(file.columns), names=list(file.columns))
        return (typed_columns(empty, str(file.path)) if file.layout.typed_header else empty).column_names
    if file.codec is not None or file.format != "parquet":
        return None  # of JSON lines any may bring another key
    try:
        return pq.read_schema(file.path).names
    except (pa.ArrowException, OSError):
        return None


def _read_parquet(file: TableFile, limit: int | None, coded: Collection[str]) -> pa.Table:
    import pyarrow.parquet as pq

    source: Any = file.path
    if file.codec is not None:
        with file.open() as stream:
            source = pa.BufferReader(stream.read())
    # A ParquetFile reads this one file; pq.read_table would add columns parsed from folder names such as `week=3`.
    there = [field.name for field in pq.read_schema(source) if field.name in coded and is_text(field.type)]
    with pq.ParquetFile(source, read_dictionary=there or None) as parquet:
        if limit is None:
            table = parquet.read()
        else:
            batches = list(parquet.iter_batches(batch_size=limit))[:1] if parquet.metadata.num_rows else []
            table = pa.Table.from_batches(batches, schema=parquet.schema_arrow)
    return table.replace_schema_metadata(None)


def _read_text(file: TableFile, numbers: Collection[str], limit: int | None, coded: Collection[str]) -> pa.Table:
    from pyarrow import csv as pa_csv

    layout = file.layout
    assert layout.delimiter is not None
    names = list(file.columns)
    if len(set(names)) < len(names):
        # The caller names the column; arrow would fail on it with another message.
        return pa.table([pa.nulls(1, pa.string())] * len(names), names=names)
    if limit is not None:
        with file.open() as stream, pa_csv.open_csv(stream, *text_options(file, coded, 1 << 20)) as reader:
            table = pa.Table.from_batches([reader.read_next_batch()]).slice(0, limit)
        return with_types(table, file, numbers)
    try:
        with file.open() as stream:
            table = pa_csv.read_csv(stream, *text_options(file, coded, BLOCK_BYTES, threads=True))
    except pa.ArrowInvalid:
        # Only the single-threaded reader knows the line number that its message then gives.
        with file.open() as stream:
            table = pa_csv.read_csv(stream, *text_options(file, coded, BLOCK_BYTES))
    return with_types(table, file, numbers)


def text_options(file: TableFile, coded: Collection[str], block_bytes: int, threads: bool = False) -> tuple[Any, ...]:
    """How arrow reads a text file: options of reading, parsing and converting."""
    from pyarrow import csv as pa_csv

    layout, names = file.layout, list(file.columns)
    read = pa_csv.ReadOptions(
        block_size=block_bytes,
        use_threads=threads,
        column_names=names,
        skip_rows=file.blank_lines,
        skip_rows_after_names=0 if layout.header else 1,
    )
    parse = pa_csv.ParseOptions(
        delimiter=layout.delimiter,
        quote_char='"' if layout.quotes else False,
        newlines_in_values=layout.quotes,
    )
    convert = pa_csv.ConvertOptions(
        column_types={name: CODES if name in coded else pa.string() for name in names},
        null_values=[""],
        strings_can_be_null=True,
        include_columns=[name for name in names if layout.reads is None or name in layout.reads],
    )
    return read, parse, convert


def rows_of_several_lines(file: TableFile, rows: int) -> int:
    """How many rows of a text file have cells of several lines. A quote that nobody closes makes one cell of all rows
    up to the next quote, and one that is closed too early leaves its text altered; arrow takes both as they are.

    Raises:
        DataError: a quote is opened or closed where a cell goes on.
    """
    lines, end, odd = 0, b"", False
    with file.open() as stream:
        while block := stream.read(BLOCK_BYTES):
            lines += block.count(b"\n")
            odd = odd or has_odd_quotes(end[-2:] + block, file.layout.delimiter or ",")
            end = (end + block[-64:])[-64:]
    spare = end.rstrip(b"\r\n")
    lines -= end[len(spare) :].count(b"\n") - 1  # one line ends with the last text
    if lines <= rows + (0 if file.layout.header else 1) and not odd:
        return 0
    return check_quotes(file)


def has_odd_quotes(text: bytes, delimiter: str) -> bool:
    """Whether part of a file has a quote with text on both sides, or one behind a backslash: in a quoted cell either
    would end it, although it goes on."""
    bytes_ = np.frombuffer(b"\n" + text, np.uint8)
    places = np.flatnonzero(bytes_[:-1] == ord('"'))
    before, after = bytes_[places - 1], bytes_[places + 1]
    ends = np.frombuffer(f'{delimiter}"\r\n'.encode(), np.uint8)
    inside = ~np.isin(before, ends) & ~np.isin(after, np.r_[ends, np.frombuffer(b" \t", np.uint8)])
    return bool((inside | (before == ord("\\"))).any())


def check_quotes(file: TableFile) -> int:
    """Rows of a text file that have cells of several lines.

    Raises:
        DataError: a quote is opened or closed where a cell goes on; names the row.
    """
    spanning, done, before = 0, 0, csv.field_size_limit(BLOCK_BYTES)
    first = 0 if file.layout.header else 1
    try:
        with file.open() as stream:
            text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
            reader = csv.reader(text, delimiter=file.layout.delimiter or ",", strict=True)
            for row in reader:
                done += bool(row)
                spanning += any("\n" in cell for cell in row)
    except csv.Error as error:
        raise DataError(
            f"{file.path}: quotes that do not match, seen in line {reader.line_num}, row {max(0, done - first)} "
            f"(0-based) ({error}). A cell that begins with a quote must end with one, and a quote within it stands "
            "twice, not behind a backslash. Else its text is altered, or the rows after it become part of it. Write "
            'the file again with a csv library (in Spark: .option("escape", "\\"")), or as Parquet.'
        ) from error
    finally:
        csv.field_size_limit(before)
    return spanning


def with_types(
    table: pa.Table, file: TableFile, numbers: Collection[str], facts: Mapping[str, NumberFacts] | None = None
) -> pa.Table:
    """The columns of a text file as what its header and the settings say.

    Args:
        table: its text. numbers: columns that are numbers.
        facts: of such columns of the whole file, where this is a part of it.
    """
    table = typed_columns(table, str(file.path), facts) if file.layout.typed_header else table
    for place, name in enumerate(table.column_names):
        if name in numbers and pa.types.is_string(table[name].type):
            own = None if facts is None else facts[name]
            table = table.set_column(place, name, numbers_of(table[name], name, str(file.path), own))
    return table


def _read_jsonl(file: TableFile, limit: int | None) -> pa.Table:
    from pyarrow import json as pa_json

    first = first_object(file)

    def read(text: Collection[str]) -> pa.Table:
        parse = pa_json.ParseOptions(
            explicit_schema=pa.schema([(key, pa.string()) for key in text]), newlines_in_values=False
        )
        block = pa_json.ReadOptions(block_size=BLOCK_BYTES)
        with _head(file, limit) if limit is not None else file.open() as stream:
            return pa_json.read_json(stream, block, parse)

    texts = [key for key, value in first.items() if isinstance(value, str)]
    try:
        table = read(texts)
        # Arrow turns texts that look like dates into timestamps, ids included. JSON itself has no dates.
        dates = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
        return read([*texts, *dates]) if dates else table
    except pa.ArrowInvalid as error:
        raise DataError(bad_line(file, first) or NO_JSON.format(file.path, error)) from error


def _head(file: TableFile, limit: int) -> pa.BufferReader:
    lines = []
    for _, line in zip(range(limit), _lines(file), strict=False):
        lines.append(line)
    return pa.BufferReader("".join(lines).encode())


def _lines(file: TableFile) -> Iterator[str]:
    with file.open() as stream:
        yield from io.TextIOWrapper(stream, encoding="utf-8-sig")


def first_object(file: TableFile) -> dict:
    for number, line in enumerate(_lines(file)):
        if line.strip():
            return _object(file, number, line)
    raise DataError(f"{file.path}: the file holds no json object. One object a line is needed: write the table again.")


def _object(file: TableFile, number: int, line: str) -> dict:
    def refuse_constant(name: str) -> float:
        raise ValueError(f"{name} is not json")

    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(found := dict(pairs)) < len(pairs):
            twice = next(key for place, (key, _) in enumerate(pairs) if key in dict(pairs[:place]))
            raise ValueError(f"the key `{twice}` stands twice")
        return found

    try:
        value = json.loads(line, parse_constant=refuse_constant, object_pairs_hook=refuse_repeats)
        if "\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # a character of which only one half is there
    except ValueError as error:
        raise DataError(
            f"{file.path}: line {number} (0-based) is not json ({error}): received {shown(line[:200])}, allowed: one "
            'object a line, such as {"item_id": "a"}. Fix that line.'
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{file.path}: line {number} (0-based): received {shown(value)}, allowed: one object a line, such as "
            '{"item_id": "a"}. Write the table as json lines, not as one array.'
        )
    return value


def bad_line(file: TableFile, first: dict) -> str | None:
    """Names the first line that is no object or whose type for some key differs from the lines before."""
    kinds: dict[str, str] = {}
    for number, line in enumerate(_lines(file)):
        if not line.strip():
            continue
        for key, value in _cells(_object(file, number, line)):
            kind = "number" if type(value) in (int, float) else type(value).__name__
            if value is not None and kinds.setdefault(key, kind) != kind:
                return (
                    f"{file.path}: column `{key}`, row {number} (0-based): received {shown(value)}, allowed: "
                    f"{kinds[key]} as in the rows before. Write one type a column."
                )
    return None


def _cells(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """The values of an object, and those within them, by their names, such as `place.city` and `tags[]`."""
    inner = value.items() if isinstance(value, dict) else [("[]", one) for one in value]
    for key, one in inner:
        own = f"{name}[]" if isinstance(value, list) else f"{name}.{key}" if name else key
        yield own, one
        if isinstance(one, dict | list):
            yield from _cells(one, own)
