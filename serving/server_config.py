# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Options of the HTTP server; needs none of its libraries, so that a command line can show them without."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


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
    max_queue: int = field(default=256, metadata={"help": "Users that may wait; beyond that a request gets 429."})
    max_history: int = field(default=1000, metadata={"help": "Items of one history, at most."})
    max_beam_width: int = field(default=512, metadata={"help": "Beams a request may ask for at one level, at most."})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "Bytes of a request body, at most."})
    deadline_ms: float = field(
        default=2000.0,
        metadata={"help": "Milliseconds a request may wait before the model starts on it; then it gets 504."},
    )
    drain_seconds: int = field(
        default=30, metadata={"help": "Seconds after SIGTERM in which accepted requests may finish; whole seconds."}
    )

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f"`port` must be in 0..65535. Received: {self.port}. Use 0 for a free one.")
        for name in (
            "top_k", "max_batch", "max_queue", "max_history", "max_beam_width", "max_body_bytes", "drain_seconds",
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


__all__ = ["ServerConfig"]
