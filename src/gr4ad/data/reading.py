"""Parquet, csv, jsonl and hub data sets as `datasets.Dataset`, with every failure told in one line."""

from __future__ import annotations

import csv
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from .checking import DataError, shown
from .config import FileRole

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

REQUIRED: dict[FileRole, list[str]] = {
    "catalog": ["item_id"],
    "events": ["user_id", "item_id"],
    "users": ["user_id"],
    "cross_domain": ["user_id", "item_id", "timestamp"],
}
# Read as text, so that 007 and 1e5 stay what the file says. All columns of the other tables are.
CATALOG_TEXT = ("item_id", "event_key", "account_id", "conversion_type")
# A row must fit into one block, so this also bounds the length of a row.
BLOCK_BYTES = 16 << 20


def locate(source: str | Path, root: str | Path = ".") -> str | Path:
    """Where a table is: the path of a local file, below `root` if relative, or the name of a hub data set."""
    local = Path(root, source)
    if isinstance(source, Path):
        return local
    owner_and_name = not local.suffix and len(Path(source).parts) == 2 and not local.exists()
    return source if source.startswith("hf://") or owner_and_name else local


def read_table(
    source: str | Path, *, file_role: FileRole, columns: Mapping[str, str] | None = None, root: str | Path = "."
) -> Dataset:
    """Reads one raw table and gives its columns our names.

    Local files are read into memory, without a cache on disk. In a csv, the catalog's ids and every column of the
    other tables stay text, as written.

    Args:
        source: a `.parquet`, `.csv`, `.jsonl` or `.json` (one object a line) file, or a hub data set: `owner/name`,
            `hf://owner/name`, `hf://owner/name:split`, `hf://owner/name/file.parquet` (default split: train).
        file_role: which table it is; decides which columns are required.
        columns: our name -> the file's column name. A column of the file that is not named here keeps its name,
            unless that name is taken by a mapped column: then it is left out, with a warning.
        root: folder that a relative file name resolves against.

    Returns:
        `datasets.Dataset`, rows in the order of the file, mapped columns first.

    Raises:
        DataError: no such file, unknown format, unreadable or empty file, missing column.
    """
    from datasets import Dataset

    place, columns = locate(source, root), dict(columns or {})
    table = _read_file(place, file_role, columns) if isinstance(place, Path) else _read_hub(place)
    if table.num_rows == 0:
        raise DataError(f"{place}: the {file_role} table has no rows. At least one is needed: check the file.")
    return Dataset(_renamed(table, str(place), file_role, columns))


def _read_hub(source: str) -> pa.Table:
    import datasets
    from datasets.exceptions import DatasetsError

    parts = source.removeprefix("hf://").split("/", 2)
    if len(parts) < 2 or not all(parts):
        raise DataError(f"{source}: not a hub data set. Allowed: hf://owner/name, hf://owner/name:split.")
    file = parts[2] if len(parts) == 3 else None
    repository, _, split = "/".join(parts[:2]).partition(":")
    try:
        dataset = datasets.load_dataset(repository, data_files=file, split=split or "train")
    except (OSError, ValueError, DatasetsError) as error:
        raise DataError(
            f"{source}: no such file here, and as a hub data set it cannot be loaded ({type(error).__name__}: "
            f"{str(error)[:200]}). Check the name, the split and the network, or give a local file."
        ) from error
    # A hub data set may carry an index mapping; the arrow table underneath then has other rows.
    return dataset.flatten_indices().data.table if dataset._indices is not None else dataset.data.table


def check_file(path: Path, role: FileRole) -> None:
    """Raises DataError if a table is no file."""
    if not path.exists():
        raise DataError(f"{path}: no such file (the {role} table). Check `{role}` and `root`.")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; the {role} table should be one file. Name the file.")


def _read_file(path: Path, role: FileRole, columns: dict[str, str]) -> pa.Table:
    text = [columns.get(name, name) for name in CATALOG_TEXT] if role == "catalog" else None
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".parquet": _read_parquet,
        ".csv": lambda path: _read_csv(path, text),
        ".jsonl": _read_jsonl,
        ".json": _read_jsonl,
    }
    check_file(path, role)
    if path.suffix.lower() not in readers:
        suffix = path.suffix or "none"
        raise DataError(f"{path}: unknown suffix: {suffix}. Allowed: {', '.join(readers)}, or a hub id owner/name.")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes). Write the {role} table again.")
    try:
        return readers[path.suffix.lower()](path)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0][:200]
        raise DataError(
            f"{path}: cannot be read as {path.suffix[1:].lower()} ({reason}). The file is damaged, cut short or of "
            "another format: write it again."
        ) from error


def _read_parquet(path: Path) -> pa.Table:
    import pyarrow.parquet as pq

    # A ParquetFile reads this one file; pq.read_table would add columns parsed from folder names such as `week=3`.
    with pq.ParquetFile(path) as file:
        return file.read().replace_schema_metadata(None)


def _read_csv(path: Path, text: list[str] | None) -> pa.Table:
    """text: columns that are read as text; None: all of them."""
    from pyarrow import csv as pa_csv

    with path.open(encoding="utf-8-sig", newline="") as file:
        header = next(csv.reader(file), [])
    types = dict.fromkeys(header if text is None else text, pa.string())
    convert = pa_csv.ConvertOptions(column_types=types, null_values=[""], strings_can_be_null=True)
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    try:
        return pa_csv.read_csv(path, pa_csv.ReadOptions(block_size=BLOCK_BYTES), parse, convert)
    except pa.ArrowInvalid:
        # Only the single-threaded reader knows the line number that its message then gives.
        return pa_csv.read_csv(path, pa_csv.ReadOptions(block_size=BLOCK_BYTES, use_threads=False), parse, convert)


def _read_jsonl(path: Path) -> pa.Table:
    from pyarrow import json as pa_json

    first = _first_object(path)
    # Arrow would turn texts that look like dates into timestamps, ids included.
    text = pa.schema([(key, pa.string()) for key, value in first.items() if isinstance(value, str)])
    parse = pa_json.ParseOptions(explicit_schema=text, newlines_in_values=False)
    try:
        return pa_json.read_json(path, pa_json.ReadOptions(block_size=BLOCK_BYTES), parse)
    except pa.ArrowInvalid as error:
        raise DataError(_bad_line(path, first) or f"{path}: cannot be read as json lines ({error}).") from error


def _first_object(path: Path) -> dict:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if line.strip():
                return _object(path, number, line)
    raise DataError(f"{path}: the file holds no json object. One object a line is needed: write the table again.")


def _object(path: Path, number: int, line: str) -> dict:
    def refuse_constant(name: str) -> float:
        raise ValueError(f"{name} is not json")

    try:
        value = json.loads(line, parse_constant=refuse_constant)
    except ValueError as error:
        raise DataError(
            f"{path}: line {number} (0-based) is not json ({error}): received {shown(line[:200])}, allowed: one "
            'object a line, such as {"item_id": "a"}. Fix that line.'
        ) from error
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: line {number} (0-based): received {shown(value)}, allowed: one object a line, such as "
            '{"item_id": "a"}. Write the table as json lines, not as one array.'
        )
    return value


def _bad_line(path: Path, first: dict) -> str | None:
    """Names the first line that is no object or whose type for some key differs from the lines before."""
    kinds: dict[str, str] = {}
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            for key, value in _object(path, number, line).items():
                kind = "number" if type(value) in (int, float) else type(value).__name__
                if value is not None and kinds.setdefault(key, kind) != kind:
                    return (
                        f"{path}: column `{key}`, row {number} (0-based): received {shown(value)}, allowed: "
                        f"{kinds[key]} as in the rows before. Write one type a column."
                    )
    return None


def our_names(there: Sequence[str], file: str, role: FileRole, columns: Mapping[str, str]) -> list[str]:
    """Names under which the columns of a file are known here: the mapped ones first.

    Raises:
        DataError: a column stands twice, or one that is mapped or required is missing.
    """
    repeated = sorted({name for name in there if there.count(name) > 1})
    if repeated:
        raise DataError(f"{file}: column `{repeated[0]}` stands twice. Allowed: once. Rename one of them.")
    for ours, theirs in columns.items():
        if theirs not in there:
            raise DataError(
                f"{file}: no column `{theirs}` (mapped to `{ours}`). Columns there are: {', '.join(there)}. "
                f"Correct the column map of the {role}."
            )
    shadowed = [name for name in there if name in columns and name not in columns.values()]
    if shadowed:
        logger.warning("%s: left out column(s) %s: the column map uses these names", file, ", ".join(shadowed))
    others = [name for name in there if name not in columns and name not in columns.values()]
    names = [*columns, *others]
    for name in REQUIRED[role]:
        if name not in names:
            raise DataError(
                f"{file}: no column `{name}`. Columns there are: {', '.join(there)}. Map one of them to `{name}` in "
                f"the column map of the {role}."
            )
    return names


def _renamed(table: pa.Table, file: str, role: FileRole, columns: Mapping[str, str]) -> pa.Table:
    names = our_names(table.column_names, file, role, columns)
    return pa.table([table[columns.get(name, name)] for name in names], names=names)
