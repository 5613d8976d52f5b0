# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""`gr4ad serve --backend vllm`: vLLM's own API server, with GR4AD's routes in it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass, replace
from importlib.util import find_spec

from ..beam_policy import check_range
from ..serving_options import option
from .options import VLLMOptions

PLUGIN = "gr4ad"


@dataclass(frozen=True)
class VLLMServerConfig(VLLMOptions):
    """Options of the server on vLLM: those of the backend, and where it listens."""

    host: str = option("127.0.0.1", "Address to listen on; 0.0.0.0 for every interface.")
    port: int = option(8000, "TCP port, 1..65535.")
    dtype: str = option("float32", "float32, bfloat16 or float16.")
    vllm_args: str | None = option(
        None,
        "Further arguments of `vllm serve`, in one string, e.g. '--data-parallel-size 2'.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        check_range("port", self.port, 1 <= self.port <= 65535, "in 1..65535")


def serve_arguments(model: str, config: VLLMServerConfig) -> list[str]:
    """What `vllm serve` is given; of a published model, its current version and the root that is followed.

    Raises:
        ValueError: If the published model cannot be read.
    """
    from ..published_model import PublishedModel  # which needs torch, unlike the options

    if PublishedModel.exists_at(model):
        config = replace(config, published=model)
        model = str(PublishedModel(model).current()[1])
    more = [] if config.vllm_args is None else config.vllm_args.split()
    return [
        "--model", model, "--host", config.host, "--port", str(config.port), "--dtype", config.dtype,
        "--additional-config", json.dumps(config.to_additional_config()), *more,
    ]  # fmt: skip


def allow_plugin(allowed: str | None) -> str:
    """`VLLM_PLUGINS` with GR4AD in it, beside what it names already."""
    names = [name for name in (allowed or "").split(",") if name]
    return ",".join(names if PLUGIN in names else [*names, PLUGIN])


def serve(model: str, config: VLLMServerConfig) -> None:
    """Serves until SIGTERM or SIGINT.

    Raises:
        ImportError: If vLLM is missing.
    """
    if find_spec("vllm") is None:
        raise ImportError("`--backend vllm` needs vLLM, which is missing: pip install 'gr4ad[vllm]'.")
    arguments = serve_arguments(model, config)
    # Before the first import of vLLM, which reads it once; its other processes inherit it.
    os.environ["VLLM_PLUGINS"] = allow_plugin(os.environ.get("VLLM_PLUGINS"))
    from vllm.entrypoints.launchers.api_server.entry import main

    sys.argv[1:] = arguments
    main()
