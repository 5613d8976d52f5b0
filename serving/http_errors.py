# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Errors over HTTP, in one form whichever app the routes stand in: `{"detail": ..., "field": ...}`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from .http_schema import ErrorResponse, readable_error
from .request_types import Refusal, RefusedError


class UnauthorizedError(PermissionError):
    """Without the token; `status` is 403 where there is none, else 401."""

    def __init__(self, status: int, detail: str):
        super().__init__(detail)
        self.status = status


def error_response(status: int, detail: str, field: str | None = None, **headers: str) -> JSONResponse:
    return JSONResponse(
        ErrorResponse(detail=detail, field=field).model_dump(), status_code=status, headers=headers or None
    )


def refused_body(error: RequestValidationError) -> JSONResponse:
    """422 with the field at fault; 400 if the body is not JSON."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", first["msg"])
        return error_response(
            400, f"The body is not JSON: {reason}, at character {first['loc'][-1]}. Send a JSON object."
        )
    refused = readable_error(first)
    return error_response(422, refused.detail, refused.field)


def unreadable_body(error: HTTPException) -> JSONResponse:
    """What the JSON reader raises beside JSONDecodeError, e.g. of bytes that are not UTF-8."""
    reason = str(error.__cause__ or error.detail)[:100]
    if isinstance(error.__cause__, RecursionError):
        reason = "it is nested too deeply"
    return error_response(400, f"The body is not JSON: {reason}. Send a JSON object in UTF-8.")


def refused(refusal: Refusal) -> JSONResponse:
    """A refusal as a response of its own."""
    headers = {} if refusal.retry_after is None else {"Retry-After": str(refusal.retry_after)}
    return error_response(refusal.status, refusal.detail, refusal.field, **headers)


def unauthorized(error: UnauthorizedError) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if error.status == 401 else {}
    return error_response(error.status, str(error), **headers)


class ExplainedRoute(APIRoute):
    """A route that answers its own refusals, so that the app's handlers, which may be another's, do not."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def explained(request: Request) -> Response:
            try:
                return await handler(request)
            except RequestValidationError as error:
                return refused_body(error)
            except UnauthorizedError as error:
                return unauthorized(error)
            except RefusedError as error:
                return refused(error.refusal)
            except HTTPException as error:
                if error.status_code != 400:
                    raise
                return unreadable_body(error)

        return explained


class AnyContentRoute(ExplainedRoute):
    """Reads every body as JSON, whatever its header says, so that `curl -d` works."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def as_json(request: Request) -> Response:
            headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
            scope = {**request.scope, "headers": [*headers, (b"content-type", b"application/json")]}
            return await handler(Request(scope, request.receive))

        return as_json
