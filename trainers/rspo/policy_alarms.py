# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Warnings about an alignment that goes wrong although its loss looks good."""

from __future__ import annotations

import logging
from collections.abc import Mapping

logger = logging.getLogger(__name__)

CLOSED_SHARE = 0.9
"""Above this share of closed gates the reference no longer holds the policy."""
COLLAPSE = 5.0
"""Nats that the mean log p of the best candidates may fall below that of the first log."""


class PolicyAlarms:
    """Reads what is logged; each alarm sounds once a run. `delta` is that of the gate, in nats; `reference`, whether
    there is one."""

    def __init__(self, delta: float, reference: bool):
        self.delta, self.reference = delta, reference
        self.first_best: float | None = None
        self.sounded: set[str] = set()

    def read(self, step: int, logged: Mapping[str, float]) -> None:
        """Means since the last log: `best_logp`, and with a reference `drift`; `gate_open` of RSPO."""
        best = logged["best_logp"]
        self.first_best = best if self.first_best is None else self.first_best
        if best < self.first_best - COLLAPSE:
            self.sound(
                "collapse",
                f"Step {step}: likelihood collapse. The mean log p of the best candidates fell from "
                f"{self.first_best:.1f} to {best:.1f}: worse ones are pushed down faster than better ones are held. "
                "Raise `vsl_weight`, or lower `learning_rate` or `beta`.",
            )
        if not self.reference:
            return
        if logged.get("gate_open", 1.0) < 1 - CLOSED_SHARE:
            self.sound(
                "gate",
                f"Step {step}: the gate is closed for {1 - logged['gate_open']:.0%} of the anchors, so the reference "
                f"hardly counts. Raise `delta` ({self.delta:g} nats), lower `learning_rate`, or set "
                "`sync_ref_model`.",
            )
        if logged["drift"] > 3 * self.delta:
            self.sound(
                "drift",
                f"Step {step}: the policy is {logged['drift']:.1f} nats a candidate from its reference on average, "
                f"more than three times `delta` ({self.delta:g}). Lower `learning_rate`, or raise `vsl_weight`.",
            )

    def sound(self, name: str, message: str) -> None:
        if name not in self.sounded:
            self.sounded.add(name)
            logger.warning(message)


__all__ = ["PolicyAlarms"]
