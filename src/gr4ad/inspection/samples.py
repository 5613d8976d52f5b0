"""A bounded sample of each data file of a folder: all of a small one, else pieces from all over it, or some users."""

from __future__ import annotations

import io
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from gr4ad.data.checking import DataError
from gr4ad.data.file_formats import DELIMITERS, SUFFIXES, TableFile, known_suffix, table_file
from gr4ad.data.file_readers import check_quotes, has_odd_quotes, read_file
from gr4ad.data.text_columns import typed_columns

PIECES = 16
HEAD_BYTES = 1 << 20
JSON_ROWS = 200_000  # Python reads these line by line
PASS_BYTES = 4 << 30  # of a file that is read once to the end


@dataclass
class FileSample:
    """Rows of one file.

    Attributes:
        file: The file and how it is written, the first of several. name: As a recipe names it, relative to the folder:
            a file, or a pattern of files.
        table: The sampled rows, columns as the file names them; those of delimited text are text.
        rows: Of the whole file; an estimate where `whole` is False and `of_users` too.
        whole: The sample is the file. of_users: It is all rows of some users.
        odd: What about the file no run gets past. passes: It can be read once more to the end, row by row.
        parts: All files of the table, where they are several.
    """

    file: TableFile
    name: str
    table: pa.Table
    rows: int
    whole: bool
    of_users: bool = False
    odd: list[str] = field(default_factory=list)
    passes: bool = True
    parts: list[TableFile] = field(default_factory=list)

    @property
    def is_text(self) -> bool:
        """Delimited text, of which a run reads every column as text but those of `number_columns`."""
        return self.file.is_text

    @property
    def looked_at(self) -> float:
        """Share of its rows that are in the sample."""
        return min(1.0, self.table.num_rows / max(1, self.rows))

    def described(self) -> str:
        """Format, delimiter and rows in words."""
        file = self.file
        kind = file.format
        if file.is_text and file.layout.delimiter is not None:
            kind += f", separated by {DELIMITERS.get(file.layout.delimiter, repr(file.layout.delimiter))}s"
        kind += f", {file.codec}" if file.codec else ""
        kind = f"{len(self.parts)} files, {kind}" if self.parts else kind
        if self.whole:
            return f"{kind}; {self.rows:,} rows"
        about = "" if self.of_users else "about " if self.passes else "at least "
        return f"{kind}; {about}{self.rows:,} rows, {self.table.num_rows:,} of them looked at"


def data_files(folder: Path) -> list[Path]:
    """The files of a folder that may hold data, by name. Raises DataError if it is none or holds none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder that holds the catalog and the event log.")
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and known_suffix(path)]
    found = [path for path in found if not path.name.startswith(".")]
    if not found:
        raise DataError(
            f"{folder}: holds no file that could be a table. Allowed: {SUFFIXES}. Put the catalog and the event log "
            "there."
        )
    return found


def read_sample(path: Path, limit: int) -> FileSample:
    """At most about `limit` rows of a file. Raises DataError if it cannot be read."""
    file = table_file(path, "events")
    try:
        if file.format == "parquet":
            sample = _parquet_sample(file, limit)
        else:
            sample = _text_sample(file, limit)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise DataError(
            f"{path}: cannot be read as {file.format} ({reason}). The file is damaged, cut short or of another "
            "format: write it again, or take it out of the folder."
        ) from error
    if sample.table.num_rows == 0:
        raise DataError(f"{path}: holds no rows. At least one is needed: write it again, or take it away.")
    return sample


def groups_of_files(paths: list[Path]) -> dict[str, list[Path]]:
    """Files whose names differ in numbers alone (a file a month, parts of an export) as one, under the pattern that
    stands for them; every other file under its name."""
    groups: dict[str, list[Path]] = {}
    for path in paths:
        groups.setdefault(re.sub(r"\d+", "*", path.name), []).append(path)
    named: dict[str, list[Path]] = {}
    for pattern, group in groups.items():
        together = len(group) > 1 and sorted(group) == sorted(group[0].parent.glob(pattern))
        named |= {pattern: group} if together else {path.name: [path] for path in group}
    return named


def read_parts(pattern: str, paths: list[Path], limit: int) -> FileSample | None:
    """A table in several files; None where their columns differ. Raises DataError as `read_sample`."""
    samples = [read_sample(path, max(1000, limit // len(paths))) for path in paths]
    if len({str(sample.table.schema) for sample in samples}) > 1:
        return None
    return FileSample(
        file=samples[0].file,
        name=pattern,
        table=pa.concat_tables([sample.table for sample in samples]),
        rows=sum(sample.rows for sample in samples),
        whole=all(sample.whole for sample in samples),
        odd=[text for sample in samples for text in sample.odd],
        parts=[sample.file for sample in samples],
    )


def sample_of_users(sample: FileSample, user: str, limit: int) -> FileSample:
    """About `limit` rows of a log: all rows of some of its users, from one pass through it. The sample itself where it
    is the log, or where a pass would take too long."""
    if sample.whole or not _can_pass(sample):
        return sample
    rows, kept = 0, []
    for table in _passed(sample):
        rows += table.num_rows
        kept.append(table.filter(pa.array(_shares(table[user]) < limit / sample.rows)))
    table = pa.concat_tables(kept)
    return replace(sample, table=table, rows=rows, of_users=True) if table.num_rows else sample


def whole_column(sample: FileSample, name: str) -> pa.ChunkedArray:
    """A column of the whole table, from one pass; of the sample alone where that would take too long."""
    if sample.whole or not _can_pass(sample):
        return sample.table[name]
    return pa.chunked_array([chunk for table in _passed(sample, name) for chunk in table[name].chunks])


def _can_pass(sample: FileSample) -> bool:
    if not sample.passes or sample.file.format == "jsonl":
        return False
    files = sample.parts or [sample.file]
    return sum(file.path.stat().st_size * (4 if file.codec else 1) for file in files) <= PASS_BYTES


def _shares(ids: pa.ChunkedArray) -> np.ndarray:
    """(n,) float64 in [0, 1): a hash of each id."""
    import pandas as pd

    encoded = ids.cast(pa.string()).combine_chunks().dictionary_encode()
    hashes = pd.util.hash_array(np.array(encoded.dictionary.to_pylist(), dtype=object)) / 2.0**64
    return np.r_[hashes, 0.0][encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)]


def _passed(sample: FileSample, column: str | None = None) -> Iterator[pa.Table]:
    """All rows of a table, piece by piece; all columns or one of them."""
    import pyarrow.parquet as pq
    from pyarrow import csv as pa_csv

    for file in sample.parts or [sample.file]:
        if file.format == "parquet":
            with pq.ParquetFile(file.path) as parquet:
                for batch in parquet.iter_batches(1 << 18, columns=[column] if column else None):
                    yield pa.Table.from_batches([batch]).replace_schema_metadata(None)
            continue
        options = _csv_options(file, first=True, newlines=file.layout.quotes, block=8 << 20)
        with file.open() as stream, pa_csv.open_csv(stream, *options) as reader:
            for batch in reader:
                table = _typed(pa.Table.from_batches([batch]), file)
                yield table.select([column]) if column else table


def _parquet_sample(file: TableFile, limit: int) -> FileSample:
    import pyarrow.parquet as pq

    if file.codec is not None:
        table = read_file(file)
        return FileSample(file, file.path.name, table, table.num_rows, True)
    with pq.ParquetFile(file.path) as parquet:
        rows, groups = parquet.metadata.num_rows, parquet.num_row_groups
        if rows <= limit:
            table = parquet.read()
        elif groups > 1:
            step = max(1, math.ceil(groups / max(1, limit * groups // rows)))
            table = parquet.read_row_groups(list(range(0, groups, step)))
        else:
            table = pa.Table.from_batches([next(parquet.iter_batches(limit))])
    return FileSample(file, file.path.name, table.replace_schema_metadata(None), rows, table.num_rows == rows)


def _text_sample(file: TableFile, limit: int) -> FileSample:
    with file.open() as stream:
        head = stream.read(HEAD_BYTES)
    lines = max(1, head.count(b"\n"))
    budget = max(HEAD_BYTES, (limit if file.is_text else min(limit, JSON_ROWS)) * len(head) // lines)
    pieces, total = _pieces(file, budget)
    size = sum(map(len, pieces))
    whole = total is not None and size >= total
    odd: list[str] = []
    if file.is_text and file.layout.quotes:
        delimiter = file.layout.delimiter or ","
        if any(has_odd_quotes(piece, delimiter) for piece in pieces):
            check_quotes(file)  # what a run would refuse is not made out here
    table = _csv_table(file, pieces, whole, odd) if file.is_text else _json_table(pieces, file.path)
    # Text packs to about a quarter.
    rows = table.num_rows if whole else round(table.num_rows * (total or 4 * file.path.stat().st_size) / max(1, size))
    return FileSample(file, file.path.name, table, rows, whole, odd=odd)


def _pieces(file: TableFile, budget: int) -> tuple[list[bytes], int | None]:
    """Bytes of a file in pieces that begin and end with lines, and the file's length; None where it is packed and goes
    on after what was read."""
    if file.codec is not None:
        with file.open() as stream:
            data = stream.read(budget + 1)
        return ([data], len(data)) if len(data) <= budget else ([data[: data.rfind(b"\n") + 1]], None)
    size = file.path.stat().st_size
    with file.path.open("rb") as plain:
        if size <= budget:
            return [plain.read()], size
        pieces = []
        for number in range(PIECES):
            start = number * size // PIECES
            plain.seek(start)
            data = plain.read(budget // PIECES)
            begin = 0 if number == 0 else data.find(b"\n") + 1
            pieces.append(data[begin : data.rfind(b"\n") + 1])
    return pieces, size


def _csv_options(
    file: TableFile, *, first: bool, newlines: bool, block: int, skip: Any = None
) -> tuple[Any, Any, Any]:
    """Options of arrow's reader for a piece of a file; `first`: it begins with the file's first line."""
    from pyarrow import csv as pa_csv

    names, layout = list(file.columns), file.layout
    read = pa_csv.ReadOptions(
        column_names=names,
        skip_rows=file.blank_lines if first else 0,
        skip_rows_after_names=int(first and layout.header is None),
        block_size=block,
    )
    parse = pa_csv.ParseOptions(
        delimiter=layout.delimiter,
        quote_char='"' if layout.quotes else False,
        newlines_in_values=newlines,
        invalid_row_handler=skip or (lambda row: "skip"),
    )
    convert = pa_csv.ConvertOptions(
        column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
    )
    return read, parse, convert


def _csv_table(file: TableFile, pieces: list[bytes], whole: bool, odd: list[str]) -> pa.Table:
    from pyarrow import csv as pa_csv

    repeated = sorted({name for name in file.columns if file.columns.count(name) > 1})
    if repeated:
        raise DataError(f"{file.path}: column `{repeated[0]}` stands twice. Allowed: once. Rename one of them.")
    only = file.columns[0] if len(file.columns) == 1 else ""
    between = next((word for character, word in DELIMITERS.items() if character in only), None)
    if between is not None:
        raise DataError(
            f"{file.path}: is one column, `{only}`, although it seems separated by {between}s: its rows have "
            "different numbers of fields. Mend the rows that are longer or shorter than the header."
        )
    skipped: list[Any] = []

    def skip(row: Any) -> str:
        skipped.append(row)
        return "skip"

    tables = []
    for number, piece in enumerate(pieces):
        if piece:
            block, newlines = max(len(piece), 1 << 16), whole and file.layout.quotes
            options = _csv_options(file, first=number == 0, newlines=newlines, block=block, skip=skip)
            tables.append(pa_csv.read_csv(io.BytesIO(piece), *options))
    if skipped and whole:
        odd.append(f"{file.path.name}: {len(skipped):,} rows have more or fewer fields than the header: mend the file")
    return _typed(pa.concat_tables(tables), file)


def _typed(table: pa.Table, file: TableFile) -> pa.Table:
    return typed_columns(table, str(file.path)) if file.layout.typed_header else table


def _json_table(pieces: list[bytes], path: Path) -> pa.Table:
    rows: list[dict] = []
    for line in _lines(pieces):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {len(rows)} (0-based) is not json ({error}). Fix that line.") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {len(rows)} (0-based) is no object. Write one object a line, no array.")
        rows.append(row)
    columns = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        values = [row.get(name) for row in rows]
        try:
            columns[name] = pa.array(values)
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            columns[name] = pa.array([None if value is None else str(value) for value in values])
    return pa.table(columns)


def _lines(pieces: list[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        yield from (line for line in piece.splitlines() if line.strip())
