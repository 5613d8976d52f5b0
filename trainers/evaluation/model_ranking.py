# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What a model says of users: full rankings of the catalog, and the values it expects of given items."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from datasets import Dataset
from tqdm.auto import tqdm
from transformers import BatchEncoding

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import HISTORY_COLUMNS, HistoryError, UASIDTokenizer, UserHistory

from .sequences import Sequences

TARGETS_AT_ONCE = 64


@dataclass
class ModelRankings:
    """items (int64, (U, k)): item rows, best first, -1 where the beams held no more; values (float32, (U, k)):
    expected values; illegal: SIDs decoded that no active item of the table has (0 unless the search is broken);
    checked: SIDs decoded."""

    items: np.ndarray
    values: np.ndarray
    illegal: int
    checked: int


@torch.no_grad()
def rank_users(
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    dataset: Dataset,
    *,
    weights: RankingWeights,
    top_k: int,
    batch_size: int = 64,
    progress: bool = False,
) -> ModelRankings:
    """Ranks items for every row of an evaluation dataset.

    Args:
        dataset: Rows of histories, as `UserHistory.from_row` takes them; order is kept. All of `cross_domain` is
            seen: it must end before the targets.
        weights: How to rank, exactly as a server would. top_k: Items of a list.
        batch_size: Users at once, grouped by history length.
    """
    was_training = model.training
    model.eval()
    trie, token_table = model.build_trie(tokenizer), model.token_table()
    histories = history_rows(tokenizer, dataset)
    items = np.full((len(histories), top_k), -1, dtype=np.int64)
    values = np.zeros((len(histories), top_k), dtype=np.float32)
    valid_sids = {codes.tobytes() for codes in tokenizer.index.codes[tokenizer.index.active]}
    illegal = checked = 0
    for chosen, batch in history_batches(model, tokenizer, histories, batch_size, progress):
        excluded = None
        if weights.exclude_history:
            rows = [torch.from_numpy(np.unique(tokenizer.item_rows(histories[i].items))) for i in chosen]
            excluded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1).to(model.device)
        ranking = model.recommend(
            **batch, trie=trie, top_k=top_k, weights=weights, exclude_items=excluded, token_table=token_table
        )
        found = ranking.items.cpu().numpy()
        width = found.shape[1]
        items[chosen, :width] = found
        values[chosen, :width] = ranking.expected_values.float().cpu().numpy()
        codes = ranking.sequences.cpu().numpy()[found >= 0] - tokenizer.level_offsets
        checked += len(codes)
        illegal += sum(sid.tobytes() not in valid_sids for sid in np.ascontiguousarray(codes, dtype=np.int64))
    model.train(was_training)
    return ModelRankings(items, values, illegal, checked)


@torch.no_grad()
def predict_values(
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    dataset: Dataset,
    targets: Sequences,
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> np.ndarray:
    """The value that a model expects of given items: E[v | history, SID of the item].

    The SID is given to the value token, not decoded, so the answer does not depend on beams or serving weights.

    Args:
        dataset, batch_size: U rows, as for `rank_users`.
        targets: U sequences of items, catalog rows of the tokenizer's index.

    Returns:
        float64 (E,), one per entry of `targets.items`, in the tokenizer's `value_unit`.

    Raises:
        ValueError: The model has no value head, or `targets` are not of the dataset's users.
    """
    if model.value_head is None:
        raise ValueError(
            "`model` should have a value head. Received: a model without one. Train with value buckets (the recipe's "
            "`tokenize.num_value_buckets`) on a log that has values."
        )
    if len(targets) != len(dataset):
        raise ValueError(f"`targets` should be of the dataset's {len(dataset)} users. Received: {len(targets)}.")
    was_training = model.training
    model.eval()
    histories = history_rows(tokenizer, dataset)
    expected = np.zeros(len(targets.items))
    sids = tokenizer.index.codes[targets.items] + tokenizer.level_offsets
    for chosen, batch in history_batches(model, tokenizer, histories, batch_size, progress):
        context = model.model.encode(**batch)
        trunk = model.model.trunk(context)
        # The longest list sets the width; blocks of it bound the memory of users with hundreds of targets.
        for first in range(0, int(targets.lengths[chosen].max(initial=0)), TARGETS_AT_ONCE):
            offset = np.arange(first, min(first + TARGETS_AT_ONCE, int(targets.lengths[chosen].max())))
            wanted = offset < targets.lengths[chosen][:, None]
            places = np.where(wanted, targets.offsets[chosen][:, None] + offset, 0)
            tokens = torch.from_numpy(sids[places]).to(model.device)
            states = model.model.autoregress(
                trunk, model.shift_right(tokens), context, value_tokens=model.value_tokens(tokens)
            )
            logits, means = model.value_logits(states.flatten(0, 1)), model.bucket_means()
            assert logits is not None and means is not None
            values = (logits.float().softmax(-1) @ means).view(places.shape)
            if model.item_values is not None:
                rows = torch.from_numpy(targets.items[places] + 1).to(model.device)
                values = model.item_values(rows, values)
            expected[places[wanted]] = values.cpu().numpy()[wanted]
    model.train(was_training)
    return expected


def history_rows(tokenizer: UASIDTokenizer, dataset: Dataset) -> list[UserHistory]:
    """The histories of a data set, row by row. Raises ValueError with the row, as [`UserHistory`]."""
    names = [name for name in (*HISTORY_COLUMNS, *tokenizer.user_features) if name in dataset.column_names]
    histories = []
    for number, row in enumerate(dataset.select_columns(names)):
        try:
            histories.append(UserHistory.from_row(row, tokenizer.user_features))
        except HistoryError as error:
            raise error.at(number) from None
    return histories


def history_batches(
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    histories: list[UserHistory],
    batch_size: int,
    progress: bool,
) -> Iterator[tuple[np.ndarray, BatchEncoding]]:
    """Places of the histories (int64) and their encoded batch, users of similar length together."""
    order = np.argsort([len(history) for history in histories], kind="stable")
    for start in tqdm(range(0, len(order), batch_size), desc="Ranking", unit="batch", disable=not progress):
        chosen = order[start : start + batch_size]
        batch = tokenizer.encode_rows(
            [histories[place] for place in chosen],
            max_items=model.config.max_context_items,
            max_cross_domain=model.config.max_cross_domain_items,
            return_tensors="pt",
        )
        yield chosen, batch.to(model.device)


__all__ = ["ModelRankings", "history_batches", "history_rows", "predict_values", "rank_users"]
