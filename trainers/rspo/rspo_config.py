# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the RSPO trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch

from ..bfloat16 import fast_bfloat16
from ..evaluation.ranking_evaluation import RankingEvaluationConfig
from ..row_arguments import RowArguments
from .preference_fields import RSPOFields
from .trl_bases import TRLConfigBase


@dataclass
class RSPOConfig(RSPOFields, RankingEvaluationConfig, RowArguments, TRLConfigBase):
    r"""
    Settings of [`RSPOTrainer`]: those of [`~transformers.TrainingArguments`], of validation
    ([`RankingEvaluationConfig`]) and of RSPO (arXiv 2602.22732, eqs. 16-22; [`RSPOFields`]).

    Raises:
        ValueError: For a value outside its range, or settings that do not fit each other.
    """

    gradient_checkpointing: bool = field(default=False, metadata={"help": "Trade compute for memory."})
    learning_rate: float = field(default=1e-4, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})

    def __post_init__(self) -> None:
        if self.bf16 is None:  # TRL would turn it on, and a machine without it refuse
            self.bf16 = fast_bfloat16() and not self.fp16
            self.use_cpu = self.use_cpu or not torch.cuda.is_available()
        super().__post_init__()
        self.check_ranking()
        self.check_rspo_fields()
        self.check_row_arguments()

    def to_dict(self) -> dict[str, Any]:
        """As transformers', a loss of your own by its name."""
        return {**super().to_dict(), "loss_type": self.loss_name}

    def __getstate__(self) -> dict[str, Any]:
        # What a checkpoint keeps of the arguments: a function of a notebook cannot be written into a file.
        return {**self.__dict__, "loss_type": self.loss_name}


__all__ = ["RSPOConfig"]
