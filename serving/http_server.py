# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The HTTP server of an engine: an app of its own with all routes, and uvicorn around it."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .engine import Engine
from .http_errors import error_response
from .http_routes import add_routes
from .live_model import LiveModel
from .recommend_service import RecommendService
from .recommender import Recommender
from .server_config import ServerConfig
from .torch_engine import TorchEngine

logger = logging.getLogger(__name__)

# Longer than clients and load balancers keep an idle connection (mostly 5 to 60 s): the side that closes first must be
# theirs, or a request that is sent at that moment is lost.
KEEP_ALIVE_SECONDS = 75


def create_app(model: Recommender | LiveModel | Engine, config: ServerConfig) -> FastAPI:
    """The ASGI app of an engine, with the routes of `add_routes`; a recommender or a live model gets the engine on
    torch. `app.state.service` is its [`RecommendService`].

    Raises:
        ValueError: If the token of the administration is short.
    """
    if isinstance(model, Recommender):
        model = LiveModel.of(model)
    engine = TorchEngine(model, config) if isinstance(model, LiveModel) else model
    service = RecommendService(engine, config)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(
        title=f"gr4ad: {engine.served.model}", description="Generative recommendation of ads.", lifespan=lifespan
    )
    app.state.service = service

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        detail = f"{error.detail}: {request.method} {request.url.path[:100]}. /openapi.json lists what is served."
        return error_response(error.status_code, detail, **(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, "The server failed on this request; its log says why. Report it.")

    add_routes(app, lambda: service, engine.metrics, config, engine.beam_widths)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(generate_latest(service.metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return app


class RecommendServer(uvicorn.Server):
    """uvicorn that reports its port and refuses new work from the moment it is told to stop."""

    def __init__(self, app: FastAPI, config: ServerConfig):
        super().__init__(
            uvicorn.Config(
                app, host=config.host, port=config.port, log_config=None, access_log=False, lifespan="on",
                timeout_graceful_shutdown=config.drain_seconds, timeout_keep_alive=KEEP_ALIVE_SECONDS,
            )
        )  # fmt: skip
        self.service: RecommendService = app.state.service
        self.title, self.host, self.port_file = app.title, config.host, config.port_file
        self.port: int | None = None
        default = vars(type(config)())
        self.changed = ", ".join(f"{name} {value}" for name, value in vars(config).items() if value != default[name])

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        if self.port_file is not None:
            temporary = Path(f"{self.port_file}.tmp")
            temporary.write_text(f"{self.port}\n", encoding="utf-8")
            os.replace(temporary, self.port_file)
        logger.info(
            "Serving %s at http://%s:%d: POST /v1/recommend, a page to try it at /, its schema at /openapi.json. "
            "Options that are not the defaults: %s.",
            self.title, self.host, self.port, self.changed or "none",
        )  # fmt: skip

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own, which raises the signal again at the end: a server that drained exits with 0.
        self.service.engine.drain()
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True


def serve(model: Recommender | LiveModel | Engine, config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted and returns.

    Raises:
        ValueError: As [`create_app`]. SystemExit: If the address cannot be bound.
    """
    RecommendServer(create_app(model, config), config).run()
