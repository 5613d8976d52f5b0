# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Training rows of VSL and their batches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.tokenization_ua_sid import check_aligned, history_places, padded


def tokenize_histories(
    dataset: Dataset,
    tokenizer: UASIDTokenizer,
    *,
    max_items: int,
    max_cross_domain: int | None = None,
    user_weight_clip: float = 5.0,
    behavior_weights: dict[str, float] | None = None,
    target_value_power: float = 0.0,
) -> Dataset:
    """Turns user logs into training rows.

    Args:
        dataset: Rows of `items` (list of item ids, oldest first), optionally `events`, `values`, `times` (seconds),
            `cross_domain` (list of ids, oldest first) with `cross_domain_times` (on the clock of `times`), and
            user-feature columns; see `UASIDTokenizer.encode_histories`.
        max_items: S; a row keeps its last S + 1 items, so that every kept item but the first is a target.
        max_cross_domain: X; a row keeps the last X cross-domain entries of those that a prefix of it sees.
        user_weight_clip, behavior_weights, target_value_power: See [`VSLConfig`].

    Returns:
        Rows of `items` (item rows), `events`, `values` (as given), the tokenizer's user features, `weights` (float,
        one an item) and `length`; where the tokenizer has the feature and the dataset the columns, `time_ids` (one an
        item), `cross_domain_ids` and `cross_domain_places`. Users with fewer than two items are left out.

    Raises:
        ValueError: If nothing is left, lengths differ, or `cross_domain` comes without the times that say which
            prefixes may see it. KeyError: If an item is not in the tokenizer's table.
    """
    columns = dataset.column_names
    timed = "times" in columns and bool(tokenizer.num_time_buckets)
    crossing = "cross_domain" in columns and bool(tokenizer.num_cross_domain_items)
    if crossing and not {"times", "cross_domain_times"} <= set(columns):
        raise ValueError(
            "`cross_domain` needs the columns `times` and `cross_domain_times` in training: without them a prefix "
            f"would see what the user did after its target. Received: {', '.join(columns)}. Add the two, or remove "
            "`cross_domain`."
        )
    if timed or crossing:
        check_aligned("times", dataset["times"], "items", dataset["items"])
    if crossing:
        check_aligned("cross_domain_times", dataset["cross_domain_times"], "cross_domain", dataset["cross_domain"])
    last = slice(-max_cross_domain, None) if max_cross_domain else slice(None)
    behavior_weights = behavior_weights or {}
    totals = np.array([sum(values) for values in dataset["values"]]) if "values" in columns else np.ones(len(dataset))
    mean = totals.mean() if len(totals) and totals.mean() > 0 else 1.0
    mean_value = totals.sum() / max(1, sum(map(len, dataset["items"]))) or 1.0
    user_weights = np.clip(totals / mean, 1 / user_weight_clip, user_weight_clip)

    def tokenize(row: dict, number: int) -> dict:
        items = tokenizer.item_rows(row["items"][-max_items - 1 :])
        tail = {name: row[name][-max_items - 1 :] for name in ("events", "values") if name in columns}
        events = tail.get("events", [""] * len(items))
        weights = [float(user_weights[number]) * behavior_weights.get(event, 1.0) for event in events]
        if target_value_power:
            weights = [
                w * (v / mean_value) ** target_value_power for w, v in zip(weights, tail["values"], strict=True)
            ]
        if timed:
            tail["time_ids"] = tokenizer.time_indices(row["times"])[-max_items - 1 :]
        if crossing:
            places = history_places(row["times"][-max_items - 1 :], row["cross_domain_times"])
            # What no prefix sees goes first: a long log of later entries would push out the rest.
            seen = np.flatnonzero(places < len(items))[last]
            tail["cross_domain_ids"] = tokenizer.cross_domain_indices(row["cross_domain"])[seen]
            tail["cross_domain_places"] = places[seen]
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
    rows = rows.filter(
        lambda lengths: [length >= 2 for length in lengths],
        input_columns="length",
        batched=True,
        keep_in_memory=True,
        load_from_cache_file=False,
    )
    if not len(rows):
        raise ValueError("The training log holds no user with two or more events: there is no next item to predict.")
    return rows


@dataclass
class VSLCollator:
    """Batches the rows of [`tokenize_histories`], padded on the right.

    Returns, with B users, S history items and X cross-domain entries (the longest of the batch): `input_ids` and
    `attention_mask` (int64, (B, S * T)), `item_ids` (B, S); `event_ids`, `value_ids`, `time_ids` (B, S),
    `cross_domain_ids`, `cross_domain_places` (B, X) and `user_feature_ids` (B, features) where the tokenizer and the
    rows have them; `labels` (int64, (B, S, T)): the SID tokens of the target of each prefix, -100 on padding;
    `item_labels`, `value_labels` (int64, (B, S)): its item row + 1 and value bucket; `sample_weight` (float32, (B,
    S)): w of its event. The target is the next item, or with `target_window` > 1 one drawn uniformly from the next so
    many, by torch's global generator.
    """

    tokenizer: UASIDTokenizer
    target_window: int = 1

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
            targets = self.target_places(count)
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

    def target_places(self, count: int) -> np.ndarray:
        """Places (int64, (count,)) in a history of count + 1 items of the targets of its prefixes of 1..count
        items."""
        first = np.arange(1, count + 1)
        if self.target_window == 1:
            return first
        choices = np.minimum(self.target_window, count + 1 - first)
        return first + (torch.rand(count).numpy() * choices).astype(np.int64)


__all__ = ["VSLCollator", "tokenize_histories"]
