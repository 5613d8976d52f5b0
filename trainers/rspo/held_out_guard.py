# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Keeps the policy of an alignment that ranks held-out users best, and stops a run whose rankings get worse."""

from __future__ import annotations

import json
import logging
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel, set_peft_model_state_dict
from peft.utils import SAFETENSORS_WEIGHTS_NAME as ADAPTERS_FILE
from safetensors.torch import load_file
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .preference_fields import RSPOFields

logger = logging.getLogger(__name__)

NDCG = "ndcg@10"
DEFAULT_METRIC = "revenue@10"
STATE_FILE = "guard.json"
FOLDER = "best_policy"


@dataclass
class GuardState:
    """What validation said so far: NDCG@10 before training; step, metric and NDCG@10 of the kept policy; validations
    in a row beyond the allowed loss."""

    start_ndcg: float
    best_step: int
    best_metric: float
    best_ndcg: float
    beyond: int = 0


class HeldOutGuard(TrainerCallback):
    """Validates before the first step and reads every later validation.

    A policy may be kept while its held-out NDCG@10 is at least `1 - max_ndcg_loss` of what it was before training; of
    those the best by `metric_for_best_model` is what the run ends with, the start if none is better.
    `guard_patience` validations in a row beyond that loss stop the run. The kept policy lies in
    `output_dir/best_policy`, so that a resumed run knows it.
    """

    def __init__(self, trainer: Any):
        self.trainer = trainer
        self.state: GuardState | None = None

    @property
    def folder(self) -> Path:
        return Path(self.trainer.args.output_dir) / FOLDER

    @property
    def metric(self) -> str:
        return (self.trainer.args.metric_for_best_model or DEFAULT_METRIC).removeprefix("eval_")

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.state = None
        if state.global_step and (self.folder / STATE_FILE).is_file():
            self.state = GuardState(**json.loads((self.folder / STATE_FILE).read_text(encoding="utf-8")))
        elif state.global_step == 0:
            self.trainer.evaluate()  # comes back in on_evaluate

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        assert isinstance(args, RSPOFields) and metrics is not None
        metric, ndcg = (metrics.get(f"eval_{name}") for name in (self.metric, NDCG))
        if metric is None or ndcg is None:
            raise ValueError(
                f"`metric_for_best_model` must be one of what validation measures: "
                f"{', '.join(name.removeprefix('eval_') for name in metrics)}. Received: {self.metric!r}."
            )
        if self.state is None:
            self.keep(GuardState(ndcg, state.global_step, metric, ndcg))
            return
        if ndcg < (1 - args.max_ndcg_loss) * self.state.start_ndcg:
            self.state.beyond += 1
            logger.warning(
                "Step %d: held-out NDCG@10 is %.4f, more than %g%% below the %.4f before training (%s %.4g, then "
                "%.4g). The kept policy is that of step %d.",
                state.global_step, ndcg, 100 * args.max_ndcg_loss, self.state.start_ndcg, self.metric,
                self.state.best_metric, metric, self.state.best_step,
            )  # fmt: skip
            self.write_state()
            if args.guard_patience and self.state.beyond >= args.guard_patience:
                logger.warning(
                    "Stopped: %d validations in a row lost more than `max_ndcg_loss`. The reward may be wrong: see "
                    "whether rspo/margin rose meanwhile, and lower `learning_rate` or raise `vsl_weight`.",
                    self.state.beyond,
                )
                control.should_training_stop = True
            return
        self.state.beyond = 0
        if metric > self.state.best_metric:
            self.keep(GuardState(self.state.start_ndcg, state.global_step, metric, ndcg))
        else:
            self.write_state()

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.state is None or self.state.best_step == state.global_step:
            return
        model = self.model()
        if isinstance(model, PeftModel):  # its folder holds the adapters alone
            weights = load_file(self.folder / ADAPTERS_FILE, device=str(args.device))
            set_peft_model_state_dict(model, weights)
        else:
            model.load_state_dict(load_file(self.folder / "model.safetensors", device=str(args.device)))
        logger.info("The run ends with the policy of step %d of %d.", self.state.best_step, state.global_step)

    def keep(self, guard: GuardState) -> None:
        """Writes the policy as it is, and what is known of it, in the place of the one kept before."""
        self.state = guard
        if self.trainer.is_world_process_zero():
            unfinished = self.folder.with_name(f"{FOLDER}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            self.model().save_pretrained(unfinished)
            (unfinished / STATE_FILE).write_text(json.dumps(asdict(guard)), encoding="utf-8")
            shutil.rmtree(self.folder, ignore_errors=True)
            unfinished.rename(self.folder)
        self.trainer.accelerator.wait_for_everyone()

    def write_state(self) -> None:
        if self.trainer.is_world_process_zero() and self.state is not None:
            unfinished = self.folder / f"{STATE_FILE}.unfinished"
            unfinished.write_text(json.dumps(asdict(self.state)), encoding="utf-8")
            os.replace(unfinished, self.folder / STATE_FILE)

    def model(self) -> Any:
        return self.trainer.accelerator.unwrap_model(self.trainer.model)


__all__ = ["FOLDER", "GuardState", "HeldOutGuard"]
