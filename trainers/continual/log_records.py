# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Records of the two logs of online learning as rows that the collators of VSL and RSPO take."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gr4ad.tokenization import HISTORY_COLUMNS, ITEM_COLUMNS, HistoryError, UASIDTokenizer, UserHistory

from ..vsl.vsl_rows import RowTokenizer, ValueMeans, check_log_columns
from .continual_config import ContinualConfig

MAX_LIST = 4096  # entries that a list of a record may have
TARGET, TARGET_COLUMNS = "target_", ("items", *ITEM_COLUMNS)
NAMED_COLUMN = re.compile(f"`(?=(?:{'|'.join(HISTORY_COLUMNS)})\\b)")
LIST_COLUMNS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "candidates": ("text", lambda entry: isinstance(entry, str)),
    "rewards": ("finite and >= 0", lambda entry: is_number(entry) and 0 <= entry < math.inf),
    "ref_logps": ("finite and <= 0", lambda entry: is_number(entry) and -math.inf < entry <= 1e-6),
}
"""Columns of a list beside its history -> what an entry must be, and whether one is."""


class RecordError(ValueError):
    """A record that nothing can be learned from; the message says why."""


class LogRecords:
    """Checks records and turns them into training rows.

    A record of the log of engagements (VSL):

    | field | type | meaning |
    |---|---|---|
    | `items` | list of item ids | the user's history before, oldest first |
    | `target_items` | list of item ids | what the user responded to then, oldest first |
    | `values` and `target_values` | lists of floats >= 0, *optional* | their values |
    | any other column along the items, e.g. `events`, and `target_` of it | lists, *optional* | as for `VSLTrainer` |
    | `cross_domain`, `cross_domain_times` | lists, *optional* | what the user did elsewhere; needs `times` |
    | user features | str, *optional* | of the user |

    A record of the log of lists (RL) has the fields of a row of `check_lists`: `candidates`, `rewards`, optionally
    `ref_logps`, and any column of a history.

    Items of a history and candidates that the index does not know are left out. A record that has no history, no known
    target or no two different rewards then is refused.

    Args:
        max_items, max_cross_domain: Items of a history and entries of `cross_domain` that are read.
    """

    def __init__(
        self,
        tokenizer: UASIDTokenizer,
        config: ContinualConfig,
        max_items: int,
        max_cross_domain: int | None = None,
    ):
        self.tokenizer, self.config = tokenizer, config
        self.training_row = RowTokenizer(
            tokenizer,
            max_items=max_items,
            max_cross_domain=max_cross_domain,
            user_weight_clip=config.user_weight_clip,
            behavior_weights=config.behavior_weights,
            target_value_power=config.target_value_power,
            means=ValueMeans(config.user_value_mean or 0.0, config.event_value_mean or 0.0),
        )

    def engagement(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A row of [`VSLCollator`], whose last `fresh` items are its targets, worth `fresh_values` where the record
        says so; and the row that validation ranks: the columns of the history as it was before the first target,
        `target_items`, `target_values`. Raises RecordError naming the field at fault."""
        history = self._history(record)
        nothing = "no target is in the index: add new ads to the catalog first"
        targets = self._history(record, TARGET, TARGET_COLUMNS, nothing)
        before, new = history.to_row(), targets.to_row()
        for name in TARGET_COLUMNS:
            if (name in before) != (name in new):
                raise RecordError(f"`{name}` and `{TARGET}{name}` come together. Received: one of them.")
        joined = {**before, **{name: before[name] + part for name, part in new.items()}}
        try:
            check_log_columns(joined, self.tokenizer, self.config.target_value_power)
            log = UserHistory.from_row(joined, self.tokenizer.user_features)
            row = self.training_row(log)
        except ValueError as error:
            raise RecordError(str(error)) from error
        row["fresh"] = min(len(targets), row["length"] - 1)
        values = new.get("values", [0.0] * len(targets))
        if "values" in new:
            row["fresh_values"] = values[len(values) - row["fresh"] :]
        return row, {**log.first(len(history)).to_row(), "target_items": new["items"], "target_values": values}

    def preference_list(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A row of [`RSPOCollator`]. Raises RecordError naming the field at fault, or if the rewards are all alike."""
        lists = {name: record[name] for name in LIST_COLUMNS if record.get(name) is not None}
        for name in ("candidates", "rewards"):
            if name not in lists:
                raise RecordError(f"`{name}` is missing: a list has its candidates and the reward of each.")
        for name, given in lists.items():
            allowed, fits = LIST_COLUMNS[name]
            bad = [entry for entry in given if not fits(entry)] if isinstance(given, list | tuple) else [given]
            if bad:
                raise RecordError(f"`{name}` must be a list, its entries {allowed}. Received: {bad[0]!r:.100}.")
            if len(given) != len(lists["candidates"]):
                raise RecordError(
                    f"`{name}` must be as long as `candidates`, {len(lists['candidates'])}. Received: {len(given)}."
                )
        check_lengths(lists)
        places = self._known("candidates", lists["candidates"], "no candidate is in the index")
        row = {name: [given[place] for place in places] for name, given in lists.items()}
        if len(set(row["rewards"])) < 2:
            raise RecordError("`rewards` are all alike: there is nothing to prefer.")
        if self.config.reference != "logged":
            row.pop("ref_logps", None)
        return {**self._history(record).to_row(), **row}

    def _history(
        self,
        record: Mapping[str, Any],
        prefix: str = "",
        columns: Sequence[str] = HISTORY_COLUMNS,
        nothing: str = "no item of the history is in the index",
    ) -> UserHistory:
        """What the index knows of the history in a record whose columns have a prefix."""
        check_lengths({prefix + name: record.get(prefix + name) for name in columns})
        given = {name: record.get(prefix + name) for name in columns}
        features = {} if prefix else {name: record.get(name) for name in self.tokenizer.user_features}
        try:
            history = UserHistory.from_row({**given, **features}, features)
            history = history.take(self._known(f"{prefix}items", list(history.items), nothing))
            self.tokenizer.encode_row(history)  # refuses, say, an unknown event, before a batch holds it
        except HistoryError as error:
            raise RecordError(NAMED_COLUMN.sub(f"`{prefix}", error.message)) from error
        return history

    def _known(self, column: str, items: Sequence[str], nothing: str) -> list[int]:
        places = [place for place, item in enumerate(items) if item in self.tokenizer.index.rows]
        if not places:
            raise RecordError(f"`{column}`: {nothing}. Received: {items[:3]!r:.100}.")
        return places


def check_lengths(columns: Mapping[str, Any]) -> None:
    """Raises RecordError for a list that would take more memory than a step should."""
    for name, given in columns.items():
        if isinstance(given, list | tuple) and len(given) > MAX_LIST:
            raise RecordError(f"`{name}` may have {MAX_LIST} entries. Received: {len(given)}. Leave the oldest out.")


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["LogRecords", "RecordError"]
