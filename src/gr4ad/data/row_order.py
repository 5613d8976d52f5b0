"""The order of a log's rows: by user and time, ties by a hash of the ids, and rows that stand twice found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import RowChecks, cell
from .columns import whole


def encoded(ids: pa.Array) -> tuple[np.ndarray, pa.Array]:
    """A code for each id, int64 (n,), -1 where null, and the distinct ids in order of first occurrence."""
    import pandas as pd

    if isinstance(ids, pa.DictionaryArray):  # coded already, in an order of its own
        codes = pc.fill_null(ids.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
        known = codes >= 0
        own, used = pd.factorize(codes[known])
        codes[known] = own
        return codes, ids.dictionary.take(pa.array(used))
    dictionary = whole(ids).dictionary_encode()
    codes = pc.fill_null(dictionary.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, dictionary.dictionary


def by_time(user: np.ndarray, clock: np.ndarray, keep: np.ndarray) -> np.ndarray:
    """The rows to keep ((n,) bool), sorted by (user, clock), rows of equal clock in the order of the file."""
    rows = np.flatnonzero(keep)
    (key,) = joint_keys((user[rows], clock[rows]))
    return rows[stable_order(key)]


def stable_order(key: np.ndarray) -> np.ndarray:
    """Rows sorted by `key` (int64 (n,)), those of one key in order: `argsort(kind="stable")` in less time."""
    order = np.argsort(key)
    same = key[order][1:] == key[order][:-1]
    tied = np.flatnonzero(np.r_[same, False] | np.r_[False, same])
    if len(tied):
        run = np.cumsum(np.r_[True, ~same])[tied]
        order[tied] = order[tied][np.lexsort((order[tied], run))]
    return order


def joint_keys(*pairs: tuple[np.ndarray, np.ndarray]) -> list[np.ndarray]:
    """For pairs of a code >= 0 and a clock (int64 (n,) each) one number each, int64 (n,), that orders them as the pair
    does, on one scale for all of the pairs given."""
    clocks = [clock for _, clock in pairs if len(clock)]
    first = min((int(clock.min()) for clock in clocks), default=0)
    width = max((int(clock.max()) for clock in clocks), default=0) - first + 1
    most = max((int(code.max()) for code, _ in pairs if len(code)), default=0)
    if (most + 1) * width < 2**62:
        return [code * width + (clock - first) for code, clock in pairs]
    ends = np.cumsum([len(clock) for _, clock in pairs])[:-1]

    def ranked(values: list[np.ndarray]) -> list[np.ndarray]:
        return np.split(np.unique(np.concatenate(values), return_inverse=True)[1], ends)

    ranks = ranked([clock for _, clock in pairs])
    width = max((int(rank.max()) for rank in ranks if len(rank)), default=0) + 1
    codes = [code for code, _ in pairs] if (most + 1) * width < 2**62 else ranked([code for code, _ in pairs])
    return [code * width + rank for code, rank in zip(codes, ranks, strict=True)]


def ties(user: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """(n,) bool: rows, sorted by (user, clock), that share their moment with another row of the user."""
    if not len(user):
        return np.zeros(0, dtype=bool)
    same = (user[1:] == user[:-1]) & (clock[1:] == clock[:-1])
    return np.r_[same, False] | np.r_[False, same]


def without_file_order(rows: np.ndarray, tied: np.ndarray, keys: Sequence[np.ndarray]) -> np.ndarray:
    """The rows of a log, sorted by (user, clock), with those of one moment in an order that the file has no part in.

    Args:
        rows: (m,) int64, rows of the file. tied: (m,) bool, as [`ties`] finds them.
        keys: (n,) each, by row of the file: user, clock, and what orders tied rows, the most important one first.
    """
    places = np.flatnonzero(tied)
    if not len(places):
        return rows
    group = rows[places]
    ordered = rows.copy()
    ordered[places] = group[np.lexsort([key[group] for key in reversed(keys)])]
    return ordered


def tie_hashes(ids: pa.Array) -> np.ndarray:
    """A hash of each id's text, uint64 (n,): the same on every machine and in every release."""
    digests = b"".join(hashlib.blake2b(text.encode(), digest_size=8).digest() for text in ids.to_pylist())
    return np.frombuffer(digests, "<u8").astype(np.uint64)


def mixed(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """One hash of two (uint64 (n,) each): equal pairs alike, and no order of items that all users share."""
    with np.errstate(over="ignore"):
        value = users + items * np.uint64(0x9E3779B97F4A7C15)
        value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return value ^ (value >> np.uint64(31))


def exact_repeats(table: pa.Table, rows: np.ndarray, alike: np.ndarray) -> np.ndarray:
    """Rows of the file that equal an earlier one in every column, (repeats,) int64.

    Args:
        table: all columns of the file.
        rows: (m,) int64, rows of the file in an order in which equal rows are neighbours, give or take rows that are
            alike. alike: (m,) bool, whether a row may equal the one before it.
    """
    candidates = np.sort(rows[alike | np.r_[alike[1:], False]])
    if not len(candidates):
        return candidates
    part, code = table.take(pa.array(candidates)), np.zeros(len(candidates), np.int64)
    for name in part.column_names:
        own = _codes(part[name])
        code = code * (int(own.max()) + 1) + own
        code = np.unique(code, return_inverse=True)[1].astype(np.int64)
    first = np.zeros(len(candidates), bool)
    first[np.unique(code, return_index=True)[1]] = True
    return candidates[~first]


def check_order(
    table: pa.Table, name: str, user: np.ndarray, clock: np.ndarray, checks: RowChecks, sorted_already: bool = False
) -> int:
    """How many rows stand after a later row of their user. Raises DataError for the first, unless `drop` names
    `unsorted_time`. `sorted_already`: it is known that there are none."""
    rows = np.flatnonzero(checks.keep & (not sorted_already))
    rows = rows[np.argsort(user[rows], kind="stable")]
    at = np.flatnonzero((user[rows][1:] == user[rows][:-1]) & (clock[rows][1:] < clock[rows][:-1]))
    if "unsorted_time" in checks.drop:
        return len(at)

    def text(row: int, count: int) -> str:
        before = int(rows[np.flatnonzero(rows == row)[0] - 1])
        previous = cell(table[name], before)
        allowed = f"not before the user's previous row ({previous!r} in row {checks.number(before)})"
        return checks.line(name, row, table[name], count, allowed, "unsorted_time", "put in time order and count")

    checks.reject(rows[at + 1], text)
    return 0


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """A code for each distinct cell, int64 (n,), 0 for null."""
    try:
        return encoded(column)[0] + 1
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists: by what they print
        return encoded(pa.array([repr(cell) for cell in column.to_pylist()]))[0] + 1
