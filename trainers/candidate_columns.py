# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Rows that are lists of candidates: checked one by one before any training, and batched."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import BatchEncoding

from gr4ad.tokenization import HISTORY_COLUMNS, HistoryError, UASIDTokenizer, UserHistory

ROUNDING = 1e-6  # of the logarithm of a probability of 1


def check_candidate_lists(lists: Dataset, dataset: str, columns: Iterable[str], remedy: str) -> None:
    """Raises ValueError, naming the row where it is one's: if one of the further columns is missing, or for histories
    that are none of [`UserHistory`], `candidates` that are not text, or `rewards` as `check_numbers`."""
    for name in ("items", "candidates", "rewards", *columns):
        if name not in lists.column_names:
            raise ValueError(
                f"{dataset} needs the column `{name}`. Received: {', '.join(lists.column_names)}. {remedy}"
            )

    histories = lists.select_columns([name for name in HISTORY_COLUMNS if name in lists.column_names])
    for number, row in enumerate(histories):
        try:
            if row["items"] is not None:
                UserHistory.from_row(row)
        except HistoryError as error:
            raise error.at(number) from None
    for number, candidates in enumerate(lists["candidates"][:]):
        bad = [None] if candidates is None else [item for item in candidates if not isinstance(item, str)]
        if bad:
            raise ValueError(
                f"`candidates` of row {number} must be a list of item ids, which are text. Received: {bad[0]!r}. "
                "Remove the row, or give the ids as text."
            )
    check_numbers(lists, "rewards", sign=1)


def check_numbers(lists: Dataset, name: str, *, sign: int) -> None:
    """Raises ValueError, naming row and value, unless a column has one finite number for each candidate: >= 0 where
    `sign` is 1, <= 0 where it is -1."""
    allowed = "finite and >= 0" if sign > 0 else "finite and <= 0"
    for row, (numbers, items) in enumerate(zip(lists[name][:], lists["candidates"][:], strict=True)):
        if numbers is None or len(numbers) != len(items):
            raise ValueError(
                f"`{name}` of row {row} must have one number for each of its {len(items)} candidates. Received: "
                f"{None if numbers is None else len(numbers)}."
            )
        for number in numbers:
            fits = isinstance(number, (int, float)) and (0 if sign > 0 else -ROUNDING) <= sign * number < math.inf
            if not fits:
                raise ValueError(f"`{name}` of row {row} must be {allowed}. Received: {number!r}.")


def candidate_batch(
    tokenizer: UASIDTokenizer, rows: Sequence[Mapping[str, Any]], *, max_items: int, max_cross_domain: int | None
) -> tuple[BatchEncoding, np.ndarray, np.ndarray]:
    """The history inputs of `UASIDTokenizer.encode_rows`, as tensors, and with n candidates, the most of a row,
    `candidate_ids` (int64, (B, n, T)) and `candidate_mask` (bool, (B, n)), True on real ones; the item rows (int64,
    (B, n)), where padding repeats the first; the mask once more, for numpy."""
    batch = tokenizer.encode_rows(rows, max_items=max_items, max_cross_domain=max_cross_domain, return_tensors="pt")
    known = [tokenizer.item_rows(row["candidates"]) for row in rows]
    lengths = np.array([len(part) for part in known])
    items = repeat_padded(known)
    mask = np.arange(items.shape[1]) < lengths[:, None]
    batch["candidate_ids"] = torch.from_numpy(tokenizer.index.codes[items] + tokenizer.level_offsets)
    batch["candidate_mask"] = torch.from_numpy(mask)
    return batch, items, mask


def repeat_padded(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Lists of item rows as int64 (B, n), n the longest; padding repeats the first of a list."""
    width = max(map(len, parts))
    return np.stack([np.concatenate([part, np.repeat(part[:1], width - len(part))]) for part in parts])


def padded_numbers(rows: Sequence[Mapping[str, Any]], name: str, width: int) -> np.ndarray:
    """A column with one number for each candidate, float32 (B, width), 0 on padding."""
    lines = np.zeros((len(rows), width), dtype=np.float32)
    for line, row in zip(lines, rows, strict=True):
        line[: len(row[name])] = row[name]
    return lines


__all__ = ["candidate_batch", "check_candidate_lists", "check_numbers", "padded_numbers", "repeat_padded"]
