# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Options of the HTTP server on torch; needs none of its libraries, so that a command line can show them without."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .serving_options import ServingOptions, option


@dataclass(frozen=True)
class ServerConfig(ServingOptions):
    """Options of the HTTP server.

    Raises:
        ValueError: If a number is out of its range; names the field.
    """

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for every interface.")
    port: int = option(8000, "TCP port, 0..65535; 0 picks a free one.")
    port_file: str | None = option(None, "File that receives the bound port, as text, once the server listens.")
    max_wait_ms: float = option(5.0, "Milliseconds a request waits for others to join its batch.")
    drain_seconds: int = option(30, "Seconds after SIGTERM in which accepted requests may finish; whole seconds.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise ValueError(f"`port` must be in 0..65535. Received: {self.port}. Use 0 for a free one.")
        if self.drain_seconds < 1:
            raise ValueError(f"`drain_seconds` must be at least 1. Received: {self.drain_seconds}.")
        if not 0 <= self.max_wait_ms < math.inf:
            raise ValueError(
                f"`max_wait_ms` must be >= 0 milliseconds. Received: {self.max_wait_ms}. Use 0 not to wait."
            )
        for name, given in (("deadline_ms", self.deadline_ms), ("slo_ms", self.slo_ms)):
            if given is not None and not self.max_wait_ms < given:
                raise ValueError(
                    f"`{name}` must be more than `max_wait_ms` = {self.max_wait_ms} milliseconds. Received: {given}. "
                    "Raise it."
                )
