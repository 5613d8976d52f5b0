# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Preference losses over lists of candidates: RSPO, and DPO, S-DPO and GRPO to hold it against under one budget.

Each is a pure function of log-probabilities and grades, (B lists, n candidates), and says what its sum is divided by.
To add one: write it here with its line in `LOSSES`, and its name in `preference_fields.LOSS_TYPES`.

| loss | the sum is over | and divided by the number of |
|---|---|---|
| `rspo` | anchors | candidates that have a worse one in their list (`anchors_with_worse`) |
| `dpo` | pairs | pairs of different grades (`pairs`) |
| `sdpo` | lists | lists with such a pair (`lists_with_pair`) |
| `grpo` | candidates | candidates of lists with such a pair (`candidates_with_pair`) |
| a function of your own | what it likes | lists with such a pair |

Where the batches of a step, or of several processes, make up one loss, the numbers of all of them are added up by
`PreferenceLoss.counted` beforehand and given to each as `count`: the sum of their losses is that of the whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch.nn import functional as F

from .preference_fields import LOSS_TYPES, LossType, PreferenceFields

Result = tuple[torch.Tensor, dict[str, torch.Tensor]]


# --- what a sum is divided by: int64 scalars of `worse_pairs` (bool, (B, i, j)) and `mask` (bool, (B, n))


def anchors_with_worse(worse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return worse.any(-1).sum()


def pairs(worse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return worse.sum()


def lists_with_pair(worse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return worse.flatten(1).any(1).sum()


def candidates_with_pair(worse: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return (mask & worse.flatten(1).any(1, keepdim=True)).sum()


# --- the losses


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
) -> Result:
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
    | `grades` | float, (B, n) | >= 0, bounded | v; 2^v - 1 is taken of them as they are, see `value_grades` |
    | `ref_logps` | float, (B, n), *optional* | <= 0 | the same under the reference; without it every gate is closed |
    | `mask` | bool, (B, n), *optional* | | True on real candidates |
    | `beta` | float | > 0 | sharpness |
    | `delta` | float, nats | > 0 | gate |
    | `anchor_weight` | float, (B, n), *optional* | >= 0 | w_RL of `unified_weights`; multiplies each anchor |
    | `count` | scalar, *optional* | > 0 | what the sum is divided by; default `anchors_with_worse` of this batch |

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
    _, worse, mask = compared(policy_logps, grades, ref_logps, mask)
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
    anchors = anchors_with_worse(worse, mask).clamp(min=1)
    if anchor_weight is not None:
        losses = losses * anchor_weight
    loss = losses.masked_fill(~has_worse, 0.0).sum() / (anchors if count is None else count)
    open_share = (gate * has_worse).sum() / anchors
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


def dpo_loss(
    policy_logps: torch.Tensor,
    grades: torch.Tensor,
    ref_logps: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    beta: float = 0.1,
    count: torch.Tensor | float | None = None,
) -> Result:
    r"""
    Direct preference optimization (arXiv 2305.18290, eq. 7) on every pair of a list with different grades:

        loss = mean over (i, j) with v_i > v_j of  -log sigma(beta (s_i - s_j)),   s = log p - log p_ref

    With n = 2 this is TRL's `sigmoid` loss. Without `ref_logps`, s = log p. Arguments as in [`rspo_loss`], but of
    `grades` only the order counts, and `count` is by default `pairs` of this batch.
    """
    margins, worse, mask = compared(policy_logps, grades, ref_logps, mask)
    total = -F.logsigmoid(beta * margins).masked_fill(~worse, 0.0).sum()
    return total / (pairs(worse, mask).clamp(min=1) if count is None else count), order_metrics(margins, worse)


def sdpo_loss(
    policy_logps: torch.Tensor,
    grades: torch.Tensor,
    ref_logps: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    beta: float = 0.1,
    count: torch.Tensor | float | None = None,
) -> Result:
    r"""
    Softmax-DPO (arXiv 2406.09215, eq. 9): one positive a list against all its negatives at once:

        loss = mean over lists of  -log sigma(-log sum_{j : v_j < v_i} exp(beta (s_j - s_i))),   v_i the highest grade

    Of several candidates with the highest grade each counts as the positive, in equal shares. With one negative this
    is DPO. Arguments as in [`dpo_loss`], `count` is by default `lists_with_pair` of this batch.
    """
    margins, worse, mask = compared(policy_logps, grades, ref_logps, mask)
    best = grades.masked_fill(~mask, -torch.inf)
    positive = mask & (best == best.amax(1, keepdim=True)) & worse.any(-1)
    exponents = (-beta * margins).masked_fill(~worse, -torch.inf)
    # A candidate with nothing worse would read logsumexp(-inf) and NaN gradients: it reads zeros and is left out.
    exponents = exponents.masked_fill(~positive.unsqueeze(-1), 0.0)
    shares = positive.to(margins.dtype) / positive.sum(1, keepdim=True).clamp(min=1)
    total = (F.softplus(exponents.logsumexp(-1)) * shares).sum()
    lists = lists_with_pair(worse, mask).clamp(min=1) if count is None else count
    return total / lists, order_metrics(margins, worse)


def grpo_loss(
    policy_logps: torch.Tensor,
    grades: torch.Tensor,
    ref_logps: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    beta: float = 0.1,
    clip: float = 0.2,
    count: torch.Tensor | float | None = None,
) -> Result:
    r"""
    Group relative policy optimization (arXiv 2402.03300, eq. 3) with a list as the group, off policy: the reference is
    taken for the policy that the candidates came from.

        A_i  = (v_i - mean v) / std v of the list
        r_i  = p_i / p_ref_i
        loss = mean over candidates of  -min(r_i A_i, clip(r_i, 1 - clip, 1 + clip) A_i)
               + beta (1 / r_i + log r_i - 1)                  (KL from the reference, estimated without bias)

    A whole SID is one action. Lists whose grades are all alike have no advantage and are left out.

    Args:
        grades (float, (B, n)): Rewards; their scale and offset within a list cancel out.
        ref_logps (float, (B, n)): Needed.
        beta: Weight of the KL. clip: Of the ratio, in (0, 1).
        policy_logps, mask, count: As in [`rspo_loss`]; default `candidates_with_pair` of this batch.

    Raises:
        ValueError: Without `ref_logps`.
    """
    if ref_logps is None:
        raise ValueError("`ref_logps` are needed by GRPO: the ratio is to the policy that made the lists.")
    margins, worse, mask = compared(policy_logps, grades, None, mask)
    counts = mask.sum(1, keepdim=True).clamp(min=1)
    mean = grades.masked_fill(~mask, 0.0).sum(1, keepdim=True) / counts
    spread = ((grades - mean).masked_fill(~mask, 0.0) ** 2).sum(1, keepdim=True).div(counts).sqrt()
    advantages = (grades - mean) / spread.clamp(min=torch.finfo(grades.dtype).eps)
    used = mask & worse.flatten(1).any(1, keepdim=True)
    # A candidate far below the reference would overflow 1 / r: beyond e^20 its direction is all that counts.
    log_ratios = (policy_logps - ref_logps).masked_fill(~used, 0.0).clamp(-20, 20)
    ratios = log_ratios.exp()
    gains = torch.minimum(ratios * advantages, ratios.clamp(1 - clip, 1 + clip) * advantages)
    divergence = torch.exp(-log_ratios) + log_ratios - 1
    candidates = candidates_with_pair(worse, mask).clamp(min=1)
    loss = (beta * divergence - gains).masked_fill(~used, 0.0).sum() / (candidates if count is None else count)
    outside = ((ratios - 1).abs() > clip) & used
    metrics = {"kl": divergence.detach().sum() / candidates, "clipped": outside.sum() / candidates}
    return loss, order_metrics(margins, worse) | metrics


# --- the table


@dataclass(frozen=True)
class PreferenceLoss:
    """function: The loss. settings: Fields of [`PreferenceFields`] that it takes by name. denominator: What its sum is
    divided by."""

    function: Callable[..., Result]
    settings: tuple[str, ...]
    denominator: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def counted(self, grades: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The denominator of a batch, int64 scalar, from grades (float) and mask (bool), both (B, n)."""
        return self.denominator(worse_pairs(grades, mask), mask)

    def under(self, args: PreferenceFields) -> Callable[..., Result]:
        """The loss under the settings of `args`."""
        return partial(self.function, **{name: getattr(args, name) for name in self.settings})


LOSSES = {
    "rspo": PreferenceLoss(rspo_loss, ("beta", "delta"), anchors_with_worse),
    "dpo": PreferenceLoss(dpo_loss, ("beta",), pairs),
    "sdpo": PreferenceLoss(sdpo_loss, ("beta",), lists_with_pair),
    "grpo": PreferenceLoss(grpo_loss, ("beta", "clip"), candidates_with_pair),
}
assert tuple(LOSSES) == LOSS_TYPES


def loss_of(loss_type: LossType) -> PreferenceLoss:
    """The loss that `loss_type` names or is. Raises ValueError for an unknown name."""
    if not isinstance(loss_type, str):
        own = PreferenceLoss(loss_type, ("beta",), lists_with_pair)
        return next((loss for loss in LOSSES.values() if loss.function is loss_type), own)
    if loss_type not in LOSSES:
        raise ValueError(f"`loss_type` must be one of {', '.join(LOSSES)}, or a function. Received: {loss_type!r}.")
    return LOSSES[loss_type]


# --- shared parts


def worse_pairs(grades: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Whether candidate j is worse than i and both are real, bool (B, i, j)."""
    return (grades.unsqueeze(1) < grades.unsqueeze(2)) & mask.unsqueeze(1) & mask.unsqueeze(2)


def compared(
    policy_logps: torch.Tensor, grades: torch.Tensor, ref_logps: torch.Tensor | None, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Margins s_i - s_j (B, i, j) of log-probabilities relative to the reference if there is one; `worse_pairs`; the
    mask (bool, (B, n)). Raises ValueError if shapes differ."""
    check_shapes(policy_logps, grades)
    mask = torch.ones_like(grades, dtype=torch.bool) if mask is None else mask
    scores = policy_logps if ref_logps is None else policy_logps - ref_logps
    return scores.unsqueeze(2) - scores.unsqueeze(1), worse_pairs(grades, mask), mask


def check_shapes(policy_logps: torch.Tensor, grades: torch.Tensor) -> None:
    """Raises ValueError unless both are (lists, candidates)."""
    if policy_logps.shape != grades.shape or policy_logps.ndim != 2:
        raise ValueError(
            f"`policy_logps` and `grades` must both be (lists, candidates). Received: {tuple(policy_logps.shape)} and "
            f"{tuple(grades.shape)}."
        )


def order_metrics(margins: torch.Tensor, worse: torch.Tensor) -> dict[str, torch.Tensor]:
    """Detached `anchors` (candidates with a worse one), `accuracy` (share of pairs in the right order) and `margin`
    (mean s_i - s_j, nats) from margins and the pairs that count, both (B, anchor i, item j)."""
    margins, number = margins.detach(), worse.sum().clamp(min=1)
    return {
        "anchors": worse.any(-1).sum(),
        "accuracy": ((margins > 0) & worse).sum() / number,
        "margin": margins.masked_fill(~worse, 0.0).sum() / number,
    }


__all__ = [
    "LOSSES",
    "PreferenceLoss",
    "check_shapes",
    "dpo_loss",
    "grpo_loss",
    "lambda_weights",
    "loss_of",
    "rspo_loss",
    "sdpo_loss",
]
