# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How long a batch will take, learned from the batches that ran. No tensors, no clock of its own."""

from __future__ import annotations

from collections import deque

import numpy as np

FEATURES = 4  # of a batch: beam rows, context items, requests, 1
MEMORY = 1e-3  # weight of the fit before, beside that of a batch
TAIL = 0.95  # quantile of observed over fitted seconds that a prediction allows for


class LatencyModel:
    """Seconds of a batch = a + b requests + c beam rows + d context items, none of them negative.

    Fitted by non-negative least squares on the last batches, each weighed by one over its seconds, so that small and
    large batches count alike. What these batches do not tell apart (all had the same widths, say) stays as the fit
    before had it. A prediction is the fit times the 95% quantile of what was observed over what was
    fitted: a promise about latency is kept by the slow batches, not by the mean.

    Args:
        window: Batches remembered, >= `min_batches`. min_batches: Batches before anything is predicted, >= 1.
    """

    def __init__(self, window: int = 128, min_batches: int = 8):
        if not 1 <= min_batches <= window:
            raise ValueError(f"`min_batches` must be in 1..window = {window}. Received: {min_batches}.")
        self.min_batches = min_batches
        self._batches: deque[tuple[float, ...]] = deque(maxlen=window)
        self._fit = np.zeros(FEATURES)
        self._stale = True
        self._tail = 1.0

    @property
    def ready(self) -> bool:
        """Whether enough batches were seen to predict."""
        return len(self._batches) >= self.min_batches

    @property
    def coefficients(self) -> np.ndarray:
        """float64 (4,): seconds per beam row, per context item, per request, per batch.

        Raises:
            RuntimeError: If not `ready`.
        """
        if not self.ready:
            raise RuntimeError(f"{len(self._batches)} batches were observed, {self.min_batches} are needed.")
        if self._stale:
            from scipy.optimize import nnls  # takes half a second, which the options of a command need not wait

            batches = np.array(self._batches)
            features, seconds = batches[:, :FEATURES], batches[:, FEATURES]
            weighted = features / seconds[:, None]
            scales = np.maximum(np.abs(weighted).max(axis=0), 1e-12)  # rows and requests differ by orders of magnitude
            memory = np.sqrt(MEMORY * len(batches)) * np.eye(FEATURES)
            fit, _ = nnls(
                np.concatenate([weighted / scales, memory]),
                np.concatenate([np.ones(len(batches)), memory @ (self._fit * scales)]),
            )
            self._fit = fit / scales
            self._tail = max(1.0, float(np.quantile(seconds / np.maximum(features @ self._fit, 1e-9), TAIL)))
            self._stale = False
        return self._fit

    def observe(self, requests: int, rows: int, context_items: int, seconds: float) -> None:
        """Takes note of one batch that ran: its requests, its beam rows (all levels summed), its history items."""
        self._batches.append((rows, context_items, requests, 1.0, max(seconds, 1e-6)))
        self._stale = True

    def seconds(self, requests: float, rows: float, context_items: float) -> float:
        """Seconds that such a batch stays below, 19 times out of 20.

        Raises:
            RuntimeError: If not `ready`.
        """
        fit = self.coefficients @ (rows, context_items, requests, 1.0)
        return float(fit) * self._tail
