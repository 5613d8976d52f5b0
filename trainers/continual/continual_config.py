# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import dataclass, field

from ..rspo.preference_fields import LOSS_TYPES

REFERENCES = ("published", "logged", "none")


@dataclass
class ContinualConfig:
    r"""
    Settings of [`ContinualTrainer`]: what one step of online learning does with its records.

    The parts of the VSL loss keep the weights that the model was trained with (its config's `value_loss_weight`,
    `mtp_loss_weight`, `item_loss_weight`); those of the preference loss are as in [`RSPOConfig`].

    Raises:
        ValueError: For a value outside its range, or settings that do not fit each other.
    """

    learning_rate: float = field(default=3e-4, metadata={"help": "Of AdamW, constant after the warmup."})
    warmup_steps: int = field(default=20, metadata={"help": "Steps in which the learning rate rises from 0."})
    weight_decay: float = field(default=0.0, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm."})

    rl_weight: float = field(default=1.0, metadata={"help": "Weight of the lists' loss beside that of engagements."})
    loss_type: str = field(default="rspo", metadata={"help": f"One of {', '.join(LOSS_TYPES)}."})
    beta: float = field(default=0.1, metadata={"help": "Sharpness of the preferences, > 0; GRPO's weight of the KL."})
    delta: float = field(default=2.0, metadata={"help": "Gate: largest mean drift from the reference, in nats."})
    clip: float = field(default=0.2, metadata={"help": "GRPO's bound of the probability ratio, in (0, 1)."})
    max_grade: float = field(
        default=3.0, metadata={"help": "Values become grades in [0, max_grade] within each list."}
    )
    vsl_weight: float = field(default=0.1, metadata={"help": "Weight of VSL on each list's most valuable candidate."})
    item_weight: float = field(
        default=0.0, metadata={"help": "Share in [0, 1] of the item head in the score that is aligned; as served."}
    )
    unified: bool = field(default=True, metadata={"help": "Weigh VSL and RSPO sample by sample (UVR, eqs. 19-22)."})
    reference: str = field(
        default="published",
        metadata={
            "help": "published: the weights that were last published, which proposed what the logs hold; logged: the "
            "records' ref_logps, where they have them; none."
        },
    )

    user_weight_clip: float = field(
        default=1.0,
        metadata={"help": "w_user lies in [1/clip, clip]; 1 weights users alike. Above 1 needs user_value_mean."},
    )
    user_value_mean: float | None = field(
        default=None, metadata={"help": "Mean over users of a history's total value, which w_user is relative to."}
    )
    behavior_weights: dict | None = field(default=None, metadata={"help": "w_behavior by event name; default 1."})
    target_value_power: float = field(
        default=0.0, metadata={"help": "Weights targets by (value / mean value) ** power. Needs event_value_mean."}
    )
    event_value_mean: float | None = field(default=None, metadata={"help": "Mean value of an event."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})
    disable_dropout: bool = field(default=True, metadata={"help": "Train without dropout, as the reference runs."})
    seed: int = field(default=0, metadata={"help": "Of what the steps draw: dropout, if it is on."})

    def __post_init__(self) -> None:
        for name, choices in (("loss_type", LOSS_TYPES), ("reference", REFERENCES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {getattr(self, name)!r}.")
        for name in ("learning_rate", "max_grad_norm", "beta", "delta", "max_grade"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be > 0 and finite. Received: {getattr(self, name)}.")
        for name in ("warmup_steps", "weight_decay", "rl_weight", "vsl_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"`{name}` must be >= 0 and finite. Received: {getattr(self, name)}.")
        if not 0 <= self.item_weight <= 1:
            raise ValueError(f"`item_weight` is a share in [0, 1]. Received: {self.item_weight}.")
        if not 0 < self.clip < 1:
            raise ValueError(f"`clip` must be in (0, 1). Received: {self.clip}.")
        if self.unified and (self.loss_type != "rspo" or not self.vsl_weight):
            raise ValueError(
                "`unified` mixes VSL with RSPO: it needs `loss_type` = rspo and `vsl_weight` > 0. Received: "
                f"{self.loss_type} and {self.vsl_weight}. Set it to False for another loss."
            )
        if self.loss_type == "grpo" and self.reference == "none":
            raise ValueError(
                "`reference` must be published or logged with the GRPO loss, whose ratio is to the policy that made "
                "the lists. Received: none."
            )
        if self.user_weight_clip < 1:
            raise ValueError(f"`user_weight_clip` must be >= 1. Received: {self.user_weight_clip}.")
        # A stream has no totals to measure these by before it is read.
        for name, mean, wanted in (
            ("user_weight_clip", "user_value_mean", self.user_weight_clip > 1),
            ("target_value_power", "event_value_mean", self.target_value_power != 0),
        ):
            given = getattr(self, mean)
            if wanted and given is None:
                raise ValueError(
                    f"`{name}` = {getattr(self, name)} needs `{mean}`, which it is relative to. Received: none. Take "
                    "it from the log that the model was trained on."
                )
            if given is not None and not 0 < given < float("inf"):
                raise ValueError(f"`{mean}` must be above 0 and finite. Received: {given}.")
        if self.max_items is not None and self.max_items < 1:
            raise ValueError(f"`max_items` must be >= 1. Received: {self.max_items}.")


__all__ = ["REFERENCES", "ContinualConfig"]
