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
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError
from .roles import FileRole

UNITS = ("s", "ms", "us", "ns")
ALLOWED = "text, numbers, booleans, dates and times"


@dataclass(frozen=True)
class TypeFacts:
    """What decides on the type that a column gets as a whole: decimals without places all fit 64 bits; the place in
    `UNITS` of the coarsest unit that holds all moments."""

    fits: bool = True
    unit: int = 0

    @classmethod
    def of(cls, column: pa.ChunkedArray) -> TypeFacts:
        """Of a column, or a part of it."""
        kind = column.type
        if pa.types.is_decimal(kind) and kind.scale <= 0:
            return cls(fits=_casts(column, pa.int64()))
        if pa.types.is_timestamp(kind):
            naive = column.cast(pa.int64()).cast(pa.timestamp(kind.unit))
            units = (place for place, unit in enumerate(UNITS) if _casts(naive, pa.timestamp(unit)))
            return cls(unit=next(units))
        return cls()

    def __or__(self, other: TypeFacts) -> TypeFacts:
        return TypeFacts(self.fits and other.fits, max(self.unit, other.unit))


def with_plain_types(
    table: pa.Table,
    file: str,
    role: FileRole,
    *,
    needed: Collection[str],
    clocks: Collection[str] = (),
    facts: Mapping[str, TypeFacts] | None = None,
) -> tuple[pa.Table, dict[str, str]]:
    """The table with every column of a type that later steps know.

    Args:
        table: as read, with the names of the file.
        needed: columns that a column map names or the role requires: of another type they are an error.
        clocks: columns whose dates and times stay moments.
        facts: of columns of the whole file, where this is a part of it.

    Returns:
        The table without columns of types that are not allowed, and those columns with their types.

    Raises:
        DataError: a needed column is of a type that is not allowed.
    """
    lists = role == "catalog"
    columns: dict[str, pa.ChunkedArray] = {}
    left_out: dict[str, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        plain = plain_column(column, lists=lists, moments=name in clocks, facts=(facts or {}).get(name))
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


def plain_column(
    column: pa.ChunkedArray, *, lists: bool, moments: bool, facts: TypeFacts | None = None
) -> pa.ChunkedArray | None:
    """A column as the table above says, or None if its type is not allowed.

    Args:
        lists: lists are allowed. moments: dates and times of day stay as they are.
        facts: of the whole column, where this is a part of it.
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
        return _decimals(column, facts or TypeFacts.of(column))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return column if moments else iso_text(column, facts)
    if pa.types.is_time(kind):
        return column.cast(pa.string())
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if lists and is_list and _is_scalar(kind.value_type):
        return column
    return None


def iso_text(column: pa.ChunkedArray, facts: TypeFacts | None = None) -> pa.ChunkedArray:
    """Dates as 2024-01-31, moments as 2024-01-31T10:00:00, with fractions where one of the column has them, and a Z
    where the column has a zone (moments are then in UTC)."""
    if pa.types.is_date(column.type):
        return column.cast(pa.date32()).cast(pa.string())
    zone, unit = column.type.tz, column.type.unit
    coarsest = UNITS[(facts or TypeFacts.of(column)).unit]
    naive = column.cast(pa.int64()).cast(pa.timestamp(unit)).cast(pa.timestamp(coarsest))
    return pc.strftime(naive, "%Y-%m-%dT%H:%M:%S" + ("Z" if zone else ""))


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    chunks = [chunk.storage for chunk in column.chunks]
    stored = pa.chunked_array(chunks, kind.storage_type)
    if kind.extension_name != "arrow.uuid":
        return stored
    text = [None if value is None else str(uuid.UUID(bytes=value)) for value in stored.to_pylist()]
    return pa.chunked_array([pa.array(text, pa.string())])


def _decimals(column: pa.ChunkedArray, facts: TypeFacts) -> pa.ChunkedArray:
    if column.type.scale > 0:
        return column.cast(pa.float64())
    return column.cast(pa.int64() if facts.fits else pa.string())  # more than 18 digits: an id, nothing may be lost


def _casts(column: pa.ChunkedArray, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    numbers = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return numbers or _is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
