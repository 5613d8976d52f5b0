# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""vLLM's engines as one [`Engine`] of the HTTP front, through vLLM's engine client."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, Literal

from vllm.engine.protocol import EngineClient
from vllm.v1.engine.exceptions import EngineDeadError

from ..index_change import IndexChange
from ..new_ads import AdRecords
from ..request_types import Answer, RecommendQuery, Refusal, RefusedError, ReloadError, ServedModel
from ..server_metrics import ServerMetrics
from .options import VLLMOptions
from .query import decode_answer, to_pooling_params, to_prompt

logger = logging.getLogger(__name__)

RETRY_AFTER_SECONDS = 1  # of a queue whose speed only the engine knows


class VLLMEngine:
    """An [`Engine`] in vLLM's processes. Each change of ads or weights runs between two steps of an engine; replicas
    take it one by one, and the answer comes when all have."""

    def __init__(self, client: EngineClient, options: VLLMOptions, beam_widths: Sequence[int], metrics: ServerMetrics):
        config = client.model_config.hf_config
        self.client, self.options, self.beam_widths, self.metrics = client, options, beam_widths, metrics
        self.levels, self.max_items = config.num_levels, config.max_context_items
        self.follows = options.published is not None
        self.served = ServedModel("", 0, 0, 0)  # not known before the start
        self.in_flight = 0
        self._draining = False

    @property
    def accepting(self) -> bool:
        return not self._draining and not self.client.errored

    async def start(self) -> None:
        await self.look()

    def drain(self) -> None:
        self._draining = True

    async def close(self) -> None:
        self.drain()

    async def answer(self, queries: Sequence[RecommendQuery]) -> list[Answer | Refusal]:
        if not self.accepting:
            raise RefusedError(Refusal(503, "The engine has stopped, or is about to. Send it to another replica."))
        if self.in_flight + len(queries) > self.options.max_queue:
            detail = (
                f"{self.in_flight} requests are in work already, and {len(queries)} more do not fit: at most "
                f"{self.options.max_queue} may be. Send the request again later, or start more replicas."
            )
            raise RefusedError(Refusal(429, detail, retry_after=RETRY_AFTER_SECONDS))
        self.in_flight += len(queries)
        try:
            return await asyncio.gather(*map(self._asked, queries))
        finally:
            self.in_flight -= len(queries)

    async def _asked(self, query: RecommendQuery) -> Answer | Refusal:
        """The engine's answer to one query; cancelling it takes the query out of the engine."""
        outputs = self.client.encode(
            to_prompt(query, self.levels, self.max_items), to_pooling_params(query), f"recommend-{uuid.uuid4().hex}"
        )
        try:
            async for output in outputs:
                if output.finished:
                    answer = decode_answer(output.outputs.data)
                    if isinstance(answer, Answer):
                        self._seen(answer)
                    return answer
        except EngineDeadError:
            return Refusal(503, "The engine has stopped. Restart the server.")
        raise RuntimeError("The engine ended a request without an answer.")

    def _seen(self, answer: Answer) -> None:
        """An answer may tell of changes that another API server made; one that was in the works tells of the past."""
        if (answer.version, answer.changes) > (self.served.model_version, self.served.index_changes):
            self.served = replace(
                self.served, model=answer.model, model_version=answer.version, index_changes=answer.changes
            )

    def still_holds(self, answer: Answer) -> bool:
        """Whether weights and ads are those that the answer was given from, as last seen: which ads have changed
        only the engine knows."""
        seen = self.served.model, self.served.model_version, self.served.index_changes
        return (answer.model, answer.version, answer.changes) == seen

    async def look(self) -> ServedModel:
        [first, *_] = await self.client.collective_rpc("gr4ad_served")
        self.served = ServedModel.from_fields(first)
        return self.served

    async def change(self, change: IndexChange | AdRecords) -> ServedModel:
        served = await self._administered("change_ads", asdict(change), ValueError)
        return await self._administered("follow", None, ValueError) if self.follows else served

    async def reload(self, model: str | None) -> ServedModel:
        return await self._administered("reload", model, ReloadError)

    async def follow(self) -> bool:
        before = self.served
        return await self._administered("follow", None, ReloadError) != before

    async def _administered(
        self, action: Literal["change_ads", "reload", "follow"], argument: Any, refused: type[ValueError]
    ) -> ServedModel:
        """What the first worker serves then; raises the first refusal of one."""
        answers = await self.client.collective_rpc("gr4ad_administer", args=(action, argument))
        worst = max(answers, key=lambda answer: answer["status"])
        if worst["status"] != 200:
            raise refused(worst["detail"])
        self.served = ServedModel.from_fields(worst)
        return self.served
