# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Equal-frequency buckets of training numbers: values of events, and user features that are numbers."""

from __future__ import annotations

import numpy as np


def fit_value_buckets(values: np.ndarray, num_buckets: int) -> tuple[list[float], list[float]]:
    """Equal-frequency buckets of training values.

    Args:
        values (float, (N,)): >= 0, training events only. num_buckets: At most this many; ties can leave fewer.

    Returns:
        Inner edges (ascending, one fewer than buckets) and the mean value of each bucket. No edges and no means if all
        values are equal: there is nothing to tell apart.
    """
    values = np.asarray(values, dtype=np.float64)
    quantiles, above = np.linspace(0, 1, num_buckets + 1)[1:-1], values[values > values.min(initial=np.inf)]
    if not len(above) or not len(quantiles):
        return [], []
    edges = np.unique(np.quantile(values, quantiles, method="higher"))
    edges = edges[edges > values.min()]
    if not len(edges):  # so rare a value is no quantile, but still to be told from the rest
        edges = above.min(keepdims=True)
    bucket = np.searchsorted(edges, values, side="right")
    counts = np.bincount(bucket, minlength=len(edges) + 1)
    means = np.bincount(bucket, weights=values, minlength=len(edges) + 1) / np.maximum(counts, 1)
    return edges.tolist(), means.tolist()


def fit_feature_bins(numbers: np.ndarray, num_bins: int) -> tuple[list[float], list[str]]:
    """Equal-frequency bins of a user feature that is a number, from training users.

    Args:
        numbers (float, (N,)): finite. num_bins: At most this many; ties can leave fewer.

    Returns:
        Inner edges, ascending, and what each bin is called, one more: "below 25", "25 to 40", "40 or more".
    """
    edges, _ = fit_value_buckets(numbers, num_bins)
    if not edges:
        return [], ["any"]
    told = [f"{edge!r}".removesuffix(".0") for edge in edges]
    between = [f"{low} to {high}" for low, high in zip(told[:-1], told[1:], strict=True)]
    return edges, [f"below {told[0]}", *between, f"{told[-1]} or more"]
