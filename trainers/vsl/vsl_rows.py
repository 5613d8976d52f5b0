# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""One user's log as a training row of VSL, and the weights of its targets."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from datasets import Dataset
from torch.utils.data import Dataset as TorchDataset

from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.user_history import history_places

logger = logging.getLogger(__name__)


def check_aligned(name, lists, like, others) -> None:
    for number, (given, wanted) in enumerate(zip_longest(map(len, lists), map(len, others))):
        if given != wanted:
            raise ValueError(
                f"`{name}` must be as long as `{like}`. Received for history {number}: {given} entries for {wanted}. "
                "Give one for each, or leave the argument out."
            )


@dataclass(frozen=True)
class ValueMeans:
    """What the weights of VSL are relative to, in the unit of `values`: `user`, the mean over users of their total
    value; `event`, the mean over events. 0 where a log has no value at all."""

    user: float
    event: float

    @classmethod
    def from_totals(cls, total: float, users: int, events: int) -> ValueMeans:
        """Raises ValueError if the total is not finite or negative; warns if it is 0."""
        if not np.isfinite(total) or total < 0:
            raise ValueError(
                f"`values` must be finite and 0 or more. Received: a total of {total} over {events} events. Remove "
                "or mend the rows whose value is NaN, infinite or negative."
            )
        if not total:
            logger.warning(
                "All `values` of the training log are 0: every user and target gets weight 1 and value buckets have "
                "nothing to tell apart. Map the column that holds the value, or leave `values` out."
            )
        return cls(total / max(1, users), total / max(1, events))


def dataset_means(dataset: Dataset) -> ValueMeans | None:
    """Means of a log in memory; None without `values`. Raises ValueError as `ValueMeans.from_totals`."""
    if "values" not in dataset.column_names:
        return None
    totals = [sum(values) for values in dataset["values"]]
    return ValueMeans.from_totals(float(sum(totals)), len(totals), sum(map(len, dataset["values"])))


class RowTokenizer:
    """Turns one user's log into a training row; see `tokenize_histories` for arguments, rows and errors.

    Args:
        columns: Names of the log's columns.
        means: See [`ValueMeans`]; None where the log has no `values`.
    """

    def __init__(
        self,
        tokenizer: UASIDTokenizer,
        columns: Iterable[str],
        *,
        max_items: int,
        max_cross_domain: int | None = None,
        user_weight_clip: float = 5.0,
        behavior_weights: Mapping[str, float] | None = None,
        target_value_power: float = 0.0,
        means: ValueMeans | None = None,
    ):
        columns = set(columns)
        self.tokenizer = tokenizer
        self.columns = columns
        self.timed = "times" in columns and bool(tokenizer.num_time_buckets)
        self.crossing = "cross_domain" in columns and bool(tokenizer.num_cross_domain_items)
        if self.crossing and not {"times", "cross_domain_times"} <= columns:
            raise ValueError(
                "`cross_domain` needs the columns `times` and `cross_domain_times` in training: without them a prefix "
                f"would see what the user did after its target. Received: {', '.join(sorted(columns))}. Add the two, "
                "or remove `cross_domain`."
            )
        wanted = ("items", *(["values"] if target_value_power else []), *tokenizer.user_features)
        missing = [name for name in wanted if name not in columns]
        if missing:
            raise ValueError(
                f"The training log needs the column `{missing[0]}`. Received: {', '.join(sorted(columns))}. Add "
                "it, or leave out what needs it: `target_value_power`, or that feature of the tokenizer."
            )
        self.max_items = max_items
        self.last_entries = slice(-max_cross_domain, None) if max_cross_domain else slice(None)
        self.clip = user_weight_clip
        self.behavior_weights = behavior_weights or {}
        self.power = target_value_power
        self.means = means or ValueMeans(0.0, 0.0)

    def aligned_columns(self) -> list[tuple[str, str]]:
        """Pairs of list columns that must be of one length in every row."""
        pairs: list[tuple[str, str]] = [(name, "items") for name in ("events", "values") if name in self.columns]
        if self.timed or self.crossing:
            pairs.append(("times", "items"))
        if self.crossing:
            pairs.append(("cross_domain_times", "cross_domain"))
        return pairs

    def user_weight(self, total: float) -> float:
        """w_user of a user's total value, in [1 / clip, clip]; 1 where nobody has any value."""
        return float(np.clip(total / self.means.user, 1 / self.clip, self.clip)) if self.means.user > 0 else 1.0

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        tokenizer = self.tokenizer
        keep = slice(-self.max_items - 1, None)
        items = tokenizer.item_rows(row["items"][keep])
        tail: dict[str, Any] = {name: row[name][keep] for name in ("events", "values") if name in self.columns}
        user_weight = self.user_weight(sum(row["values"])) if "values" in self.columns else 1.0
        events = tail.get("events", [""] * len(items))
        weights = [user_weight * self.behavior_weights.get(event, 1.0) for event in events]
        if self.power and self.means.event > 0:
            weights = [w * (v / self.means.event) ** self.power for w, v in zip(weights, tail["values"], strict=True)]
        if self.timed:
            tail["time_ids"] = tokenizer.time_indices(row["times"])[keep]
        if self.crossing:
            places = history_places(row["times"][keep], row["cross_domain_times"])
            # What no prefix sees goes first: a long log of later entries would push out the rest.
            seen = np.flatnonzero(places < len(items))[self.last_entries]
            tail["cross_domain_ids"] = tokenizer.cross_domain_indices(row["cross_domain"])[seen]
            tail["cross_domain_places"] = places[seen]
        features = {name: row[name] for name in tokenizer.user_features}
        return {"items": items, **tail, **features, "weights": weights, "length": len(items)}


def tokenize_histories(
    dataset: Dataset,
    tokenizer: UASIDTokenizer,
    *,
    max_items: int,
    max_cross_domain: int | None = None,
    user_weight_clip: float = 5.0,
    behavior_weights: dict[str, float] | None = None,
    target_value_power: float = 0.0,
    means: ValueMeans | None = None,
) -> Dataset:
    """Turns user logs into training rows.

    Args:
        dataset: Rows of `items` (list of item ids, oldest first), optionally `events`, `values`, `times` (seconds),
            `cross_domain` (list of ids, oldest first) with `cross_domain_times` (on the clock of `times`), and
            user-feature columns; see `UASIDTokenizer.encode_histories`.
        max_items: S; a row keeps its last S + 1 items, so that every kept item but the first is a target.
        max_cross_domain: X; a row keeps the last X cross-domain entries of those that a prefix of it sees.
        user_weight_clip, behavior_weights, target_value_power: See [`VSLConfig`].
        means: What weights are relative to; default, the log's own. Where they are 0 all users weigh alike.

    Returns:
        Rows of `items` (item rows), `events`, `values` (as given), the tokenizer's user features, `weights` (float,
        one an item) and `length`; where the tokenizer has the feature and the dataset the columns, `time_ids` (one an
        item), `cross_domain_ids` and `cross_domain_places`. Users with fewer than two items are left out.

    Raises:
        ValueError: If nothing is left, lengths differ, values are negative or not finite, or `cross_domain` comes
            without the times that say which prefixes may see it. KeyError: If an item is not in the tokenizer's table.
    """
    if not len(dataset):
        raise ValueError("The training log is empty: `train_dataset` has 0 rows. Give one row a user.")
    columns = dataset.column_names
    tokenize = RowTokenizer(
        tokenizer,
        columns,
        max_items=max_items,
        max_cross_domain=max_cross_domain,
        user_weight_clip=user_weight_clip,
        behavior_weights=behavior_weights,
        target_value_power=target_value_power,
        means=means or dataset_means(dataset),
    )
    for name, like in tokenize.aligned_columns():
        check_aligned(name, dataset[name], like, dataset[like])
    rows = dataset.map(
        tokenize,
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


class EpochRows(TorchDataset):
    """Rows under the keys of [`LengthGroupedEpochSampler`], each told which epoch it is drawn in (`draw`), so that
    what a collator draws for a row depends on neither process, worker nor what was drawn before."""

    def __init__(self, rows: Dataset):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int) -> dict[str, Any]:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[int]) -> list[dict[str, Any]]:
        draws = [divmod(key, len(self.rows)) for key in keys]
        rows = self.rows.__getitems__([number for _, number in draws])
        return [{**row, "draw": draw} for row, draw in zip(rows, draws, strict=True)]


__all__ = ["EpochRows", "RowTokenizer", "ValueMeans", "dataset_means", "tokenize_histories"]
