# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""One vector per ad, from its content and its co-occurrence with other ads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .balanced_kmeans import nearest_centroids

NEIGHBOURS = 10
MAX_REFERENCES = 50_000
FUSION_FILE = "embedding_fusion.safetensors"


@dataclass(eq=False)
class EmbeddingFusion:
    """Joins the content and the collaborative vector of an ad.

    Both parts are centred by the means of the catalog that the fusion was fitted on and brought to length 1 (the
    collaborative one times its weight). An ad without a log, new ads among them, takes the mean collaborative vector
    of the 10 reference ads whose content is nearest; references are ads with a log, at most 50,000, drawn evenly.

    Args:
        content_mean (float32, (d_1,)).
        collaborative_mean (float32, (d_2,)), reference_content (float32, (R, d_1)), reference_collaborative (float32,
            (R, d_2)): Unit rows; all None for content alone.
        collaborative_weight: >= 0.
    """

    content_mean: np.ndarray
    collaborative_mean: np.ndarray | None = None
    reference_content: np.ndarray | None = None
    reference_collaborative: np.ndarray | None = None
    collaborative_weight: float = 1.0

    @classmethod
    def fit(
        cls, content: np.ndarray, collaborative: np.ndarray | None, *, collaborative_weight: float, seed: int = 0
    ) -> EmbeddingFusion:
        """Takes means and references from a catalog.

        Args:
            content (float32, (N, d_1)). collaborative (float32, (N, d_2)) or None: Zero rows are ads without a log.
        """
        if collaborative_weight < 0:
            raise ValueError(f"`collaborative_weight` must be >= 0. Received: {collaborative_weight}.")
        mean = content.mean(0)
        if collaborative is None or collaborative_weight == 0 or not collaborative.any():
            return cls(mean, collaborative_weight=collaborative_weight)
        known = np.flatnonzero(collaborative.any(1))
        collaborative_mean = collaborative[known].mean(0)
        if len(known) > MAX_REFERENCES:
            known = np.sort(np.random.default_rng(seed).choice(known, MAX_REFERENCES, replace=False))
        return cls(
            mean,
            collaborative_mean,
            unit_rows(content[known] - mean),
            unit_rows(collaborative[known] - collaborative_mean),
            collaborative_weight=collaborative_weight,
        )

    def transform(self, content: np.ndarray, collaborative: np.ndarray | None = None) -> np.ndarray:
        """Vectors of ads of the catalog or new ones: float32 (N, d_1 + d_2), or (N, d_1) if fitted on content alone.

        Args:
            content (float32, (N, d_1)). collaborative (float32, (N, d_2)): Default: no ad has a log.
        """
        if content.ndim != 2 or content.shape[1] != len(self.content_mean):
            raise ValueError(
                f"`content` must have shape (ads, {len(self.content_mean)}), as the fusion was fitted on. "
                f"Received: {content.shape}."
            )
        content = unit_rows(content - self.content_mean)
        if self.collaborative_mean is None:
            return content
        assert self.reference_content is not None and self.reference_collaborative is not None
        joined = np.empty((len(content), len(self.collaborative_mean)), dtype=np.float32)
        known = np.zeros(len(content), dtype=bool) if collaborative is None else collaborative.any(1)
        if collaborative is not None:
            joined[known] = unit_rows(collaborative[known] - self.collaborative_mean)
        if not known.all():
            count = min(NEIGHBOURS, len(self.reference_content))
            neighbours, _ = nearest_centroids(content[~known], self.reference_content, count)
            joined[~known] = unit_rows(self.reference_collaborative[neighbours].mean(1))
        return np.concatenate([content, np.float32(self.collaborative_weight) * joined], axis=1)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}
        tensors["collaborative_weight"] = np.array([self.collaborative_weight], dtype=np.float32)
        temporary = Path(f"{path}.tmp")
        save_file(tensors, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> EmbeddingFusion:
        """Reads a file of `save`. Raises ValueError if it is missing or damaged."""
        try:
            tensors = load_file(path)
            weight = float(tensors.pop("collaborative_weight")[0])
            return cls(**tensors, collaborative_weight=weight)
        except (OSError, SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not a readable embedding fusion ({error}). Build the tokenizer again."
            ) from error


def measurable(vectors: np.ndarray) -> np.ndarray:
    """(n,) bool: rows whose length float32 can hold. Squares overflow from numbers of about 1e19 on, and a row of
    infinite length would become one of zeros."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.isfinite(np.linalg.norm(np.asarray(vectors, dtype=np.float32), axis=1))


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows brought to length 1 (zero rows stay zero), float32."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
