# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Arguments of instruction tuning."""

from __future__ import annotations

from dataclasses import dataclass, field

from trl import SFTConfig


@dataclass
class InstructionConfig(SFTConfig):
    r"""
    Settings of the instruction tuning of an ad encoder (arXiv 2602.22732, unified advertisement embedding): those of
    [`~trl.SFTConfig`] with other defaults.

    Parameters:
        completion_only_loss (`bool`, defaults to `True`): Must stay `True`: the loss is on the answer alone.
        max_length (`int`, *optional*): Tokens of a whole example. Must stay `None` with images, whose tokens a cut
            would take: limit the text by `max_length` of [`build_instruction_dataset`].
    """

    completion_only_loss: bool | None = field(default=True, metadata={"help": "Must stay True: learn the answer."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens of an example; None with images."})
    learning_rate: float = field(default=1e-5, metadata={"help": "Peak learning rate; about 1e-4 with LoRA."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.completion_only_loss is not True:
            raise ValueError(
                "`completion_only_loss` must be True: the model learns to answer, not to write the ad's text. "
                f"Received: {self.completion_only_loss}."
            )
        if self.packing:
            raise ValueError("`packing` must be False: each ad is an example of its own. Received: True.")


__all__ = ["InstructionConfig"]
