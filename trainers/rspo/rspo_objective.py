# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The loss of one batch of lists: preference loss and VSL, from one pass; for trainers of any kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from gr4ad.modeling_gr4ad import SIDTrie

from .list_grades import unified_weights, value_grades
from .preference_fields import PreferenceFields
from .preference_losses import loss_of

Reference = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]
VSL_LABELS = ("labels", "item_labels", "value_labels")


def preference_objective(
    model: nn.Module,
    inputs: Mapping[str, torch.Tensor],
    args: PreferenceFields,
    reference: Reference | None = None,
    *,
    count: torch.Tensor | float | None = None,
    num_lists: torch.Tensor | float | None = None,
    trie: SIDTrie | None = None,
) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
    """The loss of a batch of [`RSPOCollator`].

    Args:
        reference: Gives the scores of the batch's candidates (float, (B, n)) under the reference; default, the
            batch's `ref_logps`, or none where it has none.
        count, num_lists: What the sums of the preference loss and of VSL are divided by, see
            `PreferenceLoss.counted`; default, what this batch counts and its lists.
        trie: The catalog that the model's p(SID) is defined over.

    Returns:
        The scalar loss; detached metrics, see [`RSPOTrainer`]; and the model's outputs.
    """
    batch = dict(inputs)
    rewards, mask, ref_logps = (batch.pop(name, None) for name in ("rewards", "candidate_mask", "ref_logps"))
    targets = {name: batch.pop(name) for name in VSL_LABELS if name in batch}
    assert rewards is not None and mask is not None
    outputs = model(**batch, **(targets if args.vsl_weight else {}), trie=trie)
    logps = candidate_scores(outputs, args.item_weight)
    if reference is not None:
        with torch.no_grad():
            ref_logps = reference(batch)
    grades = value_grades(rewards, mask, max_grade=args.max_grade).to(logps.dtype)
    imitate, weights = None, {}
    if args.unified:
        imitate, rank = unified_weights(logps, grades, mask)
        weights = {"anchor_weight": rank}
    loss, metrics = loss_of(args.loss_type).under(args)(logps, grades, ref_logps, mask, count=count, **weights)
    metrics |= {args.loss_name: loss.detach(), **policy_metrics(logps, rewards, ref_logps, mask)}
    if args.vsl_weight:
        # A target's loss stands for its list, so lists without a value above 0 do not make the others louder.
        taught = targets["labels"][:, 0] >= 0
        weight = 1.0 if imitate is None else imitate.gather(1, rewards.argmax(1, keepdim=True))[taught, 0]
        vsl = (weight * outputs.target_losses).sum() / (len(rewards) if num_lists is None else num_lists)
        metrics["vsl"] = vsl.detach()
        loss = loss + args.vsl_weight * vsl
    return loss, metrics, outputs


def candidate_scores(outputs: Any, item_weight: float) -> torch.Tensor:
    """What a policy ranks candidates by, float (B, n): (1 - w) log p(SID) + w log p(item), as `recommend` does."""
    if not item_weight:
        return outputs.candidate_logps
    return (1 - item_weight) * outputs.candidate_logps + item_weight * outputs.candidate_item_logps


@torch.no_grad()
def policy_metrics(
    logps: torch.Tensor, rewards: torch.Tensor, ref_logps: torch.Tensor | None, mask: torch.Tensor
) -> dict[str, torch.Tensor]:
    best = logps.gather(1, rewards.masked_fill(~mask, -1.0).argmax(1, keepdim=True))
    shares = logps.masked_fill(~mask, -torch.inf).softmax(1)
    metrics = {"best_logp": best.mean(), "reward": (shares * rewards).sum(1).mean()}
    if ref_logps is not None:
        metrics["drift"] = (logps - ref_logps).abs()[mask].mean()
    return metrics


__all__ = ["candidate_scores", "preference_objective"]
