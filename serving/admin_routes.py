# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""`/v1/index` and `/v1/reload`: changing ads and weights of a running server, for those who know its token."""

from __future__ import annotations

import hmac
from typing import Annotated, Any, Literal

from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from .http_schema import ErrorResponse
from .index_change import MAX_ADS, MAX_CODE, MAX_ID_CHARACTERS, MAX_LEVELS, IndexChange
from .live_model import LiveModel, ReloadError, Served
from .server_config import TOKEN_VARIABLE

Code = Annotated[int, Field(ge=0, le=MAX_CODE)]
Codes = Annotated[list[Code], Field(min_length=1, max_length=MAX_LEVELS)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
Rank = Annotated[float, Field(allow_inf_nan=False)]

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


class UnauthorizedError(PermissionError):
    """Without the token; `status` is 403 where there is none, else 401."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status = status


def add_admin_routes(app: FastAPI, live: LiveModel, token: str | None) -> None:
    """Adds `POST /v1/index`, `POST /v1/reload` and `GET /v1/model`; without a token the first two always answer 403.

    Statuses: 200; 400; 401 wrong token; 403 no token is set; 409 weights that cannot be served; 413; 422 a field is at
    fault; 500 a published change could not be written. What is refused leaves everything as it was.
    """

    @app.exception_handler(UnauthorizedError)
    async def unauthorized(request: Request, error: UnauthorizedError) -> JSONResponse:
        headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else None
        return JSONResponse(ErrorResponse(detail=str(error)).model_dump(), status_code=error.status, headers=headers)

    def authorized(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> None:
        if token is None:
            raise UnauthorizedError(
                403, f"This server has no administration token. Start it with {TOKEN_VARIABLE} or --admin_token_file."
            )
        if given is None or not hmac.compare_digest(given.credentials.encode(), token.encode()):
            raise UnauthorizedError(401, "Send the server's token in the header `authorization: Bearer TOKEN`.")

    def described(served: Served) -> ServedResponse:
        recommender = served.recommender
        return ServedResponse(
            model=recommender.name,
            model_version=served.version,
            index_changes=served.changes,
            ads=recommender.tokenizer.index.num_active,
        )

    guard = [Depends(authorized)]
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse} for status in (400, 401, 403, 409, 413, 422, 500)
    }

    @app.get("/v1/model")
    async def model() -> ServedResponse:
        """What is served now."""
        return described(live.served)

    @app.post("/v1/index", dependencies=guard, responses=errors, response_model=ServedResponse)
    async def index(body: ChangeRequest) -> Any:
        """Changes ads; requests that begin after the answer see the change."""
        try:
            served = await run_in_threadpool(lambda: live.change(IndexChange(**body.model_dump())))
        except ValueError as error:
            return JSONResponse(ErrorResponse(detail=str(error)).model_dump(), status_code=422)
        return described(served)

    @app.post("/v1/reload", dependencies=guard, responses=errors, response_model=ServedResponse)
    async def reload(body: ReloadRequest | None = None) -> Any:
        """Reads weights and serves them; requests go on with the old ones until then."""
        try:
            served = await run_in_threadpool(live.reload, None if body is None else body.model)
        except ReloadError as error:
            return JSONResponse(ErrorResponse(detail=str(error), field="model").model_dump(), status_code=409)
        return described(served)


__all__ = ["add_admin_routes"]
