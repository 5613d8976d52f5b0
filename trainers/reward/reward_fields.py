# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Settings of the reward model's training and their ranges, without torch."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..setting_ranges import check_range

CALIBRATION_METHODS = ("platt", "isotonic", "none")


@dataclass
class RewardFields:
    """What [`RewardConfig`] has beside transformers' arguments. Ads trained by their SID alone teach the model to
    value new ads. Of the calibrations `platt` keeps every order, `isotonic` makes ties."""

    train_context: bool = field(default=False, metadata={"help": "The copied context processor goes on learning."})
    item_dropout: float = field(default=0.1, metadata={"help": "Share of ads, in [0, 1), trained by SID alone."})
    calibration: str = field(default="platt", metadata={"help": f"One of {', '.join(CALIBRATION_METHODS)}."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})

    def check_reward_fields(self) -> None:
        """Raises ValueError for a value outside its range."""
        check_range(self, "is a share in [0, 1)", "item_dropout")
        check_range(self, "must be >= 1", "max_items")
        if self.calibration not in CALIBRATION_METHODS:
            raise ValueError(
                f"`calibration` must be one of {', '.join(CALIBRATION_METHODS)}. Received: {self.calibration!r}."
            )


__all__ = ["CALIBRATION_METHODS", "RewardFields"]
