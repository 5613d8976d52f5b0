"""A bounded sample of each data file of a folder: whole where it is small, else pieces from all over the file."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from gr4ad.data.checking import DataError

FORMATS = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "jsonl", ".json": "jsonl"}
PACKED = (".gz", ".zst")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
PIECES = 16
HEAD_BYTES = 1 << 20
JSON_ROWS = 200_000  # Python reads these line by line


@dataclass
class FileSample:
    """Rows of one file.

    Attributes:
        path: The file. name: As a recipe names it, relative to the folder.
        format: parquet, csv or jsonl. packed: gz, zst or "". delimiter: Of a csv, else "".
        table: The sampled rows, columns as the file names them; those of a csv are text.
        rows: Of the whole file; an estimate where `whole` is False.
        whole: The sample is the file.
        remarks: What is odd about the file itself.
    """

    path: Path
    name: str
    format: str
    packed: str
    delimiter: str
    table: pa.Table
    rows: int
    whole: bool
    remarks: list[str] = field(default_factory=list)

    def described(self) -> str:
        """Format, delimiter and rows in words."""
        kind = self.format + (f", separated by {DELIMITERS[self.delimiter]}s" if self.delimiter else "")
        kind += f", {self.packed}" if self.packed else ""
        if self.whole:
            return f"{kind}; {self.rows:,} rows"
        return f"{kind}; about {self.rows:,} rows, {self.table.num_rows:,} of them looked at"


def data_files(folder: Path) -> list[Path]:
    """The files of a folder that may hold data, by name. Raises DataError if it is none or holds none."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Give the folder that holds the catalog and the event log.")
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and suffixes_of(path) is not None]
    if not found:
        raise DataError(
            f"{folder}: holds no file that could be a table. Allowed: {', '.join(FORMATS)}, also with "
            f"{' or '.join(PACKED)}. Put the catalog and the event log there."
        )
    return found


def suffixes_of(path: Path) -> tuple[str, str] | None:
    """Format and packing (gz, zst or "") that a file's name tells; None of another kind of file."""
    packed = path.suffix.lower() if path.suffix.lower() in PACKED else ""
    inner = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    return (FORMATS[inner], packed[1:]) if inner in FORMATS and not path.name.startswith(".") else None


def read_sample(path: Path, limit: int) -> FileSample:
    """At most about `limit` rows of a file. Raises DataError if it cannot be read."""
    kind = suffixes_of(path)
    assert kind is not None, path
    format, packed = kind
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes). Write it again, or take it out of the folder.")
    try:
        if format == "parquet":
            return _parquet_sample(path, limit)
        return _text_sample(path, format, packed, limit)
    except (pa.ArrowException, OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        reason = str(error).split("\n")[0][:200]
        raise DataError(
            f"{path}: cannot be read as {format} ({reason}). The file is damaged, cut short or of another format: "
            "write it again, or take it out of the folder."
        ) from error


def delimiter_of(text: str) -> str:
    """The delimiter of a csv's first lines: the one that cuts most of them into equally many fields, and into the
    most; a comma where none does."""
    best, delimiter = (0.0, 0), ","
    for candidate in DELIMITERS:
        counts = [len(row) for row in csv.reader(io.StringIO(text), delimiter=candidate) if row]
        fields = counts[0] if counts else 1
        if fields > 1:
            score = (round(sum(count == fields for count in counts) / len(counts), 2), fields)
            if score > best:
                best, delimiter = score, candidate
    return delimiter


def _parquet_sample(path: Path, limit: int) -> FileSample:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        rows, groups = file.metadata.num_rows, file.num_row_groups
        if rows <= limit:
            table = file.read()
        elif groups > 1:
            step = max(1, math.ceil(groups / max(1, limit * groups // rows)))
            table = file.read_row_groups(list(range(0, groups, step)))
        else:
            table = pa.Table.from_batches([next(file.iter_batches(limit))])
    table = table.replace_schema_metadata(None)
    return FileSample(path, path.name, "parquet", "", "", table, rows, table.num_rows == rows)


def _opened(path: Path, packed: str) -> IO[bytes]:
    if packed == "gz":
        import gzip

        return gzip.open(path, "rb")  # type: ignore[return-value]
    if packed == "zst":
        return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")  # type: ignore[return-value]
    return path.open("rb")


def _text_sample(path: Path, format: str, packed: str, limit: int) -> FileSample:
    with _opened(path, packed) as file:
        head = file.read(HEAD_BYTES)
    remarks: list[str] = []
    lines = max(1, head.count(b"\n") or 1)
    budget = max(HEAD_BYTES, (limit if format == "csv" else min(limit, JSON_ROWS)) * len(head) // lines)
    pieces, total = _pieces(path, packed, budget)
    whole = total is not None and sum(map(len, pieces)) >= total
    table, delimiter = _csv_table(pieces, head, whole, remarks) if format == "csv" else (_json_table(pieces, path), "")
    if table.num_rows == 0:
        raise DataError(
            f"{path}: holds no rows. At least one is needed: write it again, or take it out of the folder."
        )
    size = sum(map(len, pieces))
    rows = table.num_rows if whole else round(table.num_rows * (total or path.stat().st_size * 4) / size)
    return FileSample(path, path.name, format, packed, delimiter, table, rows, whole, remarks)


def _pieces(path: Path, packed: str, budget: int) -> tuple[list[bytes], int | None]:
    """Bytes of a file in pieces that begin and end with lines, and the file's length; None where it is packed and goes
    on after what was read."""
    if packed:
        with _opened(path, packed) as file:
            data = file.read(budget + 1)
        return ([data], len(data)) if len(data) <= budget else ([data[: data.rfind(b"\n") + 1]], None)
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= budget:
            return [file.read()], size
        pieces = []
        for number in range(PIECES):
            start = number * size // PIECES
            file.seek(start)
            data = file.read(budget // PIECES)
            begin = 0 if number == 0 else data.find(b"\n") + 1
            pieces.append(data[begin : data.rfind(b"\n") + 1])
    return pieces, size


def _csv_table(pieces: list[bytes], head: bytes, whole: bool, remarks: list[str]) -> tuple[pa.Table, str]:
    from pyarrow import csv as pa_csv

    encoding = "utf-8"
    try:
        text = head[: head.rfind(b"\n") + 1 or None].decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding = "latin-1"
        text = head.decode(encoding)
        remarks.append("is not UTF-8 text but probably Latin-1: `iconv -f latin1 -t utf-8` turns it into what is read")
    delimiter = delimiter_of("\n".join(text.splitlines()[:100]) + "\n")
    names = next(csv.reader(io.StringIO(text), delimiter=delimiter), [])
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DataError(f"column `{repeated[0]}` stands twice in the header. Allowed: once. Rename one of them.")
    skipped: list[Any] = []

    def skip(row: Any) -> str:
        skipped.append(row)
        return "skip"

    tables = []
    for number, piece in enumerate(pieces):
        if not piece:
            continue
        read = pa_csv.ReadOptions(
            column_names=names, skip_rows=int(number == 0), encoding=encoding, block_size=max(len(piece), 1 << 16)
        )
        parse = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=whole, invalid_row_handler=skip)
        convert = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), null_values=[""], strings_can_be_null=True
        )
        tables.append(pa_csv.read_csv(io.BytesIO(piece), read, parse, convert))
    if skipped and whole:
        remarks.append(f"has {len(skipped):,} rows with more or fewer fields than the header: they are refused")
    return pa.concat_tables(tables), delimiter


def _json_table(pieces: list[bytes], path: Path) -> pa.Table:
    rows: list[dict] = []
    for line in _lines(pieces):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {len(rows)} (0-based) is not json ({error}). Fix that line.") from error
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: line {len(rows)} (0-based) is no object. Write one object a line, not one array."
            )
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
