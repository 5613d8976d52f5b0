# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from dataclasses import dataclass, field

from ..evaluation.ranking_evaluation import RankingEvaluationConfig
from .trl_bases import TRLConfigBase


@dataclass
class RSPOConfig(RankingEvaluationConfig, TRLConfigBase):
    r"""
    Settings of [`RSPOTrainer`]: those of [`~transformers.TrainingArguments`] and the ones of RSPO (arXiv 2602.22732,
    eq. 16-18).

    Parameters:
        beta (`float`, defaults to 0.1): Sharpness of the preferences, > 0.
        delta (`float`, defaults to 2.0): Gate on the mean drift |log(p / p_ref)| in nats; above it an anchor ignores
            the reference.
        use_reference (`bool`, defaults to `True`): Hold the policy against a frozen copy of its start.
        max_grade (`float`, defaults to 3): Values become grades in [0, max_grade] within each list.
        imitation_weight (`float`, defaults to 0.1): Weight of -log p of each list's most valuable candidate, which
            keeps probability on what is good and not only away from what is worse.
        max_items (`int`, *optional*): Items of a history; default the model's `max_context_items`.
    """

    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must stay False: the collator reads the columns."}
    )
    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade compute for memory."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    beta: float = field(default=0.1, metadata={"help": "Sharpness of the preferences, > 0."})
    delta: float = field(default=2.0, metadata={"help": "Gate: largest mean drift from the reference, in nats."})
    use_reference: bool = field(default=True, metadata={"help": "Hold the policy against a frozen copy of its start."})
    max_grade: float = field(
        default=3.0, metadata={"help": "Values become grades in [0, max_grade] within each list."}
    )
    imitation_weight: float = field(default=0.1, metadata={"help": "Weight of -log p of each list's best candidate."})
    max_items: int | None = field(default=None, metadata={"help": "Items of a history; default: the model's limit."})

    def __post_init__(self):
        super().__post_init__()
        for name in ("beta", "delta", "max_grade"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be > 0. Received: {getattr(self, name)}.")
        if self.remove_unused_columns:
            raise ValueError(
                "`remove_unused_columns` must be False: the collator reads the data columns. Received: True."
            )


__all__ = ["RSPOConfig"]
