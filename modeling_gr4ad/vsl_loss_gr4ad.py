# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The value-aware supervised loss of one batch of targets (arXiv 2602.22732, eqs. 12-15).

Shapes: N targets, T SID levels, V_t codes of level t.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig


@dataclass(frozen=True)
class VSLLossWeights:
    """Weights of the parts of the loss beside that of the SID, which is 1: `value` (lambda_e), `mtp` (lambda_mtp),
    `item` (the item head's) and `teacher` (soft targets of the SID path), each >= 0; and `label_smoothing` of the SID
    softmaxes, in [0, 1). The teacher's scores are divided by `teacher_temperature`, and a share `teacher_share` of the
    targets, drawn anew each time, has soft targets. The own item head as a teacher adds its item neighbours with
    `teacher_neighbour_weight`."""

    value: float = 0.1
    mtp: float = 0.3
    item: float = 0.5
    label_smoothing: float = 0.0
    teacher: float = 0.0
    teacher_temperature: float = 1.0
    teacher_share: float = 0.125
    teacher_neighbour_weight: float = 0.0

    @classmethod
    def of(cls, config: GR4ADConfig) -> "VSLLossWeights":
        """Those of a model's configuration, which a training without other ones uses."""
        return cls(config.value_loss_weight, config.mtp_loss_weight, config.item_loss_weight, config.label_smoothing)


Logits = tuple[Sequence[torch.Tensor], torch.Tensor | None]


def vsl_loss(
    weights: VSLLossWeights,
    logits: Logits,
    token_free_logits: Logits | None,
    codes: torch.Tensor,
    value_targets: torch.Tensor | None,
    *,
    copied: tuple[torch.Tensor, torch.Tensor] | None = None,
    item_losses: torch.Tensor | None = None,
    soft_losses: tuple[torch.Tensor, torch.Tensor] | None = None,
    weight: torch.Tensor | None = None,
    num_targets: torch.Tensor | float,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
    """sum_i w_i (L_SID + lambda_e L_eCPM + lambda_mtp L_MTP + lambda_item L_item
    + lambda_teacher L_teacher) / num_targets.

    Args:
        weights: The lambdas and the label smoothing.
        logits: T tensors (N, V_t), -inf for codes that no SID continues with, and the value token's (N, buckets), or
            None.
        token_free_logits: The same of the pass without injection (MTP), or None.
        codes (int64, (N, T)): Codes of the target SIDs, within their levels.
        value_targets (int64, (N,)): Value buckets, -100 = not known.
        copied (float, (N,) each): Log of what is copied to each target, and log(1 + all that is copied), as
            [`HistorySIDs`] has them; not of the token-free pass.
        item_losses (float, (N,)): The item head's -log p(item).
        soft_losses: Places of n of the targets (int64, (n,)), and what `soft_target_losses` gives for them (float,
            (n,)); it counts N / n times, in the place of the others.
        weight (float, (N,)): w of eq. 15; default 1.
        num_targets: What the sum is divided by: N, or the targets of the whole accumulated batch.

    Returns:
        The scalar loss; its detached parts `sid`, `value`, `mtp`, `item`, `teacher`, weighted by w but not by their
        lambdas; and each target's share of the loss before the division (float, (N,)).
    """

    def sid_and_value(
        logits: Logits, copied: tuple[torch.Tensor, torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        levels, value_logits = logits
        parts = {"sid": sid_loss(levels, codes, copied, weights.label_smoothing)}
        if value_logits is not None and value_targets is not None:
            parts["value"] = F.cross_entropy(value_logits.float(), value_targets, reduction="none")
        return parts

    def next_token_loss(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        return parts["sid"] + weights.value * parts.get("value", 0.0)

    parts = sid_and_value(logits, copied)
    targets = next_token_loss(parts)
    if token_free_logits is not None:
        parts["mtp"] = next_token_loss(sid_and_value(token_free_logits))
        targets = targets + weights.mtp * parts["mtp"]
    if item_losses is not None:
        parts["item"] = item_losses
        targets = targets + weights.item * parts["item"]
    if soft_losses is not None:
        places, losses = soft_losses
        losses = losses * (len(codes) / max(1, len(places)))
        parts["teacher"] = torch.zeros_like(targets).index_copy(0, places, losses.to(targets.dtype))
        targets = targets + weights.teacher * parts["teacher"]
    if weight is not None:
        targets = targets * weight
        parts = {name: part * weight for name, part in parts.items()}
    summed = {name: part.detach().sum() / num_targets for name, part in parts.items()}
    return targets.sum() / num_targets, summed, targets


def sid_loss(
    levels: Sequence[torch.Tensor],
    codes: torch.Tensor,
    copied: tuple[torch.Tensor, torch.Tensor] | None,
    smoothing: float,
) -> torch.Tensor:
    """-log p(SID) of N targets, float (N,); of it, a share `smoothing` is the mean over what else each level could
    have been. Arguments as of `vsl_loss`."""
    loss = smooth = torch.zeros((), device=codes.device)
    for level, logits in enumerate(levels):
        loss = loss + F.cross_entropy(logits.float(), codes[:, level], reduction="none")
        if smoothing:
            log_probs = F.log_softmax(logits.float(), dim=-1)
            legal = log_probs > -torch.inf
            smooth = smooth - torch.where(legal, log_probs, 0.0).sum(-1) / legal.sum(-1)
    if copied is not None:
        log_copied, log_total = copied
        loss = log_total.to(loss.dtype) - torch.logaddexp(-loss, log_copied.to(loss.dtype))
    return (1 - smoothing) * loss + smoothing * smooth if smoothing else loss


__all__ = ["VSLLossWeights", "vsl_loss"]
