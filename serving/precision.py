# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What weights and activations are computed in while a model is served."""

from __future__ import annotations

import warnings

import torch
from torch import bfloat16, float16, float32, int8, nn

from gr4ad.modeling_gr4ad import GR4ADForRecommendation

PRECISIONS = {str(dtype).removeprefix("torch."): dtype for dtype in (float32, bfloat16, float16, int8)}


def precision_of(dtype: str | torch.dtype) -> torch.dtype:
    """The dtype of a name of `PRECISIONS`, with or without `torch.`, or of itself.

    Raises:
        ValueError: If it is none of them.
    """
    name = str(dtype).removeprefix("torch.")
    if name not in PRECISIONS:
        raise ValueError(f"`dtype` must be one of {', '.join(PRECISIONS)}. Received: {name!r}.")
    return PRECISIONS[name]


def quantize_layers(model: GR4ADForRecommendation) -> None:
    """Makes the linear layers of context encoder and decoder int8, in place; for the CPU alone.

    Weights are rounded once, one scale an output; activations at every call, one scale a tensor (dynamic
    quantization, 8 bits). Embeddings, norms, attention and all heads stay as they are: scores of neighbouring beams
    differ by less than 8 bits resolve. The model cannot be trained or saved any more.

    Raises:
        ValueError: If the model is not on the CPU, or this build of torch has no int8 kernels for it.
    """
    if model.device.type != "cpu":
        raise ValueError(f"`dtype` int8 is for the CPU. Received: a model on {model.device}. Take bfloat16 there.")
    if torch.backends.quantized.engine in ("none", None):
        raise ValueError("`dtype` int8: this build of torch has no int8 kernels for this CPU. Take float32.")
    with warnings.catch_warnings():
        # Its successor's kernels for the CPU need a C++ compiler where the model is served.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*quantize.*", category=UserWarning)
        from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic

        for layers in (model.model.context_processor.layers, model.model.layers):
            quantize_dynamic(layers, {nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8, inplace=True)
