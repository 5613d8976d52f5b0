"""The prepared tables: rows that hold users' histories as lists, written in pieces of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .event_columns import EVENT_NAMES
from .splits import Rows, rows_before, spans

# Entries of list columns per row group: bounds memory while writing, and keeps arrow's 32-bit offsets far from full.
CHUNK_ENTRIES = 1_000_000
COUNTED_ROWS = 1 << 20  # rows whose entries are added up at once


HISTORY_LISTS = ("items", "events", "values", "times", "cross_domain", "cross_domain_times")
"""List columns of a history, in order. They are `gr4ad.tokenization.user_history.HISTORY_COLUMNS`, whose import takes
seconds that reading a log does not need."""
OTHER_LISTS = ("target_items", "target_values", "candidates", "rewards", "outcomes")
"""Further columns of prepared rows, some of which each table has."""


@dataclass
class HistoryTrack:
    """List columns of equal length along which users leave entries, sorted by user and time.

    Attributes:
        columns: (n,) entries of each, by list column. Float64 is written as float32, a dictionary as its values.
        by_moment: user and clock, int64 (n,) each, of a track whose rows hold the entries before `Rows.moment`; None
            for the history itself, which `Rows.start` and `stop` cut.
    """

    columns: dict[str, pa.Array]
    by_moment: tuple[np.ndarray, np.ndarray] | None = None

    def spans(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """The entries of each row: positions [start, stop), int64 (m,) each."""
        if self.by_moment is None:
            return rows.start, rows.stop
        user, clock = self.by_moment
        return np.searchsorted(user, rows.user), rows_before(user, clock, rows.user, rows.moment)


def sizes_of(rows: Rows, tracks: Sequence[HistoryTrack]) -> np.ndarray:
    """Entries of list columns of each row, int64 (m,)."""
    return rows.lengths + sum(stop - start for start, stop in (track.spans(rows) for track in tracks))


def tables_of(
    rows: Rows,
    tracks: Sequence[HistoryTrack],
    user_ids: pa.Array,
    item_ids: pa.Array,
    features: pa.Table | None,
    entries: int | None = None,
) -> Iterator[pa.Table]:
    """The table of `rows` in pieces: `user_id`, the columns of the tracks, the lists of the rows, the user features.

    Args:
        user_ids: (users,) text. item_ids: (items,) text, by row of the catalog.
        features: one row per row of `user_ids`, or None.
        entries: of lists in a piece, about; None: CHUNK_ENTRIES.
    """
    names = {"target_items": item_ids, "candidates": item_ids, "outcomes": pa.array(EVENT_NAMES)}
    places = [track.spans(rows) for track in tracks]
    ends = np.r_[0, np.cumsum(rows.lengths)]
    for part in chunks(sizes_of(rows, tracks), entries):
        user = pa.array(rows.user[part])
        history: dict[str, pa.ListArray] = {}
        for track, (start, stop) in zip(tracks, places, strict=True):
            taken = pa.array(spans(start[part], stop[part]))
            history |= {n: _list(c.take(taken), (stop - start)[part]) for n, c in track.columns.items()}
        columns = {"user_id": user_ids.take(user)} | {name: history[name] for name in HISTORY_LISTS if name in history}
        assert len(columns) == 1 + len(history), "a column that no history has"
        for name, values in rows.lists.items():
            own = pa.array(values[ends[part.start] : ends[part.stop]])
            columns[name] = _list(names[name].take(own) if name in names else own, rows.lengths[part])
        if rows.known is not None:
            outcomes = columns["outcomes"]
            columns["outcomes"] = pc.if_else(pa.array(rows.known[part]), outcomes, pa.scalar(None, outcomes.type))
        if features is not None:
            chosen = features.take(user)
            columns |= {name: chosen[name] for name in chosen.column_names}
        yield pa.table(columns)


def write_tables(path: Path, tables: Iterator[pa.Table]) -> None:
    """Writes the pieces of a table (at least one) as one parquet file."""
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def chunks(sizes: np.ndarray, entries: int | None = None) -> Iterator[slice]:
    """Slices of rows whose list entries (`sizes`, (m,)) sum to about `entries` (None: CHUNK_ENTRIES); at least one
    slice."""
    edges, total, before = [0], 0, 0
    for start in range(0, len(sizes), COUNTED_ROWS):
        ends = total + np.cumsum(sizes[start : start + COUNTED_ROWS], dtype=np.int64)
        part = ends // (entries or CHUNK_ENTRIES)
        edges += (np.flatnonzero(np.diff(part, prepend=before if start else part[0])) + start).tolist()
        total, before = int(ends[-1]), int(part[-1])
    edges.append(len(sizes))
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        yield slice(start, stop)


def _list(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    elif values.type == pa.float64():
        values = values.cast(pa.float32())
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)], pa.int32()), values)
