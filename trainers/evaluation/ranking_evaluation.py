# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Validation of a trainer by real beam search: shared by VSL and RSPO."""

from __future__ import annotations

import time
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from transformers.trainer_utils import speed_metrics

from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.tokenization import UASIDTokenizer

from ..trainer_mixin import TrainerMixin
from .metrics import evaluate_rankings
from .model_ranking import rank_users
from .ranking_fields import RankingEvaluationConfig
from .sequences import SequenceTable


class RankingEvaluationMixin(TrainerMixin):
    """Gives a Trainer an `evaluate` that ranks the catalog for `eval_users` users and scores the lists item by
    item; and the catalog that the model's p(SID) is defined over while it trains."""

    @cached_property
    def trie(self) -> SIDTrie:
        """The SIDs of all items of the tokenizer, removed ones too: what is trained on may hold them."""
        tokenizer = self.processing_class
        assert isinstance(tokenizer, UASIDTokenizer)
        return self.accelerator.unwrap_model(self.model).build_trie(tokenizer, removed=True)

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Item-level metrics (`eval_recall@10`, `eval_ndcg@10`, `eval_revenue@10`, ...) on a sample of users fixed by
        the seed."""
        args, tokenizer = self.args, self.processing_class
        assert isinstance(args, RankingEvaluationConfig) and isinstance(tokenizer, UASIDTokenizer)
        dataset: Dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if args.eval_users and len(dataset) > args.eval_users:
            chosen = np.random.default_rng(args.seed).permutation(len(dataset))[: args.eval_users]
            dataset = dataset.select(np.sort(chosen))
        start = time.time()
        rankings = rank_users(
            self.accelerator.unwrap_model(self.model),
            tokenizer,
            dataset,
            weights=args.eval_weights,
            top_k=20,
            batch_size=args.per_device_eval_batch_size,
        )
        table = validation_table(dataset, tokenizer)
        scores = evaluate_rankings(rankings.items, table.held_out, catalog_size=len(tokenizer.index))
        metrics = {f"{metric_key_prefix}_{name}": float(value) for name, value in scores.items()}
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=len(dataset)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


def validation_table(dataset: Dataset, tokenizer: UASIDTokenizer) -> SequenceTable:
    """The histories and targets of validation rows: trainers call it before they train, so that what is wrong with
    the rows is said at once and not at the first validation.

    Args:
        dataset: Columns `items`, `target_items` and `target_values`; `user_id` (default: the row's number) and
            `values` (not read here) may be absent.

    Raises:
        ValueError: A column is missing, two lists of a row differ in length, or a target is not in the index.
    """
    lacking = [name for name in ("items", "target_items", "target_values") if name not in dataset.column_names]
    if lacking:
        raise ValueError(
            f"`eval_dataset` needs the column `{lacking[0]}`, as lists a row. Received the columns: "
            f"{', '.join(dataset.column_names)}. Add it, or leave `eval_dataset` out."
        )
    table = dataset.with_format("arrow")[:]
    if "user_id" not in dataset.column_names:
        table = table.append_column("user_id", pa.array(map(str, range(len(table)))))
    if "values" not in dataset.column_names:
        counts = pc.fill_null(pc.list_value_length(table["items"]), 0).to_numpy()
        zeros = pa.ListArray.from_arrays(np.r_[0, counts.cumsum()].astype(np.int32), np.zeros(counts.sum()))
        table = table.append_column("values", zeros)
    return SequenceTable.from_arrow(table, tokenizer.index.item_ids.tolist())


__all__ = ["RankingEvaluationConfig", "RankingEvaluationMixin", "validation_table"]
