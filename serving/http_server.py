# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The HTTP server of a recommender: `POST /v1/recommend`, its administration, health, metrics and a page to try it."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from .admin_routes import LiveAdministration, add_admin_routes
from .http_errors import error_response, refused_body, unreadable_body
from .http_middleware import LimitBody, MeasureRequests, ServerMetrics
from .http_schema import (
    BatchRequest,
    BatchResponse,
    ErrorResponse,
    FailedRequest,
    RecommendResponse,
    RequestLimits,
    request_body,
)
from .live_model import LiveModel
from .microbatch import DrainingError, QueueFullError
from .open_inference import add_open_inference_routes
from .recommend_service import OverloadError, RecommendService
from .recommender import Recommender
from .server_config import ServerConfig

logger = logging.getLogger(__name__)

RECOMMEND_PATH = "/v1/recommend"
# Longer than clients and load balancers keep an idle connection (mostly 5 to 60 s): the side that closes first must be
# theirs, or a request that is sent at that moment is lost.
KEEP_ALIVE_SECONDS = 75
TEXT: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}


async def disconnected(request: Request) -> None:
    """Returns when the client has left; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(model: Recommender | LiveModel, config: ServerConfig) -> FastAPI:
    """The ASGI app of a recommender, or of a live model; `app.state.service` is its [`RecommendService`].

    Statuses of `POST /v1/recommend`: 200; 400 not JSON; 413 body too large; 422 a field is at fault; 429 queue full
    or deadline out of reach, with `Retry-After` in seconds; 500 the model failed on this request; 503 starting or
    draining; 504 the deadline passed. A body with `requests` gets 200 and a status for each that failed, unless the
    whole body was refused.

    Raises:
        ValueError: If the model's own beam widths do not fit its levels, or the token of the administration is short.
    """
    live = LiveModel.of(model) if isinstance(model, Recommender) else model
    recommender = live.recommender
    levels, widths = recommender.tokenizer.num_levels, recommender.beam_widths
    if len(widths) != levels or min(widths) < 1:
        raise ValueError(
            f"`beam_widths` of {recommender.name!r} needs {levels} numbers >= 1, one a level. Received: {widths}. "
            "Correct its generation_config.json."
        )
    metrics = ServerMetrics()
    service = RecommendService(live, config, metrics)
    limits = RequestLimits(
        max_history=config.max_history,
        max_top_k=max(config.max_beam_width, widths[-1]),
        max_beam_width=config.max_beam_width,
        levels=levels,
        max_requests=config.max_queue,
    )
    page = files(__package__).joinpath("try_it.html").read_text(encoding="utf-8")

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(
        title=f"gr4ad: {recommender.name}", description="Generative recommendation of ads.", lifespan=lifespan
    )
    app.state.service = service
    app.add_middleware(LimitBody, max_bytes=config.max_body_bytes)
    app.add_middleware(MeasureRequests, metrics=metrics, path=RECOMMEND_PATH)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        return refused_body(error)

    @app.exception_handler(HTTPException)
    async def not_served(request: Request, error: HTTPException) -> JSONResponse:
        if error.status_code == 400:
            return unreadable_body(error)
        detail = f"{error.detail}: {request.method} {request.url.path[:100]}. /openapi.json lists what is served."
        return error_response(error.status_code, detail, **(error.headers or {}))

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> JSONResponse:
        return error_response(500, "The server failed on this request; its log says why. Report it.")

    @app.exception_handler(QueueFullError)
    async def full(request: Request, error: QueueFullError) -> JSONResponse:
        wait = service.policy.backlog(service.batcher.load()) or config.deadline_ms / 1000
        return error_response(429, str(error), **{"Retry-After": str(max(1, round(wait)))})

    @app.exception_handler(OverloadError)
    async def overloaded(request: Request, error: OverloadError) -> JSONResponse:
        return error_response(429, str(error), **{"Retry-After": str(error.retry_after)})

    @app.exception_handler(DrainingError)
    async def draining(request: Request, error: DrainingError) -> JSONResponse:
        return error_response(503, str(error))

    async def recommend(request: Request, body: Any) -> Response:
        batch = isinstance(body, BatchRequest)
        work = asyncio.ensure_future(service.answer(body.requests if batch else [body]))
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)
            answers = work.result()
        finally:
            work.cancel()
            gone.cancel()
        if batch:
            return Response(BatchResponse(responses=answers).model_dump_json(), media_type="application/json")
        [answer] = answers
        if isinstance(answer, FailedRequest):
            return error_response(answer.status, answer.error.detail, answer.error.field)
        return Response(answer.model_dump_json(), media_type="application/json")

    # FastAPI reads the limits of the body from this annotation; they are known only now.
    recommend.__annotations__ = {"request": Request, "body": request_body(limits), "return": Response}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 413, 422, 429, 500, 503, 504)
    }
    app.post(RECOMMEND_PATH, response_model=RecommendResponse | BatchResponse, responses=errors)(recommend)
    administration = LiveAdministration(live)
    add_admin_routes(app, lambda: administration, config.admin_token())
    add_open_inference_routes(app, service, limits)

    unready: dict[int | str, dict[str, Any]] = {503: {"description": "Starting or draining.", "content": TEXT}}

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:
        """200 as long as the process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", response_class=PlainTextResponse, responses=unready)
    async def readyz() -> PlainTextResponse:
        """200 while requests are taken, 503 while starting or draining."""
        ready = service.batcher.accepting
        return PlainTextResponse("ready\n" if ready else "draining\n", status_code=200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse)
    async def prometheus() -> Response:
        """Metrics in the Prometheus text format."""
        return Response(generate_latest(metrics.registry), headers={"content-type": CONTENT_TYPE_LATEST})

    @app.get("/", include_in_schema=False)
    async def try_it() -> HTMLResponse:
        return HTMLResponse(page)

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
        self.port_file = config.port_file
        self.port: int | None = None

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        self.port = self.servers[0].sockets[0].getsockname()[1]
        if self.port_file is not None:
            temporary = Path(f"{self.port_file}.tmp")
            temporary.write_text(f"{self.port}\n", encoding="utf-8")
            os.replace(temporary, self.port_file)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        # Not uvicorn's own, which raises the signal again at the end: a server that drained exits with 0.
        self.service.batcher.drain()
        self.force_exit = self.force_exit or (self.should_exit and sig == signal.SIGINT)
        self.should_exit = True


def serve(model: Recommender | LiveModel, config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted and returns.

    Raises:
        ValueError: As [`create_app`]. SystemExit: If the address cannot be bound.
    """
    app = create_app(model, config)
    logger.info("Serving %s with %s.", app.title, config)
    RecommendServer(app, config).run()


__all__ = ["RecommendServer", "ServerConfig", "create_app", "serve"]
