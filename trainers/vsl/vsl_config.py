# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments

from ..evaluation.ranking_evaluation import RankingEvaluationConfig


@dataclass
class VSLConfig(RankingEvaluationConfig, TrainingArguments):
    r"""
    Settings of [`VSLTrainer`]: those of [`~transformers.TrainingArguments`] and the ones of value-aware supervised
    learning (arXiv 2602.22732, eqs. 12-15).

    Parameters:
        value_loss_weight (`float`, defaults to 0.1): lambda_e, weight of the value token's loss.
        mtp_loss_weight (`float`, defaults to 0.3): lambda_mtp, weight of the token-free pass; 0 skips its cost.
        item_loss_weight (`float`, defaults to 0.5): Weight of the item head's loss.
        label_smoothing (`float`, defaults to 0): Of the SID softmaxes, in [0, 1).
        user_weight_clip (`float`, defaults to 5): w_user is the user's total value over the mean user's, clipped to
            [1 / clip, clip]; 1 gives every user the same weight.
        behavior_weights (`dict`, *optional*): w_behavior by event name, e.g. `{"click": 1.0, "conversion": 3.0}`;
            others 1.
        target_value_power (`float`, defaults to 0): Multiplies w by (value / mean value) ** power. At 1 the model
            learns an item's share of revenue instead of its share of events.
        target_window (`int`, defaults to 1): The target of a prefix is drawn from the next so many events, anew each
            time; 1 is the next event. Logs of baskets, where order within a basket says nothing and nothing repeats,
            want more.
        max_items (`int`, *optional*): Items of a history; default the model's `max_context_items`.
        eval_beam_widths (`list[int]`, defaults to `[50, 50, 50]`): Beams of the validation search.
        eval_item_weight, eval_value_weight (`float`): Share in [0, 1] of the item head and exponent of expected value
            in its ranking.
        eval_users (`int`, defaults to 2000): Users sampled for it; 0 = all.
    """

    # Differs from TrainingArguments' default: columns are named by the data format, not by `forward`.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the columns."}
    )
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    value_loss_weight: float = field(
        default=0.1, metadata={"help": "lambda_e, weight of the value token's loss (eq. 14)."}
    )
    mtp_loss_weight: float = field(default=0.3, metadata={"help": "lambda_mtp (eq. 15); 0 skips the token-free pass."})
    item_loss_weight: float = field(default=0.5, metadata={"help": "Weight of the item head's loss."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Of the SID softmaxes, in [0, 1)."})
    user_weight_clip: float = field(
        default=5.0, metadata={"help": "w_user lies in [1/clip, clip]; 1 weights users equally."}
    )
    behavior_weights: dict | None = field(default=None, metadata={"help": "w_behavior by event name; default 1."})
    target_value_power: float = field(
        default=0.0, metadata={"help": "Weights targets by (value / mean value) ** power."}
    )
    target_window: int = field(default=1, metadata={"help": "Targets are drawn from the next so many events."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})

    def __post_init__(self):
        super().__post_init__()
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator reads the data columns. Received: True."
            )
        if self.user_weight_clip < 1:
            raise ValueError(f"`user_weight_clip` must be >= 1. Received: {self.user_weight_clip}.")
        if self.target_window < 1:
            raise ValueError(f"`target_window` must be >= 1. Received: {self.target_window}.")


__all__ = ["VSLConfig"]
