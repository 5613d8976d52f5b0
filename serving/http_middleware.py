# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What stands around the routes: request metrics, the limit on body size, and clients that leave."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .server_metrics import ServerMetrics

T = TypeVar("T")

DISCARD_SECONDS = 2.0
DISCARD_FACTOR = 16


class MeasureRequests:
    """Counts requests to `path` by status and times them."""

    def __init__(self, app: ASGIApp, metrics: ServerMetrics, path: str):
        self.app, self.metrics, self.path = app, metrics, path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != self.path:
            await self.app(scope, receive, send)
            return
        begun, status = time.perf_counter(), 499

        async def watched_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watched_send)
        except Exception:
            status = 500
            raise
        finally:
            self.metrics.requests.labels(str(status)).inc()
            self.metrics.latency.observe(time.perf_counter() - begun)


class LimitBody:
    """Answers 413 to a body of more than `max_bytes`, announced or counted while it streams in; never holds more.
    Only requests to paths that begin with one of `paths` are looked at."""

    def __init__(self, app: ASGIApp, max_bytes: int, paths: tuple[str, ...] = ("/",)):
        self.app, self.max_bytes, self.paths = app, max_bytes, paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self.paths):
            await self.app(scope, receive, send)
            return
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        if int(announced) > self.max_bytes:
            await self._refuse(scope, receive, send)
            return
        parts: list[bytes] = []
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > self.max_bytes:
                parts.clear()
                await self._refuse(scope, receive, send)
                return
            more = message.get("more_body", False)
        body: bytes | None = b"".join(parts)

        async def replay() -> Message:
            nonlocal body
            if body is None:
                return await receive()
            message, body = {"type": "http.request", "body": body, "more_body": False}, None
            return message

        await self.app(scope, replay, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A connection closed with unread bytes is reset, and the client would not see the answer: read on for a while.
        size, more = 0, True
        try:
            async with asyncio.timeout(DISCARD_SECONDS):
                while more and size <= DISCARD_FACTOR * self.max_bytes:
                    message = await receive()
                    size += len(message.get("body", b""))
                    more = message.get("more_body", False)
        except TimeoutError:
            pass
        detail = f"The body is larger than {self.max_bytes} bytes. Send fewer requests or shorter histories."
        response = JSONResponse({"detail": detail, "field": None}, status_code=413, headers={"connection": "close"})
        await response(scope, receive, send)


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T | None:
    """The result of `work`, which is cancelled when the client leaves: then None. The body must have been read."""
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        task.cancel()
        gone.cancel()


async def disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
