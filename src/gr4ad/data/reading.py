"""Tables of any source and format under our column names, with what was read and every failure told in one line."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from .checking import DataError
from .column_types import TypeFacts, with_plain_types
from .columns import is_text
from .config import DataConfig
from .event_columns import EVENT_COLUMNS
from .file_formats import DELIMITERS, TableFile, check_file, matching_files, table_file
from .file_readers import columns_in, read_file
from .presets import PRESETS, Decoding, Preset
from .roles import REQUIRED, FileRole

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    *("REQUIRED", "RawTable", "Wanted", "check_file", "check_number_columns", "column_names", "found_files"),
    *("in_our_names", "joined", "locate", "our_names", "plain", "read_source", "read_table", "source_files"),
    *("told_of", "wanted_of"),
]

logger = logging.getLogger(__name__)

CLOCKS = ("timestamp", "position")
CODED: dict[FileRole, tuple[str, ...]] = {
    "events": ("user_id", "item_id", "event", "request_id"),
    "cross_domain": ("user_id", "item_id"),
}
"""Columns of long tables whose texts are few: read as codes, so that a log never stands in memory as text."""


@dataclass
class RawTable:
    """A table as it came, under our column names.

    Attributes:
        table: mapped columns first; of types that `column_types` allows.
        name: file, pattern of files or hub data set, as errors show it.
        files: of each file its `role`, `file`, `format`, `delimiter` (of delimited text) and `rows`.
        theirs: our column name -> the file's, where they differ.
        notes: sentences about what was left out or made of it.
    """

    table: pa.Table
    name: str
    files: list[dict[str, Any]] = field(default_factory=list)
    theirs: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """How it was read, for the account of a run: `format`, `delimiter` (None where there is none), `packed`, the
        `files` with their rows where they are several, and `notes`."""
        first = self.files[0]
        facts = {"format": first["format"], "delimiter": first.get("delimiter")}
        if "packed" in first:
            facts["packed"] = first["packed"]
        if len(self.files) > 1:
            facts["files"] = [{"file": file["file"], "rows": file["rows"]} for file in self.files]
        return facts | ({"notes": self.notes} if self.notes else {})


@dataclass(frozen=True)
class Wanted:
    """How a table is to be read: see `read_table`. `features` are further columns that it must have in a type that
    is allowed; `clocks` are columns whose moments stay moments, `coded` columns of text that are read as codes of few
    distinct texts."""

    role: FileRole
    columns: Mapping[str, str]
    numbers: Collection[str] = ()
    features: Collection[str] = ()
    coded: Collection[str] = ()
    clocks: Collection[str] = CLOCKS
    preset: Preset | None = None
    limit: int | None = None


def locate(source: str | Path, root: str | Path = ".") -> str | Path:
    """Where a table is: the path of a local file, below `root` if relative, or the name of a hub data set."""
    local = Path(root, source)
    if isinstance(source, Path):
        return local
    owner_and_name = not local.suffix and len(Path(source).parts) == 2 and not local.exists()
    is_pattern = any(character in source for character in "*?{")
    return source if source.startswith("hf://") or (owner_and_name and not is_pattern) else local


def source_files(source: str | Path, root: str | Path = ".") -> list[Path]:
    """The local files of a table, sorted: one, those that match a pattern such as `events/*.parquet` or
    `{imp,clk}.*.txt`, or none of a hub data set."""
    place = locate(source, root)
    return matching_files(place, Path(root)) if isinstance(place, Path) else []


def read_source(config: DataConfig, role: FileRole, limit: int | None = None) -> RawTable:
    """A table of a recipe.

    Args:
        limit: about how many rows to read from the beginning of each file; None: all.

    Raises:
        DataError: as `read_table`.
    """
    return _read(config.sources()[role], config.root, wanted_of(config, role, limit))


def read_table(
    source: str | Path,
    *,
    file_role: FileRole,
    columns: Mapping[str, str] | None = None,
    root: str | Path = ".",
    number_columns: Collection[str] = (),
) -> Dataset:
    """Reads one raw table and gives its columns our names.

    Local files are read into memory, without a cache on disk. Files of a hub data set are read by the same rules.

    Args:
        source: a file in a format of `file_formats.FORMATS`, plain or packed (.gz, .zst, .bz2), a pattern of files, or
            a hub data set: `owner/name`, `hf://owner/name`, `hf://owner/name:split`, `hf://owner/name/file.csv`
            (default split: train).
        file_role: which table it is; decides which columns are required.
        columns: our name -> the file's column name. A column of the file that is not named here keeps its name,
            unless that name is taken by a mapped column: then it is left out, with a warning.
        root: folder that a relative file name resolves against.
        number_columns: columns of delimited text (by the file's name or ours) that are numbers. All others of such a
            file stay text, as written.

    Returns:
        `datasets.Dataset`, rows in the order of the file, mapped columns first.

    Raises:
        DataError: no such file, unknown format, unreadable or empty file, missing column, a needed column of a type
            that is not allowed, a cell of a number column that is no number.
    """
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    raw = _read(source, root, Wanted(file_role, dict(columns or {}), number_columns))
    for note in raw.notes:
        logger.warning("%s: %s", raw.name, note)
    # The fingerprint that `datasets` would make is a hash of all rows, which nothing here asks for.
    return Dataset(raw.table, fingerprint=generate_random_fingerprint())


def column_names(config: DataConfig, role: FileRole) -> Sequence[str] | None:
    """Columns of a table under our names, from the beginning of its files; None where they cannot be known without all
    of it, a download, or because a file is damaged, of which the reader will tell.

    Raises:
        DataError: a local table is no file, or lacks a column that is mapped or required.
    """
    wanted = wanted_of(config, role, 1000)
    source = config.sources()[role]
    place = locate(source, config.root)
    if not isinstance(place, Path):
        return None
    if wanted.preset is not None:
        return _read(source, config.root, wanted).table.column_names
    path = _local_files(place, Path(config.root), role)[0]
    check_file(path, role)
    try:
        there = columns_in(table_file(path, role))
    except DataError:
        return None
    return None if there is None else our_names(there, str(path), role, wanted.columns)


def check_number_columns(config: DataConfig) -> None:
    """Raises DataError where `number_columns` names a column that no table has (as far as their heads tell)."""
    if not config.number_columns:
        return
    known: set[str] = set()
    for role in config.sources():
        names = column_names(config, role)
        if names is None:
            return
        known |= {*names, *(theirs for ours, theirs in config.columns_of(role).items())}
    unknown = [name for name in config.number_columns if name not in known]
    if unknown:
        raise DataError(
            f"`number_columns` names {unknown[0]!r}, which no table has. Columns there are: "
            f"{', '.join(sorted(known))}. Correct the name."
        )


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
    shadowed = _shadowed(there, columns)
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


def _shadowed(there: Sequence[str], columns: Mapping[str, str]) -> list[str]:
    return [name for name in there if name in columns and name not in columns.values()]


def wanted_of(config: DataConfig, role: FileRole, limit: int | None = None) -> Wanted:
    """How a table of a recipe is to be read."""
    columns = config.columns_of(role)
    numbers = {name for given in config.number_columns for name in (given, columns.get(given, given))}
    clocks = {columns.get(name, name) for name in (*CLOCKS, config.split_column)}
    features = list(config.user_features or ()) if role == "users" else []
    preset = None if config.preset is None else PRESETS[config.preset]
    coded = {columns.get(name, name) for name in CODED.get(role, ())} - numbers
    return Wanted(role, columns, numbers, features, coded if preset is None else (), clocks, preset, limit)


def _local_files(place: Path, root: Path, role: FileRole) -> list[Path]:
    files = matching_files(place, root)
    if not files:
        raise DataError(f"{place}: no file matches (the {role} table). Check `{role}` and `root`.")
    return files


def found_files(source: str | Path, root: str | Path, role: FileRole) -> tuple[RawTable, list[Path] | pa.Table]:
    """A table that is still to be read, and its files, or the table of a hub data set."""
    from .hub_files import hub_tables

    place = locate(source, root)
    raw = RawTable(pa.table({}), str(place))
    found = _local_files(place, Path(root), role) if isinstance(place, Path) else hub_tables(place)
    if isinstance(place, Path) and len(found) == 1:
        raw.name = str(found[0])
    return raw, found


def _read(source: str | Path, root: str | Path, wanted: Wanted) -> RawTable:
    role = wanted.role
    raw, found = found_files(source, root, role)
    if isinstance(found, pa.Table):
        raw.files.append({"role": role, "file": raw.name, "format": "hub", "rows": found.num_rows})
        tables = [plain(found, raw.name, wanted, raw)]
    else:
        tables = [_file_table(path, wanted, raw) for path in found]
    table = tables[0] if len(tables) == 1 else joined(tables, raw, found)
    require_rows(table.num_rows, raw, role)
    if wanted.preset is not None:
        table = _decoded(table, wanted, raw)
    raw.table = in_our_names(table, raw, wanted)
    return raw


def require_rows(rows: int, raw: RawTable, role: FileRole) -> None:
    """Raises DataError for a table without rows."""
    if not rows:
        raise DataError(f"{raw.name}: the {role} table has no rows. At least one is needed: check the file.")


def in_our_names(table: pa.Table, raw: RawTable, wanted: Wanted) -> pa.Table:
    """The table under our names, mapped columns first; tells `raw` of the names.

    Raises:
        DataError: a column stands twice, or one that is mapped or required is missing.
    """
    names = our_names(table.column_names, raw.name, wanted.role, wanted.columns)
    table = table.unify_dictionaries()
    raw.theirs |= {ours: theirs for ours, theirs in wanted.columns.items() if ours != theirs}
    if shadowed := _shadowed(table.column_names, wanted.columns):
        raw.notes.append(f"left out {', '.join(f'`{name}`' for name in shadowed)}: the column map uses these names")
    return pa.table([table[wanted.columns.get(name, name)] for name in names], names=names)


def _file_table(path: Path, wanted: Wanted, raw: RawTable) -> pa.Table:
    layout = None if wanted.preset is None else wanted.preset.layouts.get(wanted.role)
    file = table_file(path, wanted.role, layout)
    table = read_file(file, wanted.numbers, wanted.limit, raw.notes, wanted.coded)
    raw.files.append(told_of(file, wanted.role, table.num_rows))
    return plain(table, str(path), wanted, raw)


def told_of(file: TableFile, role: FileRole, rows: int) -> dict[str, Any]:
    """An entry of `RawTable.files`."""
    entry: dict[str, Any] = {"role": role, "file": str(file.path), "format": file.format}
    if file.codec is not None:
        entry["packed"] = file.codec
    if file.is_text:
        entry["delimiter"] = DELIMITERS.get(file.layout.delimiter or "", file.layout.delimiter)
    return entry | {"rows": rows}


def plain(
    table: pa.Table, file: str, wanted: Wanted, raw: RawTable, facts: Mapping[str, TypeFacts] | None = None
) -> pa.Table:
    """The columns of a file in types that later steps know; what is left out is told in `raw.notes`.

    Args:
        facts: of columns of the whole file, where this is a part of it.
    """
    if len(set(table.column_names)) < len(table.column_names):
        return table  # `our_names` says which column stands twice
    if wanted.preset is not None:
        return table  # its own columns are checked once they are decoded
    needed = {*wanted.columns.values(), *wanted.features} | {
        name for name in (*REQUIRED[wanted.role], *(EVENT_COLUMNS if wanted.role == "events" else ()))
        if name not in wanted.columns
    }  # fmt: skip
    return _allowed(table, file, wanted, raw, needed, facts)


def _allowed(
    table: pa.Table,
    file: str,
    wanted: Wanted,
    raw: RawTable,
    needed: Collection[str],
    facts: Mapping[str, TypeFacts] | None = None,
) -> pa.Table:
    table, left_out = with_plain_types(table, file, wanted.role, needed=needed, clocks=wanted.clocks, facts=facts)
    if left_out:
        told = ", ".join(f"`{name}` ({kind})" for name, kind in left_out.items())
        raw.notes.append(f"left out columns of types that are not read here: {told}")
    return table


def joined(tables: list[pa.Table], raw: RawTable, found: list[Path] | pa.Table) -> pa.Table:
    """The tables of several files one after the other."""
    names = tables[0].column_names
    for table, path in zip(tables[1:], found[1:], strict=True):
        other = sorted(set(names) ^ set(table.column_names))
        if other:
            has = "lacks" if other[0] in names else "has"
            raise DataError(
                f"{path}: {has} column `{other[0]}`, unlike {found[0]}. Allowed: the same columns in all files of a "
                "table. Write them alike, or name fewer files."
            )
    try:
        return pa.concat_tables([table.select(names) for table in tables], promote_options="permissive")
    except pa.ArrowException as error:
        name, path, kinds = _unlike(tables, names, found)
        raise DataError(
            f"{path}: column `{name}` is {kinds[-1]}, unlike the files before, where it is {kinds[0]}. Allowed: the "
            "same types in all files of a table. Write them alike."
        ) from error


def _unlike(tables: list[pa.Table], names: list[str], found: list[Path] | pa.Table) -> tuple[str, Path, list[str]]:
    """Of tables that cannot be joined: a column, the first file that it does not go on in, and its types up to there.
    Text is called so whatever holds it: a log in memory holds codes of it."""
    for name in names:
        kinds = [pa.schema([pa.field(name, table[name].type)]) for table in tables]
        for count in range(2, len(kinds) + 1):
            try:
                pa.unify_schemas(kinds[:count], promote_options="permissive")
            except pa.ArrowException:
                types = [kind.field(0).type for kind in kinds[:count]]
                types = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in types]
                return name, found[count - 1], ["text" if is_text(kind) else f"of type {kind}" for kind in types]
    raise AssertionError("tables whose columns fit can be joined")


def _decoded(table: pa.Table, wanted: Wanted, raw: RawTable) -> pa.Table:
    preset, role = wanted.preset, wanted.role
    assert preset is not None
    decode = preset.decode.get(role)
    if decode is not None:
        decoding = Decoding(table, role, raw.name)
        table = decode(decoding)
        raw.notes += decoding.notes
        raw.theirs |= dict(preset.theirs.get(role, {}))
        if table.num_rows == 0:
            raise DataError(f"{raw.name}: nothing is left of the {role} table after decoding. Check the file.")
    return _allowed(table, raw.name, wanted, raw, {*REQUIRED[role], *wanted.columns.values(), *wanted.features})
