# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The routes of an engine, in an app of our own or in vLLM's: recommendations, administration, Open Inference,
health, and a page to try it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from pydantic_core import to_json

from .admin_routes import ADMIN_PATHS, add_admin_routes
from .http_errors import AnyContentRoute, refused
from .http_middleware import LimitBody, MeasureRequests, while_connected
from .http_schema import BatchRequest, BatchResponse, ErrorResponse, RecommendResponse, either, request_models
from .open_inference import INFERENCE_PATH, add_open_inference_routes
from .recommend_service import RecommendService
from .request_types import Answer, Refusal
from .server_metrics import ServerMetrics
from .serving_options import ServingOptions

RECOMMEND_PATH = "/v1/recommend"
OWN_PATHS = (RECOMMEND_PATH, *ADMIN_PATHS, INFERENCE_PATH)
TEXT: dict[str, Any] = {"text/plain": {"schema": {"type": "string"}}}


def add_routes(
    app: FastAPI,
    service: Callable[[], RecommendService],
    metrics: ServerMetrics,
    options: ServingOptions,
    widths: Sequence[int],
) -> None:
    """Adds all routes, the limit on their bodies and their metrics to an app.

    Statuses of `POST /v1/recommend`: 200; 400 not JSON; 413 body too large; 422 a field is at fault; 429 queue full
    or deadline out of reach, with `Retry-After` in seconds; 500 the model failed on this request; 503 starting or
    draining; 504 the deadline passed. A body with `requests` gets 200 and a status for each that failed, unless the
    whole body was refused.

    Args:
        service: Gives it when a request comes: an app may have its routes before it has a model.
        widths: W_1..W_T of the model.

    Raises:
        ValueError: If the token of the administration is short.
    """
    app.add_middleware(LimitBody, max_bytes=options.max_body_bytes, paths=OWN_PATHS)
    app.add_middleware(MeasureRequests, metrics=metrics, path=RECOMMEND_PATH)
    limits = options.request_limits(widths)
    single, batch = request_models(limits)

    async def recommend(request: Request, body: Any) -> Response:
        begun = time.perf_counter()
        several = isinstance(body, BatchRequest)
        queries = [part.query() for part in (body.requests if several else [body])]
        outcomes = await while_connected(request, service().answer(queries))
        if outcomes is None:
            return Response(status_code=499)
        if several:
            return json_response({"responses": [response_of(outcome, begun) for outcome in outcomes]})
        [outcome] = outcomes
        return refused(outcome) if isinstance(outcome, Refusal) else json_response(response_of(outcome, begun))

    # FastAPI reads the limits of the body from this annotation; they are known only now.
    recommend.__annotations__ = {"request": Request, "body": either(single, batch), "return": Response}
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 413, 422, 429, 500, 503, 504)
    }
    router = APIRouter(route_class=AnyContentRoute)
    router.post(RECOMMEND_PATH, response_model=RecommendResponse | BatchResponse, responses=errors)(recommend)
    app.include_router(router)
    add_admin_routes(app, lambda: service().engine, options.admin_token())
    add_open_inference_routes(app, service, single, limits)

    unready: dict[int | str, dict[str, Any]] = {503: {"description": "Starting or draining.", "content": TEXT}}
    page = files(__package__).joinpath("try_it.html").read_text(encoding="utf-8")

    @app.get("/healthz", response_class=PlainTextResponse)
    async def healthz() -> PlainTextResponse:
        """200 as long as the process answers."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz", response_class=PlainTextResponse, responses=unready)
    async def readyz() -> PlainTextResponse:
        """200 while requests are taken, 503 while starting or draining."""
        ready = service().engine.accepting
        return PlainTextResponse("ready\n" if ready else "draining\n", status_code=200 if ready else 503)

    @app.get("/", include_in_schema=False)
    async def try_it() -> HTMLResponse:
        return HTMLResponse(page)


def response_of(outcome: Answer | Refusal, begun: float) -> dict[str, Any]:
    """The JSON of a [`RecommendResponse`] or [`FailedRequest`]."""
    if isinstance(outcome, Refusal):
        return {"status": outcome.status, "error": {"detail": outcome.detail, "field": outcome.field}}
    return {
        "recommendations": [{**vars(ad), "value_unit": outcome.unit} for ad in outcome.ranked],
        "beam_widths": outcome.widths,
        "model": outcome.model,
        "model_version": outcome.version,
        "index_changes": outcome.changes,
        "cached": outcome.cached,
        "unknown_items": outcome.unknown,
        "latency_ms": (time.perf_counter() - begun) * 1000,
    }


def json_response(content: dict[str, Any]) -> Response:
    return Response(to_json(content, inf_nan_mode="null"), media_type="application/json")
