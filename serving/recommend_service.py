# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What stands before an engine, whichever it is: result cache, following of a published model, metrics."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Sequence
from dataclasses import replace

from gr4ad.tokenization.ad_records import shown

from .engine import Engine
from .request_types import Answer, RecommendQuery, Refusal
from .result_cache import cache_key, result_cache
from .serving_options import ServingOptions

logger = logging.getLogger(__name__)


class RecommendService:
    """Queries in, answers or refusals out."""

    def __init__(self, engine: Engine, options: ServingOptions):
        self.engine, self.options, self.metrics = engine, options, engine.metrics
        self.cache = result_cache(options)
        self.metrics.model_version.set_function(lambda: engine.served.model_version)
        self.metrics.index_changes.set_function(lambda: engine.served.index_changes)
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts the engine, then follows what is published."""
        await self.engine.start()
        if self.engine.follows:
            self._following = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Answers what was accepted and ends."""
        if self._following is not None:
            self._following.cancel()
        await self.engine.close()
        if self.cache is not None:
            await self.cache.close()

    async def _follow(self) -> None:
        said = ""
        while True:
            await asyncio.sleep(self.options.watch_seconds)
            try:
                if await self.engine.follow():
                    served = self.engine.served
                    logger.info("Serving version %d with index change %d.", served.model_version, served.index_changes)
                said = ""
            except Exception as error:  # whatever was published, what is served goes on
                self.metrics.reload_failures.inc()
                if str(error) != said:
                    said = str(error)
                    logger.error("What was published cannot be served: %s", error)

    async def answer(self, queries: Sequence[RecommendQuery]) -> list[Answer | Refusal]:
        """Answers each query by itself, from the cache where it can. Cancelling it takes what still waits out of the
        queue.

        Raises:
            RefusedError: If they were not accepted; then none was.
        """
        self.metrics.users.observe(len(queries))
        kept = [None] * len(queries) if self.cache is None else await asyncio.gather(*map(self._looked_up, queries))
        waiting = [query for query, answer in zip(queries, kept, strict=True) if answer is None]
        results = iter(await self.engine.answer(waiting) if waiting else [])
        outcomes: list[Answer | Refusal] = []
        for query, answer in zip(queries, kept, strict=True):
            outcome = next(results) if answer is None else answer
            if answer is None and isinstance(outcome, Answer):
                self.metrics.answered(outcome.widths)
                await self._keep(query, outcome)
            outcomes.append(outcome)
        return outcomes

    async def _looked_up(self, query: RecommendQuery) -> Answer | None:
        assert self.cache is not None
        served = self.engine.served
        kept = await self.cache.get(self._key(query, served.model, served.model_version))
        answer = None if kept is None else Answer.from_fields(json.loads(kept), cached=True)
        if answer is not None and not self.engine.still_holds(answer):
            answer = None
        self.metrics.cache_lookups.labels("miss" if answer is None else "hit").inc()
        return answer

    async def _keep(self, query: RecommendQuery, answer: Answer) -> None:
        if self.cache is not None:
            key = self._key(query, answer.model, answer.version)
            await self.cache.put(key, json.dumps(answer.to_fields(), default=shown).encode())

    def _key(self, query: RecommendQuery, model: str, version: int) -> str:
        asked = replace(query, deadline_ms=None).to_fields()
        return cache_key(model, str(version), json.dumps(asked, sort_keys=True))
