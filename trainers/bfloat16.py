# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Whether bfloat16 is fast on this machine."""

import torch


def fast_bfloat16() -> bool:
    """Whether this machine multiplies bfloat16 in hardware: a GPU that does, or a processor with AMX or AVX512-BF16.
    Elsewhere torch emulates it, up to thirty times slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


__all__ = ["fast_bfloat16"]
