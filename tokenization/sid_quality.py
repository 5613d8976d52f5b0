# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How good a set of semantic IDs is (arXiv 2602.22732, eqs. 33-35)."""

from collections.abc import Sequence

import numpy as np


def sid_quality(codes: np.ndarray, codebook_sizes: Sequence[int]) -> dict[str, float]:
    """Compression, collision, utilisation and codebook use.

    Args:
        codes (int64, (N, T)): The SID of each item.
        codebook_sizes: T sizes.

    Returns:
        `cpr` = items / distinct SIDs (>= 1, 1 is best); `col` = share of SIDs with more than one item, [0, 1]; `util`
        = items / code space; `items_in_shared_sids`, share of items, [0, 1]; and for each level t (1-based) `used_t`,
        share of its codes in use, and `perplexity_t`, exp of the entropy of its codes, in codes (1..V_t).
    """
    _, counts = np.unique(codes, axis=0, return_counts=True)
    quality = {
        "cpr": len(codes) / len(counts),
        "col": 1.0 - float((counts == 1).sum()) / len(counts),
        "util": len(codes) / float(np.prod(np.array(codebook_sizes, dtype=np.float64))),
        "items_in_shared_sids": float(counts[counts > 1].sum()) / len(codes),
    }
    for level, size in enumerate(codebook_sizes):
        share = np.bincount(codes[:, level], minlength=size) / len(codes)
        used = share[share > 0]
        quality[f"used_{level + 1}"] = len(used) / size
        quality[f"perplexity_{level + 1}"] = float(np.exp(-(used * np.log(used)).sum()))
    return quality


__all__ = ["sid_quality"]
