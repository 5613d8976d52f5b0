# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Collision-aware last codes: ads that share a prefix get distinct ones while free ones remain."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from .collective import ALONE, OneProcess
from .residual_points import ResidualPoints


def spread_hashed(prefixes: np.ndarray, code: np.ndarray, size: int, group: OneProcess = ALONE) -> np.ndarray:
    """Last codes (int64, (N,)) by linear probing: within each prefix, in order of their hashes, an ad whose code is
    full moves on to the next one that is not, where a code holds up to ceil(ads of the prefix / size).

    Ads of equal hash keep their order in the catalog. With several processes, `prefixes` (N, T - 1) and `code` (N,)
    are this process's, and so is the result.
    """
    all_prefixes, all_codes = group.concatenate(prefixes), group.concatenate(code)
    for members in colliding_groups(all_prefixes, all_codes):
        free = np.full(size, -(-len(members) // size))
        for ad in members[np.argsort(all_codes[members], kind="stable")]:
            found = int(all_codes[ad])
            while not free[found]:
                found = (found + 1) % size
            free[found] -= 1
            all_codes[ad] = found
    return all_codes[group.own(len(code))]


def spread_quantized(
    prefixes: np.ndarray,
    code: np.ndarray,
    points: ResidualPoints,
    codebook: np.ndarray,
    group: OneProcess = ALONE,
) -> np.ndarray:
    """Last codes (int64, (N,)) of least total squared distance among those that spread the ads of a prefix evenly: at
    most ceil(ads of the prefix / V_T) a code (the Hungarian method, prefix by prefix).

    `points` are the residuals before the last level, `codebook` (float32, (V_T, d)) its centroids. With several
    processes, `prefixes`, `code` and `points` are this process's, and so is the result.
    """
    all_prefixes, all_codes = group.concatenate(prefixes), group.concatenate(code)
    groups = list(colliding_groups(all_prefixes, all_codes))
    if not groups:
        return code
    own = group.own(len(code))
    members = np.concatenate(groups)
    mine = np.flatnonzero((members >= own.start) & (members < own.stop))
    residuals = np.empty((len(members), points.shape[1]), dtype=np.float32)
    residuals[group.concatenate(mine)] = group.concatenate(points.rows(members[mine] - own.start))
    start = 0
    for ads in groups:
        distances = cdist(residuals[start : start + len(ads)], codebook, "sqeuclidean")
        start += len(ads)
        copies = -(-len(ads) // len(codebook))
        all_codes[ads] = linear_sum_assignment(np.tile(distances, copies))[1] % len(codebook)
    return all_codes[own]


def free_codes(
    codes: np.ndarray, taken: np.ndarray, size: int, preferred: tuple[ResidualPoints, np.ndarray] | None = None
) -> np.ndarray:
    """Last codes (int64, (N,)) of new ads, in their order: the own one if free, else the next free one or, with
    `preferred` (the ads' residuals before the last level and its centroids (V_T, d)), the nearest free one. An ad
    whose prefix has none left keeps its own.

    Args:
        codes (int64, (N, T)): SIDs of the new ads. taken (int64, (M, T)): SIDs in use. size: V_T.
    """
    in_use: dict[bytes, set[int]] = defaultdict(set)
    wanted = {row.tobytes() for row in np.ascontiguousarray(codes[:, :-1])}
    if len(taken):
        near = np.isin(taken[:, 0], codes[:, 0])
        for prefix, last in zip(np.ascontiguousarray(taken[near, :-1]), taken[near, -1], strict=True):
            if prefix.tobytes() in wanted:
                in_use[prefix.tobytes()].add(int(last))
    result = codes[:, -1].copy()
    for ad, prefix in enumerate(np.ascontiguousarray(codes[:, :-1])):
        used = in_use[prefix.tobytes()]
        if int(result[ad]) in used and len(used) < size:
            if preferred is None:
                order = (result[ad] + np.arange(size)) % size
            else:
                order = cdist(preferred[0].rows(np.array([ad])), preferred[1], "sqeuclidean")[0].argsort(kind="stable")
            result[ad] = next(code for code in order if int(code) not in used)
        used.add(int(result[ad]))
    return result


def colliding_groups(prefixes: np.ndarray, code: np.ndarray) -> Iterator[np.ndarray]:
    """Rows (int64, (members,)) of all ads of each prefix in which two ads share an SID."""
    _, prefix = np.unique(prefixes, axis=0, return_inverse=True)
    prefix = prefix.ravel()
    order = np.lexsort((code, prefix))
    again = (prefix[order][1:] == prefix[order][:-1]) & (code[order][1:] == code[order][:-1])
    collides = np.zeros(int(prefix.max()) + 1 if len(prefix) else 0, dtype=bool)
    collides[prefix[order][1:][again]] = True
    rows = np.flatnonzero(collides[prefix])
    rows = rows[np.argsort(prefix[rows], kind="stable")]
    yield from np.split(rows, np.flatnonzero(np.diff(prefix[rows])) + 1) if len(rows) else ()
