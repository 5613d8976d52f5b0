"""How far the ids of one column are those of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gr4ad.inspection.profiles import Column

COMPARED = 50_000


@dataclass(frozen=True)
class Join:
    """share: Of the distinct ids of a log's column, those that stand among the keys. covered: Of the keys, those that
    the log has, at least of the compared ones."""

    share: float
    covered: float


def join_of(column: Column, key: Column, looked_at: float = 1.0) -> Join:
    """The join of a log's column to a table's key, of at most `COMPARED` distinct ids, evenly spaced. `looked_at`: of
    the table's rows that are in the sample; the share is that of the whole table, about."""
    step = max(1, column.distinct // COMPARED)
    ids = column.unique[::step]
    if not len(ids) or not key.distinct:
        return Join(0.0, 0.0)
    found = pc.sum(pc.is_in(ids, value_set=key.unique)).as_py() or 0
    return Join(min(1.0, found / len(ids) / looked_at), min(1.0, found * step / key.distinct))


def matched(column: Column, key: Column) -> np.ndarray:
    """(rows,) bool: rows of a log's column whose id stands among the keys."""
    return (
        pc.fill_null(pc.is_in(column.text, value_set=key.unique), False).to_numpy(zero_copy_only=False) & ~column.blank
    )


def near_match(column: Column, key: Column) -> str | None:
    """What keeps the ids of a column from matching the keys, if most of them would match without it."""
    for reason, folded in (
        ("leading zeros", lambda text: pc.utf8_ltrim(text, characters="0")),
        ("capitals", pc.utf8_lower),
        ("a `.0` behind them", lambda text: pc.replace_substring_regex(text, pattern=r"\.0$", replacement="")),
        ("a prefix of letters", lambda text: pc.replace_substring_regex(text, pattern=r"^[^0-9]+", replacement="")),
    ):
        ids, keys = folded(column.unique[:COMPARED]), folded(key.unique)
        if pc.mean(pc.is_in(ids, value_set=keys).cast(pa.float64())).as_py() > 0.5:
            return reason
    return None
