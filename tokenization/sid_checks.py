# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Checks of what is written into an index of semantic IDs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from .user_history import MAX_ID_LENGTH

CODE_BITS = 31  # codes are stored as int32
EXACT_FLOAT = 1 << 53  # whole numbers up to it are floats too
LARGEST_WHOLE = 1 << 63


def are_strings(ids: Sequence) -> bool:
    return all(issubclass(kind, str) for kind in set(map(type, ids)))


def check_lengths(ids: Sequence[str]) -> None:
    """Raises ValueError for an id that no request could name."""
    if ids and max(map(len, ids)) > MAX_ID_LENGTH:
        wrong = next(item for item in ids if len(item) > MAX_ID_LENGTH)
        raise ValueError(
            f"`item_ids` must have at most {MAX_ID_LENGTH} characters. Received one of {len(wrong)}: {wrong!r:.50}... "
            "Give it a shorter id."
        )
    try:
        "".join(ids).encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"`item_ids` must be Unicode text. Received half of a surrogate pair: {error.object[error.start]!a}. "
            "Correct that id: no file could hold it."
        ) from None


def raise_repeated(ids: Sequence[str]) -> None:
    seen: set[str] = set()
    repeated = next(item for item in ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
    raise ValueError(f"`item_ids` must be distinct. Received twice: {repeated!r}. Drop one of the two.")


def checked_ids(item_ids: Sequence[str]) -> list[str]:
    ids = list(item_ids) if isinstance(item_ids, Iterable) and not isinstance(item_ids, str) else [item_ids]
    if isinstance(item_ids, str) or not are_strings(ids):
        raise ValueError(f"`item_ids` must be a list of strings. Received: {item_ids!r}.")
    if len(set(ids)) < len(ids):
        raise_repeated(ids)
    check_lengths(ids)
    return ids


def checked_codes(codes: np.ndarray, count: int, levels: int) -> np.ndarray:
    """`codes` as int64 (count, levels)."""
    codes = np.asarray(codes)
    if not codes.size and not count:
        return np.zeros((0, levels), dtype=np.int64)
    if codes.shape != (count, levels):
        raise ValueError(
            f"`codes` must have shape ({count}, {levels}): one SID an item, {levels} codes each. "
            f"Received: {codes.shape}."
        )
    whole = codes.dtype.kind in "iu" or (codes.dtype.kind == "f" and bool((codes == np.floor(codes)).all()))
    if not whole or codes.min(initial=0) < 0 or codes.max(initial=0) >= 1 << CODE_BITS:
        received = f"{codes.dtype}, {codes.min()}..{codes.max()}" if codes.dtype.kind in "iuf" else f"{codes.dtype}"
        raise ValueError(f"`codes` must be integers in 0..2**{CODE_BITS}-1. Received: {received}.")
    return codes.astype(np.int64)


def checked_priority(priority: np.ndarray, count: int) -> np.ndarray:
    """`priority` as float64 (count,)."""
    priority = np.asarray(priority, dtype=np.float64)
    if priority.shape != (count,) or np.isnan(priority).any():
        received = f"shape {priority.shape}, {int(np.isnan(priority).sum())} NaN"
        raise ValueError(f"`priority` needs one number an item, {count}, none of them NaN. Received: {received}.")
    return priority


def checked_columns(columns: Mapping[str, Sequence] | None, known: Mapping[str, list], count: int) -> dict[str, list]:
    """`columns` as lists of `count` values, all of them of columns that the index has, and of their types."""
    values = {name: list(column) for name, column in (columns or {}).items()}
    for name, column in values.items():
        if name not in known:
            raise ValueError(
                f"`columns`: the index has no column {name!r}, it has {sorted(known)}. Leave it out, or build the "
                "index with it."
            )
        if len(column) != count:
            raise ValueError(f"`columns`: {name!r} needs one value an item, {count}. Received: {len(column)}.")
        check_one_type(name, column, known[name])
    return values


def check_one_type(name: str, values: Sequence[Any], held: Sequence[Any]) -> None:
    """Raises ValueError for values that cannot be stored in one column with those that the item table holds."""
    kinds = {value_kind(value) for value in values if value is not None}
    there = next((value_kind(value) for value in held if value is not None), None)
    if len(kinds | ({there} if there else set())) > 1:
        strange = next(value for value in values if value is not None and value_kind(value) != (there or "strings"))
        raise ValueError(
            f"Column {name!r} (`attributes`) received {' and '.join(sorted(kinds))}, e.g. {strange!r:.100}; the item "
            f"table's column holds {there or 'nothing yet'}. Give all ads one type, and None where there is no value."
        )
    try:
        if any(is_whole(value) and abs(value) >= LARGEST_WHOLE for value in values):
            raise OverflowError("a whole number beyond 64 bits")
        pa.array(values)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise ValueError(
            f"Column {name!r} (`attributes`) received what no file can hold ({' '.join(str(error).split())}). Give "
            "text, numbers below 2**63, booleans or None."
        ) from error
    if kinds == {"numbers"} and not fit_together(values, held):
        raise ValueError(
            f"Column {name!r} (`attributes`): whole numbers beyond 2**53 and fractions fit into no column together. "
            "Give ids as text, in a column of their own."
        )


def value_kind(value: Any) -> str:
    """What a column of the item table can hold together."""
    if isinstance(value, bool | np.bool_):
        return "booleans"
    if isinstance(value, int | float | np.integer | np.floating):
        return "numbers"
    return "strings" if isinstance(value, str) else f"values of type {type(value).__name__}"


def fit_together(values: Sequence[Any], held: Sequence[Any]) -> bool:
    """Whether numbers that are added to those of a column can be stored as one column: whole numbers that a float
    would not tell apart cannot stand beside fractions."""
    large = any(is_whole(value) and abs(value) > EXACT_FLOAT for value in values)
    fractions = any(isinstance(value, float | np.floating) for value in values)
    if large and (fractions or any(isinstance(value, float) for value in held)):
        return False
    return not (fractions and any(is_whole(value) and abs(value) > EXACT_FLOAT for value in held))


def is_whole(value: Any) -> bool:
    return isinstance(value, int | np.integer)


__all__ = [
    "are_strings",
    "check_lengths",
    "checked_codes",
    "checked_columns",
    "checked_ids",
    "checked_priority",
    "raise_repeated",
]
