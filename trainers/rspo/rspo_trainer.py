# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ranking-guided softmax preference optimization as a TRL-style trainer."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from transformers import TrainerCallback

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer

from ..evaluation.ranking_evaluation import RankingEvaluationMixin
from .rspo_config import RSPOConfig
from .rspo_loss import rspo_loss, value_grades
from .trl_bases import TRLTrainerBase


@dataclass
class RSPOCollator:
    """Batches list-wise preference rows, padded on the right.

    Returns the history inputs of `UASIDTokenizer.encode_histories`, and with n the longest list of the batch:
    `candidate_ids` (int64, (B, n, T)): SID tokens, padding repeats the first candidate; `candidate_mask` (bool, (B,
    n)); `rewards` (float32, (B, n)): values >= 0, 0 on padding.
    """

    tokenizer: UASIDTokenizer
    max_items: int

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        tokenizer = self.tokenizer
        batch = tokenizer.encode_histories(
            [row["items"] for row in rows],
            events=[row["events"] for row in rows] if "events" in rows[0] else None,
            values=[row["values"] for row in rows] if "values" in rows[0] else None,
            times=[row["times"] for row in rows] if "times" in rows[0] else None,
            user_features={name: [row[name] for row in rows] for name in tokenizer.user_features} or None,
            max_items=self.max_items,
            return_tensors="pt",
        )
        width = max(len(row["candidates"]) for row in rows)
        sids = [tokenizer.encode_items(row["candidates"]) for row in rows]
        batch["candidate_ids"] = torch.from_numpy(
            np.stack([np.concatenate([s, np.repeat(s[:1], width - len(s), axis=0)]) for s in sids])
        )
        lengths = torch.tensor([len(s) for s in sids])
        batch["candidate_mask"] = torch.arange(width) < lengths.unsqueeze(1)
        rewards = np.zeros((len(rows), width), dtype=np.float32)
        for line, row in zip(rewards, rows, strict=True):
            line[: len(row["rewards"])] = row["rewards"]
        batch["rewards"] = torch.from_numpy(rewards)
        return dict(batch)


class RSPOTrainer(RankingEvaluationMixin, TRLTrainerBase):
    """
    Aligns a [`GR4ADForRecommendation`] with the value of whole lists (arXiv 2602.22732, eqs. 16-18).

    The log-probabilities of all candidates of a context are computed together: the context and the trunk once, the
    upper layers once a candidate.

    Example:

    ```python
    trainer = RSPOTrainer(
        model=model,
        args=RSPOConfig(output_dir="aligned", beta=0.1),
        train_dataset=lists,  # rows: items (history), candidates (item ids), rewards (values, same length)
        processing_class=tokenizer,
    )
    trainer.train()
    ```

    Args:
        model ([`GR4ADForRecommendation`]): The policy, trained by VSL.
        args ([`RSPOConfig`]): Settings.
        train_dataset (`Dataset`): List-wise rows: `items` (list of item ids, the history), `candidates` (list of item
            ids), `rewards` (list of values >= 0), optionally `events`, `values`, user features of the history.
        processing_class ([`UASIDTokenizer`]): The tokenizer.
        eval_dataset (`Dataset`, *optional*): Rows of `items`, `target_items`, `target_values`; validation is by beam
            search.
        callbacks (`list`, *optional*): Further callbacks.

    Raises:
        ValueError: If no list has two different rewards: there is nothing to prefer.
    """

    _tag_names = ["gr4ad", "rspo"]
    _name = "RSPO"
    _paper = {"title": "GR4AD: generative recommendation for advertising", "id": "2602.22732"}
    # compute_loss returns a mean over anchors: Trainer divides it by the accumulation steps
    loss_is_scaled_for_ga = False

    def __init__(
        self,
        model: GR4ADForRecommendation,
        args: RSPOConfig,
        train_dataset: Dataset,
        processing_class: UASIDTokenizer,
        eval_dataset: Dataset | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs,
    ):
        rows = train_dataset.filter(
            lambda items, rewards: [len(i) > 0 and len(set(r)) > 1 for i, r in zip(items, rewards, strict=True)],
            input_columns=["items", "rewards"],
            batched=True,
            keep_in_memory=True,
            load_from_cache_file=False,
        )
        if not len(rows):
            raise ValueError(
                "No list of the training data has a history and two different rewards: there is nothing to prefer."
            )
        self.ref_model = None
        if args.use_reference:
            self.ref_model = copy.deepcopy(model).eval().requires_grad_(False)
        self.loss_metrics: dict[str, list[torch.Tensor]] = defaultdict(list)
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            data_collator=RSPOCollator(processing_class, args.max_items or model.config.max_context_items),
            callbacks=callbacks,
            **kwargs,
        )
        if self.ref_model is not None:
            self.ref_model = self.accelerator.prepare_model(self.ref_model, evaluation_mode=True)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        rewards, mask = inputs.pop("rewards"), inputs.pop("candidate_mask")
        outputs = model(**inputs)
        logps = outputs.candidate_logps
        ref_logps = None
        if self.ref_model is not None:
            with torch.no_grad():
                ref_logps = self.ref_model(**inputs).candidate_logps
        grades = value_grades(rewards.to(logps.dtype), mask, max_grade=self.args.max_grade)
        loss, metrics = rspo_loss(logps, grades, ref_logps, mask, beta=self.args.beta, delta=self.args.delta)
        metrics["rspo"] = loss.detach()
        if self.args.imitation_weight:
            best = rewards.masked_fill(~mask, -torch.inf).argmax(1, keepdim=True)
            imitation = -logps.gather(1, best).mean()
            metrics["imitation"] = imitation.detach()
            loss = loss + self.args.imitation_weight * imitation
        for name, metric in metrics.items():
            self.loss_metrics[name].append(metric.float())
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs.update(
                {f"rspo/{name}": torch.stack(parts).mean().item() for name, parts in self.loss_metrics.items()}
            )
            self.loss_metrics.clear()
        super().log(logs, start_time)

    def create_model_card(self, *args, **kwargs) -> None:
        """Not used: a GR4AD folder's card is written from its evaluation by `gr4ad card`, TRL's describes a text
        generator."""


__all__ = ["RSPOCollator", "RSPOTrainer"]
