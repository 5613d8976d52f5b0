# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Settings of continual training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from ..rspo.preference_fields import PreferenceFields
from ..setting_ranges import check_range
from ..vsl.vsl_fields import TargetWeightFields


@dataclass
class ContinualConfig(PreferenceFields, TargetWeightFields):
    r"""
    Settings of [`ContinualTrainer`]: what one step of online learning does with its records; how lists teach
    ([`PreferenceFields`]) and how much each target counts ([`TargetWeightFields`]) among them.

    The parts of the VSL loss have the weights that the model's config names (`value_loss_weight`, `mtp_loss_weight`,
    `item_loss_weight`), those of the recipe that trained it.

    Raises:
        ValueError: For a value outside its range, or settings that do not fit each other.
    """

    REFERENCES: ClassVar[tuple[str, ...]] = ("published", "logged", "none")

    learning_rate: float = field(default=3e-4, metadata={"help": "Of AdamW, constant after the warmup."})
    warmup_steps: int = field(default=20, metadata={"help": "Steps in which the learning rate rises from 0."})
    weight_decay: float = field(default=0.0, metadata={"help": "Of AdamW."})
    max_grad_norm: float = field(default=1.0, metadata={"help": "Gradients are clipped to this norm."})
    seed: int = field(default=0, metadata={"help": "Of what the steps draw: dropout, if it is on."})

    rl_weight: float = field(default=1.0, metadata={"help": "Weight of the lists' loss beside that of engagements."})
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
    event_value_mean: float | None = field(
        default=None, metadata={"help": "Mean value of an event, which target_value_power is relative to."}
    )

    def __post_init__(self) -> None:
        self.check_preference_fields()
        check_range(self, "must be > 0 and finite", "learning_rate", "max_grad_norm")
        check_range(self, "must be >= 0 and finite", "warmup_steps", "weight_decay", "rl_weight")
        self.check_target_weight_fields()
        # A stream has no totals to measure these by before it is read.
        for name, mean, wanted in (
            ("user_weight_clip", "user_value_mean", self.user_weight_clip > 1),
            ("target_value_power", "event_value_mean", self.target_value_power != 0),
        ):
            if wanted and getattr(self, mean) is None:
                raise ValueError(
                    f"`{name}` = {getattr(self, name)} needs `{mean}`, which it is relative to. Received: none. Take "
                    "it from the log that the model was trained on."
                )


__all__ = ["ContinualConfig"]
