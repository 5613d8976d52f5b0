# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""`/v1/index`, `/v1/reload` and `/v1/model` of vLLM's API server: what they ask of all engines."""

from __future__ import annotations

from typing import Any, Literal

from vllm.engine.protocol import EngineClient

from ..admin_routes import ChangeRequest, ServedResponse
from ..live_model import ReloadError


class EngineAdministration:
    """The [`Administration`] of the live models in vLLM's workers. Each change runs between two steps of an engine;
    replicas take it one by one, and the answer comes when all have."""

    def __init__(self, engine: EngineClient):
        self.engine = engine

    async def served(self) -> ServedResponse:
        [first, *_] = await self.engine.collective_rpc("gr4ad_served")
        return ServedResponse(**first)

    async def change(self, change: ChangeRequest) -> ServedResponse:
        answer = await self.administer("change_ads", change.model_dump())
        if answer["status"] != 200:
            raise ValueError(answer["detail"])
        return served_of(answer)

    async def reload(self, model: str | None) -> ServedResponse:
        answer = await self.administer("reload", model)
        if answer["status"] != 200:
            raise ReloadError(answer["detail"])
        return served_of(answer)

    async def administer(self, action: Literal["change_ads", "reload"], argument: Any) -> dict[str, Any]:
        """The first refusal of a worker, or what the first one serves then."""
        answers = await self.engine.collective_rpc("gr4ad_administer", args=(action, argument))
        return max(answers, key=lambda answer: answer["status"])


def served_of(answer: dict[str, Any]) -> ServedResponse:
    return ServedResponse(**{name: answer[name] for name in ServedResponse.model_fields})


__all__ = ["EngineAdministration"]
