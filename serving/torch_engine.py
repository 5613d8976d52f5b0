# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The engine on torch, in this process: the micro-batch queue with its beam policy before a live model."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from prometheus_client import Gauge, Histogram

from .answering import answer_together, failure, filled, group_of
from .beam_policy import Load
from .index_change import IndexChange, is_active
from .live_model import LiveModel, Served
from .microbatch import DeadlineError, DrainingError, MicroBatcher, QueueFullError
from .new_ads import AdRecords
from .request_types import Answer, RecommendQuery, Refusal, RefusedError, ServedModel
from .server_config import ServerConfig
from .server_metrics import BATCH_BUCKETS, ServerMetrics

Plan = tuple[Served, list[RecommendQuery]]
"""What a batch is answered with, and its queries with their widths."""


class TorchEngine:
    """An [`Engine`] whose model runs in one worker thread.

    A batch is planned when it starts: it takes what is served then, and beams as wide as the policy allows for the
    load then; requests that name their widths get these.
    """

    def __init__(self, live: LiveModel, config: ServerConfig, metrics: ServerMetrics | None = None):
        self.live, self.config = live, config
        self.metrics = ServerMetrics() if metrics is None else metrics
        self.follows = live.published is not None
        self.policy = config.beam_policy(live.recommender.beam_widths)
        self.batcher: MicroBatcher[RecommendQuery, Plan, Answer] = MicroBatcher(
            self._run,
            self._plan,
            group_of,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            max_queue=config.max_queue,
            size=lambda query: min(len(query.user.items), live.recommender.model.config.max_context_items),
            weight=lambda query: sum(query.beam_widths or self.policy.scaled(self.policy.scale)),
            max_weight=config.max_batch_rows,
        )
        registry = self.metrics.registry
        depth = Gauge("gr4ad_queue_depth", "Users waiting for a batch.", registry=registry)
        depth.set_function(lambda: self.batcher.depth)
        scale = Gauge("gr4ad_beam_scale", "Factor of the beam widths that the load allows.", registry=registry)
        scale.set_function(lambda: self.policy.scale)
        self._batch_size = Histogram(
            "gr4ad_batch_size", "Users answered by one call.", registry=registry, buckets=BATCH_BUCKETS
        )
        # One thread for all: torch keeps memory for every thread that ever ran a model.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reload")
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def served(self) -> ServedModel:
        return self.live.served.described

    @property
    def beam_widths(self) -> list[int]:
        return self.live.recommender.beam_widths

    @property
    def accepting(self) -> bool:
        return self.batcher.accepting

    async def start(self) -> None:
        """Learns what batches cost, where the policy needs to know, then takes queries."""
        self._loop = asyncio.get_running_loop()
        if self.policy.learns:
            await asyncio.to_thread(self.warm_up)
        self.batcher.start()

    def drain(self) -> None:
        self.batcher.drain()

    async def close(self) -> None:
        await self.batcher.close()
        self._reader.shutdown()

    def warm_up(self, rounds: int = 2) -> None:
        """Runs batches of one and of many requests with the narrowest, the base and the widest beams, so that the
        policy knows what they cost before the first request comes."""
        recommender, policy = self.live.recommender, self.policy
        items = recommender.tokenizer.index.item_ids
        length = min(recommender.model.config.max_context_items, 20)
        recommender.recommend([[str(items[0])]])  # first calls are slow
        for number in range(rounds):
            for size in {1, policy.max_batch // 2 or 1, policy.max_batch}:
                for scale in {policy.scales[0], 1.0, policy.scales[-1]}:
                    widths = policy.scaled(scale)
                    spread = 1 + (7 * number + size) % length  # histories of several lengths
                    histories = [[str(item) for item in items[:spread]]] * size
                    begun = time.perf_counter()
                    recommender.recommend(histories, top_k=1, beam_widths=widths)
                    policy.finished(size, size * sum(widths), size * spread, time.perf_counter() - begun)

    # --- batches

    def _plan(self, queries: Sequence[RecommendQuery], load: Load) -> Plan:
        served = self.live.served
        self.policy.base_widths = tuple(served.recommender.beam_widths)
        decided = self.policy.widths(load)
        self._batch_size.observe(len(queries))
        # The last level is wide enough for a list as long as asked for.
        widths = [query.beam_widths or (*decided[:-1], max(decided[-1], query.top_k or 1)) for query in queries]
        return served, [replace(query, beam_widths=line) for query, line in zip(queries, widths, strict=True)]

    def _run(self, queries: Sequence[RecommendQuery], plan: Plan) -> list[Answer]:
        begun = time.perf_counter()
        answers = answer_together(*plan)
        seconds = time.perf_counter() - begun
        size = len(queries)
        widest = map(max, zip(*(answer.widths for answer in answers), strict=True))  # as wide all of them run
        rows = size * sum(widest)
        items = size * max(len(query.user.items) for query in queries)
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self.policy.finished, size, rows, items, seconds)
        return answers

    # --- queries

    async def answer(self, queries: Sequence[RecommendQuery]) -> list[Answer | Refusal]:
        outcomes = [filled(self.live.recommender, query, self.config.top_k) for query in queries]
        waiting = [outcome for outcome in outcomes if isinstance(outcome, RecommendQuery)]
        results = iter(await self._results(waiting) if waiting else [])
        return [next(results) if isinstance(outcome, RecommendQuery) else outcome for outcome in outcomes]

    async def _results(self, queries: Sequence[RecommendQuery]) -> list[Answer | Refusal]:
        deadlines = [min(self.config.deadline_ms, query.deadline_ms or math.inf) / 1000 for query in queries]
        load = self.batcher.load()
        behind = replace(load, waiting=load.waiting + len(queries) - 1)
        backlog, deadline = self.policy.backlog(behind), min(deadlines)
        if not self.policy.admits(behind, deadline):
            raise RefusedError(
                Refusal(
                    429,
                    f"Requests that wait already take {backlog * 1000:.0f} ms even with the narrowest beams; this may "
                    f"wait {deadline * 1000:.0f} ms. Send it again later, or start more replicas.",
                    retry_after=max(1, math.ceil(backlog - deadline)),
                )
            )
        try:
            futures = self.batcher.submit(queries, timeouts=deadlines)
        except QueueFullError as error:
            wait = self.policy.backlog(load) or self.config.deadline_ms / 1000
            raise RefusedError(Refusal(429, str(error), retry_after=max(1, round(wait)))) from error
        except DrainingError as error:
            raise RefusedError(Refusal(503, str(error))) from error
        self.policy.arrived(load.now, len(queries))
        results = await asyncio.gather(*futures, return_exceptions=True)
        return [self._outcome(result) for result in results]

    def _outcome(self, result: Answer | BaseException) -> Answer | Refusal:
        if isinstance(result, DeadlineError):
            return Refusal(504, str(result))
        if not isinstance(result, Answer):
            return failure(result)
        served = self.live.served
        if result.changes == served.changes:
            return result
        index = served.recommender.tokenizer.index  # a slow batch must not bring back what was removed meanwhile
        return replace(result, ranked=[ad for ad in result.ranked if is_active(index, ad.item_id)])

    def still_holds(self, answer: Answer) -> bool:
        """Whether all its ads are served as they were."""
        served = self.live.served
        if (answer.model, answer.version) != (served.recommender.name, served.version):
            return False
        return answer.changes == served.changes or all(map(served.recommender.serves, answer.ranked))

    # --- what is served

    async def look(self) -> ServedModel:
        return self.served

    async def change(self, change: IndexChange | AdRecords) -> ServedModel:
        return (await asyncio.to_thread(self.live.change, change)).described

    async def reload(self, model: str | None) -> ServedModel:
        loop = asyncio.get_running_loop()
        return (await loop.run_in_executor(self._reader, self.live.reload, model)).described

    async def follow(self) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._reader, self.live.follow)
