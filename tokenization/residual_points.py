# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What is left of embeddings after the levels quantized so far, in memory or read block by block."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK_ROWS = 65_536


class ResidualPoints:
    """Residuals of embeddings, float32 (N, d).

    An array lies in memory already, so its residuals are kept beside it. Anything else that has `shape` and slices of
    rows (a `numpy.memmap`, an `EmbeddingShards` folder) is read anew on each pass, one block at a time, and its
    residuals are computed on the way: memory holds the codes and one block.

    Args:
        embeddings: float (N, d), array or sliceable source.
    """

    def __init__(self, embeddings: Any):
        self.source = embeddings
        self.shape = tuple(embeddings.shape)
        self.in_memory = type(embeddings) is np.ndarray
        if self.in_memory:
            self.residuals = np.array(embeddings, dtype=np.float32, order="C")
        self.codebooks: list[np.ndarray] = []
        self.codes: list[np.ndarray] = []

    def __len__(self) -> int:
        return self.shape[0]

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """(first row, residuals of a block of rows), in order."""
        for start in range(0, len(self), BLOCK_ROWS):
            yield start, self.slice(start, start + BLOCK_ROWS)

    def slice(self, start: int, stop: int) -> np.ndarray:
        """Residuals of rows start..stop-1."""
        if self.in_memory:
            return self.residuals[start:stop]
        block = np.array(self.source[start:stop], dtype=np.float32, order="C")
        for codebook, code in zip(self.codebooks, self.codes, strict=True):
            block -= codebook[code[start:stop]]
        return block

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """Residuals of some rows (int64, (n,)), in their order: float32 (n, d)."""
        if self.in_memory:
            return self.residuals[rows]
        found = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        for start in np.unique(ordered // BLOCK_ROWS) * BLOCK_ROWS:
            first, last = np.searchsorted(ordered, [start, start + BLOCK_ROWS])
            found[order[first:last]] = self.slice(start, start + BLOCK_ROWS)[ordered[first:last] - start]
        return found

    def subtract(self, codebook: np.ndarray, code: np.ndarray) -> None:
        """Takes the centroids of one more level off."""
        if not self.in_memory:
            self.codebooks.append(codebook)
            self.codes.append(code)
            return
        for start, block in self.blocks():
            block -= codebook[code[start : start + BLOCK_ROWS]]

    def check(self) -> None:
        """Raises ValueError naming the first row that is not finite, too long for float32, or holds only zeros, and
        how many there are."""
        not_finite, too_long, zero = [], [], []
        for start, block in self.blocks():
            finite = np.isfinite(block).all(1)
            not_finite.append(start + np.flatnonzero(~finite))
            with np.errstate(over="ignore", invalid="ignore"):
                squares = np.einsum("nd,nd->n", block, block)
            too_long.append(start + np.flatnonzero(finite & ~np.isfinite(squares)))
            zero.append(start + np.flatnonzero(finite & ~block.any(1)))
        for rows, what in (
            (not_finite, "a value that is not finite"),
            (too_long, "numbers so large that its length is beyond float32"),
            (zero, "only zeros"),
        ):
            bad = np.concatenate(rows)
            if len(bad):
                raise ValueError(
                    f"`embeddings` row {int(bad[0])} holds {what} ({len(bad)} such rows). "
                    "Embed these ads again, or leave them out of the catalog."
                )
