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

from gr4ad.tokenization.ad_records import AdRecordError

from .engine import Engine
from .http_errors import ExplainedRoute, UnauthorizedError, error_response
from .http_schema import ErrorResponse
from .index_change import MAX_ADS, MAX_CODE, MAX_ID_CHARACTERS, MAX_LEVELS, IndexChange
from .new_ads import AdRecords
from .request_types import ReloadError
from .serving_options import TOKEN_VARIABLE

Code = Annotated[int, Field(ge=0, le=MAX_CODE)]
Codes = Annotated[list[Code], Field(min_length=1, max_length=MAX_LEVELS)]
ItemId = Annotated[str, Field(min_length=1, max_length=MAX_ID_CHARACTERS)]
Rank = Annotated[float, Field(allow_inf_nan=False)]
Vector = Annotated[list[Rank], Field(min_length=1)]
Value = str | int | float | bool | list[str | int | float | bool] | None

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
        description="The semantic ID of each, one code a level, as the quantizer gives it. Left out where ads are "
        "added, the server finds it from `attributes`.",
    )
    priority: list[Rank] | None = Field(default=None, description="Rank among ads of one semantic ID.")
    attributes: dict[str, list[Value]] | None = Field(
        default=None,
        description="With codes, values of columns of the item table, one an ad. Without, of any columns of the "
        "catalog that the model was built on: texts, categories, business fields.",
    )
    embeddings: list[Vector | dict[str, Vector] | None] | None = Field(
        default=None, description="Without codes: precomputed vectors, one an ad, or an object of part and vector."
    )
    business_keys: list[str | None] | None = Field(
        default=None, description="Without codes: what a hashed last level hashes, in place of the business fields."
    )

    def change(self) -> IndexChange | AdRecords:
        """The same for an engine. Raises ValueError: as `IndexChange`; or if lists are not as long as the ids."""
        encoded = {"embeddings": self.embeddings, "business_keys": self.business_keys}
        if self.op != "add" or self.codes is not None:
            given = [name for name, lists in encoded.items() if lists is not None]
            if given:
                raise ValueError(f"`{given[0]}` is for ads that are added without `codes`. Leave one of the two out.")
            return IndexChange(self.op, self.item_ids, self.codes, self.priority, self.attributes)
        lists = {"priority": self.priority, **{f"attributes.{n}": v for n, v in (self.attributes or {}).items()}}
        for name, values in {**lists, **encoded}.items():
            if values is not None and len(values) != len(self.item_ids):
                raise ValueError(f"`{name}` needs one value an ad, {len(self.item_ids)}. Received: {len(values)}.")
        if len(set(self.item_ids)) < len(self.item_ids):
            raise ValueError("`item_ids` must be distinct. Give each ad once.")
        named = {"priority": self.priority, "embedding": self.embeddings, "business_key": self.business_keys}
        own = [name for name in (self.attributes or {}) if name in (*named, "item_id")]
        if own:
            raise ValueError(f"`attributes` names {own[0]!r}, which has a field of its own. Use that.")
        columns = {**(self.attributes or {}), **{name: values for name, values in named.items() if values is not None}}
        return AdRecords(
            [
                {"item_id": item, **{name: values[place] for name, values in columns.items()}}
                for place, item in enumerate(self.item_ids)
            ]
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
            return asdict(await engine().change(body.change()))
        except AdRecordError as error:
            return error_response(422, f"Ad {error.item!r}: {error}", error.field)
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
