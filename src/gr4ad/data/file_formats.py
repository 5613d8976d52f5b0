"""Files by their suffix: their format and compression, their bytes, and how a text table is laid out."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa

from .checking import DataError, shown
from .roles import FileRole

FORMATS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".inter": "recbole",
    ".item": "recbole",
    ".user": "recbole",
}
"""Suffix -> format; each may be followed by a suffix of `COMPRESSIONS`."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Suffix -> codec of arrow."""

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""The delimiters that are looked for, and what they are called."""

SAMPLE_BYTES = 1 << 18
SUFFIXES = ".parquet, .csv, .tsv, .jsonl, .inter, .item, .user, each also .gz, .zst or .bz2"


@dataclass(frozen=True)
class TextLayout:
    """How a table of text is laid out, where its suffix and first line do not say it.

    Attributes:
        delimiter: one character; None: found in the first lines.
        header: names of the columns of a file whose first line is data already; None: the first line has them.
        quotes: a cell may stand in double quotes; False: a quote is a character as any other.
        typed_header: names are `name:type`, as RecBole writes them.
        reads: columns to read; None: all.
    """

    delimiter: str | None = None
    header: tuple[str, ...] | None = None
    quotes: bool = True
    typed_header: bool = False
    reads: tuple[str, ...] | None = None


RECBOLE = TextLayout(delimiter="\t", quotes=False, typed_header=True)


@dataclass(frozen=True)
class TableFile:
    """A local file and how it is read.

    Attributes:
        path: the file.
        format: parquet, csv, tsv, jsonl or recbole.
        codec: its compression by arrow's name, or None.
        layout: of a csv, tsv or recbole file; the delimiter is known.
        columns: the names in its first line, or those of `layout.header`; empty for the other formats.
        blank_lines: lines without text before its first one.
    """

    path: Path
    format: str
    codec: str | None
    layout: TextLayout
    columns: tuple[str, ...] = ()
    blank_lines: int = 0

    @property
    def is_text(self) -> bool:
        """Whether it is a table of delimited text."""
        return self.format in ("csv", "tsv", "recbole")

    def open(self) -> pa.NativeFile:
        """Its bytes, decompressed."""
        return pa.input_stream(str(self.path), compression=self.codec)


def known_suffix(name: str | Path) -> bool:
    """Whether a file's name says its format."""
    return _split(Path(name))[0] in FORMATS


def table_file(path: Path, role: FileRole, layout: TextLayout | None = None) -> TableFile:
    """What a file is, from its name and its first lines.

    Args:
        path: a local file.
        layout: of a public format, whose files then may have any suffix. None: by the suffix.

    Raises:
        DataError: no such file, a folder, an unknown suffix, an empty file, or a first line that is no text in UTF-8.
    """
    check_file(path, role)
    suffix, codec = _split(path)
    kind = FORMATS.get(suffix)
    if kind is None and layout is None:
        raise DataError(
            f"{path}: unknown suffix: {path.suffix or 'none'}. Allowed: {SUFFIXES}; or a hub id owner/name. Rename "
            "the file, or write it as one of these."
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes). Write the {role} table again.")
    if layout is not None and kind not in ("parquet", "jsonl"):
        kind = "tsv" if layout.delimiter == "\t" else "csv"
    assert kind is not None
    if kind in ("parquet", "jsonl"):
        return TableFile(path, kind, codec, TextLayout())
    wanted = layout or (RECBOLE if kind == "recbole" else TextLayout())
    file = TableFile(path, "recbole" if wanted.typed_header else kind, codec, wanted)
    blank, sample = _leading_blank_lines(_sample(file))
    delimiter = wanted.delimiter or found_delimiter(sample, "\t" if kind == "tsv" else ",")
    columns = wanted.header or tuple(_rows(sample, delimiter, wanted.quotes, 1)[0])
    names = tuple(name.strip() for name in columns)
    return replace(file, layout=replace(wanted, delimiter=delimiter), columns=names, blank_lines=blank)


def found_delimiter(sample: str, usual: str) -> str:
    """The delimiter of a table of which `sample` is the beginning: the usual one if it gives rows of one width, else
    the one of `DELIMITERS` that gives the widest."""
    widths: dict[str, int] = {}
    for delimiter in (usual, *(other for other in DELIMITERS if other != usual)):
        rows = _rows(sample, delimiter, True, 200)
        width = len(rows[0])
        if width > 1 and all(len(row) == width for row in rows if row):
            if delimiter == usual:
                return usual
            widths[delimiter] = width
    if not widths:
        return usual
    return max(widths, key=lambda delimiter: widths[delimiter])


def check_file(path: Path, role: FileRole) -> None:
    """Raises DataError if a table is no file."""
    if not path.exists():
        raise DataError(f"{path}: no such file (the {role} table). Check `{role}` and `root`.")
    if path.is_dir():
        raise DataError(
            f"{path}: is a folder; the {role} table should be one file, or a pattern of files such as "
            f"{path.name}/*.parquet. Name the file."
        )


def matching_files(place: Path, root: Path) -> list[Path]:
    """The files that a path with `*`, `?` or `{a,b}` in its name stands for, sorted; the path itself if it has none of
    these or is a file. A path is below `root`, whose own name is taken as it is."""
    try:
        name = str(place.relative_to(root))
    except ValueError:
        name, root = str(place), Path(place.anchor)
        name = name[len(place.anchor) :]
    if place.exists() or not re.search(r"[*?{]", name):
        return [place]
    found = {path for part in _alternatives(name) for path in root.glob(part) if path.is_file()}
    return sorted(found)


def _alternatives(pattern: str) -> list[str]:
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [name for part in match[1].split(",") for name in _alternatives(before + part + after)]


def _split(path: Path) -> tuple[str, str | None]:
    """The suffix that says the format, and the codec."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    codec = COMPRESSIONS.get(suffixes[-1]) if suffixes else None
    if codec is not None:
        suffixes.pop()
    return (suffixes[-1] if suffixes else ""), codec


def _sample(file: TableFile) -> str:
    """The first whole lines of a text file, or its start if its first line is longer than that."""
    try:
        with file.open() as stream:
            start = stream.read(SAMPLE_BYTES)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(file, error) from error
    if start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{file.path}: is in UTF-16. Allowed: UTF-8. Save it again as UTF-8 (in Excel: CSV UTF-8).")
    if len(start) == SAMPLE_BYTES and b"\n" in start:
        start = start[: start.rindex(b"\n") + 1]
    try:
        text = start.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # A sample that ends within a character is no fault.
        if error.start < len(start) - 4:
            raise unreadable(file, error) from error
        text = start[: error.start].decode("utf-8-sig")
    if not text.strip():
        raise DataError(f"{file.path}: the file has no line with text. Write the table again.")
    return text


def unreadable(file: TableFile, error: Exception) -> DataError:
    """The error for a file that cannot be read as what its name says."""
    reason = str(error).split("\n")[0][:200]
    return DataError(
        f"{file.path}: cannot be read as {file.format} ({reason}). The file is damaged, cut short or of another "
        "format: write it again, text in UTF-8."
    )


def _leading_blank_lines(sample: str) -> tuple[int, str]:
    """How many lines without text a sample begins with, and what follows them."""
    blank = re.match(r"(?:[^\S\r\n]*(?:\r\n|\r|\n))*", sample)
    assert blank is not None  # it matches nothing too
    return len(re.findall(r"\r\n|\r|\n", blank[0])), sample[blank.end() :]


def _rows(sample: str, delimiter: str, quotes: bool, count: int) -> list[Sequence[str]]:
    """The first rows of a sample, at least one; of a long sample without the last, which may be cut."""
    lines = io.StringIO(sample, newline="")  # a form feed, of which `splitlines` would make a line, is text
    rows: list[Sequence[str]] = []
    try:
        for row in csv.reader(lines, delimiter=delimiter, quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE):
            rows.append(row)
            if len(rows) == count:
                return rows
    except csv.Error as error:
        if not rows:
            raise DataError(f"the first line is no row of a table ({error}): {shown(sample[:80])}.") from error
    return rows[:-1] if len(rows) > 1 and len(sample) > SAMPLE_BYTES // 8 else rows or [[]]
