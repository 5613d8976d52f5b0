# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How good a set of semantic IDs is (arXiv 2602.22732, eqs. 33-35), and what its prefixes mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .mgmr_quantizer import LevelSize


class SIDCollapseError(ValueError):
    """A codebook of which too little is in use: SIDs built on it would not tell ads apart."""


def prefix_groups(codes: np.ndarray, level: int) -> np.ndarray:
    """The prefix of length `level` of each item as one number.

    Args:
        codes (int64, (N, T)): The SID of each item, codes >= 0.
        level: Length of the prefix, 1..T; T groups the items by whole SID.

    Returns:
        int64, (N,): 0..G-1 for G distinct prefixes, in the order of the prefixes.

    Raises:
        ValueError: If `level` is not in 1..T.
    """
    if not 1 <= level <= codes.shape[1]:
        raise ValueError(f"`level` is the length of a prefix, 1..{codes.shape[1]}. Received: {level}.")
    groups = np.zeros(len(codes), dtype=np.int64)
    for column in codes[:, :level].T:
        # Renumbered at each level: the product of many codebook sizes would not fit 64 bits.
        base = int(column.max(initial=0)) + 1
        groups = np.unique(groups * base + column, return_inverse=True)[1].ravel()
    return groups


def sid_quality(codes: np.ndarray, codebook_sizes: Sequence[int]) -> dict[str, float]:
    """Compression, collision, utilisation and codebook use.

    Args:
        codes (int64, (N, T)): The SID of each item.
        codebook_sizes: T sizes.

    Returns:
        `items` = N; `cpr` = items / distinct SIDs (>= 1, 1 is best); `col` = share of SIDs with more than one item,
        [0, 1]; `util` = distinct SIDs / code space; `items_in_shared_sids`, share of items, [0, 1]; and for each level
        t (1-based) `used_t`, share of its codes in use, and `perplexity_t`, exp of the entropy of its codes, in codes
        (1..V_t).

    Eq. 35 writes Util as items / code space, which no tokenizer could change. The figures reported with it (Cpr times
    Util is the same for all three variants) are those of SIDs in use / code space, and so are these.
    """
    counts = np.bincount(prefix_groups(codes, codes.shape[1]))
    quality = {
        "items": len(codes),
        "cpr": len(codes) / len(counts),
        "col": 1.0 - float((counts == 1).sum()) / len(counts),
        "util": len(counts) / float(np.prod(np.array(codebook_sizes, dtype=np.float64))),
        "items_in_shared_sids": float(counts[counts > 1].sum()) / len(codes),
    }
    for level, size in enumerate(codebook_sizes):
        share = np.bincount(codes[:, level], minlength=size) / len(codes)
        used = share[share > 0]
        quality[f"used_{level + 1}"] = len(used) / size
        quality[f"perplexity_{level + 1}"] = float(np.exp(-(used * np.log(used)).sum()))
    return quality


def interaction_exposure(codes: np.ndarray, item_counts: np.ndarray) -> float:
    """Share of interactions whose item shares its SID with another item: how much of the traffic collisions touch.

    Args:
        codes (int64, (N, T)): The SID of each item.
        item_counts (float or int, (N,)): Interactions of each item, >= 0.

    Returns:
        In [0, 1]; 0 without interactions.

    Raises:
        ValueError: If there are not as many counts as items, or one is negative.
    """
    item_counts = np.asarray(item_counts, dtype=np.float64)
    if item_counts.shape != (len(codes),) or (item_counts < 0).any():
        raise ValueError(
            f"`item_counts` needs one count >= 0 for each of {len(codes)} items. "
            f"Received: shape {item_counts.shape}, least {item_counts.min(initial=0):g}."
        )
    groups = prefix_groups(codes, codes.shape[1])
    shared = np.bincount(groups)[groups] > 1
    total = item_counts.sum()
    return float(item_counts[shared].sum() / total) if total else 0.0


def prefix_purity(
    codes: np.ndarray, categories: Sequence[Any] | np.ndarray, level: int, *, permutations: int = 5, seed: int = 0
) -> dict[str, float]:
    """How well the SID prefixes of one length agree with a category, beside what chance gives groups of these sizes.

    The purity of a set of groups is the sum over groups of the items of the most frequent category / all items. A
    group of one item is pure by definition, so finer prefixes score higher whatever they mean: hence the same figure
    for categories dealt out at random, and both once more over prefixes that two or more items share. `adjusted` is
    the same with and without the groups of one, as they add alike to purity and chance.

    Args:
        codes (int64, (N, T)): The SID of each item.
        categories: N labels. Integers: a negative one is no category; anything else: None or NaN is no category.
            Items without one are left out.
        level: Length of the prefix, 1..T.
        permutations: Random deals that `chance` is the mean of, >= 1.
        seed: Seed of the deals.

    Returns:
        `items` with a category; `prefixes` among them; `purity`, [0, 1], 1 = every prefix holds one category;
        `chance`, the same for dealt categories; `adjusted` = (purity - chance) / (1 - chance), 0 = no better than
        chance, 1 = pure, negative = worse than chance, nan where chance is already pure; `shared_items`, items in
        prefixes with two or more such items; `shared_purity` and `shared_chance` over those alone. A purity of no
        items is nan.

    Raises:
        ValueError: If there are not as many labels as items, `level` is not in 1..T, or `permutations` < 1.
    """
    labels = np.asarray(categories)
    if len(labels) != len(codes):
        raise ValueError(f"`categories` needs one label an item. Received: {len(labels)} for {len(codes)} items.")
    if permutations < 1:
        raise ValueError(f"`permutations` must be >= 1. Received: {permutations}.")
    if labels.dtype.kind not in "iu":
        numbers: dict[Any, int] = {}
        labels = np.array(
            [-1 if name is None or name != name else numbers.setdefault(name, len(numbers)) for name in categories],
            dtype=np.int64,
        )
    labelled = labels >= 0
    groups = np.unique(prefix_groups(codes, level)[labelled], return_inverse=True)[1].ravel()
    labels = np.unique(labels[labelled], return_inverse=True)[1].ravel()
    sizes = np.bincount(groups)
    shared = sizes > 1

    found = _largest_counts(groups, labels)
    rng = np.random.default_rng(seed)
    dealt = np.mean([_largest_counts(groups, rng.permutation(labels)) for _ in range(permutations)], axis=0)

    def purity(counts: np.ndarray, chosen: np.ndarray) -> float:
        items = sizes[chosen].sum()
        return float(counts[chosen].sum() / items) if items else float("nan")

    everything = np.ones_like(shared)
    reached, chance = purity(found, everything), purity(dealt, everything)
    return {
        "items": len(labels),
        "prefixes": len(sizes),
        "purity": reached,
        "chance": chance,
        "adjusted": (reached - chance) / (1 - chance) if chance < 1 else float("nan"),
        "shared_items": int(sizes[shared].sum()),
        "shared_purity": purity(found, shared),
        "shared_chance": purity(dealt, shared),
    }


def _largest_counts(groups: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Items of the most frequent label of each group; groups 0..G-1 and labels 0..C-1 (int64, (N,)) -> int64 (G,)."""
    if not len(groups):
        return np.zeros(0, dtype=np.int64)
    base = int(labels.max()) + 1
    pairs, counts = np.unique(groups * base + labels, return_counts=True)
    starts = np.flatnonzero(np.diff(pairs // base, prepend=-1))
    return np.maximum.reduceat(counts, starts)


def check_collapse(quality: Mapping[str, float], levels: Sequence[LevelSize], min_used: float) -> None:
    """Refuses SIDs of which a quantized codebook went mostly unused. A hashed level cannot collapse and is not judged.

    Args:
        quality: As `sid_quality` returns it.
        levels: T levels, as `MGMRQuantizer.levels`.
        min_used: Least share in use, [0, 1], of the codes that could be: no more than there are items.

    Raises:
        SIDCollapseError: If a quantized level uses less.
    """
    for number, level in enumerate(levels, start=1):
        possible = min(level.size, int(quality["items"]))
        used = round(quality[f"used_{number}"] * level.size)
        if not level.hashed and used < min_used * possible:
            raise SIDCollapseError(
                f"Level {number} uses {used / possible:.1%} of its {possible} codes, less than `min_used` = "
                f"{min_used:.0%}. "
                "Use a smaller codebook, more `balanced_iterations`, or embeddings that tell ads apart."
            )
