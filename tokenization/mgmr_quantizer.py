# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""MGMR RQ-KMeans: multi-granularity, multi-resolution residual k-means (arXiv 2602.22732, section "UA-SID")."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .balanced_kmeans import balanced_kmeans, nearest_centroids
from .collective import ALONE, ManyProcesses
from .distinct_codes import free_codes, spread_hashed, spread_quantized
from .residual_points import ResidualPoints

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
    (multi-resolution), each by balanced k-means: at most ceil(N / V_t) ads a code, an exact cap. A last level written
    with a `*` is a stable hash of business fields instead (multi-granularity), so that ads of one look but different
    accounts or conversion types part.

    Args:
        codebook_sizes: T sizes, e.g. `[256, 256, 256]`, `[16384, 4096, "1024*"]`; only the last may be hashed.
        distinct_last: Collision-aware: ads that share a prefix get distinct last codes while free ones remain, and
            where there are more ads than codes each code gets its even share. A hashed level moves on to the next
            free code, a quantized one takes the assignment of least residual distance (which may exceed the cap).
        iterations, balanced_iterations: Lloyd steps of each level, plain and balanced; without balanced ones, clusters
            are as k-means leaves them.
        max_points_per_centroid: Sample of a plain step, see [`balanced_kmeans`].
        seed: Seed of the k-means initialisation; equal seeds give equal codes.
        device: Where distances are computed: `cpu` (faiss) or a torch device such as `cuda`.

    ```python
    >>> quantizer = MGMRQuantizer([256, 256, "256*"])
    >>> codes = quantizer.fit(embeddings, business_keys)  # (N, 3) int64
    >>> new_codes = quantizer.encode(new_embeddings, new_keys, taken=codes)  # frozen codebooks
    ```
    """

    def __init__(
        self,
        codebook_sizes: Sequence[int | str],
        *,
        distinct_last: bool = False,
        iterations: int = 20,
        balanced_iterations: int = 5,
        max_points_per_centroid: int = 256,
        seed: int = 0,
        device: str = "cpu",
    ):
        self.levels = [LevelSize.parse(size) for size in codebook_sizes]
        if not self.levels or any(level.hashed for level in self.levels[:-1]) or self.levels[0].hashed:
            raise ValueError(
                "`codebook_sizes` needs a quantized first level, and only the last level may be hashed (`*`). "
                f"Received: {list(codebook_sizes)}."
            )
        for name, value, least in (
            ("iterations", iterations, 0),
            ("balanced_iterations", balanced_iterations, 0),
            ("max_points_per_centroid", max_points_per_centroid, 1),
        ):
            if value < least:
                raise ValueError(f"`{name}` must be >= {least}. Received: {value}.")
        self.distinct_last = distinct_last
        self.iterations = iterations
        self.balanced_iterations = balanced_iterations
        self.max_points_per_centroid = max_points_per_centroid
        self.seed = seed
        self.device = device
        self.codebooks: list[np.ndarray] = []

    @property
    def codebook_sizes(self) -> list[int]:
        return [level.size for level in self.levels]

    @property
    def uses_business_keys(self) -> bool:
        return self.levels[-1].hashed

    def fit(
        self, embeddings: Any, business_keys: Sequence[str] | None = None, *, distributed: bool = False
    ) -> np.ndarray:
        """Learns the codebooks and returns the codes of the ads they were learned on.

        Args:
            embeddings (float, (N, d)): Finite, no zero rows; N at least the largest quantized codebook. An array, or a
                source of row slices that need not fit in memory (a `numpy.memmap`, an `EmbeddingShards` folder).
            business_keys: N strings, the joined business fields; needed with a hashed level.
            distributed: Each process of the group (`accelerate launch`) passes its part of the catalog and gets the
                codes of that part; codebooks are the same on all, and up to float error those of one process.

        Returns:
            Codes, int64 (N, T).

        Raises:
            ValueError: On embeddings that are not finite, zero or too few; names the first bad row. The codebooks of
                an earlier fit are kept then.
        """
        points = self.check(embeddings, business_keys)
        group = ManyProcesses() if distributed else ALONE
        total = int(group.concatenate(np.array([len(points)])).sum())
        largest = max(level.size for level in self.levels if not level.hashed)
        if total < largest:
            raise ValueError(
                f"`embeddings` has {total} rows, fewer than the largest codebook ({largest} codes). "
                "Use smaller `codebook_sizes`."
            )
        codebooks: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        for number, level in enumerate(self.levels):
            if level.hashed:
                codes.append(self.hash_codes(business_keys or []))
                break
            codebook, code = balanced_kmeans(
                points,
                level.size,
                iterations=self.iterations,
                balanced_iterations=self.balanced_iterations,
                max_points_per_centroid=self.max_points_per_centroid,
                seed=self.seed + number,
                group=group,
                device=self.device,
            )
            codebooks.append(codebook)
            codes.append(code)
            if number + 1 < len(self.levels):
                points.subtract(codebook, code)
        if self.distinct_last and len(self.levels) > 1:
            prefixes, last = np.stack(codes[:-1], 1), codes[-1]
            if self.uses_business_keys:
                codes[-1] = spread_hashed(prefixes, last, self.levels[-1].size, group)
            else:
                codes[-1] = spread_quantized(prefixes, last, points, codebooks[-1], group)
        self.codebooks = codebooks
        return np.stack(codes, 1)

    def encode(
        self, embeddings: Any, business_keys: Sequence[str] | None = None, *, taken: np.ndarray | None = None
    ) -> np.ndarray:
        """Codes of new ads under the frozen codebooks, int64 (N, T): the nearest centroid of each level, without a
        cap.

        Args:
            embeddings (float, (N, d)), business_keys: As in `fit`.
            taken (int64, (M, T)): SIDs in use. If the quantizer is collision-aware, a new ad whose SID is taken, by
                one of them or an earlier new ad, gets the free last code that is next (hashed level) or nearest
                (quantized level), while its prefix has one.

        Raises:
            ValueError: If not fitted, or on bad embeddings as in `fit`.
        """
        if not self.codebooks:
            raise ValueError("The quantizer has no codebooks: call `fit` or `load` first.")
        points = self.check(embeddings, business_keys)
        if points.shape[1] != self.codebooks[0].shape[1]:
            raise ValueError(
                f"`embeddings` has {points.shape[1]} dimensions, the codebooks {self.codebooks[0].shape[1]}: "
                "embed with the encoder the codebooks were fitted on."
            )
        codes = np.empty((len(points), len(self.levels)), dtype=np.int64)
        for start, block in points.blocks():
            residual = block.copy()
            for level, codebook in enumerate(self.codebooks):
                code = nearest_centroids(residual, codebook, 1, device=self.device)[0][:, 0]
                codes[start : start + len(block), level] = code
                if level + 1 < len(self.levels):
                    residual -= codebook[code]
        if self.uses_business_keys:
            codes[:, -1] = self.hash_codes(business_keys or [])
        if self.distinct_last and taken is not None and len(self.levels) > 1:
            preferred = None
            if not self.uses_business_keys:
                for level, codebook in enumerate(self.codebooks[:-1]):
                    points.subtract(codebook, codes[:, level])
                preferred = points, self.codebooks[-1]
            codes[:, -1] = free_codes(codes, np.asarray(taken), self.levels[-1].size, preferred)
        return codes

    def hash_codes(self, business_keys: Sequence[str]) -> np.ndarray:
        """Stable 64-bit hash of each key modulo the last level's size, int64 (N,)."""
        hashes = np.fromiter(
            (xxhash.xxh64_intdigest(key.encode()) for key in business_keys), np.uint64, len(business_keys)
        )
        return (hashes % np.uint64(self.levels[-1].size)).astype(np.int64)

    def check(self, embeddings: Any, business_keys: Sequence[str] | None) -> ResidualPoints:
        """The embeddings as points. Raises ValueError as `fit`."""
        if not hasattr(embeddings, "shape"):
            embeddings = np.asarray(embeddings, dtype=np.float32)
        if len(embeddings.shape) != 2 or 0 in embeddings.shape:
            raise ValueError(
                f"`embeddings` must have shape (ads >= 1, dimensions >= 1). Received: {tuple(embeddings.shape)}."
            )
        if self.uses_business_keys and (business_keys is None or len(business_keys) != len(embeddings)):
            raise ValueError(
                f"`business_keys` needs one string for each of the {len(embeddings)} ads, since the last level "
                f"is hashed. Received: {None if business_keys is None else len(business_keys)}."
            )
        points = ResidualPoints(embeddings)
        points.check()
        return points

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
        """Reads codebooks written by `save`, and whether they are collision-aware.

        Raises:
            ValueError: If the file is missing or damaged, or holds other levels than `codebook_sizes` says.
        """
        try:
            with safe_open(path, framework="np") as file:
                settings = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}
        except (OSError, SafetensorError) as error:
            raise ValueError(f"{path}: not a readable codebook file ({error}). Fit the quantizer again.") from error
        quantizer = cls(codebook_sizes, distinct_last=settings.get("distinct_last") == "True")
        sizes = [level.size for level in quantizer.levels if not level.hashed]
        found = [len(tensors[f"level_{t + 1}"]) if f"level_{t + 1}" in tensors else 0 for t in range(len(sizes))]
        if found != sizes:
            raise ValueError(f"{path}: holds codebooks of {found} codes, `codebook_sizes` says {sizes}.")
        quantizer.codebooks = [tensors[f"level_{t + 1}"] for t in range(len(sizes))]
        return quantizer
