# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Arguments of the VSL trainer."""

from __future__ import annotations

from dataclasses import dataclass, field

from transformers import TrainingArguments
from transformers.trainer_utils import IntervalStrategy

from ..evaluation.ranking_evaluation import RankingEvaluationConfig
from ..row_arguments import RowArguments
from .vsl_fields import VSLFields


@dataclass
class VSLConfig(VSLFields, RankingEvaluationConfig, RowArguments, TrainingArguments):
    r"""
    Settings of [`VSLTrainer`]: those of [`~transformers.TrainingArguments`], of validation
    ([`RankingEvaluationConfig`]) and of value-aware supervised learning (arXiv 2602.22732, eqs. 12-15;
    [`VSLFields`]).

    `user_value_mean` and `event_value_mean` default to the training log's own. Of a streamed log they cost one pass
    over its `values`.

    Raises:
        ValueError: For a value outside its range, or settings that do not fit each other.
    """

    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    report_to: str = field(default="none", metadata={"help": "Loggers, e.g. tensorboard."})
    # Differs from TrainingArguments' default, which asks the device after every step and puts the last good loss in
    # the place of one that is not finite.
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must stay False: a loss that is not finite stops the training."}
    )

    def __post_init__(self) -> None:
        if self.early_stopping_patience:
            # So that a resumed run counts on from where it stood.
            self.restore_callback_states_from_checkpoint = True
        super().__post_init__()
        self.check_ranking()
        self.check_vsl_fields()
        self.check_row_arguments()
        if self.logging_nan_inf_filter:
            raise ValueError(
                "`logging_nan_inf_filter` must be False: it would hide the loss that should stop the training. "
                "Received: True."
            )
        if self.early_stopping_patience and (
            self.eval_strategy == "no" or self.metric_for_best_model in (None, "loss", "eval_loss")
        ):
            raise ValueError(
                "`early_stopping_patience` counts validations by a ranking metric. Received: eval_strategy = "
                f"{IntervalStrategy(self.eval_strategy).value!r}, metric_for_best_model = "
                f"{self.metric_for_best_model!r}. Set `eval_strategy` to epoch or steps and `metric_for_best_model` "
                "to, for example, ndcg@10; or the patience to 0."
            )


__all__ = ["VSLConfig"]
