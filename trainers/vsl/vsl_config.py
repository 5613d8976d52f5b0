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
        max_items (`int`, *optional*): Items of a history; default the model's `max_context_items`. Of a longer log the
            last so many are read and the one after them predicted; what came before is left out.
        user_value_mean, event_value_mean (`float`, *optional*): Mean total value of a user and mean value of an event,
            which w_user and `target_value_power` are relative to; default the training log's own. Of a streamed log
            they cost one pass over its `values`.
        shuffle_buffer (`int`, defaults to 20000): Users of a streamed log held in memory, to be shuffled and batched
            by length.
        early_stopping_patience (`int`, defaults to 0): Stop after so many validations in a row without a new best
            `metric_for_best_model`; 0 = never.
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

    user_value_mean: float | None = field(
        default=None, metadata={"help": "Mean total value of a user; default: the log's."}
    )
    event_value_mean: float | None = field(
        default=None, metadata={"help": "Mean value of an event; default: the log's."}
    )
    shuffle_buffer: int = field(default=20_000, metadata={"help": "Users of a streamed log held in memory."})
    early_stopping_patience: int = field(
        default=0, metadata={"help": "Validations without a new best before training stops; 0 = never stops."}
    )
    # Differs from TrainingArguments' default, which asks the device after every step and puts the last good loss in
    # the place of one that is not finite.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must stay False: a loss that is not finite stops the training."}
    )

    def __post_init__(self):
        if self.early_stopping_patience:
            # So that a resumed run counts on from where it stood.
            self.restore_callback_states_from_checkpoint = True
        super().__post_init__()
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator reads the data columns. Received: True."
            )
        if self.user_weight_clip < 1:
            raise ValueError(f"`user_weight_clip` must be >= 1. Received: {self.user_weight_clip}.")
        if self.target_window < 1:
            raise ValueError(f"`target_window` must be >= 1. Received: {self.target_window}.")
        for name in ("shuffle_buffer", "max_items"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be >= 1. Received: {getattr(self, name)}.")
        for name in ("user_value_mean", "event_value_mean"):
            given = getattr(self, name)
            if given is not None and not 0 < given < float("inf"):
                raise ValueError(
                    f"`{name}` must be above 0 and finite. Received: {given}. Leave it out to measure it."
                )
        if self.logging_nan_inf_filter:
            raise ValueError(
                "`logging_nan_inf_filter` must be False: it would hide the loss that should stop the training. "
                "Received: True."
            )
        if self.early_stopping_patience < 0:
            raise ValueError(
                f"`early_stopping_patience` must be 0 (never) or more. Received: {self.early_stopping_patience}."
            )
        if self.early_stopping_patience and (
            self.eval_strategy == "no" or self.metric_for_best_model in (None, "loss", "eval_loss")
        ):
            raise ValueError(
                "`early_stopping_patience` counts validations by a ranking metric. Received: eval_strategy = "
                f"{str(self.eval_strategy.value)!r}, metric_for_best_model = {self.metric_for_best_model!r}. Set "
                "`eval_strategy` to epoch or steps and `metric_for_best_model` to, for example, ndcg@10; or the "
                "patience to 0."
            )


__all__ = ["VSLConfig"]
