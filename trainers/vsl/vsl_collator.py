# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Batches of the training rows of VSL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.tokenization_ua_sid import padded


@dataclass
class VSLCollator:
    """Batches the rows of [`tokenize_histories`], padded on the right.

    Returns, with B users, S history items and X cross-domain entries (the longest of the batch): `input_ids` and
    `attention_mask` (int64, (B, S * T)), `item_ids` (B, S); `event_ids`, `value_ids`, `time_ids` (B, S),
    `cross_domain_ids`, `cross_domain_places` (B, X) and `user_feature_ids` (B, features) where the tokenizer and the
    rows have them; `labels` (int64, (B, S, T)): the SID tokens of the target of each prefix, -100 on padding;
    `item_labels`, `value_labels` (int64, (B, S)): its item row + 1 and value bucket; `sample_weight` (float32, (B,
    S)): w of its event. The target is the next item, or with `target_window` > 1 one drawn uniformly from the next so
    many: a function of `seed` and the row's `draw` (ints), so that a resumed run and one of many processes draw alike.
    """

    tokenizer: UASIDTokenizer
    target_window: int = 1
    seed: int = 0

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokenizer
        items = [np.asarray(row["items"]) for row in rows]
        batch = tokenizer.encode_histories(
            [part[:-1] for part in items],
            events=[row["events"][:-1] for row in rows] if "events" in rows[0] else None,
            values=[row["values"][:-1] for row in rows] if "values" in rows[0] else None,
            user_features={name: [row[name] for row in rows] for name in tokenizer.user_features} or None,
            return_tensors="pt",
        )
        size, length = batch["item_ids"].shape
        if "time_ids" in rows[0]:
            batch["time_ids"] = torch.from_numpy(padded([row["time_ids"][:-1] for row in rows]))
        for name in ("cross_domain_ids", "cross_domain_places"):
            if name in rows[0]:
                batch[name] = torch.from_numpy(padded([row[name] for row in rows]))
        labels = np.full((size, length, tokenizer.num_levels), -100, dtype=np.int64)
        item_labels = np.full((size, length), -100, dtype=np.int64)
        value_labels = np.full((size, length), -100, dtype=np.int64)
        weights = np.zeros((size, length), dtype=np.float32)
        for line, (row, part) in enumerate(zip(rows, items, strict=True)):
            count = len(part) - 1
            targets = self.target_places(count, row.get("draw", (line,)))
            labels[line, :count] = tokenizer.index.codes[part[targets]] + tokenizer.level_offsets
            item_labels[line, :count] = part[targets] + 1
            weights[line, :count] = np.asarray(row["weights"])[targets]
            if tokenizer.value_bucket_means and "values" in row:
                value_labels[line, :count] = tokenizer.value_buckets(np.asarray(row["values"])[targets])
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
