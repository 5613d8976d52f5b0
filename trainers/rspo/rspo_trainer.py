# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ranking-guided softmax preference optimization as a TRL-style trainer."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import TrainerCallback

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer

from ..evaluation.ranking_evaluation import RankingEvaluationMixin, validation_table
from ..finite_training import FiniteTrainingMixin
from ..row_datasets import Rows, as_table
from ..whole_checkpoints import WholeCheckpointMixin
from .alignment_card import write_alignment_card
from .held_out_guard import HeldOutGuard
from .list_grades import value_grades
from .policy_alarms import PolicyAlarms
from .preference_lists import RSPOCollator, check_lists
from .preference_losses import loss_of
from .rspo_config import RSPOConfig
from .rspo_objective import candidate_scores, preference_objective
from .trl_bases import SyncRefModelCallback, TRLTrainerBase, disable_dropout_in_model


class RSPOTrainer(WholeCheckpointMixin, FiniteTrainingMixin, RankingEvaluationMixin, TRLTrainerBase):
    """
    Aligns a [`GR4ADForRecommendation`] with the value of whole lists (arXiv 2602.22732, eqs. 16-22).

    The log-probabilities of all candidates of a context are computed together: the context and the trunk once, the
    upper layers once a candidate; the VSL loss of the most valuable candidate comes from the same pass.

    Beside the loss it logs, as `rspo/NAME`, means since the last log: `rspo` (or the loss's name) and `vsl`;
    `accuracy` (share of pairs in the right order) and `margin` (nats); `gate_open`; `best_logp`, the mean log p of
    each list's most valuable candidate; `reward`, what a list earns if one candidate is drawn by the policy; `drift`,
    the mean |log(p / p_ref)|.

    Example:

    ```python
    trainer = RSPOTrainer(
        model=model,
        args=RSPOConfig(output_dir="aligned", beta=0.1, eval_strategy="steps", eval_steps=100),
        train_dataset=lists,  # rows: items (history), candidates (item ids), rewards (values, same length)
        eval_dataset=validation,
        processing_class=tokenizer,
    )
    trainer.train()
    ```

    Args:
        model ([`GR4ADForRecommendation`]): The policy, trained by VSL.
        args ([`RSPOConfig`]): Settings.
        train_dataset (`Dataset`, `IterableDataset`, `DataFrame` or list of dicts): List-wise rows, see `check_lists`;
            a stream is read into memory.
        processing_class ([`UASIDTokenizer`]): The tokenizer.
        eval_dataset (`Dataset`, `DataFrame` or list of dicts, *optional*): Rows of histories with `target_items` and
            `target_values`; validation is by beam search, as `args.eval_weights` say. With an `eval_strategy` it also
            guards the run, see [`RSPOConfig`].
        callbacks (`list`, *optional*): Further callbacks.
        peft_config (`PeftConfig`, *optional*): Trains fresh adapters, e.g. LoRA of the upper layers, in place of the
            model's weights; `trainer.model.merge_and_unload()` is the aligned model. Without its adapters the model
            is its own frozen reference, which then costs no memory.

    Raises:
        ValueError: If no list has two different rewards, or as `check_lists`.
    """

    args: RSPOConfig
    _tag_names = ["gr4ad", "rspo"]
    _name = "RSPO"
    _paper = {"title": "GR4AD: generative recommendation for advertising", "id": "2602.22732"}
    # compute_loss divides by what the whole accumulated batch counts, over all processes
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: GR4ADForRecommendation,
        args: RSPOConfig,
        train_dataset: Rows,
        processing_class: UASIDTokenizer,
        eval_dataset: Rows | None = None,
        callbacks: list[TrainerCallback] | None = None,
        peft_config: PeftConfig | None = None,
        **kwargs: Any,
    ):
        rows = check_lists(as_table(train_dataset, "train_dataset", read_streams=True), args.reference)
        validation = None if eval_dataset is None else as_table(eval_dataset, "eval_dataset")
        if args.reference != "logged" and "ref_logps" in rows.column_names:
            rows = rows.remove_columns("ref_logps")
        if validation is not None:
            if args.eval_strategy != "no":
                args.eval_weights.check(model.config)
            validation_table(validation, processing_class)
        if args.item_weight and not model.config.item_head:
            raise ValueError(
                f"`item_weight` = {args.item_weight} needs an item head, and the model has none. Set it to 0."
            )
        if args.disable_dropout:
            disable_dropout_in_model(model)
        if peft_config is not None:
            model = adapted(model, peft_config, args)
        self.ref_model = None
        # Without its adapters, which begin at nothing, a fresh PEFT model is its own reference.
        if args.reference == "frozen" and peft_config is None:
            self.ref_model = copy.deepcopy(model).eval().requires_grad_(False)
        self.loss_metrics: dict[str, list[torch.Tensor]] = defaultdict(list)
        self.alarms = PolicyAlarms(args.delta, args.reference != "none")
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=validation,
            processing_class=processing_class,
            data_collator=RSPOCollator(
                processing_class,
                args.max_items or model.config.max_context_items,
                model.config.max_cross_domain_items,
                with_items=args.item_weight > 0,
            ),
            callbacks=callbacks,
            **kwargs,
        )
        if self.ref_model is not None:
            self.ref_model = self.accelerator.prepare_model(self.ref_model, evaluation_mode=True)
            if args.sync_ref_model:
                self.add_callback(SyncRefModelCallback(self.ref_model, self.accelerator))
        self.guard = None
        if eval_dataset is not None and args.eval_strategy != "no":
            self.guard = HeldOutGuard(self)
            self.add_callback(self.guard)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and over all processes what its losses are divided by: int64 (2,), what the
        preference loss counts and lists."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts, loss = torch.zeros(2, dtype=torch.int64), loss_of(self.args.loss_type)
        for batch in batches:
            mask = batch["candidate_mask"]
            grades = value_grades(batch["rewards"], mask, max_grade=self.args.max_grade)
            counts += torch.stack([loss.counted(grades, mask), torch.tensor(len(mask))]).cpu()
        return batches, self.accelerator.gather(counts.to(device)).view(-1, 2).sum(0)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        args = self.args
        count = num_lists = None
        if num_items_in_batch is not None:
            count, num_lists = torch.as_tensor(num_items_in_batch).clamp(min=1)
        loss, metrics, outputs = preference_objective(
            model,
            inputs,
            args,
            partial(self.reference_logps, model) if args.reference == "frozen" else None,
            count=count,
            num_lists=num_lists,
            trie=self.trie,
        )
        # What a step's batches share in is a mean over them once each is multiplied by their number.
        shares = self.accelerator.num_processes
        shares *= 1 if count is None else self.current_gradient_accumulation_steps
        for name, metric in metrics.items():
            self.loss_metrics[name].append((shares * metric if name in (args.loss_name, "vsl") else metric).float())
        # Gradients are averaged over the processes, whose sums are divided by what all of them count.
        loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def reference_logps(self, model: nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Scores of the candidates under the frozen reference, (B, n)."""
        if self.ref_model is not None:
            return candidate_scores(self.ref_model(**batch, trie=self.trie), self.args.item_weight)
        with self.accelerator.unwrap_model(model).disable_adapter():
            return candidate_scores(model(**batch, trie=self.trie), self.args.item_weight)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.loss_metrics:
            names = sorted(self.loss_metrics)  # one order in all processes
            means = torch.stack([torch.stack(self.loss_metrics[name]).mean() for name in names])
            parts = dict(zip(names, self.accelerator.reduce(means, "mean").tolist(), strict=True))
            self.alarms.read(self.state.global_step, parts)
            logs |= {f"rspo/{name}": part for name, part in parts.items()}
            self.loss_metrics.clear()
        super().log(logs, start_time)

    def loss_parts(self) -> dict[str, float]:
        return {name: float(sum(parts)) for name, parts in self.loss_metrics.items()}

    # TRL's arguments, which are not transformers'.
    def create_model_card(  # type: ignore[override]
        self,
        model_name: str | None = None,
        dataset_name: str | None = None,
        tags: Sequence[str] | str | None = None,
        **kwargs: Any,
    ) -> None:
        """Writes `output_dir/README.md` about this run: TRL's card describes a text generator."""
        if self.is_world_process_zero():
            write_alignment_card(self, model_name, dataset_name, tags)


def adapted(model: GR4ADForRecommendation, peft_config: PeftConfig, args: RSPOConfig) -> PeftModel:
    """The model with fresh adapters. Raises ValueError if they cannot begin at nothing or the reference cannot move
    towards them."""
    if args.sync_ref_model:
        raise ValueError(
            "`sync_ref_model` moves a copy of the policy, and with `peft_config` there is none. Received: True. Set "
            "it to False, or merge the adapters and align once more from there."
        )
    start = getattr(peft_config, "init_lora_weights", True)  # which only configurations of LoRA have
    if start is not True:
        raise ValueError(
            "`init_lora_weights` of `peft_config` must be True: the policy without its adapters is the reference. "
            f"Received: {start!r}."
        )
    return get_peft_model(model, peft_config)


__all__ = ["RSPOTrainer"]
