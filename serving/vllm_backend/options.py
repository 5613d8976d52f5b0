# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What can be set of GR4AD on vLLM. Knows nothing of vLLM, so that a command line can show it without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..serving_options import ServingOptions, option

ADDITIONAL_CONFIG_KEY = "gr4ad"
RENAMED = {
    "min_scale": "min_beam_scale",
    "max_scale": "max_beam_scale",
    "max_step_requests": "max_batch",
    "max_step_rows": "max_batch_rows",
}
"""Names that options had in version 0.1, and the names they have."""


@dataclass(frozen=True)
class VLLMOptions(ServingOptions):
    """Options of the vLLM backend; `vllm serve` takes them as `--additional-config '{"gr4ad": {"slo_ms": 100}}'`.

    A batch is what one engine step answers.

    Raises:
        ValueError: If a number is out of its range, or a name is not an option; names it.
    """

    max_batch_rows: int = option(
        16384,
        "Beam rows (all levels of all requests) of one engine step; a wider request runs alone.",
    )
    published: str | None = option(
        None,
        "Root of a published model, of which vLLM loads the current version; it is followed. `gr4ad serve` sets "
        "it by itself.",
    )

    @classmethod
    def from_additional_config(cls, additional_config: Any) -> VLLMOptions:
        """The options in vLLM's `additional_config`; all defaults where it says nothing of `gr4ad`."""
        given = additional_config.get(ADDITIONAL_CONFIG_KEY, {}) if isinstance(additional_config, Mapping) else {}
        names = [field.name for field in fields(cls)]
        for name in given:
            if name in RENAMED:
                raise ValueError(f"`{ADDITIONAL_CONFIG_KEY}`: `{name}` is called `{RENAMED[name]}`. Write that.")
            if name not in names:
                raise ValueError(f"`{ADDITIONAL_CONFIG_KEY}` has no option `{name}`. It has: {', '.join(names)}.")
        return cls(**given)

    def to_additional_config(self) -> dict[str, Any]:
        """What `vllm serve --additional-config` and `LLM(additional_config=...)` take."""
        own = {field.name for field in fields(VLLMOptions)}
        return {ADDITIONAL_CONFIG_KEY: {name: value for name, value in asdict(self).items() if name in own}}
