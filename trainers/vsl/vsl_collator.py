# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Batches of the training rows of VSL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gr4ad.modeling_gr4ad import HISTORY_INPUTS
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.user_history import ITEM_INPUTS


@dataclass
class VSLCollator:
    """Batches the rows of [`tokenize_histories`], padded on the right.

    Returns, with B users and S history items (the longest of the batch): the history inputs of
    `UASIDTokenizer.encode_rows` of all items but each row's last; `labels` (int64, (B, S, T)): the SID tokens of the
    target of each prefix, -100 on padding; `item_labels`, `value_labels` (int64, (B, S)): its item row + 1 and value
    bucket, -100 where a row has no values; `sample_weight` (float32, (B, S)): w of its event. The target is the next
    item, or with `target_window` > 1 one drawn uniformly from the next so many: a function of `seed` and the row's
    `draw` (ints), so that a resumed run and one of many processes draw alike.
    """

    tokenizer: UASIDTokenizer
    target_window: int = 1
    seed: int = 0

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokenizer
        given = [{name: row[name] for name in HISTORY_INPUTS if row.get(name) is not None} for row in rows]
        batch = tokenizer.pad_rows(
            [{name: part[:-1] if name in ITEM_INPUTS else part for name, part in row.items()} for row in given],
            return_tensors="pt",
        )
        size, length = batch["item_ids"].shape
        labels = np.full((size, length, tokenizer.num_levels), -100, dtype=np.int64)
        item_labels = np.full((size, length), -100, dtype=np.int64)
        value_labels = np.full((size, length), -100, dtype=np.int64)
        weights = np.zeros((size, length), dtype=np.float32)
        for line, (row, inputs) in enumerate(zip(rows, given, strict=True)):
            items = np.asarray(inputs["item_ids"])
            count = len(items) - 1
            targets = self.target_places(count, row.get("draw", (line,)))
            labels[line, :count] = tokenizer.index.codes[items[targets] - 1] + tokenizer.level_offsets
            item_labels[line, :count] = items[targets]
            weights[line, :count] = np.asarray(row["weights"])[targets]
            if "value_ids" in inputs:
                value_labels[line, :count] = np.asarray(inputs["value_ids"])[targets] - 1
        batch["labels"] = torch.from_numpy(labels)
        batch["item_labels"] = torch.from_numpy(item_labels)
        batch["sample_weight"] = torch.from_numpy(weights)
        if tokenizer.value_bucket_means:
            batch["value_labels"] = torch.from_numpy(value_labels)
        return dict(batch)

    def target_places(self, count: int, draw: Sequence[int]) -> np.ndarray:
        """Places (int64, (count,)) in a history of count + 1 items of the targets of its prefixes of 1..count items;
        the same for the same `draw`."""
        first = np.arange(1, count + 1)
        if self.target_window == 1:
            return first
        choices = np.minimum(self.target_window, count + 1 - first)
        return first + (np.random.default_rng((self.seed, *draw)).random(count) * choices).astype(np.int64)


__all__ = ["VSLCollator"]
