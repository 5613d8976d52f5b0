# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Principal components of vectors."""

from __future__ import annotations

import numpy as np


def main_components(vectors: np.ndarray, width: int) -> np.ndarray:
    """The first `width` principal components of vectors (float32, (N, d)) at a common scale of standard deviation 1,
    float32 (N, min(width, d, N))."""
    centred = vectors - vectors.mean(0)
    left, scale, _ = np.linalg.svd(centred, full_matrices=False)
    components = (left * scale)[:, :width]
    return (components / components.std()).astype(np.float32)


__all__ = ["main_components"]
