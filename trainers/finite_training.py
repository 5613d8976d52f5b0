# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Stops a training whose loss or weights are not finite, before anything of it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .trainer_mixin import TrainerMixin
from .whole_checkpoints import last_checkpoint


class NonFiniteTrainingError(ValueError):
    """The loss or a parameter became NaN or infinite."""


class FiniteTrainingMixin(TrainerMixin):
    """Gives a Trainer a look at its losses whenever it logs, validates or saves, and at its parameters before the two
    latter and at the end. Nothing is read back from the device in between."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.lost_step: torch.Tensor | None = None  # int64 scalar: the first step whose loss is not finite, or 0
        self.add_callback(FiniteWatch(self))

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.note_loss(loss.detach())
        return loss

    def note_loss(self, loss: torch.Tensor) -> None:
        """Keeps the number of the step, 1 is the first, if this is the first loss (scalar) that is not finite."""
        lost = torch.where(loss.isfinite(), 0, self.state.global_step + 1)
        self.lost_step = lost if self.lost_step is None else torch.where(self.lost_step > 0, self.lost_step, lost)

    def loss_parts(self) -> Mapping[str, float]:
        """Parts of the loss since the last log, for the message; none unless a trainer keeps them."""
        return {}

    def check_finite(self, *, parameters: bool) -> None:
        """Looks at the losses since training began, and if asked at the parameters of this very step.

        Raises:
            NonFiniteTrainingError: In every process, if one of them has any that is not finite.
        """
        assert self.model is not None and self.args.output_dir is not None
        bad = 0 if self.lost_step is None else int(self.lost_step)
        lost = bad or (parameters and not all_finite(self.model))
        found = torch.tensor([bad, int(bool(lost))], device=self.args.device)
        steps, flags = self.accelerator.gather(found).view(-1, 2).unbind(1)
        if not flags.any():
            return
        named = steps[steps > 0]
        step = int(named.min()) if len(named) else self.state.global_step
        what = "the loss" if len(named) else "a parameter, after a step whose loss was finite,"
        parts = ", ".join(f"{name} {part:g}" for name, part in self.loss_parts().items())
        last = last_checkpoint(self.args.output_dir)
        raise NonFiniteTrainingError(
            f"Step {step}: {what} is not finite. "
            + (f"Sums of the loss's parts since the last log: {parts}; l" if parts else "L")
            + f"earning rate {self._get_learning_rate():g}. "
            + (f"The last checkpoint, {last}, is good: resume it" if last else "There is no checkpoint: start anew")
            + " with a lower `learning_rate`, a longer warmup, a lower `max_grad_norm`, or bf16 in place of fp16."
        )


class FiniteWatch(TrainerCallback):
    """Calls `check_finite` where the callbacks before it asked for a log, a validation or a checkpoint."""

    def __init__(self, trainer: FiniteTrainingMixin):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.lost_step = None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        kept = control.should_evaluate or control.should_save
        if kept or control.should_log:
            self.trainer.check_finite(parameters=kept)

    on_epoch_end = on_step_end

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.check_finite(parameters=True)


@torch.no_grad()
def all_finite(model: nn.Module) -> bool:
    """Whether every parameter, or this process's shard of it, is finite."""
    shards = (part.to_local() if isinstance(part, DTensor) else part for part in model.parameters())
    return bool(torch.stack([shard.isfinite().all() for shard in shards]).all())


__all__ = ["FiniteTrainingMixin", "NonFiniteTrainingError", "all_finite"]
