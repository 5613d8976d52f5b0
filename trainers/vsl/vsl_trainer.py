# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Value-aware supervised learning on transformers' Trainer."""

from __future__ import annotations

from collections import defaultdict

import torch
from datasets import Dataset
from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer

from ..evaluation.ranking_evaluation import RankingEvaluationMixin
from .epoch_sampler import LengthGroupedEpochSampler
from .vsl_collator import VSLCollator, tokenize_histories
from .vsl_config import VSLConfig


class VSLTrainer(RankingEvaluationMixin, Trainer):
    """
    Trains a [`GR4ADForRecommendation`] on user logs with the value-aware loss of GR4AD (arXiv 2602.22732, eqs. 12-15).

    Every prefix of a history predicts the next item in one pass. Validation is a real beam search over the catalog:
    its metrics are item-level (`eval_recall@10`, `eval_ndcg@10`, `eval_revenue@10`, ...).

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
        args ([`VSLConfig`]): Its loss weights are written into the model's config.
        train_dataset (`Dataset`): One row a user: `items` (list of item ids, oldest first), optionally `events`,
            `values`, `times`, `cross_domain` with `cross_domain_times`, and user features; see `tokenize_histories`.
        eval_dataset (`Dataset`, *optional*): The same, with `target_items` and `target_values`; its `cross_domain`
            must end before the targets.
        processing_class ([`UASIDTokenizer`]): The tokenizer.
        callbacks (`list`, *optional*): Further callbacks.

    Raises:
        ValueError: If model and tokenizer disagree, or as `tokenize_histories`.
    """

    def __init__(
        self,
        model: GR4ADForRecommendation,
        args: VSLConfig,
        train_dataset: Dataset,
        processing_class: UASIDTokenizer,
        eval_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs,
    ):
        config = model.config
        config.check_tokenizer(processing_class)
        config.value_loss_weight = args.value_loss_weight
        config.mtp_loss_weight = args.mtp_loss_weight
        config.item_loss_weight = args.item_loss_weight
        config.label_smoothing = args.label_smoothing
        rows = tokenize_histories(
            train_dataset,
            processing_class,
            max_items=args.max_items or config.max_context_items,
            max_cross_domain=config.max_cross_domain_items,
            user_weight_clip=args.user_weight_clip,
            behavior_weights=args.behavior_weights,
            target_value_power=args.target_value_power,
        )
        self.loss_parts: dict[str, list[torch.Tensor]] = defaultdict(list)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=VSLCollator(processing_class, args.target_window),
            callbacks=callbacks,
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler:
        rows = self.train_dataset if train_dataset is None else train_dataset
        return LengthGroupedEpochSampler(
            rows["length"], self.args.train_batch_size, self.args.data_seed or self.args.seed
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        for name, part in outputs.losses.items():
            self.loss_parts[name].append(part)
        return (outputs.loss, outputs) if return_outputs else outputs.loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            for name, parts in self.loss_parts.items():
                # With accumulation each part is a share of its step's sum, as the loss itself is.
                logs[f"loss_{name}"] = torch.stack(parts).mean().item() * self.args.gradient_accumulation_steps
            self.loss_parts.clear()
        super().log(logs, start_time)


__all__ = ["VSLTrainer"]
