# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Rows that are lists of candidates: checked one by one before any training, and batched."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import BatchEncoding

from gr4ad.tokenization import HISTORY_COLUMNS, HistoryError, UASIDTokenizer, UserHistory

ROUNDING = 1e-6  # of the logarithm of a probability of 1


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


def check_histories(lists: Dataset) -> None:
    """Raises ValueError, naming the row, as [`UserHistory`]; rows without `items` are not read."""
    columns = lists.select_columns([name for name in HISTORY_COLUMNS if name in lists.column_names])
    for number, row in enumerate(columns):
        try:
            if row["items"] is not None:
                UserHistory.from_row(row)
        except HistoryError as error:
            raise error.at(number) from None


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
        wrong = np.flatnonzero(~(np.isfinite(signed) & (signed >= (0 if sign > 0 else -ROUNDING))))
        if len(wrong):
            raise ValueError(f"`{name}` of row {row} must be {allowed}. Received: {numbers[wrong[0]]}.")
    return column


def candidate_batch(
    tokenizer: UASIDTokenizer, rows: Sequence[Mapping[str, Any]], *, max_items: int, max_cross_domain: int | None
) -> tuple[BatchEncoding, np.ndarray, np.ndarray]:
    """The history inputs of `UASIDTokenizer.encode_rows`, as tensors; and of n candidates, the most of a row, the item
    rows (int64, (B, n)), where padding repeats the first, and the mask (bool, (B, n)), True on real ones."""
    batch = tokenizer.encode_rows(rows, max_items=max_items, max_cross_domain=max_cross_domain, return_tensors="pt")
    known = [tokenizer.item_rows(row["candidates"]) for row in rows]
    lengths = np.array([len(part) for part in known])
    width = int(lengths.max())
    items = np.stack([np.concatenate([part, np.repeat(part[:1], width - len(part))]) for part in known])
    return batch, items, np.arange(width) < lengths[:, None]


def padded_numbers(rows: Sequence[Mapping[str, Any]], name: str, width: int) -> np.ndarray:
    """A column with one number for each candidate, float32 (B, width), 0 on padding."""
    lines = np.zeros((len(rows), width), dtype=np.float32)
    for line, row in zip(lines, rows, strict=True):
        line[: len(row[name])] = row[name]
    return lines


__all__ = [
    "candidate_batch",
    "check_candidates",
    "check_histories",
    "check_numbers",
    "padded_numbers",
    "require_columns",
]
