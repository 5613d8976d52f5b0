# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Training rows of VSL and their batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from gr4ad.tokenization import UASIDTokenizer


def tokenize_histories(
    dataset: Dataset,
    tokenizer: UASIDTokenizer,
    *,
    max_items: int,
    user_weight_clip: float = 5.0,
    behavior_weights: dict[str, float] | None = None,
    target_value_power: float = 0.0,
    later_targets: bool = False,
) -> Dataset:
    """Turns user logs into training rows.

    Args:
        dataset: Rows of `items` (list of item ids, oldest first), optionally `events`, `values`, `times` and
            user-feature columns.
        max_items: S; a row keeps its last S + 1 items, so that every kept item but the first is a target.
        user_weight_clip, behavior_weights, target_value_power, later_targets: See [`VSLConfig`].

    Returns:
        Rows of `items` (item rows), `events`, `values`, `times` (as given), the tokenizer's user features, `weights`
        (float, one an item) and `length`. Users with nothing to predict are left out: those with one item, or, with
        `later_targets`, one time.

    Raises:
        ValueError: If nothing is left, or `later_targets` finds no `times`. KeyError: If an item is not in the
            tokenizer's table.
    """
    columns = dataset.column_names
    if later_targets and "times" not in columns:
        raise ValueError(f"`later_targets` reads the column `times` of the training log. Received: {columns}.")
    behavior_weights = behavior_weights or {}
    totals = np.array([sum(values) for values in dataset["values"]]) if "values" in columns else np.ones(len(dataset))
    mean = totals.mean() if len(totals) and totals.mean() > 0 else 1.0
    mean_value = totals.sum() / max(1, sum(map(len, dataset["items"]))) or 1.0
    user_weights = np.clip(totals / mean, 1 / user_weight_clip, user_weight_clip)

    def tokenize(row: dict, number: int) -> dict:
        items = tokenizer.item_rows(row["items"][-max_items - 1 :])
        tail = {name: row[name][-max_items - 1 :] for name in ("events", "values", "times") if name in columns}
        events = tail.get("events", [""] * len(items))
        weights = [float(user_weights[number]) * behavior_weights.get(event, 1.0) for event in events]
        if target_value_power:
            weights = [
                w * (v / mean_value) ** target_value_power for w, v in zip(weights, tail["values"], strict=True)
            ]
        features = {name: row[name] for name in tokenizer.user_features}
        return {"items": items, **tail, **features, "weights": weights, "length": len(items)}

    rows = dataset.map(
        tokenize,
        with_indices=True,
        remove_columns=columns,
        desc="Tokenizing histories",
        keep_in_memory=True,
        load_from_cache_file=False,
    )

    def has_target(row: dict) -> bool:
        return row["length"] >= 2 and not (later_targets and row["times"][0] == row["times"][-1])

    rows = rows.filter(has_target, keep_in_memory=True, load_from_cache_file=False)
    if not len(rows):
        raise ValueError("The training log holds no user with two or more events: there is no next item to predict.")
    return rows


@dataclass
class VSLCollator:
    """Batches the rows of [`tokenize_histories`], padded on the right.

    Returns, with B users and S history items (the longest of the batch): `input_ids` and `attention_mask` (int64, (B,
    S * T)), `item_ids` (B, S); `event_ids`, `value_ids` (B, S) and `user_feature_ids` (B, features) where the
    tokenizer has them; `labels` (int64, (B, S, T)): the SID tokens of the target of each prefix, -100 on padding;
    `item_labels`, `value_labels` (int64, (B, S)): its item row + 1 and value bucket; `sample_weight` (float32, (B,
    S)): w of its event. The target is the next item, or with `target_window` > 1 one drawn uniformly from the next so
    many, by torch's global generator; with `later_targets` these are the next events of a later time than the
    prefix's last, and a prefix with none has no target.
    """

    tokenizer: UASIDTokenizer
    target_window: int = 1
    later_targets: bool = False

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
        labels = np.full((size, length, tokenizer.num_levels), -100, dtype=np.int64)
        item_labels = np.full((size, length), -100, dtype=np.int64)
        value_labels = np.full((size, length), -100, dtype=np.int64)
        weights = np.zeros((size, length), dtype=np.float32)
        for line, (row, part) in enumerate(zip(rows, items, strict=True)):
            prefixes, targets = self.target_places(len(part), row["times"] if self.later_targets else None)
            labels[line, prefixes] = tokenizer.index.codes[part[targets]] + tokenizer.level_offsets
            item_labels[line, prefixes] = part[targets] + 1
            weights[line, prefixes] = np.asarray(row["weights"])[targets]
            if tokenizer.value_bucket_means and "values" in row:
                value_labels[line, prefixes] = tokenizer.value_buckets(np.asarray(row["values"])[targets])
        batch["labels"] = torch.from_numpy(labels)
        batch["item_labels"] = torch.from_numpy(item_labels)
        batch["sample_weight"] = torch.from_numpy(weights)
        if tokenizer.value_bucket_means:
            batch["value_labels"] = torch.from_numpy(value_labels)
        return dict(batch)

    def target_places(self, length: int, times: list[int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Prefixes (their last places, int64, (n,)) of a history of `length` items that have a target, and its place
        (int64, (n,)). With `times` (ascending, of each item), a target is later than its prefix's last item."""
        first = np.arange(1, length) if times is None else np.searchsorted(times, times[:-1], side="right")
        prefixes = np.flatnonzero(first < length)
        first = first[prefixes]
        if self.target_window == 1:
            return prefixes, first
        choices = np.minimum(self.target_window, length - first)
        return prefixes, first + (torch.rand(len(first)).numpy() * choices).astype(np.int64)


__all__ = ["VSLCollator", "tokenize_histories"]
