# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Answers kept for a short while: the same user asks again within a minute (27.8% of requests, arXiv 2602.22732)."""

from __future__ import annotations

import hashlib
import logging
from typing import Protocol

from cachetools import TTLCache

from .serving_options import ServingOptions

logger = logging.getLogger(__name__)

REDIS_TIMEOUT = 0.05  # seconds: a cache slower than that costs more than it saves


def cache_key(*parts: str) -> str:
    """One key of what an answer depends on: 64 hexadecimal digits."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.hexdigest()


class ResultCache(Protocol):
    """Where answers are kept. Keys hold the versions of model and index, so nothing has to be taken out."""

    async def get(self, key: str) -> bytes | None:
        """The answer, or None if there is none, it is too old, or the cache cannot be reached."""

    async def put(self, key: str, answer: bytes) -> None:
        """Keeps an answer, if the cache can be reached."""

    async def close(self) -> None:
        """Ends connections."""


class MemoryCache:
    """Answers in this process, the least recently used leave first.

    Args:
        seconds: How long an answer is kept, > 0. max_bytes: Of all answers together.
    """

    def __init__(self, seconds: float, max_bytes: int):
        self._answers: TTLCache[str, bytes] = TTLCache(maxsize=max_bytes, ttl=seconds, getsizeof=len)

    async def get(self, key: str) -> bytes | None:
        return self._answers.get(key)

    async def put(self, key: str, answer: bytes) -> None:
        if len(answer) <= self._answers.maxsize:
            self._answers[key] = answer

    async def close(self) -> None:
        self._answers.clear()


class RedisCache:
    """Answers in a Redis server that replicas share. One that fails or is slow counts as empty: requests go on.

    Args:
        url: e.g. `redis://localhost:6379/0`. seconds: How long an answer is kept, > 0.

    Raises:
        ValueError: If `url` is no Redis URL. ImportError: Without the package redis.
    """

    def __init__(self, url: str, seconds: float):
        try:
            from redis import asyncio as redis
            from redis.exceptions import RedisError
        except ModuleNotFoundError as error:
            raise ImportError(
                "A cache in Redis needs the package redis: pip install 'gr4ad[redis]'.", name=error.name
            ) from error
        try:
            self._client = redis.from_url(url, socket_timeout=REDIS_TIMEOUT, socket_connect_timeout=REDIS_TIMEOUT)
        except ValueError as error:
            raise ValueError(
                f"`cache_url` must be a Redis URL, e.g. redis://localhost:6379/0. Received: {url!r} ({error})."
            ) from error
        self._failures: tuple[type[Exception], ...] = (RedisError, OSError)
        self._milliseconds = max(1, round(seconds * 1000))
        self._reachable = True

    def _note(self, error: Exception | None) -> None:
        if self._reachable and error is not None:
            logger.warning("The result cache cannot be reached (%s); requests go on without it.", error)
        elif not self._reachable and error is None:
            logger.warning("The result cache can be reached again.")
        self._reachable = error is None

    async def get(self, key: str) -> bytes | None:
        try:
            answer = await self._client.get(f"gr4ad:{key}")
        except self._failures as error:
            self._note(error)
            return None
        self._note(None)
        assert answer is None or isinstance(answer, bytes)  # the client does not decode
        return answer

    async def put(self, key: str, answer: bytes) -> None:
        try:
            await self._client.set(f"gr4ad:{key}", answer, px=self._milliseconds)
        except self._failures as error:
            self._note(error)

    async def close(self) -> None:
        await self._client.aclose()


def result_cache(options: ServingOptions) -> ResultCache | None:
    """The cache that options ask for; None without one."""
    if options.cache_url is not None:
        return RedisCache(options.cache_url, options.cache_seconds)
    return MemoryCache(options.cache_seconds, options.cache_bytes) if options.cache_seconds else None
