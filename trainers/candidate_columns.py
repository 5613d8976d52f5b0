# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Checks of the columns of a dataset whose rows are lists of candidates, row by row, before any training."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from datasets import Dataset


def require_columns(lists: Dataset, names: Iterable[str], dataset: str, remedy: str) -> None:
    """Raises ValueError for the first column that is missing."""
    for name in names:
        if name not in lists.column_names:
            raise ValueError(
                f"{dataset} needs the column `{name}`. Received: {', '.join(lists.column_names)}. {remedy}"
            )


def check_candidates(lists: Dataset) -> list[list[str]]:
    """The column `candidates`. Raises ValueError, naming the row, where it is not a list of item ids."""
    column = lists["candidates"][:]
    for row, candidates in enumerate(column):
        bad = None if candidates is None else next((item for item in candidates if not isinstance(item, str)), "")
        if candidates is None or not isinstance(bad, str):
            raise ValueError(
                f"`candidates` of row {row} must be a list of item ids, which are text. Received: {bad!r}. Remove the "
                "row, or give the ids as text."
            )
    return column


def check_numbers(lists: Dataset, name: str, *, sign: int) -> list[list[float]]:
    """A column with one number for each candidate: >= 0 where `sign` is 1, <= 0 where it is -1, always finite.

    Raises:
        ValueError: Naming row and value, where a list is missing or of another length, or a number is null, not
            finite or of the other sign.
    """
    column, candidates = lists[name][:], lists["candidates"][:]
    allowed = "finite and >= 0" if sign > 0 else "finite and <= 0"
    for row, (numbers, items) in enumerate(zip(column, candidates, strict=True)):
        if numbers is None or len(numbers) != len(items):
            raise ValueError(
                f"`{name}` of row {row} must have one number for each of its {len(items)} candidates. Received: "
                f"{None if numbers is None else len(numbers)}."
            )
        if not all(isinstance(number, (int, float)) for number in numbers):
            bad = next(number for number in numbers if not isinstance(number, (int, float)))
            raise ValueError(f"`{name}` of row {row} must be {allowed}. Received: {bad!r}.")
        signed = sign * np.asarray(numbers, dtype=np.float64)
        wrong = np.flatnonzero(~(np.isfinite(signed) & (signed >= 0)))
        if len(wrong):
            raise ValueError(f"`{name}` of row {row} must be {allowed}. Received: {numbers[wrong[0]]}.")
    return column


__all__ = ["check_candidates", "check_numbers", "require_columns"]
