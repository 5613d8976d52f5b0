# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the HTTP front asks of an engine: torch in this process, or vLLM's processes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .index_change import IndexChange
from .new_ads import AdRecords
from .request_types import Answer, RecommendQuery, Refusal, ServedModel
from .server_metrics import ServerMetrics


class Engine(Protocol):
    """Answers queries with one model that can be exchanged. All methods are called on one event loop."""

    metrics: ServerMetrics
    follows: bool
    """Whether the model is a published one, whose folder is to be looked at."""

    @property
    def served(self) -> ServedModel:
        """What is served, as last seen; cheap."""

    @property
    def beam_widths(self) -> Sequence[int]:
        """W_1..W_T of the artifact."""

    @property
    def accepting(self) -> bool:
        """Whether `answer` takes queries: started, not draining, alive."""

    async def start(self) -> None:
        """Gets ready to answer."""

    def drain(self) -> None:
        """Refuses new queries from now on; safe in a signal handler."""

    async def close(self) -> None:
        """Answers what was accepted and ends."""

    async def answer(self, queries: Sequence[RecommendQuery]) -> list[Answer | Refusal]:
        """Answers each query by itself. Cancelling it takes what still waits out of the queue.

        Raises:
            RefusedError: If they were not accepted; then none was.
        """

    def still_holds(self, answer: Answer) -> bool:
        """Whether an earlier answer of the weights that are served may be given again."""

    async def look(self) -> ServedModel:
        """What is served, now."""

    async def change(self, change: IndexChange | AdRecords) -> ServedModel:
        """Changes ads; returns when requests that begin then see it. Raises ValueError: as `LiveModel.change`."""

    async def reload(self, model: str | None) -> ServedModel:
        """Serves the weights of another artifact, or the same read again. Raises ReloadError: if they cannot be."""

    async def follow(self) -> bool:
        """Takes what was published since the last look; whether anything was new.

        Raises:
            ValueError: If it cannot be used; what is served stays.
        """
