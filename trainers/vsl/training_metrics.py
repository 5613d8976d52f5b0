# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What a training run logs beside its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate import Accelerator

from gr4ad.modeling_gr4ad import HISTORY_INPUTS, GR4ADForRecommendation


class StepMetrics:
    """Sums over the batches since the last log. Nothing is read back from the device before `reduced`.

    Args:
        level_offsets: Token id of code 0 of each SID level.
        bucket_means: Mean value of each value bucket; empty without values.
    """

    def __init__(self, level_offsets: Sequence[int], bucket_means: Sequence[float]):
        self.level_offsets = list(level_offsets)
        self.bucket_means = list(bucket_means)
        self.reset()

    def reset(self) -> None:
        self.parts: dict[str, torch.Tensor] = {}
        self.counts: torch.Tensor | None = None

    @torch.no_grad()
    def add(self, outputs: Any, inputs: Mapping[str, torch.Tensor]) -> None:
        """Takes in one batch: the parts of its loss, and its logits' hits."""
        for name, part in outputs.losses.items():
            self.parts[name] = self.parts.get(name, 0.0) + part
        labels = inputs["labels"][inputs["labels"][..., 0] >= 0]  # (N, T), in the order of the logits
        hits = [
            (logits.argmax(-1) == labels[:, level] - offset).sum()
            for level, (logits, offset) in enumerate(zip(outputs.logits, self.level_offsets, strict=True))
        ]
        sums = [*hits, hits[0].new_tensor(len(labels)), *self.values(outputs, inputs)]
        counts = torch.stack([value.float() for value in sums])
        self.counts = counts if self.counts is None else self.counts + counts

    def values(self, outputs: Any, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of expected and of true value over the targets whose value is known."""
        zero = outputs.loss.new_zeros(())
        if outputs.value_logits is None or "value_labels" not in inputs or not self.bucket_means:
            return zero, zero
        buckets = inputs["value_labels"][inputs["labels"][..., 0] >= 0]
        known = buckets >= 0
        means = outputs.value_logits.new_tensor(self.bucket_means, dtype=torch.float32)
        expected = outputs.value_logits.float().softmax(-1) @ means
        return (expected * known).sum(), (means[buckets.clamp(min=0)] * known).sum()

    def reduced(self, accelerator: Accelerator, steps: int) -> dict[str, float]:
        """`loss_*` a step, `acc_level_*` and `value_ratio` over all processes; {} where nothing was added."""
        if self.counts is None:
            return {}
        names = list(self.parts)
        sums = torch.cat([torch.stack([self.parts[name].float() for name in names]), self.counts])
        sums = accelerator.reduce(sums, "sum").tolist()
        logs = {f"loss_{name}": total / steps for name, total in zip(names, sums, strict=False)}
        *hits, targets, expected, true = sums[len(names) :]
        logs |= {f"acc_level_{level}": hit / max(1, targets) for level, hit in enumerate(hits, start=1)}
        if true > 0:
            logs["value_ratio"] = expected / true
        return logs


@torch.no_grad()
def item_accuracy(model: GR4ADForRecommendation, batch: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """How often the item head ranks the last target of a history first in the whole catalog: hits and histories.

    One query a history instead of one a prefix, so that it costs a fraction of a training step.
    """
    was_training = model.training
    model.eval()
    features: dict[str, Any] = {name: batch[name] for name in HISTORY_INPUTS if name in batch}
    context = model.model.encode(batch["input_ids"], **features)
    assert model.item_head is not None
    log_probs = model.item_head.log_probs(model.model.trunk(context), model.item_table, context)
    last = (batch["item_labels"] >= 0).sum(1) - 1
    targets = batch["item_labels"].gather(1, last.unsqueeze(1)).squeeze(1)
    model.train(was_training)
    return float((log_probs.argmax(-1) == targets).sum()), float(len(targets))


__all__ = ["StepMetrics", "item_accuracy"]
