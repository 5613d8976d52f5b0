# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Records of ads as rows of the catalog that a tokenizer was built on: every value of the type that its column has."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa

OWN_FIELDS = ("item_id", "embedding", "business_key", "priority")
"""Fields of a record that are no columns of the catalog, and its id."""
LIST = "list of "
OTHER = "other"  # of a column whose values no record can give
EXACT = 1 << 53


class AdRecordError(ValueError):
    """A record that cannot be an ad of the catalog. place: of the record among those that were given; item: its id,
    as far as it has one; field: the one at fault."""

    def __init__(self, message: str, *, place: int = 0, item: Any = None, field: str | None = None):
        super().__init__(message)
        self.place, self.item, self.field = place, item, field


def type_name(kind: pa.DataType) -> str | None:
    """The name under which a column's type is stored; None for one whose values no record can give."""
    if pa.types.is_dictionary(kind):
        return type_name(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        inner = type_name(kind.value_type)
        return None if inner is None or inner.startswith(LIST) else LIST + inner
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "string"
    simple = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    if pa.types.is_null(kind):
        return "string"  # a column without any value: text is what it would be read as
    return str(kind) if simple or pa.types.is_date(kind) or pa.types.is_timestamp(kind) else None


def arrow_type(name: str) -> pa.DataType:
    """The type of a stored name."""
    if name.startswith(LIST):
        return pa.list_(arrow_type(name.removeprefix(LIST)))
    if name.startswith("timestamp["):
        unit, _, zone = name.removeprefix("timestamp[").removesuffix("]").partition(", tz=")
        return pa.timestamp(unit, zone or None)
    return {"halffloat": pa.float16(), "float": pa.float32(), "double": pa.float64()}.get(name) or pa.type_for_alias(
        name
    )


def catalog_types(schema: pa.Schema) -> dict[str, str]:
    """Stored types of the columns of a catalog."""
    return {field.name: type_name(field.type) or OTHER for field in schema}


def plain(value: Any) -> Any:
    """A value as a file would give it: numpy's numbers as Python's, dates as ISO text, decimals as numbers; None for
    what stands for no value."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(part) for part in value]
    if isinstance(value, Decimal):
        value = int(value) if value.is_finite() and value == value.to_integral_value() else float(value)
    if isinstance(value, datetime.date | datetime.time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, float) and math.isnan(value):
        return None
    return None if type(value).__name__ in ("NaTType", "NAType") else value


def shown(value: Any) -> Any:
    """A value as the item table keeps it: text, a number, true or false, or None; of a list one text."""
    value = plain(value)
    if isinstance(value, list):
        return ", ".join(str(part) for part in value if part is not None)
    return value if value is None or isinstance(value, str | int | float) else str(value)


def typed(value: Any, kind: str, column: str) -> Any:
    """A value as the catalog's column holds it. Raises ValueError, naming the column, if it is none of its type."""
    value = plain(value)
    if value is None:
        return None
    if kind == OTHER:
        raise ValueError(f"`{column}` is of a type that no record can give. Received: {value!r:.100}. Leave it out.")
    if kind.startswith(LIST):
        if not isinstance(value, list):
            raise ValueError(f"`{column}` is a list in the catalog. Received: {value!r:.100}. Write a list.")
        return [typed(part, kind.removeprefix(LIST), column) for part in value]
    if kind == "string":
        if isinstance(value, str):
            return whole_text(value, column)
        raise ValueError(
            f"`{column}` is text in the catalog. Received: {value!r:.100}, which is {described(value)}. Write it as "
            "text, with all its zeros."
        )
    if kind == "bool":
        value = {"true": True, "false": False}.get(value.strip().lower(), value) if isinstance(value, str) else value
        if isinstance(value, bool):
            return value
        raise ValueError(f"`{column}` is true or false in the catalog. Received: {value!r:.100}.")
    if kind.startswith(("date", "timestamp")):
        return as_moment(value, kind, column)
    number = as_number(value)
    whole = kind.startswith(("int", "uint"))
    if number is None or (whole and not float(number).is_integer()):
        words = "a whole number" if whole else "a number"
        raise ValueError(f"`{column}` is {words} in the catalog. Received: {value!r:.100}.")
    if not whole:
        return float(number)
    if isinstance(number, float) and abs(number) > EXACT:
        raise ValueError(
            f"`{column}`: {value!r:.100} is too large to be exact as a float. Write it as a whole number."
        )
    return int(number)


def as_number(value: Any) -> int | float | None:
    """The finite number that a value is or says; None if it is none. Text with leading zeros is an id."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if isinstance(value, str):
        text = value.strip()
        digits = text.lstrip("+-")
        if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
            return None
        try:
            value = int(text)
        except ValueError:
            try:
                value = float(text)
            except ValueError:
                return None
    try:
        return value if math.isfinite(value) else None
    except OverflowError:  # a whole number beyond all floats
        return None


def as_moment(value: Any, kind: str, column: str) -> Any:
    try:
        return pa.array([value]).cast(arrow_type(kind))[0].as_py()
    except (pa.ArrowException, OverflowError) as error:
        raise ValueError(f"`{column}` is a {kind} in the catalog. Received: {value!r:.100} ({error}).") from error


def whole_text(value: str, column: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"`{column}` must be Unicode text. Received half of a surrogate pair: {value!a:.100}."
        ) from None
    return value


def writable(name: Any) -> str:
    """A name as text that any file or answer can hold."""
    return str(name).encode(errors="backslashreplace").decode()


def described(value: Any) -> str:
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    return {"list": "a list", "dict": "an object"}.get(type(value).__name__, f"a {type(value).__name__}")


def joined_keys(columns: Sequence[Sequence[Any]]) -> list[str]:
    """What a hashed level hashes of each ad: the values of its business fields, joined."""
    return ["|".join(map(str, row)) for row in zip(*columns, strict=True)]


def typed_row(record: Mapping[str, Any], types: Mapping[str, str], place: int) -> dict[str, Any]:
    """The columns of a record, each of its catalog type.

    Raises:
        AdRecordError: If the catalog has no such column, or a value is not of its column's type.
    """
    row: dict[str, Any] = {}
    for name, value in record.items():
        if name in OWN_FIELDS or (name not in types and plain(value) is None):
            continue
        try:
            if name not in types:
                known = ", ".join(column for column in types if column not in OWN_FIELDS)
                raise ValueError(
                    f"`{writable(name):.100}` is no column of the catalog that the artifact was built on. It has: "
                    f"{known}. Leave it out, or build the artifact with it."
                )
            row[name] = typed(value, types[name], name)
        except ValueError as error:
            raise AdRecordError(str(error), place=place, item=record.get("item_id"), field=writable(name)) from error
    return row


__all__ = [
    "OTHER",
    "OWN_FIELDS",
    "AdRecordError",
    "arrow_type",
    "catalog_types",
    "joined_keys",
    "plain",
    "shown",
    "typed",
    "typed_row",
    "whole_text",
]
