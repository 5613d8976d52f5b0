# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Which ads of a catalog are nearest to a new one: their vectors in few dimensions, which travel with the artifact."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .balanced_kmeans import nearest_centroids
from .embedding_fusion import unit_rows

NEIGHBOURS_FILE = "ad_neighbours.safetensors"
DIMENSIONS = 64
ROWS_AT_ONCE = 65_536


@dataclass(eq=False)
class AdNeighbours:
    """The vectors of a catalog's ads along their main directions, 128 bytes an ad; nearness is the cosine there.

    Args:
        mean (float32, (d,)). components (float32, (p, d)): Main directions, p = 64 or as many as there are.
        vectors (float16, (N, p)): Unit rows, in the order of the item table when it was built.
    """

    mean: np.ndarray
    components: np.ndarray
    vectors: np.ndarray

    @classmethod
    def fit(cls, vectors: np.ndarray, dimensions: int = DIMENSIONS) -> AdNeighbours:
        """Of the vectors that are quantized, float32 (N, d)."""
        mean = vectors.mean(0, dtype=np.float64)
        covariance = np.zeros((vectors.shape[1], vectors.shape[1]))
        for start in range(0, len(vectors), ROWS_AT_ONCE):
            block = vectors[start : start + ROWS_AT_ONCE] - mean
            covariance += block.T @ block
        values, directions = np.linalg.eigh(covariance)
        kept = np.argsort(-values, kind="stable")[: min(dimensions, len(values))]
        found = cls(
            mean.astype(np.float32), np.ascontiguousarray(directions[:, kept].T, dtype=np.float32), vectors[:0]
        )
        blocks = [
            found.project(vectors[start : start + ROWS_AT_ONCE]).astype(np.float16)
            for start in range(0, len(vectors), ROWS_AT_ONCE)
        ]
        found.vectors = np.concatenate(blocks)
        return found

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """Unit rows along the main directions, float32 (n, p)."""
        return unit_rows((vectors - self.mean) @ self.components.T)

    def nearest(self, vectors: np.ndarray, rows: np.ndarray, count: int) -> np.ndarray:
        """The `count` nearest among some rows of the catalog (int64, (m,)), or all of these where they are fewer:
        int64 (n, count or m), nearest first."""
        known = rows[rows < len(self.vectors)]
        if not len(known):
            return np.zeros((len(vectors), 0), dtype=np.int64)
        places, _ = nearest_centroids(
            self.project(vectors), self.vectors[known].astype(np.float32), min(count, len(known))
        )
        return known[places]

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        temporary = Path(f"{path}.tmp")
        save_file(vars(self), temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> AdNeighbours:
        """Reads a file of `save`. Raises ValueError if it is missing or damaged."""
        try:
            return cls(**load_file(path))
        except (OSError, SafetensorError, TypeError) as error:
            raise ValueError(f"{path}: not readable vectors of ads ({error}). Build the tokenizer again.") from error


__all__ = ["AdNeighbours"]
