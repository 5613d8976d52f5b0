# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The Open Inference Protocol, version 2, for clients of Triton and KServe: tensors in, tensors out.

Inputs: `history` BYTES (B, S), item ids, oldest first, "" = padding; optional `top_k` INT32 (1). Outputs, n = ads of
the longest list: `item_id` BYTES (B, n), "" = none; `score` FP32 (B, n); `value` FP32 (B, n).
"""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from .http_schema import ErrorResponse, FailedRequest, RecommendRequest, RequestLimits
from .recommend_service import RecommendService


class InputTensor(BaseModel):
    name: str = Field(max_length=256)
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["BYTES", "INT32", "INT64"]
    data: list[Any]


class InferenceRequest(BaseModel):
    id: str | None = Field(default=None, max_length=256)
    inputs: list[InputTensor] = Field(min_length=1, max_length=8)


class OutputTensor(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferenceResponse(BaseModel):
    model_name: str
    model_version: str
    id: str | None = None
    outputs: list[OutputTensor]


MAX_TRIES = 3
INPUTS = [
    {"name": "history", "datatype": "BYTES", "shape": [-1, -1]},
    {"name": "top_k", "datatype": "INT32", "shape": [1]},
]
OUTPUTS = [
    {"name": "item_id", "datatype": "BYTES", "shape": [-1, -1]},
    {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "value", "datatype": "FP32", "shape": [-1, -1]},
]


class TensorError(ValueError):
    """An input that is not as this model's metadata says."""


def read_requests(request: InferenceRequest, limits: RequestLimits) -> list[RecommendRequest]:
    """One request a row of `history`.

    Raises:
        TensorError: If an input is missing, unknown, or not of its shape; names it.
    """
    tensors = {tensor.name: tensor for tensor in request.inputs}
    unknown = sorted(set(tensors) - {"history", "top_k"})
    if unknown:
        raise TensorError(f"Input {unknown[0]!r} is unknown; there are history and top_k. Leave it out.")
    history = tensors.get("history")
    if history is None:
        raise TensorError("Input 'history' is missing: BYTES of shape [users, items].")
    flat = flattened(history.data)
    if history.datatype != "BYTES" or len(history.shape) != 2 or len(flat) != history.shape[0] * history.shape[1]:
        raise TensorError(
            f"Input 'history' must be BYTES with users x items entries. Received: {history.datatype} of shape "
            f"{history.shape} with {len(flat)} entries."
        )
    users, items = history.shape
    if not 1 <= users <= limits.max_requests or not 1 <= items <= limits.max_history:
        raise TensorError(
            f"Input 'history' may hold 1..{limits.max_requests} users and 1..{limits.max_history} items. Received: "
            f"shape {history.shape}."
        )
    top_k = None
    if "top_k" in tensors:
        given = flattened(tensors["top_k"].data)
        if len(given) != 1 or type(given[0]) is not int or not 1 <= given[0] <= limits.max_top_k:
            raise TensorError(f"Input 'top_k' must be one number in 1..{limits.max_top_k}. Received: {given!r:.100}.")
        top_k = given[0]
    requests = []
    for user in range(users):
        row = [item for item in flat[user * items : (user + 1) * items] if item != ""]
        if not all(isinstance(item, str) and len(item) <= 256 for item in row):
            raise TensorError("Input 'history' must hold texts of at most 256 characters.")
        try:
            requests.append(RecommendRequest(history=row, top_k=top_k))
        except ValidationError as error:  # half of a surrogate pair, which JSON can hold
            raise TensorError(f"Input 'history' cannot be read: {error.errors()[0]['msg']}.") from error
    return requests


def flattened(data: list[Any]) -> list[Any]:
    """Values of a tensor that may be nested once, as the protocol allows."""
    flat: list[Any] = []
    for part in data:
        flat.extend(part) if isinstance(part, list) else flat.append(part)
    return flat


def add_open_inference_routes(app: FastAPI, service: RecommendService, limits: RequestLimits) -> None:
    """Adds the protocol's routes under `/v2`. A row that cannot be answered fails the whole call, as the protocol has
    no place for errors of rows."""
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 404, 413, 422, 429, 500, 503, 504)
    }

    def failed(status: int, detail: str) -> JSONResponse:
        return JSONResponse({"error": detail, "detail": detail, "field": None}, status_code=status)

    @app.get("/v2")
    async def server() -> dict[str, Any]:
        return {"name": "gr4ad", "version": "2", "extensions": []}

    @app.get("/v2/health/live")
    async def alive() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", responses={503: {"description": "Starting or draining."}})
    async def ready() -> Response:
        accepting = service.batcher.accepting
        return JSONResponse({"ready": accepting}, status_code=200 if accepting else 503)

    @app.get("/v2/models/{name}/ready", responses=errors)
    async def model_ready(name: str) -> Response:
        if name != service.live.recommender.name:
            return failed(404, f"No model {name!r}; there is {service.live.recommender.name!r}.")
        return await ready()

    @app.get("/v2/models/{name}", responses=errors)
    async def model(name: str) -> Response:
        served = service.live.served
        if name != served.recommender.name:
            return failed(404, f"No model {name!r}; there is {served.recommender.name!r}.")
        return JSONResponse(
            {
                "name": name,
                "versions": [str(served.version)],
                "platform": "gr4ad",
                "inputs": INPUTS,
                "outputs": OUTPUTS,
            }
        )

    @app.post("/v2/models/{name}/infer", responses=errors, response_model=InferenceResponse)
    async def infer(name: str, request: InferenceRequest) -> Any:
        """Ads for each row of `history`."""
        if name != service.live.recommender.name:
            return failed(404, f"No model {name!r}; there is {service.live.recommender.name!r}.")
        try:
            rows = read_requests(request, limits)
        except TensorError as error:
            return failed(422, str(error))
        for _ in range(MAX_TRIES):
            lists = []
            for row, answer in enumerate(await service.answer(rows)):
                if isinstance(answer, FailedRequest):
                    return failed(answer.status, f"Row {row}: {answer.error.detail}")
                lists.append(answer)
            if len({answer.model_version for answer in lists}) == 1:
                break
        else:  # rows go into several batches, and an answer here has one version
            return failed(503, f"The weights changed during the request, {MAX_TRIES} times. Send it again.")
        most = max(len(answer.recommendations) for answer in lists)
        ads = [[*answer.recommendations, *[None] * (most - len(answer.recommendations))] for answer in lists]
        shape = [len(lists), most]
        return InferenceResponse(
            model_name=lists[0].model,
            model_version=str(lists[0].model_version),
            id=request.id,
            outputs=[
                OutputTensor(name="item_id", shape=shape, datatype="BYTES",
                             data=["" if ad is None else ad.item_id for row in ads for ad in row]),
                OutputTensor(name="score", shape=shape, datatype="FP32",
                             data=[0.0 if ad is None else ad.score for row in ads for ad in row]),
                OutputTensor(name="value", shape=shape, datatype="FP32",
                             data=[0.0 if ad is None or ad.value is None else ad.value for row in ads for ad in row]),
            ],
        )  # fmt: skip


__all__ = ["add_open_inference_routes"]
