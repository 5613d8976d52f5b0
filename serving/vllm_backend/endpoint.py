# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Entry point `vllm.endpoint_plugins`: the routes of the HTTP front in vLLM's API server.

vLLM loads endpoint plugins only where `VLLM_PLUGINS` names them: `VLLM_PLUGINS=gr4ad vllm serve MODEL`. The API server
checks the shape of a body; ids, names and defaults the engine checks, which knows the index that is served.
"""

from __future__ import annotations

from argparse import Namespace
from functools import cache

from fastapi import FastAPI
from prometheus_client import REGISTRY
from starlette.datastructures import State
from vllm.engine.protocol import EngineClient

from gr4ad.modeling_gr4ad import GR4ADConfig, RankingWeights

from ..http_routes import add_routes
from ..recommend_service import RecommendService
from ..server_metrics import ServerMetrics
from .engine import VLLMEngine
from .options import VLLMOptions
from .query import POOLING_TASK


@cache
def shared_metrics() -> ServerMetrics:
    """One set a process, in the registry that vLLM's `/metrics` shows, however often an app is built."""
    return ServerMetrics(REGISTRY)


class RecommendEndpoint:
    """What vLLM calls an endpoint plugin."""

    name = "gr4ad"
    required_tasks = (POOLING_TASK,)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes to vLLM's app.

        Raises:
            ValueError: If an option cannot be kept; says which and why.
        """
        args: Namespace = app.state.args
        options = VLLMOptions.from_additional_config(args.additional_config)
        if options.cache_seconds and (args.api_server_count or 1) > 1:
            raise ValueError(
                f"`cache_seconds` = {options.cache_seconds:g} needs one API server: of {args.api_server_count} each "
                "would keep answers with ads that were removed through another. Add `--api-server-count 1`, or leave "
                "`cache_seconds` out."
            )
        add_routes(app, lambda: app.state.gr4ad, shared_metrics(), options, widths_of(args))

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Connects the routes with the engine."""
        assert engine_client is not None, "only servers without a model have no engine, and they have no such task"
        options = VLLMOptions.from_additional_config(args.additional_config)
        engine = VLLMEngine(engine_client, options, widths_of(args), shared_metrics())
        state.gr4ad = RecommendService(engine, options)
        await state.gr4ad.start()


def widths_of(args: Namespace) -> tuple[int, ...]:
    """W_1..W_T of the artifact that vLLM serves."""
    revision = args.revision or "main"
    config = GR4ADConfig.from_pretrained(args.model, revision=revision)
    return RankingWeights.from_pretrained(args.model, revision=revision).widths(config.num_levels)
