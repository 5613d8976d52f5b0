# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Options of the HTTP server on torch; needs none of its libraries, so that a command line can show them without."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .beam_policy import check_range
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
        wait = self.max_wait_ms
        check_range("port", self.port, 0 <= self.port <= 65535, "in 0..65535", "Use 0 for a free one.")
        check_range("drain_seconds", self.drain_seconds, self.drain_seconds >= 1, "at least 1")
        check_range("max_wait_ms", wait, 0 <= wait < math.inf, ">= 0 milliseconds", "Use 0 not to wait.")
        for name, given in (("deadline_ms", self.deadline_ms), ("slo_ms", self.slo_ms)):
            fits = given is None or wait < given
            check_range(name, given, fits, f"more than `max_wait_ms` = {wait} milliseconds", "Raise it.")
