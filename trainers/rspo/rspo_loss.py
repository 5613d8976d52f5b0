# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ranking-guided softmax preference optimization (arXiv 2602.22732, eqs. 16-18)."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from .preference_losses import check_shapes, order_metrics


def rspo_loss(
    policy_logps: torch.Tensor,
    grades: torch.Tensor,
    ref_logps: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    beta: float = 0.1,
    delta: float = 2.0,
    anchor_weight: torch.Tensor | None = None,
    count: torch.Tensor | float | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    r"""
    Ranking-guided softmax preference loss: bounds the NDCG cost of a list from above (arXiv 2602.22732, eqs. 16-18).

    For each anchor i with worse items E_i = {j : v_j < v_i}:

        loss_i = log2(1 + sum_{j in E_i} M_ij exp(beta (s_j - s_i))),   s = log p - C_i log p_ref        (16)
        M_ij   = |1 / D_|i-j| - 1 / D_(|i-j|+1)| |G_i - G_j|,   D_k = log2(1 + k),   G = (2^v - 1) / ideal DCG
        C_i    = 1 if the mean of |log(p / p_ref)| over E_i and i is below delta, else 0                 (18)

    with i and j the 1-based places in the order of the policy's own log-probabilities. M and C carry no gradient. The
    loss is computed with log-sum-exp and log M: no margin overflows it.

    | input | dtype, shape | range | meaning |
    |---|---|---|---|
    | `policy_logps` | float, (B, n) | <= 0 | log p(SID \| context) of each candidate; carries the gradient |
    | `grades` | float, (B, n) | >= 0, bounded | v; 2^v - 1 is taken of them as they are, see [`value_grades`] |
    | `ref_logps` | float, (B, n), *optional* | <= 0 | the same under the reference; without it every gate is closed |
    | `mask` | bool, (B, n), *optional* | | True on real candidates |
    | `beta` | float | > 0 | sharpness |
    | `delta` | float, nats | > 0 | gate |
    | `anchor_weight` | float, (B, n), *optional* | >= 0 | w_RL of [`unified_weights`]; multiplies each anchor |
    | `count` | scalar, *optional* | > 0 | what the sum over anchors is divided by; default their number here |

    Returns:
        The mean over anchors that have a worse item (0 if there is none), and detached metrics: `anchors` (their
        number), `gate_open` (share of them), `accuracy` (share of pairs in the right order), `margin` (mean s_i - s_j,
        nats).

    Raises:
        ValueError: If the shapes are not two of (lists, candidates).

    Relations. With n = 2, `M = 1` and open gates the loss is DPO's (arXiv 2305.18290) over log 2, so it asks for the
    same order. With one anchor a list and `M = 1` it is S-DPO's (arXiv 2406.09215). M is the weight of NDCG-Loss2 of
    LambdaLoss (Wang et al., CIKM 2018), which sums over pairs where this takes the log of a sum for each anchor.
    GRPO (arXiv 2402.03300) weighs each candidate by its advantage alone and does not compare places.
    """
    check_shapes(policy_logps, grades)
    mask = torch.ones_like(grades, dtype=torch.bool) if mask is None else mask
    worse = (
        (grades.unsqueeze(1) < grades.unsqueeze(2)) & mask.unsqueeze(1) & mask.unsqueeze(2)
    )  # (B, anchor i, item j)
    has_worse = worse.any(-1)

    with torch.no_grad():
        weights = lambda_weights(policy_logps, grades, mask)
        # Grades may differ and gains round to one number: a weight of 0 would bring back the NaN gradients below.
        log_weights = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()
        if ref_logps is None:
            gate = torch.zeros_like(policy_logps)
        else:
            drift = (policy_logps - ref_logps).abs().masked_fill(~mask, 0.0)
            in_group = worse | torch.eye(grades.shape[1], dtype=torch.bool, device=grades.device)
            group_drift = (in_group * drift.unsqueeze(1)).sum(-1) / in_group.sum(-1)
            gate = (group_drift < delta).to(policy_logps.dtype)

    scores = policy_logps.unsqueeze(1).expand(worse.shape)  # (B, anchor, item): the gate belongs to the anchor
    if ref_logps is not None:
        scores = scores - gate.unsqueeze(2) * ref_logps.unsqueeze(1)
    margins = scores.diagonal(dim1=1, dim2=2).unsqueeze(2) - scores  # s_i - s_j under gate i
    exponents = (log_weights - beta * margins).masked_fill(~worse, -torch.inf)
    # An anchor without worse items would give logsumexp(-inf) and NaN gradients: it reads zeros and is dropped below.
    exponents = exponents.masked_fill(~has_worse.unsqueeze(-1), 0.0)
    losses = F.softplus(exponents.logsumexp(-1)) / math.log(2)
    anchors = has_worse.sum()
    if anchor_weight is not None:
        losses = losses * anchor_weight
    loss = losses.masked_fill(~has_worse, 0.0).sum() / (anchors.clamp(min=1) if count is None else count)
    open_share = (gate * has_worse).sum() / anchors.clamp(min=1)
    return loss, order_metrics(margins, worse) | {"gate_open": open_share}


def lambda_weights(scores: torch.Tensor, grades: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """M (float, (B, n, n)) from scores, grades and mask, all (B, n); 0 where either item is masked or both are one
    item."""
    lowest = torch.finfo(scores.dtype).min
    # Ties in score are ordered by grade, so that the order of the list does not matter.
    by_grade = grades.masked_fill(~mask, lowest).argsort(dim=1, descending=True, stable=True)
    ranked_scores = scores.masked_fill(~mask, lowest).gather(1, by_grade)
    order = by_grade.gather(1, ranked_scores.argsort(dim=1, descending=True, stable=True))
    places = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    distance = (places.unsqueeze(2) - places.unsqueeze(1)).abs().to(scores.dtype)
    near = distance.clamp(min=1)  # the diagonal has no weight
    discount = 1 / torch.log2(1 + near) - 1 / torch.log2(2 + near)
    gains = torch.exp2(grades.to(scores.dtype)) - 1
    gains = gains.masked_fill(~mask, 0.0)
    ideal = gains.sort(dim=1, descending=True).values
    ranks = torch.arange(1, grades.shape[1] + 1, device=grades.device, dtype=scores.dtype)
    ideal_dcg = (ideal / torch.log2(1 + ranks)).sum(1).clamp(min=torch.finfo(scores.dtype).tiny)
    gains = gains / ideal_dcg.unsqueeze(1)
    weights = discount * (gains.unsqueeze(2) - gains.unsqueeze(1)).abs()
    return weights * (distance > 0) * mask.unsqueeze(1) * mask.unsqueeze(2)


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


__all__ = ["lambda_weights", "rspo_loss", "value_grades"]
