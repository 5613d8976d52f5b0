# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""`/v1/index` and `/v1/reload`: changing ads and weights of a running server, for those who know its token."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, Literal, Protocol

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from .http_errors import ExplainedRoute, UnauthorizedError, error_response
from .http_schema import ErrorResponse
from .index_change import MAX_ADS, MAX_CODE, MAX_ID_CHARACTERS, MAX_LEVELS, IndexChange
from .live_model import LiveModel, ReloadError, Served
from .server_config import TOKEN_VARIABLE

Code = Annotated[int, Field(ge=0, le=MAX_CODE)]
Codes = Annotated[list[Code], Field(min_length=1, max_length=MAX_LEVELS)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
Rank = Annotated[float, Field(allow_inf_nan=False)]

MODEL_PATH, INDEX_PATH, RELOAD_PATH = ADMIN_PATHS = ("/v1/model", "/v1/index", "/v1/reload")

bearer = HTTPBearer(auto_error=False, description="The server's administration token.")


class ChangeRequest(BaseModel):
    """Ads to add, to replace or to remove, all of them or none."""

    model_config = ConfigDict(extra="forbid")

    op: Literal["add", "replace", "remove"]
    item_ids: list[ItemId] = Field(
        min_length=1, max_length=MAX_ADS, description="Distinct ids.", json_schema_extra={"uniqueItems": True}
    )
    codes: list[Codes] | None = Field(
        default=None,
        description="The semantic ID of each, one code a level, as the quantizer gives it; needed to add.",
    )
    priority: list[Rank] | None = Field(default=None, description="Rank among ads of one semantic ID.")
    attributes: dict[str, list[str | int | float | bool | None]] | None = Field(
        default=None, description="Values of columns of the item table, one an ad."
    )


class ReloadRequest(BaseModel):
    """Which weights to serve."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(
        default=None, max_length=4096, description="Folder or hub id; default: the one that is served, read again."
    )


class ServedResponse(BaseModel):
    """What is served now."""

    model: str
    model_version: int
    index_changes: int
    ads: int = Field(description="Ads that can be recommended.")


class Administration(Protocol):
    """What can be changed of what is served."""

    async def served(self) -> ServedResponse:
        """What is served now."""

    async def change(self, change: ChangeRequest) -> ServedResponse:
        """Changes ads; returns when requests that begin see it. Raises ValueError: as `IndexChange.apply`."""

    async def reload(self, model: str | None) -> ServedResponse:
        """Serves the weights of another artifact, or the same read again. Raises ReloadError: if they cannot be."""


class LiveAdministration:
    """The administration of a live model in this process."""

    def __init__(self, live: LiveModel):
        self.live = live
        # One thread for all: torch keeps memory for every thread that ever ran a model.
        self.reader = ThreadPoolExecutor(1, thread_name_prefix="reload")

    async def served(self) -> ServedResponse:
        return described(self.live.served)

    async def change(self, change: ChangeRequest) -> ServedResponse:
        return described(await run_in_threadpool(lambda: self.live.change(IndexChange(**change.model_dump()))))

    async def reload(self, model: str | None) -> ServedResponse:
        loop = asyncio.get_running_loop()
        return described(await loop.run_in_executor(self.reader, self.live.reload, model))


def described(served: Served) -> ServedResponse:
    recommender = served.recommender
    return ServedResponse(
        model=recommender.name,
        model_version=served.version,
        index_changes=served.changes,
        ads=recommender.tokenizer.index.num_active,
    )


def add_admin_routes(app: FastAPI, administration: Callable[[], Administration], token: str | None) -> None:
    """Adds `POST /v1/index`, `POST /v1/reload` and `GET /v1/model`; without a token the first two always answer 403.

    Statuses: 200; 400; 401 wrong token; 403 no token is set; 409 weights that cannot be served; 413; 422 a field is at
    fault; 500 a published change could not be written. What is refused leaves everything as it was.

    Args:
        administration: Gives it when a request comes: an app may have its routes before it has a model.
    """

    def authorized(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if token is None:
            raise UnauthorizedError(
                403, f"This server has no administration token. Set {TOKEN_VARIABLE} at its start."
            )
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise UnauthorizedError(401, "Send the server's token in the header `authorization: Bearer TOKEN`.")

    guard = [Depends(authorized)]
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 401, 403, 409, 413, 422, 500)
    }
    router = APIRouter(route_class=ExplainedRoute)

    @router.get(MODEL_PATH)
    async def model() -> ServedResponse:
        """What is served now."""
        return await administration().served()

    @router.post(INDEX_PATH, dependencies=guard, responses=errors, response_model=ServedResponse)
    async def index(body: ChangeRequest) -> Any:
        """Changes ads; requests that begin after the answer see the change."""
        try:
            return await administration().change(body)
        except ValueError as error:
            return error_response(422, str(error))

    @router.post(RELOAD_PATH, dependencies=guard, responses=errors, response_model=ServedResponse)
    async def reload(body: ReloadRequest | None = None) -> Any:
        """Reads weights and serves them; requests go on with the old ones until then."""
        try:
            return await administration().reload(None if body is None else body.model)
        except ReloadError as error:
            return error_response(409, str(error), "model")

    app.include_router(router)


__all__ = ["ADMIN_PATHS", "Administration", "LiveAdministration", "ServedResponse", "add_admin_routes"]
