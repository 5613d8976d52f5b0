# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The HTTP server of a recommender: `POST /v1/recommend`, health, metrics and a page to try it."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import time
from collections.abc import AsyncIterator, Hashable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from .http_middleware import LimitBody, MeasureRequests, ServerMetrics
from .http_schema import (
    BatchRequest,
    BatchResponse,
    ErrorResponse,
    FailedRequest,
    RecommendedItem,
    RecommendRequest,
    RecommendResponse,
    RequestLimits,
    readable_error,
    request_body,
)
from .microbatch import DeadlineError, DrainingError, MicroBatcher, QueueFullError
from .recommender import Recommendation, Recommender, UnknownItemError
from .server_config import ServerConfig

logger = logging.getLogger(__name__)

RECOMMEND_PATH = "/v1/recommend"


@dataclass(frozen=True)
class UserQuery:
    """One user's request with every default filled in."""

    history: list[str]
    events: list[str] | None
    values: list[float] | None
    times: list[float] | None
    user_features: dict[str, str | None]
    top_k: int
    beam_widths: tuple[int, ...]
    exclude_history: bool | None
    max_per_account: int | None

    @property
    def group(self) -> Hashable:
        """Queries with the same group fit in one call of the recommender."""
        absent = self.events is None, self.values is None, self.times is None
        return self.beam_widths, self.top_k, self.exclude_history, self.max_per_account, absent


class RefusedError(ValueError):
    """A request that cannot be answered as it stands; `error` says why."""

    def __init__(self, field: str | None, detail: str):
        super().__init__(detail)
        self.error = ErrorResponse(detail=detail, field=field)


def recommend_together(recommender: Recommender, queries: Sequence[UserQuery]) -> list[list[Recommendation]]:
    """Answers queries of one group with one call."""
    first = queries[0]
    return recommender.recommend(
        [query.history for query in queries],
        events=None if first.events is None else [query.events or [] for query in queries],
        values=None if first.values is None else [query.values or [] for query in queries],
        times=None if first.times is None else [query.times or [] for query in queries],
        user_features={
            name: [query.user_features.get(name) for query in queries] for name in recommender.tokenizer.user_features
        },
        top_k=first.top_k,
        beam_widths=first.beam_widths,
        exclude_history=first.exclude_history,
        max_per_account=first.max_per_account,
    )


def to_query(recommender: Recommender, config: ServerConfig, request: RecommendRequest) -> UserQuery:
    """Fills in defaults and refuses what the model cannot use.

    Raises:
        RefusedError: Naming the field, what was received, what is allowed and the remedy.
    """
    tokenizer = recommender.tokenizer
    widths = tuple(request.beam_widths or recommender.beam_widths)
    top_k = min(config.top_k, widths[-1]) if request.top_k is None else request.top_k
    if top_k > widths[-1]:
        raise RefusedError(
            "top_k",
            f"`top_k` must be in 1..{widths[-1]}, the last beam width. Received: {top_k}. Ask for fewer items, or "
            "name wider `beam_widths`.",
        )
    if request.events is not None:
        new = next((event for event in request.events if event not in tokenizer.event_names), None)
        if not tokenizer.event_names:
            raise RefusedError("events", f"{recommender.name!r} was trained without event names. Leave `events` out.")
        if new is not None:
            raise RefusedError(
                "events",
                f"`events` holds {ascii(new)}; allowed are {', '.join(tokenizer.event_names)}. Use one of these.",
            )
    if request.values is not None and not recommender.model.config.context_values:
        raise RefusedError(
            "values", f"{recommender.name!r} was trained without values in the history. Leave `values` out."
        )
    if request.times is not None and not recommender.model.config.num_time_buckets:
        raise RefusedError(
            "times", f"{recommender.name!r} was trained without times of the history. Leave `times` out."
        )
    if request.max_per_account is not None:
        try:
            recommender.check_max_per_account(request.max_per_account)
        except ValueError as error:
            raise RefusedError("max_per_account", str(error)) from error
    features = request.user_features or {}
    for name in features:
        if name not in tokenizer.user_features:
            raise RefusedError(
                "user_features",
                f"`user_features` names {ascii(name)}; {recommender.name!r} knows "
                f"{', '.join(tokenizer.user_features) or 'none'}. Leave it out.",
            )
    if not any(item in tokenizer.index.rows for item in request.history):
        # The recommender refuses this before it touches the model; in a batch it would cost the others a second run.
        try:
            recommender.recommend([request.history], top_k=top_k, beam_widths=widths)
        except UnknownItemError as error:
            raise RefusedError("history", str(error)) from error
    return UserQuery(
        history=request.history,
        events=request.events,
        values=request.values,
        times=request.times,
        user_features=features,
        top_k=top_k,
        beam_widths=widths,
        exclude_history=request.exclude_history,
        max_per_account=request.max_per_account,
    )


class RecommendService:
    """Requests in, responses out: defaults, the micro-batch queue, errors as HTTP statuses."""

    def __init__(self, recommender: Recommender, config: ServerConfig, metrics: ServerMetrics):
        self.recommender, self.config, self.metrics = recommender, config, metrics
        self.batcher: MicroBatcher[UserQuery, list[Recommendation]] = MicroBatcher(
            partial(recommend_together, recommender),
            lambda query: query.group,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1000,
            max_queue=config.max_queue,
            on_batch=self._count,
        )
        metrics.queue_depth.set_function(lambda: self.batcher.depth)

    def _count(self, queries: Sequence[UserQuery]) -> None:
        self.metrics.batch_size.observe(len(queries))
        self.metrics.beam_rows.inc(sum(sum(query.beam_widths) for query in queries))

    def _response(self, query: UserQuery, ranked: list[Recommendation], begun: float) -> RecommendResponse:
        unit = self.recommender.tokenizer.value_unit
        return RecommendResponse(
            recommendations=[
                RecommendedItem(
                    item_id=ad.item_id,
                    score=ad.score,
                    value=ad.value,
                    value_unit=unit,
                    sid=ad.sid,
                    attributes=ad.attributes,
                )
                for ad in ranked
            ],
            beam_widths=list(query.beam_widths),
            model=self.recommender.name,
            latency_ms=(time.perf_counter() - begun) * 1000,
        )

    def _failure(self, error: BaseException) -> FailedRequest:
        if isinstance(error, RefusedError):
            return FailedRequest(status=422, error=error.error)
        if isinstance(error, DeadlineError):
            return FailedRequest(status=504, error=ErrorResponse(detail=str(error)))
        logger.error("A request failed in the model.", exc_info=error)
        return FailedRequest(
            status=500,
            error=ErrorResponse(detail="The model failed on this request; the server's log says why. Report it."),
        )

    async def answer(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse | FailedRequest]:
        """Answers each request by itself. Cancelling it takes what still waits out of the queue.

        Raises:
            QueueFullError, DrainingError: If they were not accepted; then none was.
        """
        begun = time.perf_counter()
        queries: list[UserQuery | RefusedError] = []
        for request in requests:
            try:
                queries.append(to_query(self.recommender, self.config, request))
            except RefusedError as error:
                queries.append(error)
        accepted = [query for query in queries if isinstance(query, UserQuery)]
        futures = self.batcher.submit(accepted, timeout=self.config.deadline_ms / 1000)
        results = iter(await asyncio.gather(*futures, return_exceptions=True))
        answers: list[RecommendResponse | FailedRequest] = []
        for query in queries:
            outcome = next(results) if isinstance(query, UserQuery) else query
            if isinstance(query, UserQuery) and not isinstance(outcome, BaseException):
                answers.append(self._response(query, outcome, begun))
            else:
                assert isinstance(outcome, BaseException)
                answers.append(self._failure(outcome))
        return answers


async def disconnected(request: Request) -> None:
    """Returns when the client has left; the body must have been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def error_response(status: int, detail: str, field: str | None = None, **headers: str) -> JSONResponse:
    return JSONResponse(
        ErrorResponse(detail=detail, field=field).model_dump(), status_code=status, headers=headers or None
    )


def create_app(recommender: Recommender, config: ServerConfig) -> FastAPI:
    """The ASGI app of a recommender; `app.state.service` is its [`RecommendService`].

    Statuses of `POST /v1/recommend`: 200; 400 not JSON; 413 body too large; 422 a field is at fault; 429 queue full,
    with `Retry-After` in seconds; 500 the model failed on this request; 503 starting or draining; 504 the deadline
    passed. A body with `requests` gets 200 and a status for each that failed, unless the whole body was refused.

    Raises:
        ValueError: If the model's own beam widths do not fit its levels.
    """
    levels, widths = recommender.tokenizer.num_levels, recommender.beam_widths
    if len(widths) != levels or min(widths) < 1:
        raise ValueError(
            f"`beam_widths` of {recommender.name!r} needs {levels} numbers >= 1, one a level. Received: {widths}. "
            "Correct its generation_config.json."
        )
    metrics = ServerMetrics()
    service = RecommendService(recommender, config, metrics)
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
        service.batcher.start()
        yield
        await service.batcher.close()

    app = FastAPI(
        title=f"gr4ad: {recommender.name}", description="Generative recommendation of ads.", lifespan=lifespan
    )
    app.state.service = service
    app.add_middleware(LimitBody, max_bytes=config.max_body_bytes)
    app.add_middleware(MeasureRequests, metrics=metrics, path=RECOMMEND_PATH)

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        if first["type"] == "json_invalid":
            reason = first.get("ctx", {}).get("error", first["msg"])
            return error_response(
                400, f"The body is not JSON: {reason}, at character {first['loc'][-1]}. Send a JSON object."
            )
        refused = readable_error(first)
        return error_response(422, refused.detail, refused.field)

    async def recommend(request: Request, body: Any) -> Response:
        batch = isinstance(body, BatchRequest)
        work = asyncio.ensure_future(service.answer(body.requests if batch else [body]))
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)
            answers = work.result()
        except QueueFullError as error:
            wait = str(max(1, math.ceil(config.deadline_ms / 1000)))
            return error_response(429, str(error), **{"Retry-After": wait})
        except DrainingError as error:
            return error_response(503, str(error))
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

    @app.get("/healthz")
    async def healthz() -> PlainTextResponse:
        """200 as long as the process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> PlainTextResponse:
        """200 while requests are taken, 503 while starting or draining."""
        ready = service.batcher.accepting
        return PlainTextResponse("ready\n" if ready else "draining\n", status_code=200 if ready else 503)

    @app.get("/metrics")
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
                timeout_graceful_shutdown=config.drain_seconds,
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


def serve(recommender: Recommender, config: ServerConfig) -> None:
    """Serves until SIGTERM or SIGINT, then answers what was accepted and returns.

    Raises:
        ValueError: As [`create_app`]. SystemExit: If the address cannot be bound.
    """
    app = create_app(recommender, config)
    logger.info("Serving %s with %s.", recommender.name, config)
    RecommendServer(app, config).run()


__all__ = ["RecommendServer", "ServerConfig", "create_app", "serve"]
