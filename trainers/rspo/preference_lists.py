# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The list-wise preference dataset: what a row holds, which rows can teach, and how they become a batch."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset

from gr4ad.tokenization import UASIDTokenizer

from ..candidate_columns import check_candidates, check_numbers, require_columns

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
    | `events`, `values`, `times`, user features | *optional* | of the history, as for `VSLTrainer` |
    | `cross_domain` | list of ids, *optional* | what the user did elsewhere, up to when the list was made |

    Raises:
        ValueError: If a column is missing, or no row is left. Naming the row: if two columns of it differ in length, a
            candidate is not text, a reward is not finite or negative, or `ref_logps`, where `reference` is logged and
            they are read, are not finite or above 0.
    """
    needed = ["items", "candidates", "rewards", *(["ref_logps"] if reference == "logged" else [])]
    remedy = "`ref_logps` is read because `reference` is logged." if reference == "logged" else "Give one row a list."
    require_columns(lists, needed, "`train_dataset`", remedy)
    check_candidates(lists)
    rewards = check_numbers(lists, "rewards", sign=1)
    if reference == "logged":
        check_numbers(lists, "ref_logps", sign=-1)
    chosen = [i for i, items in enumerate(lists["items"]) if len(items) and len(set(rewards[i])) > 1]
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

    Returns the history inputs of `UASIDTokenizer.encode_histories` (all of `cross_domain` is seen: a list has one
    context), and with n the longest list of the batch:
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

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokenizer
        batch = tokenizer.encode_histories(
            [row["items"] for row in rows],
            events=[row["events"] for row in rows] if "events" in rows[0] else None,
            values=[row["values"] for row in rows] if "values" in rows[0] else None,
            times=[row["times"] for row in rows] if "times" in rows[0] else None,
            cross_domain=[row["cross_domain"] for row in rows] if "cross_domain" in rows[0] else None,
            user_features={name: [row[name] for row in rows] for name in tokenizer.user_features} or None,
            max_items=self.max_items,
            max_cross_domain=self.max_cross_domain,
            return_tensors="pt",
        )
        width = max(len(row["candidates"]) for row in rows)
        sids = [tokenizer.encode_items(row["candidates"]) for row in rows]
        batch["candidate_ids"] = torch.from_numpy(
            np.stack([np.concatenate([s, np.repeat(s[:1], width - len(s), axis=0)]) for s in sids])
        )
        if self.with_items:
            items = [tokenizer.item_rows(row["candidates"]) + 1 for row in rows]
            batch["candidate_items"] = torch.from_numpy(
                np.stack([np.concatenate([i, np.repeat(i[:1], width - len(i))]) for i in items])
            )
        lengths = torch.tensor([len(s) for s in sids])
        batch["candidate_mask"] = torch.arange(width) < lengths.unsqueeze(1)
        for name in ("rewards", "ref_logps"):
            if name in rows[0]:
                lines = np.zeros((len(rows), width), dtype=np.float32)
                for line, row in zip(lines, rows, strict=True):
                    line[: len(row[name])] = row[name]
                batch[name] = torch.from_numpy(lines)
        best, value = batch["rewards"].argmax(1), batch["rewards"].amax(1)
        found = value > 0
        batch["labels"] = batch["candidate_ids"][torch.arange(len(rows)), best].where(found.unsqueeze(1), -100)
        chosen = [row["candidates"][place] for row, place in zip(rows, best.tolist(), strict=True)]
        batch["item_labels"] = torch.from_numpy(tokenizer.item_rows(chosen) + 1).where(found, -100)
        if tokenizer.value_bucket_means:
            batch["value_labels"] = torch.from_numpy(tokenizer.value_buckets(value.numpy())).where(found, -100)
        return dict(batch)


__all__ = ["RSPOCollator", "check_lists"]
