# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""MGMR RQ-KMeans: multi-granularity, multi-resolution residual k-means (arXiv 2602.22732, section "UA-SID")."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file
from scipy.optimize import linear_sum_assignment

from .balanced_kmeans import balanced_kmeans, nearest_centroids

CODEBOOKS_FILE = "codebooks.safetensors"


@dataclass(frozen=True)
class LevelSize:
    """Codes of one level, and whether they come from a hash of business fields (written `"1024*"`) or from the
    embedding."""

    size: int
    hashed: bool

    @classmethod
    def parse(cls, size: int | str) -> LevelSize:
        text = str(size)
        digits = text.removesuffix("*")
        if not digits.isdecimal() or int(digits) < 1:
            raise ValueError(
                f"A codebook size is a number >= 1, with `*` behind it for a hashed level. Received: {size!r}."
            )
        return cls(int(digits), text.endswith("*"))


class MGMRQuantizer:
    """Turns ad embeddings into semantic IDs of T codes.

    Levels are quantized one after the other on the residuals of the level before, larger codebooks first
    (multi-resolution), each by balanced k-means: at most ceil(N / V_t) ads a code. A last level written with a `*` is
    a stable hash of business fields instead (multi-granularity), so that ads of one look but different accounts or
    conversion types part.

    Args:
        codebook_sizes: T sizes, e.g. `[256, 256, 256]`, `[16384, 4096, "1024*"]`; only the last may be hashed.
        distinct_last: Ads that share a prefix get distinct last codes while free ones remain: for a hashed level by
            moving on to the next free code, for a quantized one by the assignment of least residual distance.
        iterations, balanced_iterations: Lloyd steps of each level, plain and balanced.
        seed: Of the k-means initialisation; equal seeds give equal codes.

    ```python
    >>> quantizer = MGMRQuantizer([256, 256, "256*"])
    >>> codes = quantizer.fit(embeddings, business_keys)  # (N, 3) int64
    ```
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int | str],
        *,
        distinct_last: bool = False,
        iterations: int = 20,
        balanced_iterations: int = 5,
        seed: int = 0,
    ):
        self.levels = [LevelSize.parse(size) for size in codebook_sizes]
        if not self.levels or any(level.hashed for level in self.levels[:-1]) or self.levels[0].hashed:
            raise ValueError(
                "`codebook_sizes` needs a quantized first level, and only the last level may be hashed (`*`). "
                f"Received: {list(codebook_sizes)}."
            )
        self.distinct_last = distinct_last
        self.iterations = iterations
        self.balanced_iterations = balanced_iterations
        self.seed = seed
        self.codebooks: list[np.ndarray] = []

    @property
    def codebook_sizes(self) -> list[int]:
        return [level.size for level in self.levels]

    @property
    def uses_business_keys(self) -> bool:
        return self.levels[-1].hashed

    def fit(self, embeddings: np.ndarray, business_keys: Sequence[str] | None = None) -> np.ndarray:
        """Learns the codebooks and returns the codes of the ads they were learned on.

        Args:
            embeddings (float, (N, d)): Finite, no zero rows; N at least the largest quantized codebook.
            business_keys: N strings, the joined business fields; needed with a hashed level.

        Returns:
            Codes, int64 (N, T).

        Raises:
            ValueError: On embeddings that are not finite, zero or too few; names the first bad row.
        """
        residual = self.check(embeddings, business_keys)
        largest = max(level.size for level in self.levels if not level.hashed)
        if len(residual) < largest:
            raise ValueError(
                f"`embeddings` has {len(residual)} rows, fewer than the largest codebook ({largest} codes). "
                "Use smaller `codebook_sizes`."
            )
        self.codebooks, codes = [], []
        for number, level in enumerate(self.levels):
            if level.hashed:
                codes.append(self.hash_codes(business_keys or []))
                break
            codebook, code = balanced_kmeans(
                residual,
                level.size,
                iterations=self.iterations,
                balanced_iterations=self.balanced_iterations,
                seed=self.seed + number,
            )
            if self.distinct_last and number + 1 == len(self.levels):
                code = distinct_nearest(np.stack(codes, 1), residual, codebook, code)
            residual = residual - codebook[code]
            self.codebooks.append(codebook)
            codes.append(code)
        if self.distinct_last and self.uses_business_keys:
            codes[-1] = distinct_probing(np.stack(codes[:-1], 1), codes[-1], self.levels[-1].size)
        return np.stack(codes, 1)

    def encode(self, embeddings: np.ndarray, business_keys: Sequence[str] | None = None) -> np.ndarray:
        """Codes of new ads under the frozen codebooks, int64 (N, T): nearest centroid a level, no balance, no
        distinctness.

        Raises:
            ValueError: If not fitted, or on bad embeddings as in `fit`.
        """
        if not self.codebooks:
            raise ValueError("The quantizer has no codebooks: call `fit` or `load` first.")
        residual = self.check(embeddings, business_keys)
        if residual.shape[1] != self.codebooks[0].shape[1]:
            raise ValueError(
                f"`embeddings` has {residual.shape[1]} dimensions, the codebooks {self.codebooks[0].shape[1]}: "
                "embed with the encoder the codebooks were fitted on."
            )
        codes = []
        for codebook in self.codebooks:
            code = nearest_centroids(residual, codebook, 1)[0][:, 0]
            residual = residual - codebook[code]
            codes.append(code)
        if self.uses_business_keys:
            codes.append(self.hash_codes(business_keys or []))
        return np.stack(codes, 1)

    def hash_codes(self, business_keys: Sequence[str]) -> np.ndarray:
        """Stable 64-bit hash of each key modulo the last level's size, int64 (N,)."""
        hashes = np.fromiter(
            (xxhash.xxh64_intdigest(key.encode()) for key in business_keys), np.uint64, len(business_keys)
        )
        return (hashes % np.uint64(self.levels[-1].size)).astype(np.int64)

    def check(self, embeddings: np.ndarray, business_keys: Sequence[str] | None) -> np.ndarray:
        embeddings = np.ascontiguousarray(embeddings, dtype=np.float32)
        if embeddings.ndim != 2 or 0 in embeddings.shape:
            raise ValueError(
                f"`embeddings` must have shape (ads >= 1, dimensions >= 1). Received: {embeddings.shape}."
            )
        for bad, what in (
            (~np.isfinite(embeddings).all(1), "a value that is not finite"),
            (~embeddings.any(1), "only zeros"),
        ):
            if bad.any():
                raise ValueError(
                    f"`embeddings` row {int(bad.argmax())} holds {what} ({int(bad.sum())} such rows). "
                    "Embed these ads again, or leave them out of the catalog."
                )
        if self.uses_business_keys and (business_keys is None or len(business_keys) != len(embeddings)):
            raise ValueError(
                f"`business_keys` needs one string for each of the {len(embeddings)} ads, since the last level "
                f"is hashed. Received: {None if business_keys is None else len(business_keys)}."
            )
        return embeddings

    def save(self, path: str | Path) -> None:
        """Writes the codebooks, `level_1` .. (float32, (V_t, d)), to a safetensors file."""
        temporary = Path(path).with_suffix(".tmp")
        settings = {
            "codebook_sizes": ",".join(f"{level.size}{'*' if level.hashed else ''}" for level in self.levels),
            "distinct_last": str(self.distinct_last),
        }
        save_file({f"level_{t + 1}": book for t, book in enumerate(self.codebooks)}, temporary, metadata=settings)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: str | Path, codebook_sizes: Sequence[int | str]) -> MGMRQuantizer:
        """Reads codebooks written by `save`.

        Raises:
            ValueError: If the file is missing or damaged, or holds other levels than `codebook_sizes` says.
        """
        quantizer = cls(codebook_sizes)
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: not a readable codebook file ({error}). Fit the quantizer again.") from error
        sizes = [level.size for level in quantizer.levels if not level.hashed]
        found = [len(tensors[f"level_{t + 1}"]) if f"level_{t + 1}" in tensors else 0 for t in range(len(sizes))]
        if found != sizes:
            raise ValueError(f"{path}: holds codebooks of {found} codes, `codebook_sizes` says {sizes}.")
        quantizer.codebooks = [tensors[f"level_{t + 1}"] for t in range(len(sizes))]
        return quantizer


def distinct_nearest(prefixes: np.ndarray, residual: np.ndarray, codebook: np.ndarray, code: np.ndarray) -> np.ndarray:
    """Last codes (int64, (N,)), distinct within each prefix, of least total residual distance; a prefix with more ads
    than codes keeps its nearest ones."""
    code = code.copy()
    order, starts = group_by_prefix(prefixes)
    for members in np.split(order, starts[1:]):
        if 1 < len(members) <= len(codebook) and len(np.unique(code[members])) < len(members):
            distance = ((residual[members][:, None] - codebook[None]) ** 2).sum(-1)
            code[members] = linear_sum_assignment(distance)[1]
    return code


def distinct_probing(prefixes: np.ndarray, code: np.ndarray, size: int) -> np.ndarray:
    """Last codes (int64, (N,)): within each prefix, an ad whose hash is taken moves on to the next free code (linear
    probing, ads in order of their hash, so that the order of the catalog does not matter beyond equal hashes)."""
    code = code.copy()
    order, starts = group_by_prefix(prefixes)
    for members in np.split(order, starts[1:]):
        if 1 < len(members) <= size and len(np.unique(code[members])) < len(members):
            taken: set[int] = set()
            for ad in members[np.argsort(code[members], kind="stable")]:
                free = int(code[ad])
                while free in taken:
                    free = (free + 1) % size
                taken.add(free)
                code[ad] = free
    return code


def group_by_prefix(prefixes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows sorted by prefix (int64, (N,)) and where each prefix starts in them (int64, (prefixes,))."""
    order = np.lexsort(prefixes.T[::-1])
    ordered = prefixes[order]
    starts = np.flatnonzero(np.r_[True, (ordered[1:] != ordered[:-1]).any(1)])
    return order, starts


__all__ = ["CODEBOOKS_FILE", "LevelSize", "MGMRQuantizer"]
