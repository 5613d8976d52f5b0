# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Value-aware supervised learning on transformers' Trainer."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import (
    EarlyStoppingCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import IntervalStrategy, TrainOutput

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, Teacher, VSLLossWeights
from gr4ad.tokenization import UASIDTokenizer

from ..evaluation.ranking_evaluation import RankingEvaluationMixin, validation_table
from ..finite_training import FiniteTrainingMixin, NonFiniteTrainingError
from ..row_datasets import Rows, as_dataset, as_table
from ..whole_checkpoints import WholeCheckpointMixin, last_checkpoint
from .epoch_sampler import LengthGroupedEpochSampler
from .history_stream import HistoryStream, StreamPosition, stream_means
from .model_start import start_model
from .training_metrics import StepMetrics, item_accuracy
from .vsl_collator import VSLCollator
from .vsl_config import VSLConfig
from .vsl_rows import (
    EpochRows,
    RowSettings,
    RowTokenizer,
    ValueMeans,
    check_log_columns,
    dataset_means,
    tokenize_histories,
)

logger = logging.getLogger(__name__)


class VSLTrainer(WholeCheckpointMixin, FiniteTrainingMixin, RankingEvaluationMixin, Trainer):
    """
    Trains a [`GR4ADForRecommendation`] on user logs with the value-aware loss of GR4AD (arXiv 2602.22732, eqs. 12-15).

    Every prefix of a history predicts the next item in one pass. A model that was never trained starts with what is
    known already: the item head from the items' events, the item vectors from those that the tokenizer carries (see
    `start_model`). Validation is a real beam search over the catalog:
    its metrics are item-level (`eval_recall@10`, `eval_ndcg@10`, `eval_revenue@10`, ...).

    Beside the loss and its parts it logs `acc_level_1`..`acc_level_T`, how often the code of a level is the likeliest
    given the true codes before it; `acc_item`, the same of the item head, on the batch at the log; and `value_ratio`,
    expected value over true value, each value taken as the mean of its bucket: 1 is calibrated.

    Example:

    ```python
    trainer = VSLTrainer(
        model=GR4ADForRecommendation(config),
        args=VSLConfig(output_dir="out", num_train_epochs=10, metric_for_best_model="ndcg@10"),
        train_dataset=train,       # rows: items, events, values
        eval_dataset=validation,   # the same, and target_items, target_values
        processing_class=tokenizer,
    )
    trainer.train()
    ```

    Args:
        model ([`GR4ADForRecommendation`]): Its config must fit the tokenizer, as one of
            `GR4ADConfig.from_tokenizer(tokenizer)` does; it may leave features out.
        args ([`VSLConfig`]): Settings; its loss weights hold in place of those of the model's config.
        train_dataset (`Dataset`, `IterableDataset`, `DataFrame` or list of dicts): One row a user, see
            `tokenize_histories`. Of an `IterableDataset`, such as `load_dataset("parquet", streaming=True)`,
            `shuffle_buffer` users are held in memory; it needs `max_steps`.
        eval_dataset (`Dataset`, `DataFrame` or list of dicts, *optional*): The same, with `target_items` and
            `target_values`; its `cross_domain` must end before the targets.
        processing_class ([`UASIDTokenizer`]): The tokenizer.
        callbacks (`list`, *optional*): Further callbacks.
        teacher (*optional*): Of the soft targets that `teacher_loss_weight` asks for, any ranker of items (`Teacher`);
            default the model's item head.

    Raises:
        ValueError: If model and tokenizer disagree, a split is empty, settings do not fit each other, or as
            `tokenize_histories`. While training, [`NonFiniteTrainingError`] if the loss is lost.
    """

    def __init__(
        self,
        model: GR4ADForRecommendation,
        args: VSLConfig,
        train_dataset: Rows,
        processing_class: UASIDTokenizer,
        eval_dataset: Rows | None = None,
        callbacks: list[TrainerCallback] | None = None,
        teacher: Teacher | None = None,
        **kwargs: Any,
    ):
        config = model.config
        config.check_tokenizer(processing_class)
        log = as_dataset(train_dataset, "train_dataset")
        validation = None if eval_dataset is None else as_table(eval_dataset, "eval_dataset")
        check_settings(args, config, validation)
        check_teacher(args, config, teacher)
        if validation is not None:
            validation_table(validation, processing_class)
        self.loss_weights = VSLLossWeights(
            args.value_loss_weight,
            args.mtp_loss_weight,
            args.item_loss_weight,
            args.label_smoothing,
            args.teacher_loss_weight,
            args.teacher_temperature,
            args.teacher_share,
            args.teacher_neighbour_weight,
        )
        self.teacher = teacher
        collator = VSLCollator(processing_class, args.target_window, args.data_seed or args.seed)
        self.metrics = StepMetrics(config.level_offsets, config.value_bucket_means or [])
        self.metrics_step = 0  # the step of the last log
        self.last_batch: dict[str, torch.Tensor] | None = None
        self.epoch_sampler: LengthGroupedEpochSampler | None = None
        rows = training_rows(log, processing_class, args, config, collator)
        ahead = args.user_value_mean is None or not isinstance(log, datasets.IterableDataset)
        start_model(model, processing_class, log if ahead else None, args.item_embedding_std)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=validation,
            processing_class=processing_class,
            data_collator=collator,
            callbacks=callbacks,
            **kwargs,
        )
        if self.is_fsdp_enabled and args.eval_strategy != "no":
            raise ValueError(
                "`eval_strategy` must be no with FSDP: the beam search reads whole parameters. Received: "
                f"{IntervalStrategy(args.eval_strategy).value}. Evaluate the finished model, or train with DDP."
            )
        if args.early_stopping_patience:
            self.add_callback(EarlyStoppingCallback(args.early_stopping_patience))
        self.add_callback(RunStart(self))

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        rows, args = self.train_dataset if train_dataset is None else train_dataset, self.args
        assert isinstance(rows, EpochRows)
        self.epoch_sampler = LengthGroupedEpochSampler(
            rows.rows["length"],
            self._train_batch_size * args.gradient_accumulation_steps * args.world_size,
            args.data_seed or args.seed,
        )
        return self.epoch_sampler

    def get_train_dataloader(self) -> DataLoader:
        if not isinstance(self.train_dataset, HistoryStream):
            return super().get_train_dataloader()
        # Not prepared by accelerate, which would read on process 0 for all: the stream knows its process.
        return DataLoader(self.train_dataset, batch_size=None, pin_memory=self.args.dataloader_pin_memory)

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        if resume_from_checkpoint is True:
            assert self.args.output_dir is not None
            resume_from_checkpoint = last_checkpoint(self.args.output_dir) or True  # transformers says what lacks
        if isinstance(stream := self.train_dataset, HistoryStream):
            stream.start = StreamPosition()
            if isinstance(resume_from_checkpoint, str):
                stream.start = StreamPosition.load(Path(resume_from_checkpoint), stream.shape)
        return super().train(resume_from_checkpoint, *args, **kwargs)

    def save_beside_model(self, folder: Path) -> None:
        if isinstance(self.train_dataset, HistoryStream):
            batches = self.state.global_step * self.args.gradient_accumulation_steps
            self.train_dataset.position(batches).save(folder, self.train_dataset.shape)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        outputs = model(
            **inputs,
            num_items_in_batch=num_items_in_batch,
            loss_weights=self.loss_weights,
            trie=self.trie,
            teacher=self.teacher,
        )
        self.metrics.add(outputs, inputs)
        self.last_batch = inputs
        # The sum is divided by the targets of all processes, whose gradients DDP and FSDP then average.
        loss = outputs.loss * max(self.accelerator.num_processes, self.args.n_gpu)
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self.metrics.reduced(self.accelerator, max(1, self.state.global_step - self.metrics_step))
            model = self.accelerator.unwrap_model(self.model)
            if self.last_batch is not None and model.item_head is not None and not self.is_fsdp_enabled:
                hits = torch.tensor(item_accuracy(model, self.last_batch), device=self.args.device)
                right, histories = self.accelerator.reduce(hits, "sum").tolist()
                logs["acc_item"] = right / histories
            self.metrics.reset()
            self.metrics_step, self.last_batch = self.state.global_step, None
        super().log(logs, start_time)

    def loss_parts(self) -> dict[str, float]:
        return {name: float(part) for name, part in self.metrics.parts.items()}


class RunStart(TrainerCallback):
    """Empties the metrics of an earlier run, and tells the sampler its epoch."""

    def __init__(self, trainer: VSLTrainer):
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.trainer.metrics.reset()
        self.trainer.metrics_step = state.global_step

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        # accelerate does not reach the sampler of a run that many processes resume within an epoch.
        if self.trainer.epoch_sampler is not None:
            self.trainer.epoch_sampler.set_epoch(int((state.epoch or 0) + 1e-6))


def check_settings(args: VSLConfig, config: GR4ADConfig, eval_dataset: datasets.Dataset | None) -> None:
    """Raises ValueError for settings that do not fit the model, the processes or the validation split."""
    if args.max_items is not None and args.max_items > config.max_context_items:
        raise ValueError(
            f"`max_items` must be at most the model's `max_context_items`, {config.max_context_items}. Received: "
            f"{args.max_items}. Lower it, or build the model with a longer context."
        )
    if args.fsdp and args.use_cpu:
        logger.warning("`fsdp` is skipped: accelerate shards on accelerators alone, CPU processes train by DDP.")
    if args.world_size > 1 and not args.average_tokens_across_devices:
        raise ValueError(
            "`average_tokens_across_devices` must be True with several processes: the weighted sum of the loss is "
            "divided by the targets of all of them. Received: False."
        )
    if eval_dataset is not None and not len(eval_dataset):
        raise ValueError(
            "The validation split is empty: `eval_dataset` has 0 rows. Give one row a user, or leave it out and set "
            "`eval_strategy` to no."
        )
    if eval_dataset is not None and args.eval_strategy != "no":
        args.eval_weights.check(config)


def check_teacher(args: VSLConfig, config: GR4ADConfig, teacher: Teacher | None) -> None:
    """Raises ValueError where a teacher is asked for and there is none, or one would not be asked."""
    if teacher is not None and not args.teacher_loss_weight:
        raise ValueError(
            "`teacher` would not be asked: `teacher_loss_weight` is 0. Set it, e.g. to 0.3, or leave `teacher` out."
        )
    if not args.teacher_loss_weight:
        return
    if config.sid_normalization == "codebook":
        raise ValueError(
            f"`teacher_loss_weight` = {args.teacher_loss_weight} teaches a p(SID) over the catalog. Received: a model "
            "with `sid_normalization` = 'codebook'. Set the weight to 0, or build the model with 'trie'."
        )
    if teacher is None and not config.item_head:
        raise ValueError(
            f"`teacher_loss_weight` = {args.teacher_loss_weight} needs a teacher. Received: a model without item head "
            "and no `teacher`. Give one, build the model with `item_head` = True, or set the weight to 0."
        )


def training_rows(
    log: datasets.Dataset | datasets.IterableDataset,
    tokenizer: UASIDTokenizer,
    args: VSLConfig,
    config: GR4ADConfig,
    collator: VSLCollator,
) -> EpochRows | HistoryStream:
    """What the trainer draws batches from. Raises ValueError as [`VSLTrainer`] says."""
    settings: RowSettings = {
        "max_items": args.max_items or config.max_context_items,
        "max_cross_domain": config.max_cross_domain_items,
        "user_weight_clip": args.user_weight_clip,
        "behavior_weights": args.behavior_weights,
        "target_value_power": args.target_value_power,
    }
    given = {"user": args.user_value_mean, "event": args.event_value_mean}
    known = {name: mean for name, mean in given.items() if mean is not None}
    if not isinstance(log, datasets.IterableDataset):
        means = dataset_means(log)
        settings["means"] = means and replace(means, **known)
        return EpochRows(tokenize_histories(log, tokenizer, **settings))
    for name, required, good in (
        ("max_steps", "above 0: the length of a stream is not known", args.max_steps > 0),
        ("dataloader_num_workers", "0: each worker would read the whole stream", args.dataloader_num_workers == 0),
        ("auto_find_batch_size", "False: buffers are cut into batches of one size", not args.auto_find_batch_size),
    ):
        if not good:
            raise ValueError(
                f"`{name}` must be {required}. Received: {getattr(args, name)}. Set it, or give a `Dataset`."
            )
    columns = list((log if log.column_names is not None else log._resolve_features()).column_names)
    check_log_columns(columns, tokenizer, args.target_value_power)
    # A mean that no weight is relative to is not measured: that would read the whole log.
    unused = {"user": args.user_weight_clip == 1, "event": not args.target_value_power}
    if all(unused[name] or name in known for name in given):
        means = ValueMeans(known.get("user", 0.0), known.get("event", 0.0))
    else:
        means = stream_means(log, columns)
        means = means and replace(means, **known)
    settings["means"] = means
    return HistoryStream(
        log,
        RowTokenizer(tokenizer, **settings),
        collator,
        batch_size=args.train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        processes=args.world_size,
        rank=args.process_index,
        buffer=args.shuffle_buffer,
        seed=args.data_seed or args.seed,
        limit=args.max_steps * args.gradient_accumulation_steps,
    )


__all__ = ["NonFiniteTrainingError", "VSLTrainer"]
