# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Options that every server has, whatever its engine; needs neither torch nor HTTP libraries."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .beam_policy import SCALES, BeamPolicy, WidthPolicy, check_range

TOKEN_VARIABLE = "GR4AD_ADMIN_TOKEN"
MIN_TOKEN_LENGTH = 16


def option(default: Any, help: str) -> Any:
    """A field of options with what a command line says of it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class RequestLimits:
    """max_history (items), max_top_k (items), max_beam_width (beams), levels (T), max_requests (of one body),
    max_listed (items of an allow or block list)."""

    max_history: int
    max_top_k: int
    max_beam_width: int
    levels: int
    max_requests: int
    max_listed: int


@dataclass(frozen=True)
class ServingOptions:
    """What can be set of serving on any engine.

    Raises:
        ValueError: If a number is out of its range; names the field.
    """

    top_k: int = option(10, "Items returned when a request names no `top_k`; never more than its last beam width.")
    slo_ms: float | None = option(
        None,
        "Milliseconds from arrival to answer that 99 of 100 requests should stay within. Beams narrow and widen "
        "with the load to keep it. Default: beams of constant width.",
    )
    min_beam_scale: float = option(0.25, "Quality floor: least share of the model's own beam widths, in (0, 1].")
    max_beam_scale: float = option(1.6, "Largest multiple of the model's own beam widths, when there is little to do.")
    max_batch: int = option(16, "Users answered by one call of the model, at most.")
    max_batch_rows: int = option(
        65536,
        "Beam rows of one batch, all levels and users summed, at most: bounds memory. A wider request runs alone.",
    )
    max_queue: int = option(256, "Users that may wait; beyond that a request gets 429.")
    max_history: int = option(1000, "Items of one history, at most.")
    max_listed: int = option(10_000, "Items of `allow_items` or of `block_items` of one request, at most.")
    max_beam_width: int = option(512, "Beams a request may ask for at one level, at most.")
    max_body_bytes: int = option(1 << 20, "Bytes of a request body, at most.")
    deadline_ms: float = option(
        2000.0,
        "Milliseconds a request may wait before the model starts on it; then it gets 504. A request may ask for less.",
    )
    cache_seconds: float = option(0.0, "Seconds in which the same request gets the same answer; 0 = no cache.")
    cache_bytes: int = option(256 << 20, "Bytes of the answers kept in this process.")
    cache_url: str | None = option(None, "redis://HOST:PORT/DB of a cache that replicas share, in place of memory.")
    watch_seconds: float = option(1.0, "Seconds between looks at a published model for new weights and ads.")
    admin_token_file: str | None = option(
        None,
        "File with the token that /v1/index and /v1/reload ask for; default: the environment variable "
        "GR4AD_ADMIN_TOKEN; without either they answer 403.",
    )

    def __post_init__(self) -> None:
        for name in (
            "top_k", "max_batch", "max_batch_rows", "max_queue", "max_history", "max_listed", "max_beam_width",
            "max_body_bytes", "cache_bytes",
        ):  # fmt: skip
            check_range(name, vars(self)[name], vars(self)[name] >= 1, "at least 1")
        for name, fits, allowed in (
            ("slo_ms", self.slo_ms is None or 0 < self.slo_ms < math.inf, "above 0 milliseconds, or left out"),
            ("deadline_ms", 0 < self.deadline_ms < math.inf, "above 0 milliseconds"),
            ("min_beam_scale", 0 < self.min_beam_scale <= 1, "in (0, 1]"),
            ("max_beam_scale", 1 <= self.max_beam_scale <= SCALES[-1], f"in [1, {SCALES[-1]}]"),
            ("cache_seconds", 0 <= self.cache_seconds < math.inf, "0 seconds or more"),
            ("watch_seconds", 0 < self.watch_seconds < math.inf, "above 0 seconds"),
        ):
            check_range(name, vars(self)[name], fits, allowed)
        if self.cache_url is not None and not self.cache_seconds:
            raise ValueError(
                f"`cache_url` needs `cache_seconds` above 0. Received: {self.cache_url!r} with {self.cache_seconds}."
            )

    def beam_policy(self, base_widths: Sequence[int], max_batch: int | None = None) -> WidthPolicy:
        """The policy of a model with these widths, in batches of at most `max_batch` (default: the option's). The one
        place that says which policy an engine asks."""
        return BeamPolicy(
            base_widths,
            slo=None if self.slo_ms is None else self.slo_ms / 1000,
            min_scale=self.min_beam_scale,
            max_scale=self.max_beam_scale,
            max_batch=self.max_batch if max_batch is None else max_batch,
        )

    def request_limits(self, widths: Sequence[int]) -> RequestLimits:
        """What a body may hold, for a model that is served with these widths."""
        return RequestLimits(
            max_history=self.max_history,
            max_top_k=max(self.max_beam_width, widths[-1]),
            max_beam_width=self.max_beam_width,
            levels=len(widths),
            max_requests=self.max_queue,
            max_listed=self.max_listed,
        )

    def admin_token(self) -> str | None:
        """The token of the administration, from the file or the environment; None if there is none.

        Raises:
            ValueError: If it is shorter than 16 characters. OSError: If its file cannot be read.
        """
        if self.admin_token_file is not None:
            token = Path(self.admin_token_file).read_text(encoding="utf-8").strip()
        else:
            token = os.environ.get(TOKEN_VARIABLE, "").strip()
            if not token:
                return None
        if len(token) < MIN_TOKEN_LENGTH:
            raise ValueError(
                f"The token in {self.admin_token_file or TOKEN_VARIABLE} must have at least {MIN_TOKEN_LENGTH} "
                f"characters. Received: {len(token)}."
            )
        return token
