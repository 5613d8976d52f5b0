# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the reward model's trainer."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .reward_fields import RewardFields


@dataclass
class RewardConfig(RewardFields, TrainingArguments):
    r"""
    Settings of [`RewardTrainer`]: those of [`~transformers.TrainingArguments`] and [`RewardFields`].

    Raises:
        ValueError: For a value outside its range.
    """

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the columns."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the exposures."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Lists of a step and device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Lists scored at once."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    def __post_init__(self):
        super().__post_init__()
        self.check_reward_fields()
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator reads the data columns. Received: True."
            )


__all__ = ["RewardConfig"]
