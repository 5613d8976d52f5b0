# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The list-wise preference dataset: what a row holds, which rows can teach, and how they become a batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from gr4ad.tokenization import UASIDTokenizer

from ..candidate_columns import candidate_batch, check_candidate_lists, check_numbers, padded_numbers

logger = logging.getLogger(__name__)

SPARSE_SHARE = 0.01
"""Below this share of candidates with a reward above 0 the run begins with a warning."""


def check_lists(lists: Dataset, reference: str) -> Dataset:
    """The rows that have a history and something to prefer.

    A row of the dataset is one list:

    | column | type | meaning |
    |---|---|---|
    | `items` | list of item ids | the user's history, oldest first |
    | `candidates` | list of n item ids | what was shown, or proposed by a wide beam |
    | `rewards` | list of n floats >= 0 | the value of each, one unit for all |
    | `ref_logps` | list of n floats <= 0, *optional* | log p of each under the policy that proposed it |
    | further columns of [`UserHistory`] | *optional* | of the history; what happened elsewhere up to the list |

    Raises:
        ValueError: If a column is missing, or no row is left. Naming the row: if two columns of it differ in length, a
            candidate is not text, the history is none of [`UserHistory`], or a number is null, not finite or of the
            wrong sign. `ref_logps` are read, and checked, where `reference` is logged.
    """
    if reference == "logged":
        remedy = "`ref_logps` is read because `reference` is logged."
        check_candidate_lists(lists, "`train_dataset`", ["ref_logps"], remedy)
        check_numbers(lists, "ref_logps", sign=-1)
    else:
        check_candidate_lists(lists, "`train_dataset`", [], "Give one row a list.")
    rewards = lists["rewards"][:]
    chosen = [i for i, items in enumerate(lists["items"]) if items and len(set(rewards[i])) > 1]
    if not chosen:
        raise ValueError(
            "No list of the training data has a history and two different rewards: there is nothing to prefer."
        )
    if len(chosen) < len(lists):
        logger.info("%d of %d lists have a history and two different rewards", len(chosen), len(lists))
    if 2 * len(chosen) < len(lists):
        logger.warning(
            "Constant rewards: only %.0f%% of the lists have a history and two different rewards; the others teach "
            "nothing. Propose candidates that differ in value.",
            100 * len(chosen) / len(lists),
        )
    positive = float(np.mean([reward > 0 for part in rewards for reward in part]))
    if positive < SPARSE_SHARE:
        logger.warning(
            "Sparse rewards: %.2g%% of the candidates have a reward above 0. A policy that learns from so few forgets "
            "the rest; use a reward model's estimates, or raise `vsl_weight`.",
            100 * positive,
        )
    return lists.select(chosen)


@dataclass
class RSPOCollator:
    """Batches list-wise preference rows, padded on the right.

    Returns the history inputs of `UASIDTokenizer.encode_rows`, and with n the longest list of the batch:
    `candidate_ids` (int64, (B, n, T)): SID tokens, padding repeats the first candidate; `candidate_mask` (bool, (B,
    n)); `rewards` (float32, (B, n)): values >= 0, 0 on padding; `ref_logps` (float32, (B, n)) where the rows have
    them. Of each list's most valuable candidate, the first if there are several: `labels` (int64, (B, T)),
    `item_labels` and, with value buckets, `value_labels` (int64, (B,)); -100 where no candidate has a value above 0.
    With `with_items` also `candidate_items` (int64, (B, n)), item rows + 1, for the item head.
    """

    tokenizer: UASIDTokenizer
    max_items: int
    max_cross_domain: int | None = None
    with_items: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokenizer
        batch, items, mask = candidate_batch(
            tokenizer, rows, max_items=self.max_items, max_cross_domain=self.max_cross_domain
        )
        if self.with_items:
            batch["candidate_items"] = torch.from_numpy(items + 1)
        for name in ("rewards", "ref_logps"):
            if rows[0].get(name) is not None:
                batch[name] = torch.from_numpy(padded_numbers(rows, name, mask.shape[1]))
        best, value = batch["rewards"].argmax(1), batch["rewards"].amax(1)
        found = value > 0
        batch["labels"] = batch["candidate_ids"][torch.arange(len(rows)), best].where(found.unsqueeze(1), -100)
        batch["item_labels"] = torch.from_numpy(items + 1)[torch.arange(len(rows)), best].where(found, -100)
        if tokenizer.value_bucket_means:
            batch["value_labels"] = torch.from_numpy(tokenizer.value_buckets(value.numpy())).where(found, -100)
        return dict(batch)


__all__ = ["RSPOCollator", "check_lists"]
