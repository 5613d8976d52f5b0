"""Scores of every user and system in one file, so that finished runs can be compared user by user."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .sequences import SequenceTable

FILE_NAME = "per_user.parquet"
_FACTS = b"gr4ad"
_KEYS = ("protocol", "system", "user_id")


@dataclass(frozen=True)
class PerUserScores:
    """What each user contributed to each mean.

    Attributes:
        user_ids: (U,) str, distinct.
        scores: protocol -> system -> metric -> float64 (U,), nan where a user does not count.
        facts: JSON values: `data` (see `data_digest`), `final` (name of the system that is served), `seed`, `metric`
            (what was chosen by), `value_unit`.
    """

    user_ids: np.ndarray
    scores: dict[str, dict[str, dict[str, np.ndarray]]]
    facts: dict[str, Any]

    def save(self, path: str | Path) -> None:
        """Writes parquet: columns `protocol`, `system`, `user_id` and one a metric, U rows a system; the facts stand
        in the file's metadata. The file appears whole or not at all."""
        blocks = [(p, s, metrics) for p, systems in self.scores.items() for s, metrics in systems.items()]
        names = list(dict.fromkeys(name for _, _, metrics in blocks for name in metrics))
        size = len(self.user_ids)
        columns = {
            "protocol": _repeated([protocol for protocol, _, _ in blocks], size),
            "system": _repeated([system for _, system, _ in blocks], size),
            "user_id": pa.array(np.tile(self.user_ids, len(blocks)), pa.string()),
        }
        for name in names:  # of which there are none without blocks
            parts = [metrics.get(name, np.full(size, np.nan)) for _, _, metrics in blocks]
            columns[name] = pa.array(np.concatenate(parts))
        table = pa.table(columns).replace_schema_metadata({_FACTS: json.dumps(self.facts).encode()})
        partial = Path(path).with_name(Path(path).name + ".tmp")
        pq.write_table(table, partial, compression="zstd")
        os.replace(partial, path)

    @classmethod
    def load(cls, path: str | Path) -> PerUserScores:
        """Reads what `save` wrote. Raises ValueError if the file is missing, no parquet, or not from `save`."""
        if not Path(path).is_file():
            raise ValueError(f"{path}: no such file. It is written by `gr4ad evaluate` and `gr4ad run`: run it again.")
        try:
            table = pq.read_table(path, memory_map=False)
        except (pa.ArrowException, OSError) as error:
            reason = str(error)[:200]
            raise ValueError(f"{path}: cannot be read ({reason}). Evaluate the run again.") from error
        facts = (table.schema.metadata or {}).get(_FACTS)
        if facts is None or not set(_KEYS) <= set(table.column_names):
            raise ValueError(f"{path}: holds no scores per user. Allowed: a file of `gr4ad evaluate` or `gr4ad run`.")
        protocols, systems = (np.asarray(table[key].to_pylist(), dtype=object) for key in ("protocol", "system"))
        opens = [0] if len(table) else []
        opens += (1 + np.flatnonzero((protocols[1:] != protocols[:-1]) | (systems[1:] != systems[:-1]))).tolist()
        stops = [*opens[1:], len(table)]
        users = table["user_id"].to_numpy()[slice(0, stops[0])] if opens else np.empty(0, dtype=object)
        metrics = {name: table[name].to_numpy() for name in table.column_names if name not in _KEYS}
        scores: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for start, stop in zip(opens, stops, strict=True):
            scores.setdefault(protocols[start], {})[systems[start]] = {
                name: column[start:stop] for name, column in metrics.items()
            }
        return cls(users, scores, json.loads(facts))

    def aligned(self, user_ids: np.ndarray) -> PerUserScores:
        """The same scores in the order of `user_ids`. Raises ValueError if these are not the same users."""
        mine, wanted = np.argsort(self.user_ids), np.argsort(user_ids)
        if not np.array_equal(self.user_ids[mine], user_ids[wanted]):
            raise ValueError(
                f"`user_ids` should be the same users in both runs. Received: {len(self.user_ids)} and "
                f"{len(user_ids)} users, {len(np.intersect1d(self.user_ids, user_ids))} of them in both. Compare runs "
                "of the same test split."
            )
        rows = np.empty(len(mine), dtype=np.int64)
        rows[wanted] = mine
        scores: dict[str, dict[str, dict[str, np.ndarray]]] = {}
        for protocol, systems in self.scores.items():
            for system, metrics in systems.items():
                moved = {name: values[rows] for name, values in metrics.items()}
                scores.setdefault(protocol, {})[system] = moved
        return PerUserScores(self.user_ids[rows], scores, self.facts)


def data_digest(train: SequenceTable, test: SequenceTable) -> str:
    """sha256, 64 hex digits, of what a comparison has to share: catalog ids, the training log, the test users'
    histories and held-out items with their values. The order of users and of catalog rows does not matter."""
    order = np.argsort(train.item_ids)
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    digest = hashlib.sha256(_id_bytes(train.item_ids[order]))
    for table in (train, test):
        rows = np.argsort(table.user_ids)
        digest.update(_id_bytes(table.user_ids[rows]))
        for part in [table.history] if table.targets is None else [table.history, table.targets]:
            sequences = part.take(rows)
            for array in (sequences.offsets, rank[sequences.items], sequences.values):
                digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _id_bytes(ids: np.ndarray) -> bytes:
    return f"{len(ids)}\n".encode() + "\0".join(ids.tolist()).encode()


def _repeated(names: list[str], times: int) -> pa.Array:
    """Each name `times` times, stored once."""
    places = np.repeat(np.arange(len(names), dtype=np.int32), times)
    return pa.DictionaryArray.from_arrays(pa.array(places), pa.array(names, pa.string()))


__all__ = ["FILE_NAME", "PerUserScores", "data_digest"]
