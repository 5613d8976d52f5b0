# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Records of the two logs of online learning as rows that the collators of VSL and RSPO take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gr4ad.tokenization import UASIDTokenizer

from ..vsl.vsl_rows import RowTokenizer, ValueMeans
from .continual_config import ContinualConfig

HISTORY_LISTS = ("events", "values", "times")
MAX_LIST = 4096  # items of a history or candidates of a list that a record may hold
MAX_TEXT = 1000  # characters of an id


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
    | `events` and `target_events`, `times` and `target_times` | lists, *optional* | as for `VSLTrainer` |
    | user features | str, *optional* | of the user |

    A record of the log of lists (RL) has the fields of a row of `check_lists`: `items`, `candidates`, `rewards`,
    optionally `ref_logps`, `events`, `values`, `times` and user features.

    Items of a history and candidates that the index does not know are left out. A record that has no history, no known
    target or no two different rewards then is refused.

    Args:
        max_items: Items of a history that are read.
    """

    def __init__(self, tokenizer: UASIDTokenizer, config: ContinualConfig, max_items: int):
        self.tokenizer, self.config, self.max_items = tokenizer, config, max_items
        self._row_tokenizers: dict[frozenset[str], RowTokenizer] = {}

    def engagement(self, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A row of [`VSLCollator`], whose last `fresh` items are its targets; and the row that validation ranks:
        history columns, `target_items`, `target_values`.

        Raises:
            RecordError: Naming the field at fault.
        """
        history = self._history(record)
        pairs = [(name, f"target_{name}") for name in HISTORY_LISTS]
        targets = self._aligned(record, "target_items", [name for _, name in pairs if name in record])
        for name, target in pairs:
            if (name in record) != (target in record):
                raise RecordError(f"`{name}` and `{target}` come together. Received: one of them.")
        targets = self._known(targets, "target_items", "no target is in the index: add new ads to the catalog first")
        self._check_lists(targets, "target_")
        log = {"items": history["items"] + targets["target_items"]}
        log |= {name: history[name] + targets[target] for name, target in pairs if name in history}
        features = {name: history[name] for name in self.tokenizer.user_features}
        columns = frozenset(log) | frozenset(features)
        if columns not in self._row_tokenizers:
            means = ValueMeans(self.config.user_value_mean or 0.0, self.config.event_value_mean or 0.0)
            self._row_tokenizers[columns] = RowTokenizer(
                self.tokenizer,
                columns,
                max_items=self.max_items,
                user_weight_clip=self.config.user_weight_clip,
                behavior_weights=self.config.behavior_weights,
                target_value_power=self.config.target_value_power,
                means=means,
            )
        try:
            row = self._row_tokenizers[columns]({**log, **features})
        except ValueError as error:
            raise RecordError(str(error)) from error
        fresh = len(targets["target_items"])
        row["fresh"] = min(fresh, row["length"] - 1)
        values = targets.get("target_values", [0.0] * fresh)
        return row, {**history, "target_items": targets["target_items"], "target_values": values}

    def preference_list(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """A row of [`RSPOCollator`].

        Raises:
            RecordError: Naming the field at fault, or if the rewards are all alike.
        """
        history = self._history(record)
        row = self._aligned(record, "candidates", ["rewards", *(["ref_logps"] if "ref_logps" in record else [])])
        row = self._known(row, "candidates", "no candidate is in the index")
        for name, low, high in (("rewards", 0.0, math.inf), ("ref_logps", -math.inf, 1e-6)):
            for value in row.get(name, ()):
                if not is_number(value) or not low <= value <= high or math.isinf(value):
                    raise RecordError(f"`{name}` must be finite and in {low}..{high:g}. Received: {value!r:.100}.")
        if len(set(row["rewards"])) < 2:
            raise RecordError("`rewards` are all alike: there is nothing to prefer.")
        if self.config.reference != "logged":
            row.pop("ref_logps", None)
        return {**history, **row}

    # --- parts
    # ------------------------------------------------------------------------------------------------------------

    def _history(self, record: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(record, Mapping):
            raise RecordError(f"A record must be an object. Received: {record!r:.100}.")
        lists = self._aligned(record, "items", [name for name in HISTORY_LISTS if name in record])
        lists = self._known(lists, "items", "no item of the history is in the index")
        self._check_lists(lists, "")
        row: dict[str, Any] = dict(lists)
        for name in self.tokenizer.user_features:
            value = record.get(name)
            if not (value is None or isinstance(value, str)):
                raise RecordError(f"`{name}` must be a string or missing. Received: {value!r:.100}.")
            row[name] = value
        return row

    def _aligned(self, record: Mapping[str, Any], ids: str, lists: Sequence[str]) -> dict[str, list]:
        for name in (ids, *lists):
            given = record.get(name)
            if not isinstance(given, list | tuple) or not 1 <= len(given) <= MAX_LIST:
                size = f"{len(given)} entries" if isinstance(given, list | tuple) else f"{given!r:.100}"
                raise RecordError(f"`{name}` must be a list of 1..{MAX_LIST} entries. Received: {size}.")
            if len(given) != len(record[ids]):
                raise RecordError(
                    f"`{name}` must be as long as `{ids}`, {len(record[ids])}. Received: {len(given)} entries."
                )
        for item in record[ids]:
            if not isinstance(item, str) or not 1 <= len(item) <= MAX_TEXT:
                raise RecordError(f"`{ids}` must hold ids of 1..{MAX_TEXT} characters. Received: {item!r:.100}.")
        return {name: list(record[name]) for name in (ids, *lists)}

    def _known(self, row: dict[str, list], ids: str, nothing: str) -> dict[str, list]:
        rows = self.tokenizer.index.rows
        places = [place for place, item in enumerate(row[ids]) if item in rows]
        if not places:
            raise RecordError(f"`{ids}`: {nothing}. Its first id is {row[ids][0]!r:.100}.")
        return {name: [values[place] for place in places] for name, values in row.items()}

    def _check_lists(self, row: Mapping[str, list], prefix: str) -> None:
        for value in row.get(f"{prefix}values", ()):
            if not is_number(value) or not 0 <= value < math.inf:
                raise RecordError(f"`{prefix}values` must be finite and >= 0. Received: {value!r:.100}.")
        for time in row.get(f"{prefix}times", ()):
            if not (time is None or is_number(time)):
                raise RecordError(f"`{prefix}times` must be seconds or null. Received: {time!r:.100}.")
        known = self.tokenizer.event_names
        for event in row.get(f"{prefix}events", ()):
            if not isinstance(event, str) or (known and event not in known):
                raise RecordError(
                    f"`{prefix}events` must be among {', '.join(known)}. Received: {event!r:.100}. Leave it out."
                )


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


__all__ = ["LogRecords", "RecordError"]
