# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Options of the HTTP server; needs none of its libraries, so that a command line can show them without."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .beam_policy import SCALES, BeamPolicy

TOKEN_VARIABLE = "GR4AD_ADMIN_TOKEN"
MIN_TOKEN_LENGTH = 16


@dataclass
class ServerConfig:
    """Options of the HTTP server.

    Raises:
        ValueError: If a number is out of its range; names the field.
    """

    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on; 0.0.0.0 for every interface."})
    port: int = field(default=8000, metadata={"help": "TCP port, 0..65535; 0 picks a free one."})
    port_file: str | None = field(
        default=None, metadata={"help": "File that receives the bound port, as text, once the server listens."}
    )
    top_k: int = field(
        default=10,
        metadata={"help": "Items returned when a request names no `top_k`; never more than its last beam width."},
    )
    max_batch: int = field(default=16, metadata={"help": "Users answered by one call of the model, at most."})
    max_wait_ms: float = field(
        default=5.0, metadata={"help": "Milliseconds a request waits for others to join its batch."}
    )
    slo_ms: float | None = field(
        default=None,
        metadata={
            "help": "Milliseconds from arrival to answer that 99 of 100 requests should stay within. Beams narrow and "
            "widen with the load to keep it. Default: beams of constant width."
        },
    )
    min_beam_scale: float = field(
        default=0.25, metadata={"help": "Quality floor: least share of the model's own beam widths, in (0, 1]."}
    )
    max_beam_scale: float = field(
        default=1.6, metadata={"help": "Largest multiple of the model's own beam widths, when there is little to do."}
    )
    max_batch_rows: int = field(
        default=65536,
        metadata={"help": "Beam rows of one batch, all levels and users summed, at most: bounds memory."},
    )
    max_queue: int = field(default=256, metadata={"help": "Users that may wait; beyond that a request gets 429."})
    max_history: int = field(default=1000, metadata={"help": "Items of one history, at most."})
    max_beam_width: int = field(default=512, metadata={"help": "Beams a request may ask for at one level, at most."})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "Bytes of a request body, at most."})
    deadline_ms: float = field(
        default=2000.0,
        metadata={
            "help": "Milliseconds a request may wait before the model starts on it; then it gets 504. A request may "
            "ask for less."
        },
    )
    cache_seconds: float = field(
        default=0.0, metadata={"help": "Seconds in which the same request gets the same answer; 0 = no cache."}
    )
    cache_bytes: int = field(default=256 << 20, metadata={"help": "Bytes of the answers kept in this process."})
    cache_url: str | None = field(
        default=None, metadata={"help": "redis://HOST:PORT/DB of a cache that replicas share, in place of memory."}
    )
    watch_seconds: float = field(
        default=1.0, metadata={"help": "Seconds between looks at a published model for new weights and ads."}
    )
    admin_token_file: str | None = field(
        default=None,
        metadata={
            "help": "File with the token that /v1/index and /v1/reload ask for; default: the environment variable "
            "GR4AD_ADMIN_TOKEN; without either they answer 403."
        },
    )
    drain_seconds: int = field(
        default=30, metadata={"help": "Seconds after SIGTERM in which accepted requests may finish; whole seconds."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"`port` must be in 0..65535. Received: {self.port}. Use 0 for a free one.")
        for name in (
            "top_k", "max_batch", "max_batch_rows", "max_queue", "max_history", "max_beam_width", "max_body_bytes",
            "cache_bytes", "drain_seconds",
        ):  # fmt: skip
            if self.__dict__[name] < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {self.__dict__[name]}.")
        if not 0 <= self.max_wait_ms < math.inf:
            raise ValueError(
                f"`max_wait_ms` must be >= 0 milliseconds. Received: {self.max_wait_ms}. Use 0 not to wait."
            )
        if not self.max_wait_ms < self.deadline_ms < math.inf:
            raise ValueError(
                f"`deadline_ms` must be more than `max_wait_ms` = {self.max_wait_ms} milliseconds. "
                f"Received: {self.deadline_ms}. Raise it."
            )
        if self.slo_ms is not None and not self.max_wait_ms < self.slo_ms < math.inf:
            raise ValueError(
                f"`slo_ms` must be more than `max_wait_ms` = {self.max_wait_ms} milliseconds, or left out. Received: "
                f"{self.slo_ms}."
            )
        if not 0 < self.min_beam_scale <= 1 <= self.max_beam_scale <= SCALES[-1]:
            raise ValueError(
                f"`min_beam_scale` must be in (0, 1] and `max_beam_scale` in [1, {SCALES[-1]}]. Received: "
                f"{self.min_beam_scale} and {self.max_beam_scale}."
            )
        if not 0 <= self.cache_seconds < math.inf:
            raise ValueError(f"`cache_seconds` must be >= 0 seconds. Received: {self.cache_seconds}.")
        if self.cache_url is not None and not self.cache_seconds:
            raise ValueError(
                f"`cache_url` needs `cache_seconds` above 0. Received: {self.cache_url!r} with {self.cache_seconds}."
            )
        if not 0 < self.watch_seconds < math.inf:
            raise ValueError(f"`watch_seconds` must be above 0 seconds. Received: {self.watch_seconds}.")

    def beam_policy(self, base_widths: Sequence[int]) -> BeamPolicy:
        """The policy of a model with these widths under this server's objective."""
        return BeamPolicy(
            base_widths,
            slo=None if self.slo_ms is None else self.slo_ms / 1000,
            min_scale=self.min_beam_scale,
            max_scale=self.max_beam_scale,
            max_batch=self.max_batch,
        )

    def admin_token(self) -> str | None:
        """As the function of this name, of this server's `admin_token_file`."""
        return admin_token(self.admin_token_file)


def admin_token(file: str | None = None) -> str | None:
    """The token of the administration, from a file or the environment; None if there is none.

    Raises:
        ValueError: If it is shorter than 16 characters. OSError: If its file cannot be read.
    """
    if file is not None:
        token = Path(file).read_text(encoding="utf-8").strip()
    else:
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if not token:
            return None
    if len(token) < MIN_TOKEN_LENGTH:
        raise ValueError(
            f"The token in {file or TOKEN_VARIABLE} must have at least {MIN_TOKEN_LENGTH} characters. Received: "
            f"{len(token)}."
        )
    return token


__all__ = ["ServerConfig"]
