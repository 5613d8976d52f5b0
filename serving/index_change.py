# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""One change of the ads that are served, as it travels from whoever makes it to every running server."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Protocol

import numpy as np

from gr4ad.tokenization import SIDIndex
from gr4ad.tokenization.user_history import MAX_ID_LENGTH as MAX_ID_CHARACTERS

OPERATIONS = ("add", "replace", "remove")
MAX_ADS = 10_000  # of one change: it is applied between two requests
MAX_LEVELS = 26
MAX_PEERS = 100
MAX_CODE = (1 << 31) - 1
MAX_CHANGE_BYTES = 32 << 20  # as JSON


class ServesIndex(Protocol):
    """What a change is applied to: a [`Recommender`]."""

    def check_codes(self, codes: np.ndarray) -> None:
        """Raises ValueError for a code beyond its codebook."""

    def change_index(self, change: Callable[[SIDIndex], None]) -> bool:
        """Applies a change to what is served; whether it changed anything."""


@dataclass(frozen=True)
class IndexChange:
    """Ads to add, to replace or to remove; what cannot be one is refused when it is made.

    ```python
    >>> IndexChange("add", ["ad_7"], codes=[[3, 1, 4]], attributes={"title": ["A new ad"]}).apply(recommender)
    True
    ```

    Args:
        op: `add`, `replace` or `remove`.
        item_ids: 1..10,000 distinct strings of at most 1000 characters.
        codes: Their SIDs, one list of T codes in 0..2**31-1 each; needed to add, `None` to remove.
        priority: Rank of each among ads of one SID, finite; `None` = 0 where ads are added, as it was where they are
            replaced.
        attributes: Values of columns of the item table, one an ad: strings, numbers, booleans or None.
        peers: Where ads are added, ids of the ads most like each, 100 at most, from which its item vector starts;
            `None` = those nearest by SID.

    Raises:
        ValueError: Naming the field at fault.
    """

    op: str
    item_ids: Sequence[str]
    codes: Sequence[Sequence[int]] | None = None
    priority: Sequence[float] | None = None
    attributes: Mapping[str, Sequence[Any]] | None = None
    peers: Sequence[Sequence[str]] | None = None

    def __post_init__(self) -> None:
        if self.op not in OPERATIONS:
            raise ValueError(f"`op` must be one of {', '.join(OPERATIONS)}. Received: {self.op!r:.100}.")
        ids = self.item_ids
        if not isinstance(ids, list | tuple) or not all(isinstance(item, str) for item in ids):
            raise ValueError(f"`item_ids` must be a list of strings. Received: {ids!r:.100}.")
        if not 1 <= len(ids) <= MAX_ADS or len(set(ids)) < len(ids):
            raise ValueError(
                f"`item_ids` must hold 1..{MAX_ADS} distinct ids. Received: {len(ids)}, {len(set(ids))} of them "
                "distinct. Split a larger change into several."
            )
        wrong = next((item for item in ids if not 1 <= len(item) <= MAX_ID_CHARACTERS or not is_text(item)), None)
        if wrong is not None:
            raise ValueError(
                f"`item_ids` must be Unicode text of 1..{MAX_ID_CHARACTERS} characters each. Received one of "
                f"{len(wrong)}: {ascii(wrong):.100}."
            )
        self._check_codes()
        self._check_priority()
        self._check_attributes()
        self._check_peers()
        given = [name for name in ("codes", "priority", "attributes") if vars(self)[name]]
        if self.op == "remove" and given:
            raise ValueError(f"`{given[0]}` must be left out where ads are removed. Received: {given[0]}.")
        if self.op == "replace" and not given:
            raise ValueError("A `replace` needs `codes`, `priority` or `attributes`. Received: none of them.")

    def _check_codes(self) -> None:
        if self.codes is None:
            if self.op == "add":
                raise ValueError("`codes` are needed to add ads. Received: none. Encode them with the quantizer.")
            return
        codes = self.codes
        lists = isinstance(codes, list | tuple) and all(isinstance(row, list | tuple) for row in codes)
        if not lists or len(codes) != len(self.item_ids):
            raise ValueError(f"`codes` needs one list of codes an ad, {len(self.item_ids)}. Received: {codes!r:.100}.")
        levels = len(codes[0])
        for line, row in enumerate(codes):
            fit = 1 <= len(row) == levels <= MAX_LEVELS
            if not fit or not all(type(code) is int and 0 <= code <= MAX_CODE for code in row):
                raise ValueError(
                    f"`codes[{line}]` must be whole numbers in 0..2**31-1, 1..{MAX_LEVELS} of them and as many as of "
                    f"the first ad. Received: {row!r:.100}."
                )

    def _check_peers(self) -> None:
        if self.peers is None:
            return
        lists = isinstance(self.peers, list | tuple) and all(isinstance(own, list | tuple) for own in self.peers)
        if self.op != "add" or not lists or len(self.peers) != len(self.item_ids):
            raise ValueError(
                f"`peers` needs one list of ids for each ad that is added. Received: {self.peers!r:.100}."
            )
        for line, own in enumerate(self.peers):
            if len(own) > MAX_PEERS or not all(isinstance(item, str) and is_text(item) for item in own):
                raise ValueError(f"`peers[{line}]` must be at most {MAX_PEERS} ids. Received: {own!r:.100}.")

    def _check_priority(self) -> None:
        priority = self.priority
        if priority is None:
            return
        numbers = isinstance(priority, list | tuple) and all(type(rank) in (int, float) for rank in priority)
        if not numbers or len(priority) != len(self.item_ids) or not all(map(is_finite, priority)):
            raise ValueError(
                f"`priority` needs one finite number an ad, {len(self.item_ids)}. Received: {priority!r:.100}."
            )

    def _check_attributes(self) -> None:
        if self.attributes is None:
            return
        if not isinstance(self.attributes, Mapping):
            raise ValueError(f"`attributes` must map columns to lists. Received: {self.attributes!r:.100}.")
        for name, values in self.attributes.items():
            lists = isinstance(name, str) and isinstance(values, list | tuple)
            if not lists or len(values) != len(self.item_ids):
                raise ValueError(
                    f"`attributes[{name!r:.100}]` needs one value an ad, {len(self.item_ids)}. Received: "
                    f"{values!r:.100}."
                )
            wrong = next((value for value in values if not is_attribute(value)), None)  # None is one
            if wrong is not None:
                raise ValueError(
                    f"`attributes[{name!r:.100}]` must hold strings, finite numbers, booleans or None. Received: "
                    f"{wrong!r:.100}."
                )

    # --- files

    def to_json(self) -> str:
        """The change as one JSON object. Raises ValueError if it takes more than 32 MiB."""
        given = {name: value for name, value in asdict(self).items() if name != "peers" or value is not None}
        text = json.dumps(given, ensure_ascii=False, allow_nan=False)
        if len(text.encode()) > MAX_CHANGE_BYTES:
            raise ValueError(
                f"A change may take {MAX_CHANGE_BYTES >> 20} MiB as JSON. Received: {len(text.encode()) >> 20} MiB. "
                "Split it, or shorten its `attributes`."
            )
        return text

    @classmethod
    def from_json(cls, text: str) -> IndexChange:
        """Raises ValueError if `text` is no JSON object of a change, or too long to be one."""
        if len(text) > MAX_CHANGE_BYTES:
            raise ValueError(f"A change may take {MAX_CHANGE_BYTES >> 20} MiB as JSON. Received: {len(text)} bytes.")
        try:
            given = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"A change must be a JSON object ({error}). Received: {text[:100]!r}.") from error
        known = {field.name for field in fields(cls)}
        if not isinstance(given, dict) or not {"op", "item_ids"} <= set(given) <= known:
            raise ValueError(
                f"A change must be an object of `op`, `item_ids` and, as needed, `codes`, `priority` and "
                f"`attributes`. Received: {text[:100]!r}."
            )
        return cls(**given)

    # --- applying

    def resolved(self, index: SIDIndex) -> IndexChange:
        """Itself: its codes are known, whatever the index."""
        return self

    def apply(self, recommender: ServesIndex) -> bool:
        """Changes what a recommender serves from the next request on, all of it or nothing.

        Changes set a state, so that applying them again in their order, from any point before, ends in the same one:
        to add an ad that is served replaces it, and to remove or to replace one that was removed leaves it.

        Returns:
            False if every ad stood as the change says; then nothing was touched.

        Raises:
            ValueError: As `Recommender.add_ads` and its siblings: a code outside its codebook, a column that the item
                table lacks, an ad to replace or to remove that was never known, or no ad would be left.
        """
        if self.codes is not None:
            recommender.check_codes(np.array(self.codes))
        return recommender.change_index(self.apply_to)

    def apply_to(self, index: SIDIndex) -> None:
        """Changes an index as `apply` does; on an error some of it may be done: give a snapshot."""
        unknown = [item for item in self.item_ids if item not in index.rows]
        if unknown and self.op != "add":
            raise ValueError(f"`item_ids`: {unknown[0]!r} is not in the index. Add it, or leave it out.")
        active = [place for place, item in enumerate(self.item_ids) if is_active(index, item)]
        if self.op == "remove":
            if active:
                index.remove([self.item_ids[place] for place in active])
            return
        changed = [place for place in active if self._differs(index, place)]
        if changed:
            index.replace(*self._chosen(changed, index))
        missing = sorted(set(range(len(self.item_ids))) - set(active))
        if self.op == "add" and missing:
            ids, codes, priority, columns = self._chosen(missing, index)
            assert codes is not None
            index.add(ids, codes, priority, columns, None if self.peers is None else [self.peers[p] for p in missing])

    def _differs(self, index: SIDIndex, place: int) -> bool:
        row = index.rows[self.item_ids[place]]
        if self.codes is not None and index.codes[row].tolist() != list(self.codes[place]):
            return True
        if self.priority is not None or self.op == "add":
            if index.priority[row] != (0.0 if self.priority is None else self.priority[place]):
                return True
        given = self._columns(index)
        return any(index.columns[name][row] != values[place] for name, values in given.items())

    def _columns(self, index: SIDIndex) -> dict[str, list]:
        """Columns that the change sets; an added ad has None where nothing is given."""
        given = {name: list(values) for name, values in (self.attributes or {}).items()}
        lacking = [name for name in given if name not in index.columns]
        if lacking:
            raise ValueError(
                f"`attributes`: the index has no column {lacking[0]!r}, it has {sorted(index.columns)}. Leave it out, "
                "or build the tokenizer with it."
            )
        if self.op == "add":
            given |= {name: [None] * len(self.item_ids) for name in index.columns if name not in given}
        return given

    def _chosen(
        self, places: list[int], index: SIDIndex
    ) -> tuple[list[str], np.ndarray | None, np.ndarray | None, dict[str, list]]:
        codes = None if self.codes is None else np.array([self.codes[place] for place in places])
        priority = None if self.priority is None else np.array([float(self.priority[place]) for place in places])
        if priority is None and self.op == "add":
            priority = np.zeros(len(places))
        columns = {name: [values[place] for place in places] for name, values in self._columns(index).items()}
        return [self.item_ids[place] for place in places], codes, priority, columns


def is_active(index: SIDIndex, item: str) -> bool:
    return item in index.rows and bool(index.active[index.rows[item]])


def is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which no file can hold
        return False
    return True


def is_finite(number: float) -> bool:
    try:
        return math.isfinite(number)
    except OverflowError:  # a whole number beyond all floats
        return False


def is_attribute(value: Any) -> bool:
    if isinstance(value, str):
        return is_text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool) or (isinstance(value, int) and abs(value) < 1 << 63)
