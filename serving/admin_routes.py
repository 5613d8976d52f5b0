# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""`/v1/index` and `/v1/reload`: changing ads and weights of a running server, for those who know its token."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from .engine import Engine
from .http_errors import ExplainedRoute, UnauthorizedError, error_response
from .http_schema import ErrorResponse
from .index_change import MAX_ADS, MAX_CODE, MAX_ID_CHARACTERS, MAX_LEVELS, IndexChange
from .request_types import ReloadError
from .serving_options import TOKEN_VARIABLE

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


def add_admin_routes(app: FastAPI, engine: Callable[[], Engine], token: str | None) -> None:
    """Adds `POST /v1/index`, `POST /v1/reload` and `GET /v1/model`; without a token the first two always answer 403.

    Statuses: 200; 400; 401 wrong token; 403 no token is set; 409 weights that cannot be served; 413; 422 a field is at
    fault; 500 a published change could not be written. What is refused leaves everything as it was.

    Args:
        engine: Gives it when a request comes: an app may have its routes before it has a model.
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

    @router.get(MODEL_PATH, response_model=ServedResponse)
    async def model() -> Any:
        """What is served now."""
        return asdict(await engine().look())

    @router.post(INDEX_PATH, dependencies=guard, responses=errors, response_model=ServedResponse)
    async def index(body: ChangeRequest) -> Any:
        """Changes ads; requests that begin after the answer see the change."""
        try:
            return asdict(await engine().change(IndexChange(**body.model_dump())))
        except ValueError as error:
            return error_response(422, str(error))

    @router.post(RELOAD_PATH, dependencies=guard, responses=errors, response_model=ServedResponse)
    async def reload(body: ReloadRequest | None = None) -> Any:
        """Reads weights and serves them; requests go on with the old ones until then."""
        try:
            return asdict(await engine().reload(None if body is None else body.model))
        except ReloadError as error:
            return error_response(409, str(error), "model")

    app.include_router(router)
