# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from .score_calibration import METHODS


@dataclass
class RewardConfig(TrainingArguments):
    r"""
    Settings of [`RewardTrainer`]: those of [`~transformers.TrainingArguments`] and

    Parameters:
        train_context (`bool`, defaults to `False`): Whether the copy of the policy's context processor goes on
            learning.
        item_dropout (`float`, defaults to 0.1): Share of ads, in [0, 1), that are trained as new: by their SID alone.
        calibration (`str`, defaults to `"platt"`): `platt`, which keeps every order; `isotonic`; or `none`.
        max_items (`int`, *optional*): Items of a history; default the model's `max_context_items`.

    Raises:
        ValueError: For a value outside these ranges.
    """

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the columns."}
    )
    num_train_epochs: float = field(default=2.0, metadata={"help": "Passes over the exposures."})
    per_device_train_batch_size: int = field(default=128, metadata={"help": "Lists of a step and device."})
    per_device_eval_batch_size: int = field(default=256, metadata={"help": "Lists scored at once."})
    learning_rate: float = field(default=2e-3, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    train_context: bool = field(default=False, metadata={"help": "The copied context processor goes on learning."})
    item_dropout: float = field(default=0.1, metadata={"help": "Share of ads, in [0, 1), trained by SID alone."})
    calibration: str = field(default="platt", metadata={"help": f"One of {', '.join(METHODS)}."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.item_dropout < 1:
            raise ValueError(f"`item_dropout` is a share in [0, 1). Received: {self.item_dropout}.")
        if self.calibration not in METHODS:
            raise ValueError(f"`calibration` must be one of {', '.join(METHODS)}. Received: {self.calibration!r}.")
        if self.max_items is not None and self.max_items < 1:
            raise ValueError(f"`max_items` must be >= 1. Received: {self.max_items}.")
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator reads the data columns. Received: True."
            )


__all__ = ["RewardConfig"]
