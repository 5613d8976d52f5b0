# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the reward model's trainer."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..row_arguments import RowArguments
from .reward_fields import RewardFields


@dataclass
class RewardConfig(RewardFields, RowArguments, TrainingArguments):
    r"""
    Settings of [`RewardTrainer`]: those of [`~transformers.TrainingArguments`] and [`RewardFields`].

    Raises:
        ValueError: For a value outside its range.
    """

    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the exposures."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Lists of a step and device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Lists scored at once."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_reward_fields()
        self.check_row_arguments()


__all__ = ["RewardConfig"]
