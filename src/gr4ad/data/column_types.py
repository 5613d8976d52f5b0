"""The types that a column may have when it enters: what each becomes, and which are refused.

| in the file | here |
|---|---|
| text, numbers, booleans, dictionaries of text | as they are |
| decimals | whole numbers where they have no places after the point, else floating |
| dates, times | ISO text; a clock column keeps its moments |
| UUIDs, JSON as text | text |
| lists of text, numbers or booleans | as they are, in a catalog |
| structs, maps, lists of lists, bytes, durations | refused |
"""

from __future__ import annotations

import uuid
from collections.abc import Collection

import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError
from .roles import FileRole

ALLOWED = "text, numbers, booleans, dates and times"


def with_plain_types(
    table: pa.Table, file: str, role: FileRole, *, needed: Collection[str], clocks: Collection[str] = ()
) -> tuple[pa.Table, dict[str, str]]:
    """The table with every column of a type that later steps know.

    Args:
        table: as read, with the names of the file.
        needed: columns that a column map names or the role requires: of another type they are an error.
        clocks: columns whose dates and times stay moments.

    Returns:
        The table without columns of types that are not allowed, and those columns with their types.

    Raises:
        DataError: a needed column is of a type that is not allowed.
    """
    lists = role == "catalog"
    columns: dict[str, pa.ChunkedArray] = {}
    left_out: dict[str, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        plain = plain_column(column, lists=lists, moments=name in clocks)
        if plain is not None:
            columns[name] = plain
            continue
        if name in needed:
            allowed = ALLOWED + (", and lists of text or numbers" if lists else "")
            raise DataError(
                f"{file}: column `{name}` is of type {str(column.type)[:80]}. Allowed: {allowed}. Write it as one of "
                "these, or map another column."
            )
        left_out[name] = str(column.type)[:80]
    return pa.table(list(columns.values()), names=list(columns)), left_out


def plain_column(column: pa.ChunkedArray, *, lists: bool, moments: bool) -> pa.ChunkedArray | None:
    """A column as the table above says, or None if its type is not allowed.

    Args:
        lists: lists are allowed. moments: dates and times of day stay as they are.
    """
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        column = _storage(column)
        kind = column.type
    if pa.types.is_dictionary(kind):
        if _is_text(kind.value_type):
            return column
        column = column.cast(kind.value_type)
        kind = column.type
    if _is_scalar(kind):
        return column.cast(pa.float32()) if kind == pa.float16() else column
    if pa.types.is_string_view(kind):
        return column.cast(pa.large_string())
    if pa.types.is_decimal(kind):
        return _decimals(column)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column if moments else iso_text(column)
    if pa.types.is_time(kind):
        return column.cast(pa.string())
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if lists and is_list and _is_scalar(kind.value_type):
        return column
    return None


def iso_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates as 2024-01-31, moments as 2024-01-31T10:00:00, with fractions where one of the column has them, and a Z
    where the column has a zone (moments are then in UTC)."""
    if pa.types.is_date(column.type):
        return column.cast(pa.date32()).cast(pa.string())
    zone, unit = column.type.tz, column.type.unit
    naive = column.cast(pa.int64()).cast(pa.timestamp(unit))
    for coarser in ("s", "ms", "us"):
        try:
            naive = naive.cast(pa.timestamp(coarser))
            break
        except pa.ArrowInvalid:
            continue
    return pc.strftime(naive, "%Y-%m-%dT%H:%M:%S" + ("Z" if zone else ""))


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    chunks = [chunk.storage for chunk in column.chunks]
    stored = pa.chunked_array(chunks, kind.storage_type)
    if kind.extension_name != "arrow.uuid":
        return stored
    text = [None if value is None else str(uuid.UUID(bytes=value)) for value in stored.to_pylist()]
    return pa.chunked_array([pa.array(text, pa.string())])


def _decimals(column: pa.ChunkedArray) -> pa.ChunkedArray:
    if column.type.scale > 0:
        return column.cast(pa.float64())
    try:
        return column.cast(pa.int64())
    except pa.ArrowInvalid:  # more than 18 digits: an id, of which none may be lost
        return column.cast(pa.string())


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return numbers or _is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
