# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The items of an index in the order of their semantic IDs and ranks: what makes lookups fast.

Shapes: M items, T levels, n SIDs asked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

# Changed SIDs are kept beside the sorted ones; more of them than both of these, and sorting anew is the better deal.
RESORT_SHARE, RESORT_FLOOR = 1 / 64, 1024


@dataclass(eq=False)
class SIDOrder:
    """Items sorted by (SID, priority from the highest, item id), and the SIDs that changed since.

    The arrays are never written again, so that copies share them.

    Args:
        bits (int64, (T,)): The width of each level in a key.
        keys (int64, or bytes where T levels need more than 63 bits, (M,)): The SID of each item, ascending.
        rows (int64, (M,)): The item's row in the index.
        changed: Key -> all rows that have it now, best rank first; counts before what `keys` says.
    """

    bits: np.ndarray
    keys: np.ndarray
    rows: np.ndarray
    changed: dict[int | bytes, list[int]]

    def __post_init__(self) -> None:
        self.rows.flags.writeable = False

    @classmethod
    def of(cls, rows: np.ndarray, codes: np.ndarray, priority: np.ndarray, item_ids: np.ndarray) -> SIDOrder:
        """Sorts M items: rows and codes (int64, (M,) and (M, T)), priority (float64, (M,)), ids (object, (M,))."""
        bits = np.array([max(1, int(code).bit_length()) for code in codes.max(0, initial=0)], dtype=np.int64)
        keys = packed(codes, bits)
        order = ranked(keys, priority, item_ids)
        return cls(bits, keys[order], rows[order], {})

    def copy(self) -> SIDOrder:
        """A copy that does not follow later changes of this one."""
        return replace(self, changed=dict(self.changed))

    def find(self, sids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Items of SIDs (int64, (n, T)): their rows, one SID after the other, best rank first; and how many each SID
        has (int64, (n,))."""
        fits = np.asarray(self.fits(sids).all(1))
        keys = packed(np.where(fits[:, None], sids, 0), self.bits)
        start, stop = self.bounds(keys)
        count = np.where(fits, stop - start, 0)
        changed: dict[int, list[int]] = {}
        if self.changed:
            changed = {
                number: self.changed[key]
                for number, key in enumerate(keys.tolist())
                if key in self.changed and fits[number]
            }
            count[list(changed)] = [len(rows) for rows in changed.values()]
        first = count.cumsum() - count
        places = np.arange(count.sum()) + np.repeat(start - first, count)
        if not changed:
            return self.rows[places], count
        out = np.empty(len(places), dtype=np.int64)
        untouched = np.ones(len(places), dtype=bool)
        for number, rows in changed.items():
            span = slice(first[number], first[number] + len(rows))
            out[span], untouched[span] = rows, False
        out[untouched] = self.rows[places[untouched]]
        return out, count

    def prefix_ranges(self, codes: np.ndarray) -> np.ndarray:
        """Ranges of `rows` that share the longest prefix with each SID (int64, (n, T)); int64 (n, 2), see
        `SIDIndex.prefix_ranges`. Only of a settled order."""
        assert not self.changed
        ranges = np.tile(np.array([0, len(self.rows)]), (len(codes), 1))
        lowest, highest = np.zeros_like(codes), np.broadcast_to((1 << self.bits) - 1, codes.shape)
        shared = np.ones(len(codes), dtype=bool)
        for level in range(codes.shape[1]):
            shared = shared & self.fits(codes)[:, level]
            fixed = shared[:, None] & (np.arange(codes.shape[1]) <= level)
            start = np.searchsorted(self.keys, packed(np.where(fixed, codes, lowest), self.bits))
            stop = np.searchsorted(self.keys, packed(np.where(fixed, codes, highest), self.bits), side="right")
            shared = shared & (stop > start)
            ranges[shared] = np.stack([start, stop], 1)[shared]
        return ranges

    def follow(
        self,
        rows: np.ndarray,
        before: np.ndarray,
        kept: np.ndarray,
        after: np.ndarray,
        rank: Callable[[int], tuple],
    ) -> bool:
        """Takes note that `rows` changed.

        Args:
            rows (int64, (n,)): All rows written. before (int64, (k, T)): SIDs that active ones of them had.
            kept (int64, (m,)), after (int64, (m, T)): Those that are active now, and their SIDs.
            rank: Sort key of a row among the items of its SID.

        Returns:
            False if this order is of no more use: too much changed, or a code is wider than its level's keys.
        """
        limit = max(RESORT_FLOOR, RESORT_SHARE * len(self.keys))
        if len(self.changed) + len(rows) > limit or not self.fits(after).all():
            return False
        new_keys = packed(after, self.bits).tolist()
        keys = np.array(sorted({*packed(before, self.bits).tolist(), *new_keys}), dtype=self.keys.dtype)
        written = set(rows.tolist())
        members = {}
        for key, start, stop in zip(keys.tolist(), *self.bounds(keys), strict=True):
            now = self.changed[key] if key in self.changed else self.rows[start:stop].tolist()
            members[key] = [row for row in now if row not in written]
        for key, row in zip(new_keys, kept.tolist(), strict=True):
            members[key].append(row)
        self.changed.update({key: sorted(held, key=rank) for key, held in members.items()})
        return True

    def settled(self) -> SIDOrder:
        """The same order with the changed SIDs in their places: a merge, no sorting."""
        if not self.changed:
            return self
        keys = np.array(sorted(self.changed), dtype=self.keys.dtype)
        held = [self.changed[key] for key in keys.tolist()]
        start, stop = self.bounds(keys)
        inside = np.zeros(len(self.keys) + 1, dtype=np.int8)
        np.add.at(inside, start, 1)
        np.add.at(inside, stop, -1)
        untouched = np.flatnonzero(inside.cumsum(dtype=np.int8)[:-1] == 0)
        gone = stop - start
        count = np.array([len(rows) for rows in held])
        places = np.repeat(start - (gone.cumsum() - gone), count)
        rows = np.array([row for group in held for row in group], dtype=np.int64)
        return SIDOrder(
            self.bits,
            np.insert(self.keys[untouched], places, np.repeat(keys, count)),
            np.insert(self.rows[untouched], places, rows),
            {},
        )

    def fits(self, codes: np.ndarray) -> np.ndarray:
        """Whether each code is one that its level's keys can hold; of codes' shape."""
        return (codes >= 0) & (codes >> self.bits == 0)

    def bounds(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.searchsorted(self.keys, keys), np.searchsorted(self.keys, keys, side="right")


def packed(codes: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """One sortable key for each SID (int64, (n, T)), in the SIDs' lexicographic order."""
    if sum(bits) > 63:
        # Big-endian bytes compare as the codes do; numpy has no wider integer.
        return np.ascontiguousarray(codes, dtype=">u4").view(f"S{4 * codes.shape[1]}")[:, 0]
    keys = np.zeros(len(codes), dtype=np.int64)
    for level, width in enumerate(bits):
        keys = (keys << width) | codes[:, level]
    return keys


def ranked(keys: np.ndarray, priority: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Places, int64 (M,), that sort M items by (key, -priority, item id in text order).

    Comparing strings is what costs, so only items that tie in key and priority have their ids compared.
    """
    order = np.argsort(keys, kind="stable")
    tied = in_ties(keys[order[1:]] == keys[order[:-1]])[: len(order)]
    if tied.any():
        places = order[tied]
        places = places[np.lexsort((-priority[places], keys[places]))]
        right, left = places[1:], places[:-1]
        same = (keys[right] == keys[left]) & (priority[right] == priority[left])
        if same.any():
            even = in_ties(same)
            run = np.insert(~same, 0, False).cumsum()[even]
            places[even] = places[even][np.lexsort((item_ids[places[even]].astype(str), run))]
        order[tied] = places
    return order


def in_ties(same: np.ndarray) -> np.ndarray:
    """Whether each of n sorted things equals a neighbour (bool, (n,)), of whether it equals its left one
    (bool, (n - 1,))."""
    return np.append(same, False) | np.insert(same, 0, False)


__all__ = ["SIDOrder", "ranked"]
