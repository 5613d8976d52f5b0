# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""One user's log as a training row of VSL, and the weights of its targets."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Required, TypedDict, Unpack

import numpy as np
from datasets import Dataset, Features, List, Value
from torch.utils.data import Dataset as TorchDataset

from gr4ad.modeling_gr4ad import HISTORY_INPUTS
from gr4ad.tokenization import HistoryError, UASIDTokenizer, UserHistory
from gr4ad.tokenization.user_history import entries, history_places

logger = logging.getLogger(__name__)

ROW_INPUTS = tuple(name for name in HISTORY_INPUTS if name != "attention_mask")


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
    """Means of a log in memory; None without `values`. Raises ValueError, naming the row, where a value is negative or
    not finite."""
    if "values" not in dataset.column_names:
        return None
    totals, events = [], 0
    for row, values in enumerate(dataset["values"]):
        try:
            checked = [] if values is None else entries("values", "amount", values)
        except HistoryError as error:
            raise error.at(row) from None
        totals.append(sum(map(float, checked)))
        events += len(checked)
    return ValueMeans.from_totals(float(sum(totals)), len(totals), events)


def check_log_columns(columns: Collection[str], tokenizer: UASIDTokenizer, target_value_power: float) -> None:
    """Raises ValueError if a log lacks a column that the tokenizer or the weights need."""
    for name in ("items", *(["values"] if target_value_power else []), *tokenizer.user_features):
        if name not in columns:
            raise ValueError(
                f"The training log needs the column `{name}`. Received: {', '.join(sorted(columns))}. Add "
                "it, or leave out what needs it: `target_value_power`, or that feature of the tokenizer."
            )


class RowSettings(TypedDict, total=False):
    """How logs become training rows, see `tokenize_histories`."""

    max_items: Required[int]
    max_cross_domain: int | None
    user_weight_clip: float
    behavior_weights: Mapping[str, float] | None
    target_value_power: float
    means: ValueMeans | None


class RowTokenizer:
    """Turns one user's log into a training row; see `tokenize_histories` for arguments, rows and errors. `means` are
    None where the log has no `values`."""

    def __init__(self, tokenizer: UASIDTokenizer, **settings: Unpack[RowSettings]):
        self.tokenizer = tokenizer
        self.max_items, self.max_cross_domain = settings["max_items"], settings.get("max_cross_domain")
        self.clip = settings.get("user_weight_clip", 5.0)
        given = settings.get("behavior_weights") or {}
        self.behavior_weights = {tokenizer.own_event(event): weight for event, weight in given.items()}
        self.power = settings.get("target_value_power", 0.0)
        self.means = settings.get("means") or ValueMeans(0.0, 0.0)

    def user_weight(self, total: float) -> float:
        """w_user of a user's total value, in [1 / clip, clip]; 1 where nobody has any value. A user whose row holds no
        `values` weighs 1."""
        return float(np.clip(total / self.means.user, 1 / self.clip, self.clip)) if self.means.user > 0 else 1.0

    def target_weights(self, history: UserHistory) -> list[float]:
        """w of each kept item as a target."""
        keep = slice(-self.max_items - 1, None)
        values = None if history.values is None else np.asarray(history.values).tolist()
        events = [""] * len(history) if history.events is None else list(map(self.tokenizer.own_event, history.events))
        user_weight = 1.0 if values is None else self.user_weight(sum(values))
        if self.power and values is None:
            raise HistoryError("values", "`target_value_power` needs the `values` of every history. Received: none.")
        weights = [user_weight * self.behavior_weights.get(event, 1.0) for event in events[keep]]
        if self.power and self.means.event > 0 and values is not None:
            weights = [w * (v / self.means.event) ** self.power for w, v in zip(weights, values[keep], strict=True)]
        return weights

    def seen_by_a_prefix(self, history: UserHistory) -> UserHistory:
        """The history with the last of those cross-domain entries that a prefix of its kept items sees: what none sees
        goes first, since a long log of later entries would push out the rest."""
        if history.times is None or history.cross_domain_times is None or history.cross_domain is None:
            raise HistoryError(
                "cross_domain",
                "`cross_domain` needs the columns `times` and `cross_domain_times` in training: without them a prefix "
                "would see what the user did after its target. Add the two, or remove `cross_domain`.",
            )
        times = np.asarray(history.times)[-self.max_items - 1 :]
        moments = np.asarray(history.cross_domain_times)
        last = slice(-self.max_cross_domain, None) if self.max_cross_domain else slice(None)
        seen = np.flatnonzero(history_places(times, moments) < len(times))[last]
        return replace(
            history, cross_domain=[history.cross_domain[place] for place in seen], cross_domain_times=moments[seen]
        )

    def __call__(self, row: Mapping[str, Any] | UserHistory) -> dict[str, Any]:
        tokenizer = self.tokenizer
        history = row if isinstance(row, UserHistory) else UserHistory.from_row(row, tokenizer.user_features)
        if not len(history):
            return {"item_ids": np.zeros(0, np.int64), "weights": [], "length": 0}
        if history.cross_domain is not None and tokenizer.num_cross_domain_items:
            history = self.seen_by_a_prefix(history)
        encoded = tokenizer.encode_row(history, max_items=self.max_items + 1)
        return {**encoded, "weights": self.target_weights(history), "length": len(encoded["item_ids"])}


def tokenize_histories(dataset: Dataset, tokenizer: UASIDTokenizer, **settings: Unpack[RowSettings]) -> Dataset:
    """Turns user logs into training rows.

    Args:
        dataset: Rows as `UserHistory.from_row` takes them. `cross_domain` needs `times` and `cross_domain_times`.
        max_items: S; a row keeps its last S + 1 items, so that every kept item but the first is a target.
        max_cross_domain: X; a row keeps the last X cross-domain entries of those that a prefix of it sees.
        user_weight_clip, behavior_weights, target_value_power: See [`VSLConfig`], whose defaults they have.
        means: What weights are relative to; default, the log's own. Where they are 0 all users weigh alike.

    Returns:
        Rows of what `UASIDTokenizer.encode_row` makes of the kept items (`item_ids`, ...), null where a row has not
        what another has; `weights` (float, one an item) and `length`. Users with fewer than two items are left out.

    Raises:
        ValueError: If nothing is left, a column is missing, or, naming the row, as [`UserHistory`] and where
            `cross_domain` comes without times. KeyError: If an item is not in the tokenizer's table.
    """
    if not len(dataset):
        raise ValueError("The training log is empty: `train_dataset` has 0 rows. Give one row a user.")
    check_log_columns(dataset.column_names, tokenizer, settings.get("target_value_power", 0.0))
    settings["means"] = settings.get("means") or dataset_means(dataset)
    tokenize = RowTokenizer(tokenizer, **settings)

    def training_row(row: dict[str, Any], number: int) -> dict[str, Any]:
        try:
            return {**dict.fromkeys(ROW_INPUTS), **tokenize(row)}
        except HistoryError as error:
            raise error.at(number) from None

    rows = dataset.map(
        training_row,
        with_indices=True,
        remove_columns=dataset.column_names,
        features=Features(
            {name: List(Value("int64")) for name in ROW_INPUTS}
            | {"weights": List(Value("float64")), "length": Value("int64")}
        ),
        desc="Tokenizing histories",
        keep_in_memory=True,
        load_from_cache_file=False,
    )
    rows = rows.select(np.flatnonzero(np.asarray(rows["length"][:]) >= 2))
    if not len(rows):
        raise ValueError("The training log holds no user with two or more events: there is no next item to predict.")
    return rows.select_columns(
        [name for name in rows.column_names if rows.data.column(name).null_count < len(rows.data)]
    )


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


__all__ = [
    "EpochRows",
    "RowTokenizer",
    "ValueMeans",
    "check_log_columns",
    "dataset_means",
    "tokenize_histories",
]
