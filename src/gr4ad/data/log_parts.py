"""Parts of a settled log on disk, between the steps that need all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .clocks import Clock
from .cross_domain import CrossDomain
from .events import EventLog

ARRAYS = ("user", "item", "event", "clock", "cut", "request")


class LogParts:
    """Settled logs of the parts of a whole one, and what their users did elsewhere."""

    def __init__(self, folder: Path):
        self._folder = folder
        folder.mkdir(parents=True)
        self._logs: dict[int, EventLog] = {}  # without their rows
        self._elsewhere: dict[int, CrossDomain] = {}

    def write(self, number: int, log: EventLog) -> None:
        """Keeps a part. Refunds are settled: there are none."""
        arrays = {name: getattr(log, name) for name in ARRAYS}
        columns = {name: pa.array(values) for name, values in arrays.items() if values is not None}
        features = {f"feature:{name}": column for name, column in log.features.items()}
        _write(self._path("log", number), pa.table({**columns, **features}))
        users = pa.table({"id": log.user_ids, "first_row": log.first_rows})
        _write(self._path("users", number), users)
        time = bare(log.time)
        cut_time = time if log.cut_time is log.time else bare(log.cut_time)
        none = np.zeros(0, np.int64)
        empty: dict[str, Any] = {name: None if values is None else none for name, values in arrays.items()}
        self._logs[number] = replace(
            log,
            **empty,
            features={},
            refund=none,
            user_ids=log.user_ids.slice(0, 0),
            first_rows=none,
            time=time,
            cut_time=cut_time,
        )

    def read(self, number: int) -> EventLog:
        """A part."""
        table = _read(self._path("log", number))
        columns = {name: table[name].combine_chunks() for name in table.column_names}
        users = _read(self._path("users", number))
        arrays: dict[str, Any] = {name: columns[name].to_numpy() for name in ARRAYS if name in columns}
        return replace(
            self._logs[number],
            **arrays,
            features={
                name.removeprefix("feature:"): column
                for name, column in columns.items()
                if name.startswith("feature:")
            },
            refund=np.zeros(table.num_rows, bool),
            user_ids=users["id"].combine_chunks(),
            first_rows=users["first_row"].to_numpy(),
        )

    @property
    def any(self) -> EventLog:
        """A part without its rows: for what all of them have in common."""
        return next(iter(self._logs.values()))

    def write_elsewhere(self, number: int, elsewhere: CrossDomain) -> None:
        """Keeps what the users of a part did elsewhere."""
        item = elsewhere.item
        item = item.dictionary_decode() if pa.types.is_dictionary(item.type) else item
        table = pa.table({"user": elsewhere.user, "item": item, "clock": elsewhere.clock})
        _write(self._path("elsewhere", number), table)
        none = np.zeros(0, np.int64)
        self._elsewhere[number] = replace(
            elsewhere, user=none, item=item.slice(0, 0), clock=none, time=bare(elsewhere.time)
        )

    def read_elsewhere(self, number: int) -> CrossDomain:
        """What the users of a part did elsewhere."""
        table = _read(self._path("elsewhere", number))
        return replace(
            self._elsewhere[number],
            user=table["user"].to_numpy(),
            item=table["item"].combine_chunks(),
            clock=table["clock"].to_numpy(),
        )

    @property
    def clock_elsewhere(self) -> Clock:
        """The column of times of what users did elsewhere, without its rows."""
        return next(iter(self._elsewhere.values())).time

    def _path(self, what: str, number: int) -> Path:
        return self._folder / f"{what}-{number}.arrow"


def bare(clock: Clock) -> Clock:
    """A clock without the times of its rows."""
    none = np.zeros(0, bool)
    return replace(clock, values=np.zeros(0, np.int64), bad=none, mixed=none)


def _write(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as target, pa.ipc.new_file(target, table.schema) as writer:
        writer.write_table(table)


def _read(path: Path) -> pa.Table:
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        return reader.read_all()
