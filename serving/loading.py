# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""One call that loads an artifact on whichever engine is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .ad_recommender import AdRecommender
from .precision import precision_of
from .recommender import Recommender

BACKENDS = ("torch", "vllm")


def load_recommender(
    name_or_path: str | Path, backend: str = "torch", *, dtype: str | torch.dtype = torch.float32, **options: Any
) -> AdRecommender:
    """Loads a folder written by `gr4ad run` or `push_to_hub`, or a hub id.

    ```python
    >>> recommender = load_recommender("out/beauty", backend="vllm")
    >>> recommender.recommend([["B001", "B002"]], top_k=10)[0][0].item_id
    ```

    Args:
        backend: `torch`, a [`Recommender`] in this process; or `vllm`, a [`VLLMRecommender`] on vLLM's offline engine,
            which needs the extra `gr4ad[vllm]`.
        dtype: Of weights and activations: `float32`, `bfloat16`, `float16`, or on torch `int8`.
        options: Of `Recommender.from_pretrained` (`device`, arguments of the hub), or of [`VLLMRecommender`] and
            `vllm.LLM`.

    Raises:
        ValueError: If there is no such backend, the `dtype` is not for it, or as the loader of that backend.
        ImportError: If the backend is not installed; says what to install.
    """
    if backend not in BACKENDS:
        raise ValueError(f"`backend` must be one of {', '.join(BACKENDS)}. Received: {backend!r}.")
    if backend == "torch":
        return Recommender.from_pretrained(name_or_path, dtype=dtype, **options)
    if precision_of(dtype) == torch.int8:
        raise ValueError('`dtype` int8 is of `backend="torch"`. Take float32, bfloat16 or float16 on vLLM.')
    try:
        from .vllm_backend.offline import VLLMRecommender
    except ModuleNotFoundError as error:
        raise ImportError(
            f"`backend=\"vllm\"` needs {error.name!r}, which is missing: pip install 'gr4ad[vllm]'.", name=error.name
        ) from error
    return VLLMRecommender(name_or_path, dtype=precision_of(dtype), **options)
