# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The Open Inference Protocol, version 2, for clients of Triton and KServe: tensors in, tensors out.

Inputs: `history` BYTES (B, S), item ids, oldest first, "" = padding; those of `HISTORY_FEATURES` that the model reads,
text as BYTES and numbers as FP64, (B, S) or of a width of their own; `user_feature.NAME` BYTES (B), "" = missing;
`allow_items` and `block_items` BYTES (B, n), or (1, n) for all rows, "" = padding, where a row of `allow_items` with
no ids allows nothing; `allow_all` BOOL (B), true = the row has no allow list, and what `allow_items` holds for it is
not read; for all rows, `top_k` INT32 (1), `max_per_account` INT32 (1), `exclude_history` BOOL (1). All
but `history` may be left out. Outputs, n = ads of the longest list, u = most ids of a row that the catalog does not
hold: `item_id` BYTES (B, n), "" = none; `score` FP32 (B, n); `value` FP32 (B, n); `unknown_item` BYTES (B, u), "" =
none.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from gr4ad.tokenization import HISTORY_FEATURES
from gr4ad.tokenization.user_history import MAX_ID_LENGTH

from .http_errors import ExplainedRoute
from .http_middleware import while_connected
from .http_schema import MAX_TEXT_LENGTH, MAX_USER_FEATURES, ErrorResponse, RecommendRequest, readable_error
from .recommend_service import RecommendService
from .request_types import ITEM_LISTS, Answer, RecommendQuery, Refusal, RefusedError, ServedModel
from .serving_options import RequestLimits

INFERENCE_PATH = "/v2"
MAX_TRIES = 3
SCALARS: dict[str, tuple[str, ...]] = {
    "top_k": ("INT32", "INT64"),
    "max_per_account": ("INT32", "INT64"),
    "exclude_history": ("BOOL",),
}
"""Inputs that hold one value for all rows."""
MAX_INPUTS = len(HISTORY_FEATURES) + MAX_USER_FEATURES + 2 + len(ITEM_LISTS) + len(SCALARS)
USER_FEATURE = "user_feature."
ALLOW_ALL = "allow_all"
NUMBERS = ("FP64", "FP32", "INT64", "INT32")
DATATYPES = {"id": ("BYTES",), "text": ("BYTES",), "amount": NUMBERS, "time": NUMBERS}
ALONG = {"history": "history"} | {
    feature.name: "history" if feature.along == "items" else feature.along for feature in HISTORY_FEATURES
}
"""The input whose padding an input shares."""
OUTPUTS: list[dict[str, Any]] = [
    {"name": "item_id", "datatype": "BYTES", "shape": [-1, -1]},
    {"name": "score", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "value", "datatype": "FP32", "shape": [-1, -1]},
    {"name": "unknown_item", "datatype": "BYTES", "shape": [-1, -1]},
]


class InputTensor(BaseModel):
    name: str = Field(max_length=MAX_TEXT_LENGTH + len(USER_FEATURE))
    shape: list[int] = Field(min_length=1, max_length=2)
    datatype: Literal["BYTES", "INT32", "INT64", "FP32", "FP64", "BOOL"]
    data: list[Any]


class InferenceRequest(BaseModel):
    id: str | None = Field(default=None, max_length=256)
    inputs: list[InputTensor] = Field(min_length=1, max_length=MAX_INPUTS)


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


class TensorError(ValueError):
    """An input that is not as this model's metadata says."""


def offered_inputs(served: ServedModel) -> dict[str, tuple[str, ...]]:
    """Datatypes of each input that a model takes; the first is what its metadata says."""
    features = {feature.name: DATATYPES[feature.kind] for feature in HISTORY_FEATURES}
    return {
        "history": ("BYTES",),
        **{name: features[name] for name in served.features},
        **{USER_FEATURE + name: ("BYTES",) for name in served.user_features},
        **dict.fromkeys(ITEM_LISTS, ("BYTES",)),
        ALLOW_ALL: ("BOOL",),
        **SCALARS,
    }


def metadata(served: ServedModel) -> dict[str, Any]:
    """What the protocol says of a model."""
    inputs = [
        {
            "name": name,
            "datatype": datatypes[0],
            "shape": [1] if name in SCALARS else [-1] if name.startswith((USER_FEATURE, ALLOW_ALL)) else [-1, -1],
        }
        for name, datatypes in offered_inputs(served).items()
    ]
    return {
        "name": served.model,
        "versions": [str(served.model_version)],
        "platform": "gr4ad",
        "inputs": inputs,
        "outputs": OUTPUTS,
    }


def read_queries(
    request: InferenceRequest, served: ServedModel, single: type[RecommendRequest], limits: RequestLimits
) -> list[RecommendQuery]:
    """One query a row of `history`, checked as a request of `/v1/recommend`.

    Raises:
        TensorError: If an input is missing, not offered, or not of its type or shape; names it.
    """
    offered = offered_inputs(served)
    tensors = {tensor.name: tensor for tensor in request.inputs}
    for name, tensor in tensors.items():
        if name not in offered:
            raise TensorError(f"Input {name!r} is unknown; {served.model!r} takes {', '.join(offered)}. Leave it out.")
        if tensor.datatype not in offered[name]:
            raise TensorError(
                f"Input {name!r} must be {' or '.join(offered[name])}. Received: {tensor.datatype} of shape "
                f"{tensor.shape}."
            )
    if "history" not in tensors:
        raise TensorError("Input 'history' is missing: BYTES of shape [users, items].")
    shape = tensors["history"].shape
    users = shape[0]
    if not 1 <= users <= limits.max_requests or not 1 <= shape[-1] <= limits.max_history:
        raise TensorError(
            f"Input 'history' may hold 1..{limits.max_requests} users and 1..{limits.max_history} items. Received: "
            f"shape {shape}."
        )
    lists = {name: user_lines(tensors[name], users) for name in ALONG if name in tensors}
    features = {
        name: user_lines(tensors[USER_FEATURE + name], users, dimensions=1)
        for name in served.user_features
        if USER_FEATURE + name in tensors
    }
    scalars = {name: read_scalar(tensors[name], limits) for name in SCALARS if name in tensors}
    listed = {name: id_lines(tensors[name], users) for name in ITEM_LISTS if name in tensors}
    unrestricted = flags(tensors[ALLOW_ALL], users) if ALLOW_ALL in tensors else [False] * users
    if ALLOW_ALL in tensors and "allow_items" not in tensors and not all(unrestricted):
        raise TensorError(
            f"Input {ALLOW_ALL!r} is false for row {unrestricted.index(False)}, but there is no 'allow_items'. Give "
            f"it, or leave {ALLOW_ALL!r} out."
        )
    queries = []
    for user in range(users):
        row: dict[str, Any] = {**scalars, **{name: lines[user] for name, lines in listed.items()}}
        if unrestricted[user]:
            row["allow_items"] = None
        for name, lines in lists.items():
            masks = lists.get(ALONG[name])
            if masks is None or len(masks[user]) != len(lines[user]):
                raise TensorError(f"Input {name!r} must have the shape of {ALONG[name]!r}. Give both, or neither.")
            row[name] = [value for value, mask in zip(lines[user], masks[user], strict=True) if mask != ""]
        row["user_features"] = {name: lines[user][0] or None for name, lines in features.items()}
        try:
            queries.append(single.model_validate(row).query())
        except ValidationError as error:
            first: dict[str, Any] = dict(error.errors()[0])
            detail = readable_error({**first, "loc": ("body", *first["loc"])}).detail
            raise TensorError(f"Row {user}: {detail}") from error
    return queries


def user_lines(tensor: InputTensor, users: int, dimensions: int = 2) -> list[list[Any]]:
    """The values of each user of a tensor (users, n), or (users,) where it has one dimension; they may be nested once,
    as the protocol allows."""
    flat = flattened(tensor.data)
    width = tensor.shape[-1] if dimensions == 2 else 1
    if len(tensor.shape) != dimensions or tensor.shape[0] != users or len(flat) != users * width:
        raise TensorError(
            f"Input {tensor.name!r} must be {tensor.datatype} with users{' x items' if dimensions == 2 else ''} "
            f"entries. Received: {tensor.datatype} of shape {tensor.shape} with {len(flat)} entries."
        )
    if tensor.datatype == "BYTES" and not all(isinstance(text, str) and len(text) <= MAX_ID_LENGTH for text in flat):
        wrong = next(text for text in flat if not isinstance(text, str) or len(text) > MAX_ID_LENGTH)
        remedy = "Shorten it" if isinstance(wrong, str) else f'Write "{wrong!s:.50}"'
        raise TensorError(
            f"Input {tensor.name!r} must hold texts of at most {MAX_ID_LENGTH} characters. Received: {wrong!r:.50}. "
            f"{remedy}."
        )
    return [flat[user * width : (user + 1) * width] for user in range(users)]


def id_lines(tensor: InputTensor, users: int) -> list[list[str]]:
    """Item ids of each row of a tensor (users, n), or of all rows of one (1, n), without padding."""
    shared = tensor.shape[0] == 1
    lines = user_lines(tensor, 1 if shared else users)
    return [[item for item in line if item != ""] for line in (lines * users if shared else lines)]


def flags(tensor: InputTensor, users: int) -> list[bool]:
    """The one flag of each user of a tensor (users,)."""
    lines = user_lines(tensor, users, dimensions=1)
    wrong = next((value for [value] in lines if type(value) is not bool), None)
    if wrong is not None:
        raise TensorError(f"Input {tensor.name!r} must be true or false for each row. Received: {wrong!r:.100}.")
    return [value for [value] in lines]


def read_scalar(tensor: InputTensor, limits: RequestLimits) -> int | bool:
    """The one value of an input of `SCALARS`."""
    given = flattened(tensor.data)
    if tensor.datatype == "BOOL":
        if len(given) != 1 or type(given[0]) is not bool:
            raise TensorError(f"Input {tensor.name!r} must be one of true, false. Received: {given!r:.100}.")
    elif len(given) != 1 or type(given[0]) is not int or not 1 <= given[0] <= limits.max_top_k:
        raise TensorError(
            f"Input {tensor.name!r} must be one number in 1..{limits.max_top_k}. Received: {given!r:.100}."
        )
    return given[0]


def flattened(data: list[Any]) -> list[Any]:
    flat: list[Any] = []
    for part in data:
        flat.extend(part) if isinstance(part, list) else flat.append(part)
    return flat


def failed(status: int, detail: str, retry_after: int | None = None) -> JSONResponse:
    headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
    return JSONResponse(
        {"error": detail, "detail": detail, "field": None}, status_code=status, headers=headers or None
    )


def add_open_inference_routes(
    app: FastAPI, service: Callable[[], RecommendService], single: type[RecommendRequest], limits: RequestLimits
) -> None:
    """Adds the protocol's routes under `/v2`. A row that cannot be answered fails the whole call, as the protocol has
    no place for errors of rows.

    Args:
        service: Gives it when a request comes. single: What a row is checked as.
    """
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 404, 413, 422, 429, 500, 503, 504)
    }
    router = APIRouter(prefix=INFERENCE_PATH, route_class=ExplainedRoute)

    def unknown(name: str) -> JSONResponse | None:
        model = service().engine.served.model
        return None if name == model else failed(404, f"No model {name!r}; there is {model!r}.")

    @router.get("")
    async def server() -> dict[str, Any]:
        return {"name": "gr4ad", "version": "2", "extensions": []}

    @router.get("/health/live")
    async def alive() -> dict[str, bool]:
        return {"live": True}

    @router.get("/health/ready", responses={503: {"description": "Starting or draining."}})
    async def ready() -> Response:
        accepting = service().engine.accepting
        return JSONResponse({"ready": accepting}, status_code=200 if accepting else 503)

    @router.get("/models/{name}/ready", responses=errors)
    async def model_ready(name: str) -> Response:
        return unknown(name) or await ready()

    @router.get("/models/{name}", responses=errors)
    async def model(name: str) -> Response:
        return unknown(name) or JSONResponse(metadata(service().engine.served))

    @router.post("/models/{name}/infer", responses=errors, response_model=InferenceResponse)
    async def infer(name: str, body: InferenceRequest, request: Request) -> Any:
        """Ads for each row of `history`."""
        if missing := unknown(name):
            return missing
        lists: list[Answer] = []
        try:
            queries = read_queries(body, service().engine.served, single, limits)
            for _ in range(MAX_TRIES):
                outcomes = await while_connected(request, service().answer(queries))
                if outcomes is None:
                    return Response(status_code=499)
                for row, outcome in enumerate(outcomes):
                    if isinstance(outcome, Refusal):
                        return failed(outcome.status, f"Row {row}: {outcome.detail}", outcome.retry_after)
                lists = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
                if len({answer.version for answer in lists}) == 1:
                    return inference_response(body.id, lists)
        except TensorError as error:
            return failed(422, str(error))
        except RefusedError as error:
            return failed(error.refusal.status, error.refusal.detail, error.refusal.retry_after)
        # Rows go into several batches, and an answer here has one version.
        return failed(503, f"The weights changed during the request, {MAX_TRIES} times. Send it again.")

    app.include_router(router)


def inference_response(request_id: str | None, lists: Sequence[Answer]) -> InferenceResponse:
    """Lists of ads as tensors, padded to the longest."""
    most = max(len(answer.ranked) for answer in lists)
    ads = [ad for answer in lists for ad in (*answer.ranked, *[None] * (most - len(answer.ranked)))]
    unknown = [list(dict.fromkeys(itertools.chain(*answer.unknown.values()))) for answer in lists]
    widest = max(map(len, unknown))
    columns: tuple[tuple[int, list[Any]], ...] = (  # as in OUTPUTS: entries of a row, and all of them
        (most, ["" if ad is None else ad.item_id for ad in ads]),
        (most, [0.0 if ad is None else ad.score for ad in ads]),
        (most, [0.0 if ad is None or ad.value is None else ad.value for ad in ads]),
        (widest, [item for ids in unknown for item in (*ids, *[""] * (widest - len(ids)))]),
    )
    return InferenceResponse(
        model_name=lists[0].model,
        model_version=str(lists[0].version),
        id=request_id,
        outputs=[
            OutputTensor(**{**output, "shape": [len(lists), width], "data": column})
            for output, (width, column) in zip(OUTPUTS, columns, strict=True)
        ],
    )
