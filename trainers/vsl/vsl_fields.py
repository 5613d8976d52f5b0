# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Settings of VSL and their ranges, without torch: a command line checks them before it imports it."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..setting_ranges import check_range


@dataclass
class TargetWeightFields:
    """How much each target of a log counts: shared by [`VSLConfig`] and [`ContinualConfig`]. The weight of a target is
    w = w_user w_behavior (value / mean value) ** target_value_power, where w_user is the user's total value over the
    mean user's, clipped. At `target_value_power` = 1 the model learns an item's share of revenue instead of its share
    of events."""

    user_weight_clip: float = field(
        default=5.0, metadata={"help": "w_user lies in [1/clip, clip]; 1 weights users equally."}
    )
    behavior_weights: dict | None = field(
        default=None, metadata={"help": 'w_behavior by event name, e.g. {"conversion": 3}; others 1.'}
    )
    target_value_power: float = field(
        default=0.0, metadata={"help": "Weights targets by (value / mean value) ** power."}
    )
    user_value_mean: float | None = field(
        default=None, metadata={"help": "Mean total value of a user; default: the log's."}
    )
    event_value_mean: float | None = field(
        default=None, metadata={"help": "Mean value of an event; default: the log's."}
    )

    def check_target_weight_fields(self) -> None:
        """Raises ValueError for a value outside its range."""
        check_range(self, "must be >= 1", "user_weight_clip")
        for name, weight in (self.behavior_weights or {}).items():
            if not 0 <= weight < float("inf"):
                raise ValueError(f"`behavior_weights` must be >= 0 and finite. Received: {weight} for {name!r}.")
        means = ("user_value_mean", "event_value_mean")
        check_range(self, "must be above 0 and finite", *means, remedy=" Leave it out to measure it.")


@dataclass
class VSLFields(TargetWeightFields):
    """What [`VSLConfig`] has beside transformers' arguments: [`TargetWeightFields`], and

    Parameters:
        target_window (`int`, defaults to 1): 1 is the next event, more are drawn from anew each time. Logs of baskets,
            where order within a basket says nothing and nothing repeats, want more.
        max_items (`int`, *optional*): Default the model's `max_context_items`. Of a longer log the last so many are
            read and the one after them predicted; what came before is left out.

    The others are told by their help; of the loss weights see [`VSLLossWeights`].
    """

    value_loss_weight: float = field(
        default=0.1, metadata={"help": "lambda_e, weight of the value token's loss (eq. 14)."}
    )
    mtp_loss_weight: float = field(default=0.3, metadata={"help": "lambda_mtp (eq. 15); 0 skips the token-free pass."})
    item_loss_weight: float = field(default=0.5, metadata={"help": "Weight of the item head's loss."})
    label_smoothing: float = field(default=0.0, metadata={"help": "Label smoothing of the SID softmaxes, in [0, 1)."})
    teacher_loss_weight: float = field(
        default=0.0, metadata={"help": "Weight of soft targets for the SID path, by the item head or a given teacher."}
    )
    teacher_temperature: float = field(default=1.0, metadata={"help": "The teacher's scores are divided by it."})
    teacher_share: float = field(default=0.125, metadata={"help": "Share of the targets that have soft targets."})
    teacher_neighbour_weight: float = field(
        default=0.0, metadata={"help": "Weight of item neighbours beside the item head as a teacher, if it has any."}
    )
    item_embedding_std: float = field(
        default=0.05,
        metadata={
            "help": "A fresh model's item vectors start at this scale from the main components of the tokenizer's; "
            "0 = at random."
        },
    )
    target_window: int = field(default=1, metadata={"help": "Targets are drawn from the next so many events."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})
    shuffle_buffer: int = field(default=20_000, metadata={"help": "Users of a streamed log held in memory."})
    early_stopping_patience: int = field(
        default=0,
        metadata={"help": "Validations without a new best `metric_for_best_model` before it stops; 0 = never."},
    )

    def check_vsl_fields(self) -> None:
        """Raises ValueError for a value outside its range."""
        self.check_target_weight_fields()
        weights = ("value_loss_weight", "mtp_loss_weight", "item_loss_weight", "item_embedding_std")
        check_range(self, "must be >= 0 and finite", *weights, "teacher_loss_weight", "teacher_neighbour_weight")
        check_range(self, "must be above 0 and finite", "teacher_temperature")
        check_range(self, "must be in (0, 1]", "teacher_share")
        check_range(self, "must be in [0, 1)", "label_smoothing")
        check_range(self, "must be >= 1", "target_window", "shuffle_buffer", "max_items")
        check_range(self, "must be 0 (never) or more", "early_stopping_patience")


__all__ = ["TargetWeightFields", "VSLFields"]
