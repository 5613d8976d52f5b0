# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the values of a list become before a loss reads them: bounded grades, and the weights that unify VSL and RSPO
(arXiv 2602.22732, eqs. 19-22)."""

from __future__ import annotations

import torch

from .preference_losses import check_shapes


def value_grades(values: torch.Tensor, mask: torch.Tensor | None = None, *, max_grade: float = 3.0) -> torch.Tensor:
    """Bounded grades of raw values, per list: `max_grade * log(1 + v / mean) / log(1 + max / mean)` (a value of 0
    keeps grade 0).

    Args:
        values (float, (B, n)): >= 0, any unit: the scale of a list cancels out. mask (bool, (B, n), *optional*).

    Returns:
        Grades in [0, max_grade], (B, n); all 0 for a list without value.
    """
    mask = torch.ones_like(values, dtype=torch.bool) if mask is None else mask
    values = values.masked_fill(~mask, 0.0)
    mean = values.sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)
    ratio = values / mean.clamp(min=torch.finfo(values.dtype).tiny)
    top = torch.log1p(ratio.amax(1, keepdim=True))
    return torch.where(top > 0, max_grade * torch.log1p(ratio) / top.clamp(min=torch.finfo(values.dtype).tiny), 0.0)


def unified_weights(
    policy_logps: torch.Tensor, grades: torch.Tensor, mask: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    Weights of the two losses for each candidate of a list, from how far likelihood and reward disagree about it:

        A     = |r_p - r_v| / (n - 1),     r_p, r_v its ranks by likelihood and by reward      (eq. 19)
        w_VSL = exp(A log(1 + v)) = (1 + v)^A                                                  (eq. 20, w0 = 1)
        w_RL  = Z (1 - A),                 Z the largest w_VSL of the list                     (eq. 21)

    A valuable candidate that the policy does not expect is imitated; where the two agree, the finer work of ranking is
    left to do. Candidates of equal reward take their places in the order of likelihood, so that ties are no
    disagreement.

    Args:
        policy_logps (float, (B, n)): log p(SID | context); no gradient flows through the weights.
        grades (float, (B, n)): v >= 0, bounded: see [`value_grades`].
        mask (bool, (B, n), *optional*): True on real candidates.

    Returns:
        w_VSL in [1, 1 + max v] and w_RL in [0, 1 + max v], (B, n); 0 on padding.
    """
    check_shapes(policy_logps, grades)
    mask = torch.ones_like(grades, dtype=torch.bool) if mask is None else mask
    with torch.no_grad():
        by_likelihood = policy_logps.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
        ranked = grades.masked_fill(~mask, -torch.inf).gather(1, by_likelihood)
        by_reward = by_likelihood.gather(1, ranked.argsort(dim=1, descending=True, stable=True))
        places = torch.arange(grades.shape[1], device=grades.device).expand_as(by_reward)
        apart = (places.scatter(1, by_likelihood, places) - places.scatter(1, by_reward, places)).abs()
        disagreement = apart.to(grades.dtype) / (mask.sum(1, keepdim=True) - 1).clamp(min=1)
        imitate = torch.exp(disagreement * torch.log1p(grades.masked_fill(~mask, 0.0))) * mask
        rank = imitate.amax(1, keepdim=True) * (1 - disagreement) * mask
    return imitate, rank


__all__ = ["unified_weights", "value_grades"]
