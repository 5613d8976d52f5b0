# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Exposures as training rows of the reward model: what a row holds, and how rows become a batch."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from gr4ad.tokenization import UASIDTokenizer

from ..candidate_columns import candidate_batch, check_candidate_lists, padded_numbers

logger = logging.getLogger(__name__)

OUTCOMES = ("impression", "click", "conversion")
"""Names of what came of an exposure, by their code."""


def check_exposures(exposures: Dataset) -> Dataset:
    """The lists with a history whose outcomes are known.

    A row of the dataset is one list that was shown:

    | column | type | meaning |
    |---|---|---|
    | `items` | list of item ids | the user's history before it, oldest first |
    | `candidates` | list of n item ids | the ads shown, from the top |
    | `outcomes` | list of n names | impression (nothing came of it), click or conversion; null: not known |
    | `rewards` | list of n floats >= 0 | value logged with each, one unit for all |
    | further columns of [`UserHistory`] | *optional* | of the history; what happened elsewhere up to the list |

    Raises:
        ValueError: If a column is missing or two of one row differ in length, an outcome is unknown, a value is
            negative or not finite, or nobody clicked.
    """
    remedy = "Prepare the data again (`gr4ad data`) from a log with impressions and clicks."
    check_candidate_lists(exposures, "The log of exposures", ["outcomes"], remedy)
    known, clicks = [], 0
    columns = (exposures[name][:] for name in ("items", "candidates", "outcomes"))
    for row, (items, shown, came) in enumerate(zip(*columns, strict=True)):
        if came is None or not items:
            continue
        if len(came) != len(shown):
            raise ValueError(
                f"`outcomes` of row {row} must have one entry for each of its {len(shown)} candidates. Received: "
                f"{len(came)}."
            )
        for name in came:
            if name not in OUTCOMES:
                raise ValueError(f"`outcomes` of row {row} must be of {', '.join(OUTCOMES)}. Received: {name!r}.")
        known.append(row)
        clicks += sum(name != OUTCOMES[0] for name in came)
    lists = exposures.select(known)
    if not clicks:
        raise ValueError(
            f"The exposures hold no click in {len(lists)} lists with known outcomes: there is nothing to learn from. "
            "Give a log whose clicks carry the `request_id` of their impressions, or come after them."
        )
    if len(lists) < len(exposures):
        logger.info("%d of %d lists have a history and known outcomes", len(lists), len(exposures))
    return lists


def examination_of(exposures: Dataset, item_rows: list[np.ndarray], positions: int, rounds: int = 50) -> np.ndarray:
    """How likely each of P `positions` is looked at, float64 (P,) > 0, relative to the first; later places count as
    the last. The position-based click model (Craswell et al. 2008), expected clicks = examination of the place x
    attraction of the ad, fitted by turns on lists with `outcomes`, whose candidates are `item_rows` (int64 (n,) each).

    What it tells apart are ads that stood at several places; merit that is a user's own it takes for the place's.
    """
    ads = np.concatenate(item_rows)
    places = np.concatenate([np.minimum(np.arange(len(part)), positions - 1) for part in item_rows])
    clicked = np.array([name != OUTCOMES[0] for came in exposures["outcomes"] for name in came], dtype=np.float64)
    of_ad, of_place = np.bincount(ads, clicked), np.bincount(places, clicked, positions)
    rate, seen = clicked.mean(), np.ones(positions)
    for _ in range(rounds):
        # One click more at the mean rate: ads that were hardly shown say nothing of a place.
        attraction = (of_ad + 1) / (np.bincount(ads, seen[places]) + 1 / rate)
        seen = (of_place + 1) / (np.bincount(places, attraction[ads], positions) + 1)
        seen = seen / seen[0]
    return seen


@dataclass
class ExposureCollator:
    """Batches lists of ads, padded on the right.

    Returns the history inputs of `UASIDTokenizer.encode_rows`, and with n the longest list of the batch:
    `candidate_ids` (int64, (B, n, T)): SID tokens, padding repeats the first candidate; `candidate_item_ids` (int64,
    (B, n)): item row + 1, 0 on padding and, for a share `item_dropout` of the ads, in place of it, so that the SID
    alone learns to speak for ads without a row; `candidate_mask` (bool, (B, n)). Where the rows have outcomes:
    `positions` (int64, (B, n)): places from 0; `outcomes` (int64, (B, n)): 0 nothing, 1 click, 2 conversion; `values`
    (float32, (B, n)): 0 on padding.
    """

    tokenizer: UASIDTokenizer
    max_items: int
    item_dropout: float = 0.0
    max_cross_domain: int | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        batch, items, mask = candidate_batch(
            self.tokenizer, rows, max_items=self.max_items, max_cross_domain=self.max_cross_domain
        )
        ids = torch.from_numpy((items + 1) * mask)
        if self.item_dropout:
            ids = ids.masked_fill(torch.rand(ids.shape) < self.item_dropout, 0)
        batch["candidate_item_ids"] = ids
        if "outcomes" in rows[0]:
            outcomes = np.zeros(mask.shape, dtype=np.int64)
            for line, row in zip(outcomes, rows, strict=True):
                line[: len(row["outcomes"])] = [OUTCOMES.index(name) for name in row["outcomes"]]
            batch["positions"] = torch.arange(mask.shape[1]).expand(len(rows), -1).contiguous()
            batch["outcomes"] = torch.from_numpy(outcomes)
            batch["values"] = torch.from_numpy(padded_numbers(rows, "rewards", mask.shape[1]))
        return dict(batch)


__all__ = ["OUTCOMES", "ExposureCollator", "check_exposures", "examination_of"]
