# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What can be set of GR4AD on vLLM. Knows nothing of vLLM, so that a command line can show it without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

ADDITIONAL_CONFIG_KEY = "gr4ad"


@dataclass(frozen=True)
class VLLMOptions:
    """Options of the vLLM backend; `vllm serve` takes them as `--additional-config '{"gr4ad": {"slo_ms": 100}}'`.

    Raises:
        ValueError: If a number is out of its range, or a name is not an option; names it.
    """

    slo_ms: float | None = field(
        default=None,
        metadata={
            "help": "Milliseconds from arrival to answer that beam widths are adapted to; default: constant widths."
        },
    )
    min_scale: float = field(default=0.25, metadata={"help": "Narrowest beams, as a share of the model's widths."})
    max_scale: float = field(default=1.6, metadata={"help": "Widest beams off-peak, as a multiple of the widths."})
    max_step_requests: int = field(default=16, metadata={"help": "Requests answered in one engine step, at most."})
    max_step_rows: int = field(
        default=16384,
        metadata={"help": "Beam rows (all levels of all requests) of one engine step; a wider request runs alone."},
    )
    max_queue: int = field(
        default=256, metadata={"help": "Requests in flight of one API server; beyond that a request gets 429."}
    )
    deadline_ms: float = field(
        default=2000.0,
        metadata={"help": "Milliseconds a request may wait before the model starts on it; then it gets 504."},
    )
    top_k: int = field(default=10, metadata={"help": "Items returned when a request names no `top_k`."})
    max_history: int = field(default=1000, metadata={"help": "Items of one history, at most."})
    max_beam_width: int = field(default=512, metadata={"help": "Beams a request may ask for at one level, at most."})
    max_body_bytes: int = field(default=1 << 20, metadata={"help": "Bytes of a request body, at most."})

    def __post_init__(self) -> None:
        if self.slo_ms is not None and not 0 < self.slo_ms < math.inf:
            raise ValueError(f"`slo_ms` must be above 0 milliseconds. Received: {self.slo_ms}. Leave it out for none.")
        if not 0 < self.deadline_ms < math.inf:
            raise ValueError(f"`deadline_ms` must be above 0 milliseconds. Received: {self.deadline_ms}.")
        for name in (
            "max_step_requests", "max_step_rows", "max_queue", "top_k", "max_history", "max_beam_width",
            "max_body_bytes",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}.")

    @classmethod
    def from_additional_config(cls, additional_config: Any) -> VLLMOptions:
        """The options in vLLM's `additional_config`; all defaults where it says nothing of `gr4ad`."""
        given = additional_config.get(ADDITIONAL_CONFIG_KEY, {}) if isinstance(additional_config, Mapping) else {}
        names = [field.name for field in fields(cls)]
        unknown = [name for name in given if name not in names]
        if unknown:
            raise ValueError(f"`{ADDITIONAL_CONFIG_KEY}` has no option `{unknown[0]}`. It has: {', '.join(names)}.")
        return cls(**given)

    def to_additional_config(self) -> dict[str, Any]:
        """What `vllm serve --additional-config` and `LLM(additional_config=...)` take."""
        return {ADDITIONAL_CONFIG_KEY: asdict(self)}


__all__ = ["ADDITIONAL_CONFIG_KEY", "VLLMOptions"]
