# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Other preference losses on the same lists, to hold RSPO against under one budget: DPO, S-DPO, GRPO.

All take what [`rspo_loss`] takes and return what it returns: a scalar and detached metrics. Shapes: B lists, n
candidates.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

Result = tuple[torch.Tensor, dict[str, torch.Tensor]]


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

    With n = 2 this is TRL's `sigmoid` loss. Without `ref_logps`, s = log p.

    Args:
        policy_logps (float, (B, n)): log p(SID | context) of each candidate; carries the gradient.
        grades (float, (B, n)): What is preferred; only their order counts.
        ref_logps (float, (B, n), *optional*): The same under the reference.
        mask (bool, (B, n), *optional*): True on real candidates.
        beta: Sharpness, > 0.
        count: What the sum is divided by, in place of the number of pairs here: see [`counted`].
    """
    scores, worse, _ = compared(policy_logps, grades, ref_logps, mask)
    margins = scores.unsqueeze(2) - scores.unsqueeze(1)
    pairs = worse.sum()
    loss = -F.logsigmoid(beta * margins).masked_fill(~worse, 0.0).sum() / (
        pairs.clamp(min=1) if count is None else count
    )
    return loss, order_metrics(margins, worse)


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
    is DPO. Arguments as in [`dpo_loss`].
    """
    scores, worse, mask = compared(policy_logps, grades, ref_logps, mask)
    margins = scores.unsqueeze(2) - scores.unsqueeze(1)
    best = grades.masked_fill(~mask, -torch.inf)
    positive = mask & (best == best.amax(1, keepdim=True)) & worse.any(-1)
    exponents = (-beta * margins).masked_fill(~worse, -torch.inf)
    # A candidate with nothing worse would read logsumexp(-inf) and NaN gradients: it reads zeros and is left out.
    exponents = exponents.masked_fill(~positive.unsqueeze(-1), 0.0)
    shares = positive.to(margins.dtype) / positive.sum(1, keepdim=True).clamp(min=1)
    lists = positive.any(1).sum().clamp(min=1) if count is None else count
    return (F.softplus(exponents.logsumexp(-1)) * shares).sum() / lists, order_metrics(margins, worse)


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
        policy_logps, mask, count: As in [`dpo_loss`].

    Raises:
        ValueError: Without `ref_logps`.
    """
    if ref_logps is None:
        raise ValueError("`ref_logps` are needed by GRPO: the ratio is to the policy that made the lists.")
    _, worse, mask = compared(policy_logps, grades, ref_logps, mask)
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
    candidates = used.sum().clamp(min=1)
    loss = (beta * divergence - gains).masked_fill(~used, 0.0).sum() / (candidates if count is None else count)
    margins = policy_logps.unsqueeze(2) - policy_logps.unsqueeze(1)
    outside = ((ratios - 1).abs() > clip) & used
    metrics = {"kl": divergence.detach().sum() / candidates, "clipped": outside.sum() / candidates}
    return loss, order_metrics(margins, worse) | metrics


def counted(loss_type: str, grades: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """What a loss is a mean over, int64 scalar: anchors with a worse item (`rspo`), pairs (`dpo`), lists with a pair
    (`sdpo`), candidates of such lists (`grpo`). Added up over the batches of a step, and given to all of them as
    `count`, it makes their sum the loss of the whole: one trajectory however a batch is divided.

    Args:
        grades (float, (B, n)), mask (bool, (B, n)): As in [`dpo_loss`].
    """
    worse = (grades.unsqueeze(1) < grades.unsqueeze(2)) & mask.unsqueeze(1) & mask.unsqueeze(2)
    if loss_type == "rspo":
        return worse.any(-1).sum()
    if loss_type == "dpo":
        return worse.sum()
    lists = worse.flatten(1).any(1)
    return lists.sum() if loss_type == "sdpo" else (mask & lists.unsqueeze(1)).sum()


def compared(
    policy_logps: torch.Tensor, grades: torch.Tensor, ref_logps: torch.Tensor | None, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Scores (B, n); whether item j is worse than i (bool, (B, i, j)), both real; the mask (bool, (B, n)).

    Raises:
        ValueError: If shapes differ.
    """
    check_shapes(policy_logps, grades)
    mask = torch.ones_like(grades, dtype=torch.bool) if mask is None else mask
    worse = (grades.unsqueeze(1) < grades.unsqueeze(2)) & mask.unsqueeze(1) & mask.unsqueeze(2)
    return policy_logps if ref_logps is None else policy_logps - ref_logps, worse, mask


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
    margins, pairs = margins.detach(), worse.sum().clamp(min=1)
    return {
        "anchors": worse.any(-1).sum(),
        "accuracy": ((margins > 0) & worse).sum() / pairs,
        "margin": margins.masked_fill(~worse, 0.0).sum() / pairs,
    }


__all__ = ["check_shapes", "compared", "counted", "dpo_loss", "grpo_loss", "order_metrics", "sdpo_loss"]
