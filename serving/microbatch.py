# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Micro-batching: a bounded queue whose waiting queries are answered in batches by one worker thread.

Pure asyncio; knows nothing of HTTP or of models. What a batch runs with is planned when it starts, from the load then.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from .beam_policy import Load

logger = logging.getLogger(__name__)

Query = TypeVar("Query")
Answer = TypeVar("Answer")
Plan = TypeVar("Plan")
LOOKAHEAD = 4
"""Batches among which waiting queries are sorted by size: none is answered so many batches later than it came."""
STEPS = 4
"""Turns of the event loop from the first bytes of a request to its query: reading, parsing, answering, `submit`."""


class QueueFullError(RuntimeError):
    """The queue holds as many queries as it may: come back later."""


class DrainingError(RuntimeError):
    """The batcher takes no new queries: it is not started, or about to stop."""


class DeadlineError(TimeoutError):
    """The deadline of a query passed before a batch with it began."""


@dataclass(eq=False)
class Entry(Generic[Query, Answer]):
    """A waiting query. `arrived` is in seconds on the event loop's clock; `placed`: it has got its place by size."""

    query: Query
    group: Hashable
    arrived: float
    future: asyncio.Future[Answer]
    timer: asyncio.TimerHandle | None = None
    placed: bool = False


class MicroBatcher(Generic[Query, Plan, Answer]):
    """Answers queries of the same group together, one call a batch, in one thread: the event loop stays free.

    The group whose head has waited longest goes first, once it is full or its head has waited `max_wait`; a full group
    goes ahead of one that is still waiting for company. No group starves: every head's wait ends. Where several
    batches of a group wait, queries of like size share one: a batch is padded to its largest.

    Args:
        run: Answers a batch with its plan, one answer a query in the same order; called in the worker thread, one
            batch at a time.
        plan: What a batch runs with, from its queries and the load; called on the event loop just before it runs.
        group: What queries must share to be answered by one call.
        max_batch: Queries a batch, >= 1.
        max_wait: Seconds a query waits for company, >= 0; a busy event loop may add a few of its turns.
        max_queue: Waiting queries at most, those being answered not counted, >= 1.
        size: Of a query, e.g. the length of its history: what a batch is padded to.
        weight: Of a query, e.g. its beam rows. max_weight: Of a batch, at most, unless a single query weighs more.

    ```python
    >>> batcher = MicroBatcher(run, plan, lambda query: query.top_k, max_batch=16, max_wait=0.005, max_queue=256)
    >>> batcher.start()
    >>> [answer] = await asyncio.gather(*batcher.submit([query], timeouts=[1.0]))
    >>> await batcher.close()
    ```
    """

    def __init__(
        self,
        run: Callable[[Sequence[Query], Plan], Sequence[Answer]],
        plan: Callable[[Sequence[Query], Load], Plan],
        group: Callable[[Query], Hashable],
        *,
        max_batch: int,
        max_wait: float,
        max_queue: int,
        size: Callable[[Query], float] = lambda query: 0,
        weight: Callable[[Query], float] = lambda query: 0,
        max_weight: float = math.inf,
    ):
        self._run, self._plan, self._group, self._size, self._weight = run, plan, group, size, weight
        self.max_batch, self.max_wait, self.max_queue, self.max_weight = max_batch, max_wait, max_queue, max_weight
        self._waiting: dict[Hashable, deque[Entry[Query, Answer]]] = {}
        self.depth = 0
        """Queries waiting, those being answered not counted."""
        self.accepting = False
        """Whether `submit` takes queries: started, not draining."""
        self._changed = asyncio.Event()
        self._worker: asyncio.Task[None] | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="microbatch")

    def load(self) -> Load:
        """What waits now; the batch that runs not counted."""
        now = asyncio.get_running_loop().time()
        return Load(now=now, waiting=self.depth, oldest_wait=now - self._oldest(now))

    def _oldest(self, now: float) -> float:
        return min((self._first_arrival(line) for line in self._waiting.values()), default=now)

    def _first_arrival(self, line: deque[Entry[Query, Answer]]) -> float:
        """Of a line that has been sorted by size no further than `LOOKAHEAD` batches."""
        return min(entry.arrived for entry in islice(line, LOOKAHEAD * self.max_batch))

    def start(self) -> None:
        """Starts the worker; call it on the event loop, once."""
        assert self._worker is None, "started twice"
        self._worker = asyncio.get_running_loop().create_task(self._work())
        self.accepting = True

    def drain(self) -> None:
        """Refuses new queries from now on; those that wait are still answered. Safe in a signal handler."""
        self.accepting = False

    async def close(self) -> None:
        """Drains, returns when every waiting query has been answered, and ends the worker."""
        self.drain()
        self._changed.set()
        if self._worker is not None:
            await self._worker
        self._executor.shutdown()

    def submit(self, queries: Sequence[Query], *, timeouts: Sequence[float]) -> list[asyncio.Future[Answer]]:
        """Queues queries, all or none.

        Args:
            timeouts: Seconds, one a query, until which a batch with it must have begun.

        Returns:
            A future of each answer. Cancelling one that still waits takes its query out of the queue. It raises
            DeadlineError past the deadline, or whatever `run` raised on this query.

        Raises:
            DrainingError: If not started or draining. QueueFullError: If they do not all fit.
        """
        if not self.accepting:
            raise DrainingError("The server is not ready or about to stop. Send the request to another replica.")
        if self.depth + len(queries) > self.max_queue:
            raise QueueFullError(
                f"{self.depth} requests wait already, and {len(queries)} more do not fit: at most {self.max_queue} "
                "may wait. Send the request again later, or start more replicas."
            )
        loop = asyncio.get_running_loop()
        futures = []
        for query, timeout in zip(queries, timeouts, strict=True):
            entry: Entry[Query, Answer] = Entry(query, self._group(query), loop.time(), loop.create_future())
            entry.timer = loop.call_later(timeout, self._expire, entry, timeout)
            entry.future.add_done_callback(lambda _, entry=entry: self._forget(entry))  # type: ignore[misc]
            self._waiting.setdefault(entry.group, deque()).append(entry)
            self.depth += 1
            futures.append(entry.future)
        self._changed.set()
        return futures

    def _expire(self, entry: Entry[Query, Answer], timeout: float) -> None:
        if not entry.future.done():
            entry.future.set_exception(
                DeadlineError(
                    f"The deadline of {timeout * 1000:g} ms passed while the request waited for its turn. "
                    "Send it again later, ask for narrower beams, or start more replicas."
                )
            )

    def _forget(self, entry: Entry[Query, Answer]) -> None:
        """Takes an entry whose future is done out of the queue, if it still waits."""
        if entry.timer is None:
            return
        entry.timer.cancel()
        entry.timer = None
        line = self._waiting[entry.group]
        line.remove(entry)
        self.depth -= 1
        if not line:
            del self._waiting[entry.group]
        self._changed.set()

    def _choose(self, now: float) -> tuple[Hashable, float]:
        """The group to answer next and the seconds until then, <= 0 for now; (None, inf) if none waits."""
        full, oldest, arrived = None, None, math.inf
        for group, line in self._waiting.items():
            first = self._first_arrival(line)
            if first < arrived:
                oldest, arrived = group, first
            if full is None and len(line) >= self.max_batch:
                full = group
        wait = arrived + self.max_wait - now
        if not self.accepting:
            wait = min(wait, 0.0) if self._waiting else math.inf
        if wait > 0 and full is not None:
            return full, 0.0
        return oldest, wait

    def _place(self, line: deque[Entry[Query, Answer]]) -> None:
        """Sorts the first `LOOKAHEAD` batches of a line by size, and puts the batch of the oldest query first."""
        first = [line.popleft() for _ in range(min(len(line), LOOKAHEAD * self.max_batch))]
        first.sort(key=lambda entry: self._size(entry.query))
        batches = [first[start : start + self.max_batch] for start in range(0, len(first), self.max_batch)]
        batches.sort(key=lambda batch: min(entry.arrived for entry in batch))
        for batch in reversed(batches):
            line.extendleft(reversed(batch))
        for entry in first:
            entry.placed = True

    def _take(self, group: Hashable) -> list[Entry[Query, Answer]]:
        line = self._waiting[group]
        if len(line) > self.max_batch and not line[0].placed:
            self._place(line)
        entries, weight = [line.popleft()], 0.0
        weight += self._weight(entries[0].query)
        while line and len(entries) < self.max_batch:
            weight += self._weight(line[0].query)
            if weight > self.max_weight:
                break
            entries.append(line.popleft())
        if not line:
            del self._waiting[group]
        for entry in entries:
            assert entry.timer is not None
            entry.timer.cancel()
            entry.timer = None
        self.depth -= len(entries)
        # A future that was cancelled in this very turn of the loop is done, but its callback has yet to run.
        return [entry for entry in entries if not entry.future.done()]

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self.accepting or self._waiting:
            self._changed.clear()
            group, wait = self._choose(loop.time())
            if wait > 0:
                try:
                    await asyncio.wait_for(self._changed.wait(), None if math.isinf(wait) else wait)
                except TimeoutError:
                    pass
            else:
                await self._settle(group)
                if group in self._waiting and (entries := self._take(group)):
                    await self._answer(entries)

    async def _settle(self, group: Hashable) -> None:
        """Returns when the batch is full or the loop brings no more of its group.

        A loop that is busy reading many requests reaches the end of `max_wait` with most of them read and none but the
        first submitted; a batch of that one alone would keep all others waiting until it is answered.
        """
        steps = 0
        while steps < STEPS and len(self._waiting.get(group, ())) < self.max_batch:
            count = len(self._waiting.get(group, ()))
            await asyncio.sleep(0)
            steps = 0 if len(self._waiting.get(group, ())) > count else steps + 1

    async def _answer(self, entries: list[Entry[Query, Answer]]) -> None:
        loop = asyncio.get_running_loop()
        queries = [entry.query for entry in entries]
        now = loop.time()
        oldest = min(self._oldest(now), *(entry.arrived for entry in entries))
        try:
            plan = self._plan(queries, Load(now=now, waiting=self.depth + len(entries), oldest_wait=now - oldest))
            answers = await loop.run_in_executor(self._executor, self._run, queries, plan)
            assert len(answers) == len(queries), "`run` must return one answer a query"
        except Exception as error:
            if len(entries) > 1:
                logger.warning("A batch of %d failed (%r); answering its requests one by one.", len(entries), error)
                for entry in entries:
                    if not entry.future.done():
                        await self._answer([entry])
            elif not entries[0].future.done():
                entries[0].future.set_exception(error)
            return
        for entry, answer in zip(entries, answers, strict=True):
            if not entry.future.done():
                entry.future.set_result(answer)
