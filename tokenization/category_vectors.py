# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Vectors of an ad's categories, tags or attribute ids: what a text encoder cannot read."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .embedding_fusion import unit_rows

CATEGORY_FILE = "category_vectors.safetensors"


@dataclass(eq=False)
class CategoryVectors:
    """Latent semantic vectors of labels: TF-IDF, then the main directions of the catalog (scikit-learn).

    Two ads lie close together when they share rare labels, or labels that occur together. An ad without known labels
    has the zero vector.

    Args:
        vocabulary: label -> column. idf (float32, (labels,)). components (float32, (dimension, labels)).

    ```python
    >>> vectors = CategoryVectors.fit([["nail", "OPI"], ["nail"], ["hair"]], dimension=2)
    >>> vectors.transform([["nail", "never seen"]]).shape
    (1, 2)
    ```
    """

    vocabulary: dict[str, int]
    idf: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, labels: Sequence[Sequence[str]], *, dimension: int, seed: int = 0) -> CategoryVectors:
        """Takes vocabulary, weights and directions from a catalog.

        Args:
            labels: One list of labels an ad; may be empty.
            dimension: Width of the vectors, >= 1; no more than there are distinct labels are kept.

        Raises:
            ValueError: If `dimension` is below 1, or fewer than two distinct labels occur.
        """
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer

        if dimension < 1:
            raise ValueError(f"`dimension` must be at least 1. Received: {dimension}.")
        distinct = {label for ad in labels for label in ad}
        if len(distinct) < 2:
            raise ValueError(
                f"Category vectors need at least two distinct labels. Received: {len(distinct)}. Name other columns."
            )
        weights = TfidfVectorizer(analyzer=lambda ad: ad, norm=None)
        matrix = weights.fit_transform(labels)
        directions = TruncatedSVD(min(dimension, len(distinct) - 1), random_state=seed).fit(matrix)
        return cls(
            {label: int(column) for label, column in weights.vocabulary_.items()},
            weights.idf_.astype(np.float32),
            directions.components_.astype(np.float32),
        )

    def transform(self, labels: Sequence[Sequence[str]]) -> np.ndarray:
        """Unit rows (float32, (N, dimension)) of lists of labels; unknown labels are left out, and an ad without known
        ones has a zero row."""
        rows = np.zeros((len(labels), len(self.components)), dtype=np.float32)
        for row, ad in zip(rows, labels, strict=True):
            columns = [self.vocabulary[label] for label in ad if label in self.vocabulary]
            row += self.components[:, columns] @ self.idf[columns]
        return unit_rows(rows)

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all."""
        temporary = Path(f"{path}.tmp")
        metadata = {"vocabulary": json.dumps(self.vocabulary)}
        save_file({"idf": self.idf, "components": np.ascontiguousarray(self.components)}, temporary, metadata)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path) -> CategoryVectors:
        """Reads a file of `save`. Raises ValueError if it is missing or damaged."""
        try:
            with safe_open(path, framework="numpy") as file:
                vocabulary = json.loads(file.metadata()["vocabulary"])
                return cls(vocabulary, file.get_tensor("idf"), file.get_tensor("components"))
        except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: not readable category vectors ({error}). Embed the ads again.") from error


def labels_of(columns: Sequence[Sequence]) -> list[list[str]]:
    """Labels of each ad from catalog columns of values or lists of values; a label carries the number of its column,
    so that equal values of two columns stay apart. None is no label."""
    ads: list[list[str]] = []
    for values in zip(*columns, strict=True):
        ad: list[str] = []
        for number, value in enumerate(values):
            entries = value if isinstance(value, (list, tuple, np.ndarray)) else [value]
            ad.extend(f"{number}:{entry}" for entry in entries if entry is not None)
        ads.append(ad)
    return ads
