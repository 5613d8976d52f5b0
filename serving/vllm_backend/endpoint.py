# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Entry point `vllm.endpoint_plugins`: `POST /v1/recommend` and the administration in vLLM's API server, as the native
server has them.

vLLM loads endpoint plugins only where `VLLM_PLUGINS` names them: `VLLM_PLUGINS=gr4ad vllm serve MODEL`. The API server
checks the shape of a body; ids, names and defaults the engine checks, which knows the index that is served.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import Counter, Gauge, Histogram
from pydantic import TypeAdapter, ValidationError
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send
from vllm.engine.protocol import EngineClient
from vllm.v1.engine.exceptions import EngineDeadError

from ..admin_routes import ADMIN_PATHS, add_admin_routes
from ..http_errors import error_response
from ..http_middleware import BATCH_BUCKETS, LATENCY_BUCKETS, LimitBody
from ..http_schema import (
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
from ..http_server import RECOMMEND_PATH, disconnected
from ..server_config import admin_token
from .answering import FIELDS
from .engine_administration import EngineAdministration
from .options import VLLMOptions
from .query import POOLING_TASK, decode_answer, to_pooling_params, to_prompt

RETRY_AFTER_SECONDS = "1"


class EndpointMetrics:
    """What vLLM's `/metrics` shows of recommendations, beside vLLM's own.

    Counters and histograms of all API servers of a machine are summed; the gauges are those of the last answer.
    """

    def __init__(self) -> None:
        self.requests = Counter(
            "gr4ad_requests", "Requests to /v1/recommend by HTTP status; 499: the client left.", ["status"]
        )
        self.latency = Histogram(
            "gr4ad_request_latency_seconds", "From the body of a request to its response.", buckets=LATENCY_BUCKETS
        )
        self.users = Histogram("gr4ad_request_users", "Users of one body.", buckets=BATCH_BUCKETS)
        self.beam_rows = Counter("gr4ad_beam_rows", "Beam rows used: all beam widths of all users, summed.")
        self.beam_width = Gauge(
            "gr4ad_beam_width", "Beam width of the last answer, by level.", ["level"], multiprocess_mode="mostrecent"
        )

    def answered(self, widths: Sequence[int]) -> None:
        self.beam_rows.inc(sum(widths))
        for level, width in enumerate(widths, start=1):
            self.beam_width.labels(str(level)).set(width)


def shared_metrics() -> EndpointMetrics:
    """One set a process, however often an app is built."""
    global METRICS
    if METRICS is None:
        METRICS = EndpointMetrics()
    return METRICS


METRICS: EndpointMetrics | None = None


class RecommendService:
    """Requests in, responses out, through vLLM's engine client."""

    def __init__(self, engine: EngineClient, options: VLLMOptions, metrics: EndpointMetrics):
        config = engine.model_config.hf_config
        self.engine, self.options, self.metrics = engine, options, metrics
        self.levels, self.max_items = config.num_levels, config.max_context_items
        self.administration = EngineAdministration(engine)
        self.in_flight = 0
        self.body: TypeAdapter = TypeAdapter(
            request_body(
                RequestLimits(
                    max_history=options.max_history,
                    max_top_k=options.max_beam_width,
                    max_beam_width=options.max_beam_width,
                    levels=self.levels,
                    max_requests=options.max_queue,
                )
            )
        )

    async def ask(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """The engine's answer to one query, see `answer_queries`. Cancelling it takes the query out of the engine."""
        outputs = self.engine.encode(
            to_prompt(query, self.levels, self.max_items), to_pooling_params(query), f"recommend-{uuid.uuid4().hex}"
        )
        async for output in outputs:
            if output.finished:
                return decode_answer(output.outputs.data)
        raise RuntimeError("The engine ended a request without an answer.")

    async def answer(self, request: RecommendRequest) -> RecommendResponse | FailedRequest:
        begun = time.perf_counter()
        try:
            answer = await self.ask(request.model_dump(exclude_none=True))
        except EngineDeadError:
            return FailedRequest(status=503, error=ErrorResponse(detail="The engine has stopped. Restart the server."))
        if "status" in answer:
            error = ErrorResponse(detail=answer["detail"], field=answer["field"])
            return FailedRequest(status=answer["status"], error=error)
        self.metrics.answered(answer["beam_widths"])
        unit = answer["value_unit"]
        return RecommendResponse(
            recommendations=[
                RecommendedItem(value_unit=unit, **dict(zip(FIELDS, ad, strict=True))) for ad in answer["ads"]
            ],
            beam_widths=answer["beam_widths"],
            model=answer["model"],
            model_version=answer["model_version"],
            index_changes=answer["index_changes"],
            cached=False,
            latency_ms=(time.perf_counter() - begun) * 1000,
        )

    async def answer_all(self, requests: Sequence[RecommendRequest]) -> list[RecommendResponse | FailedRequest]:
        return await asyncio.gather(*(self.answer(request) for request in requests))

    async def respond(self, request: Request) -> Response:
        """Reads, checks and answers one HTTP request."""
        try:
            body: Any = self.body.validate_python(json.loads(await request.body()))
        except json.JSONDecodeError as error:
            return error_response(
                400, f"The body is not JSON: {error.msg}, at character {error.pos}. Send a JSON object."
            )
        except RecursionError:
            return error_response(400, "The body is not JSON to be read: it is nested too deeply. Send an object.")
        except UnicodeDecodeError as error:
            return error_response(400, f"The body is not JSON in UTF-8: {error.reason}. Send a JSON object.")
        except ValidationError as error:
            first: dict[str, Any] = dict(error.errors()[0])
            refused = readable_error({**first, "loc": ("body", *first["loc"])})
            return error_response(422, refused.detail, refused.field)
        requests = body.requests if isinstance(body, BatchRequest) else [body]
        if self.in_flight + len(requests) > self.options.max_queue:
            detail = (
                f"{self.in_flight} requests are in work already, and {len(requests)} more do not fit: at most "
                f"{self.options.max_queue} may be. Send the request again later, or start more replicas."
            )
            return error_response(429, detail, **{"Retry-After": RETRY_AFTER_SECONDS})
        self.metrics.users.observe(len(requests))
        self.in_flight += len(requests)
        work = asyncio.ensure_future(self.answer_all(requests))
        gone = asyncio.ensure_future(disconnected(request))
        try:
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                return Response(status_code=499)
            answers = work.result()
        finally:
            self.in_flight -= len(requests)
            work.cancel()
            gone.cancel()
        if isinstance(body, BatchRequest):
            return Response(BatchResponse(responses=answers).model_dump_json(), media_type="application/json")
        [answer] = answers
        if isinstance(answer, FailedRequest):
            headers = {"Retry-After": RETRY_AFTER_SECONDS} if answer.status == 429 else {}
            return error_response(answer.status, answer.error.detail, answer.error.field, **headers)
        return Response(answer.model_dump_json(), media_type="application/json")


class LimitOwnBodies:
    """The limit on body size, for the routes of this plugin: vLLM's own are left as they are."""

    def __init__(self, app: ASGIApp, max_bytes: int):
        self.app, self.limited = app, LimitBody(app, max_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        ours = scope["type"] == "http" and scope["path"] in (RECOMMEND_PATH, *ADMIN_PATHS)
        await (self.limited if ours else self.app)(scope, receive, send)


class RecommendEndpoint:
    """What vLLM calls an endpoint plugin."""

    name = "gr4ad"
    required_tasks = (POOLING_TASK,)

    def attach_router(self, app: FastAPI) -> None:
        """Adds the routes to vLLM's app."""
        options = VLLMOptions.from_additional_config(app.state.args.additional_config)
        app.add_middleware(LimitOwnBodies, max_bytes=options.max_body_bytes)
        metrics = shared_metrics()

        async def recommend(request: Request) -> Response:
            """Ranks ads for one user, or for each of several."""
            service: RecommendService = request.app.state.gr4ad
            begun, status = time.perf_counter(), 500
            try:
                response = await service.respond(request)
                status = response.status_code
                return response
            finally:
                metrics.requests.labels(str(status)).inc()
                metrics.latency.observe(time.perf_counter() - begun)

        statuses = (400, 413, 422, 429, 500, 503, 504)
        app.post(
            RECOMMEND_PATH,
            response_model=RecommendResponse | BatchResponse,
            responses={status: {"model": ErrorResponse} for status in statuses},
            openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": SCHEMA}}}},
        )(recommend)
        add_admin_routes(app, lambda: app.state.gr4ad.administration, admin_token())

    async def init_state(self, engine_client: EngineClient | None, state: State, args: Namespace) -> None:
        """Connects the routes with the engine."""
        assert engine_client is not None, "only servers without a model have no engine, and they have no such task"
        options = VLLMOptions.from_additional_config(args.additional_config)
        state.gr4ad = RecommendService(engine_client, options, shared_metrics())


# In the OpenAPI document; the limits of the server stand in its options.
SCHEMA = {
    "oneOf": [
        RecommendRequest.model_json_schema(),
        {
            "type": "object",
            "properties": {"requests": {"type": "array", "items": RecommendRequest.model_json_schema()}},
            "required": ["requests"],
            "additionalProperties": False,
        },
    ]
}

__all__ = ["EndpointMetrics", "RecommendEndpoint", "RecommendService"]
