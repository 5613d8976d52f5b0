# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Training batches out of a log that is larger than memory."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, asdict, dataclass, replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from torch.utils.data import IterableDataset

from gr4ad.tokenization import HistoryError

from .vsl_rows import RowTokenizer, ValueMeans

POSITION_FILE = "data_position.json"
READ_ROWS = 1000
KEPT_STARTS = 1000  # of buffers: far more than a loader is ahead of the training


@dataclass(frozen=True)
class StreamPosition:
    """Where a run stands in a stream: its process drew `batches` batches, `drawn` of them from the current buffer.

    That buffer is number `buffer` of pass `number` over the log. It is filled from the source's state `source` (None:
    the start of the pass) on, without the first `drop` users that can be trained on."""

    number: int = 0
    buffer: int = 0
    source: dict[str, Any] | None = None
    drop: int = 0
    batches: int = 0
    drawn: int = 0

    def save(self, folder: Path, shape: dict[str, int]) -> None:
        (folder / POSITION_FILE).write_text(json.dumps({"position": asdict(self), **shape}), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, shape: dict[str, int]) -> StreamPosition:
        """Raises ValueError if the checkpoint has no position, or was written with other batches."""
        path = folder / POSITION_FILE
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no {POSITION_FILE}: it was not written by a streaming run. Resume with the "
                "`Dataset` it was trained on, or start anew."
            )
        saved = json.loads(path.read_text(encoding="utf-8"))
        for name, value in shape.items():
            if saved[name] != value:
                raise ValueError(
                    f"`{name}` must stay {saved[name]} where the run of {folder} is resumed: buffers are cut into "
                    f"batches by it. Received: {value}."
                )
        return cls(**saved["position"])


def stream_means(source: datasets.IterableDataset, columns: list[str]) -> ValueMeans | None:
    """Means of a streamed log in one pass over its values; None without `values`."""
    if "values" not in columns:
        return None
    total, users, events = 0.0, 0, 0
    for block in source.select_columns(["values"]).with_format("arrow").iter(READ_ROWS):
        values = pc.list_flatten(block["values"])
        total += pc.sum(values).as_py() or 0.0
        users += len(block)
        events += len(values)
    return ValueMeans.from_totals(total, users, events)


@dataclass(eq=False)
class HistoryStream(IterableDataset):
    """Batches of this process, without end: when the log ends it is read again, its files in another order.

    A buffer of `buffer` users is sorted by length, cut into the batches of whole steps and these are shuffled, by seed
    and place alone. Every process reads the log, which is Arrow and cheap, and tokenizes only its own users. So a step
    trains on the same users however many processes and accumulated batches share it, and memory holds one buffer.
    The last batch of a pass is filled up with users of its buffer. At most `limit` batches are yielded.

    Args:
        source: Rows as in `tokenize_histories`. Shuffle its files if need be, but not by `source.shuffle`, whose
            buffer a resumed run has lost.
        collate: Makes a batch out of training rows.
        batch_size: Users of a batch. accumulation, processes: Batches of one step and processes that share it.
        rank: Place of this process.
        buffer: Users held, rounded down to whole steps, at least one step.

    From `start` on, if it is set: batches before it are yielded empty, for a loader that counts and drops them.

    Raises:
        ValueError: While iterating: if no user has two events, or as [`UserHistory`].
    """

    source: datasets.IterableDataset
    tokenize: RowTokenizer
    collate: Callable[[list[dict]], dict]
    _: KW_ONLY
    batch_size: int
    accumulation: int = 1
    processes: int = 1
    rank: int = 0
    buffer: int
    seed: int
    limit: int | None = None

    def __post_init__(self) -> None:
        self.source = self.source.with_format("arrow")
        self.step_users = self.batch_size * self.accumulation * self.processes
        self.buffer = max(1, self.buffer // self.step_users) * self.step_users
        self.start = StreamPosition()
        self.starts: deque[StreamPosition] = deque(maxlen=KEPT_STARTS)

    @property
    def shape(self) -> dict[str, int]:
        """What the order of users follows from, beside the log."""
        return {"shuffle_buffer": self.buffer, "users of a step": self.step_users, "seed": self.seed}

    def position(self, batches: int) -> StreamPosition:
        """Where the stream stood after `batches` batches, which may be fewer than were yielded already."""
        for start in reversed(self.starts):
            if start.batches <= batches:
                # Relative to the start of its buffer; `start` itself may lie within one.
                return replace(start, batches=batches, drawn=start.drawn + batches - start.batches)
        return replace(self.start, batches=batches)

    def __iter__(self) -> Iterator[dict]:
        start = self.start
        if self.limit is not None and start.batches >= self.limit:
            return
        for _ in range(start.batches):
            yield {}
        batches, drawn = start.batches, start.drawn
        self.starts.clear()
        for position, table in self.buffers(start):
            self.starts.append(replace(position, batches=batches, drawn=drawn))
            table = table.combine_chunks()  # which `take` would do each time
            for users in self.own_batches(table, position)[drawn:]:
                rows = table.take(users).to_pylist()
                draws = [(position.number, position.buffer, int(user)) for user in users]
                yield self.collate([self.training_row(row, draw) for row, draw in zip(rows, draws, strict=True)])
                batches += 1
                if batches == self.limit:
                    return
            drawn = 0  # only the first buffer was drawn from before

    def buffers(self, start: StreamPosition) -> Iterator[tuple[StreamPosition, pa.Table]]:
        """Full buffers of users with two or more events, and where each begins; the last of a pass may be short."""
        number, place, source, drop = start.number, start.buffer, start.source, start.drop
        while True:
            held: list[tuple[dict | None, int, pa.Table]] = []
            size = found = 0
            self.source.set_epoch(number)
            if source is not None:
                self.source.load_state_dict(source)
            for block in self.source.iter(min(READ_ROWS, self.buffer)):
                users = self.trainable(block).slice(drop)
                held.append((source, drop, users))
                size += len(users)
                found += len(users) + drop
                drop, source = 0, self.source.state_dict()
                if size >= self.buffer:
                    table = pa.concat_tables([part for _, _, part in held])
                    first, last = held[0], held[-1]
                    yield StreamPosition(number, place, first[0], first[1]), table.slice(0, self.buffer)
                    place += 1
                    rest = table.slice(self.buffer)  # less than a block, hence of the last one
                    held = [(last[0], last[1] + len(last[2]) - len(rest), rest)]
                    size = len(rest)
            if size:
                table = pa.concat_tables([part for _, _, part in held])
                yield StreamPosition(number, place, held[0][0], held[0][1]), table
            elif not found and place == 0:
                raise ValueError(
                    "The training stream holds no user with two or more events: there is no next item to predict."
                )
            number, place, source, drop = number + 1, 0, None, 0

    def trainable(self, block: pa.Table) -> pa.Table:
        """The users of a block with two or more events."""
        return block.filter(pc.greater_equal(pc.list_value_length(block["items"]), 2))

    def training_row(self, row: dict, draw: tuple[int, int, int]) -> dict:
        try:
            return {**self.tokenize(row), "draw": draw}
        except HistoryError as error:
            raise HistoryError(
                error.field, f"{error.message} It is the row whose items begin {row['items'][:3]}."
            ) from None

    def own_batches(self, table: pa.Table, position: StreamPosition) -> list[np.ndarray]:
        """Users of each batch of this process, as rows of a buffer."""
        rng = np.random.default_rng((self.seed, position.number, position.buffer))
        lengths = pc.list_value_length(table["items"]).to_numpy()
        order = rng.permutation(len(table))
        order = order[np.argsort(-np.minimum(lengths[order], self.tokenize.max_items + 1), kind="stable")]
        missing = -len(order) % self.step_users
        order = np.concatenate([order, rng.choice(len(order), missing)])
        steps = order.reshape(-1, self.accumulation, self.processes, self.batch_size)
        return list(steps[rng.permutation(len(steps)), :, self.rank].reshape(-1, self.batch_size))


__all__ = ["POSITION_FILE", "HistoryStream", "StreamPosition", "stream_means"]
