# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The start of a model that was never trained, from what the log and the tokenizer already know."""

from __future__ import annotations

import logging
import math

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from datasets import Dataset, IterableDataset
from peft import PeftModel

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.modeling_gr4ad.item_values_gr4ad import LARGEST_VALUE
from gr4ad.tokenization import UASIDTokenizer

from ..principal_components import main_components

logger = logging.getLogger(__name__)

READ_ROWS = 1000


def start_model(
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    train: Dataset | IterableDataset | None,
    item_embedding_std: float,
) -> bool:
    """Starts heads, item vectors and prefix vectors of a model that was never trained; leaves any other as it is.
    Whether it was started.

    Args:
        train: The training log, rows with `items`. Read where the model tells repeats apart: what a repeat adds starts
            at the log of the share of the log's events that repeat an item of their user; and, with their `values`,
            where it counts what items are worth. None of a stream that is not to be read ahead: repeats then start as
            likely as anything, items are worth what the value token says, and a warning says so.
        item_embedding_std: Scale of the item vectors; 0 leaves them as they are.
    """
    if isinstance(model, PeftModel) or not never_trained(model):
        return False
    if item_embedding_std and model.config.num_items:
        vectors = tokenizer.item_vectors()
        if vectors is None:
            logger.warning(
                "The tokenizer carries no item vectors: the model's start at random, and it has to learn from the log "
                "alone which items are alike. Build the tokenizer with `item_vectors_file`, or set "
                "`item_embedding_std` to 0."
            )
        else:
            start_item_embeddings(model, vectors, item_embedding_std)
    parts = [part for part in (model.item_head, model.history_sids) if part is not None and part.repeats]
    if train is None and (parts or model.item_values is not None):
        logger.warning(
            "The stream is not read before training, as `user_value_mean` is given: how rare repeats are starts "
            "unknown, and the log's values of items are not counted. Leave `user_value_mean` out to have them."
        )
    if parts and train is not None:
        logit = math.log(repeat_share(train))
        for part in parts:
            torch.nn.init.constant_(part.repeat_bias, logit)
    if model.item_head is not None:
        start_item_head(model, tokenizer)
    if model.item_values is not None and train is not None:
        count_item_values(model, tokenizer, train)
    if model.prefix_vectors is not None:
        start_prefix_vectors(model, tokenizer, item_embedding_std > 0)
    return True


def never_trained(model: GR4ADForRecommendation) -> bool:
    """Whether no step of an optimizer has moved the model: its fusion is where `_init_weights` puts it."""
    fusion = model.model.fusion.weight
    start = torch.eye(len(fusion), dtype=fusion.dtype, device=fusion.device).repeat(1, 2)
    untouched = torch.equal(fusion, start) and bool((model.model.fusion.gate_bias == 1).all())
    return untouched and (model.item_head is None or not model.item_head.bias.any())


def start_item_head(model: GR4ADForRecommendation, tokenizer: UASIDTokenizer) -> None:
    """Sets the item head's bias to the log of each item's training events (+ 1), which the tokenizer's index counts,
    centred."""
    head = model.item_head
    assert head is not None
    counts = torch.log1p(torch.from_numpy(tokenizer.index.priority.copy()))
    with torch.no_grad():
        head.bias[1 : len(counts) + 1] = (counts - counts.mean()).to(head.bias)


def start_prefix_vectors(model: GR4ADForRecommendation, tokenizer: UASIDTokenizer, from_items: bool) -> None:
    """Fills the table of prefixes with those of the catalog, see [`GR4ADPrefixVectors.set_prefixes`]; `from_items`:
    with vectors from those of the items, otherwise from zero. The head of the first level, which does for the first
    codes what vectors do for longer prefixes, starts alike."""
    table, trie = model.prefix_vectors, model.build_trie(tokenizer, removed=True)
    assert table is not None
    vectors = model.item_table[1:].detach() if from_items and model.config.num_items else None
    table.set_prefixes(trie, torch.from_numpy(tokenizer.index.priority.copy()).to(model.device), vectors)
    if vectors is not None:
        rows = table.rows(trie)[0][: len(trie.parents[0])]
        head = model.sid_heads[0]
        assert isinstance(head, torch.nn.Linear)
        with torch.no_grad():
            means = table.vectors[rows]
            codes = trie.codes[0][: len(rows)][rows > 0]
            head.weight[codes, : means.shape[1]] = means[rows > 0].to(head.weight)


def repeat_share(train: Dataset | IterableDataset) -> float:
    """Share, in (0, 1], of the events after a user's first that repeat an item; one event more of each kind, so that a
    log without repeats has a logarithm."""
    repeats = events = 1
    for block in train.select_columns(["items"]).with_format("arrow").iter(READ_ROWS):
        for items in block["items"].drop_null():
            repeats += len(items) - pc.count_distinct(items.values).as_py()
            events += max(0, len(items) - 1)
    return min(repeats / events, 1.0)


def count_item_values(
    model: GR4ADForRecommendation, tokenizer: UASIDTokenizer, train: Dataset | IterableDataset
) -> None:
    """Counts the values of the log's events into [`GR4ADItemValues`]. Raises ValueError if the log has none, or with
    the row of one that is not allowed."""
    counted, known = model.item_values, pa.array(tokenizer.index.item_ids, pa.large_string())
    assert counted is not None
    names = train.column_names
    if names is not None and "values" not in names:
        raise ValueError(
            "`item_values` needs the column `values` of the training log. Received: "
            f"{', '.join(sorted(names))}. Add it, or build the model with `item_values` = False."
        )
    sums, squares, events = np.zeros((3, len(counted.means)))
    done = 0
    for block in train.select_columns(["items", "values"]).with_format("arrow").iter(READ_ROWS):
        there = pc.is_valid(block["values"])  # a row may have none
        users, block = np.flatnonzero(there.to_numpy()) + done, block.filter(there)
        done += len(there)
        if not len(block):
            continue
        lists, worths = block["items"].combine_chunks(), block["values"].combine_chunks()
        lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
        apart = np.flatnonzero(lengths != pc.list_value_length(worths).to_numpy(zero_copy_only=False))
        if len(apart):
            raise ValueError(
                f"Row {users[apart[0]]}: `values` must hold one value for each of `items`. Received: "
                f"{len(worths[int(apart[0])])} for {len(lists[int(apart[0])])} items. Prepare the log again."
            )
        values = np.array(worths.flatten(), np.float64)  # null reads as nan
        bad = np.flatnonzero(~((values >= 0) & (values <= LARGEST_VALUE)))
        if len(bad):
            row = int(np.searchsorted(lengths.cumsum(), bad[0], side="right"))
            place = int(bad[0] - lengths[:row].sum())
            raise ValueError(
                f"Row {users[row]}: `values[{place}]` is {values[bad[0]]}. Allowed: finite numbers >= 0, up to "
                f"{LARGEST_VALUE:g}. Correct it, or build the model with `item_values` = False."
            )
        items = lists.flatten().cast(pa.large_string())
        places = pc.fill_null(pc.add(pc.index_in(items, value_set=known), 1), 0).to_numpy(zero_copy_only=False)
        counted.count(torch.from_numpy(places.astype(np.int64)), torch.from_numpy(values))
        for totals, added in ((events, None), (sums, values), (squares, values**2)):
            totals += np.bincount(places, added, len(totals))
    deviations = (squares - sums**2 / np.maximum(events, 1)).clip(min=0)
    deviations[0] = 0  # of items that the tokenizer does not know
    counted.set_prior(torch.from_numpy(deviations))


def start_item_embeddings(model: GR4ADForRecommendation, vectors: np.ndarray, std: float) -> None:
    """Sets the item table to the main components of vectors of the items (float32, (N, d)), at standard deviation
    `std`; what is wider than the vectors have components, and items that came later, stay random. Raises ValueError
    if there are more vectors than the model has items."""
    table = model.item_table
    if len(vectors) >= len(table):
        raise ValueError(
            f"The tokenizer carries {len(vectors)} item vectors, the model has {len(table) - 1} items. Build the "
            "model by `GR4ADConfig.from_tokenizer(tokenizer, num_items=len(tokenizer.index) + 1)`."
        )
    components = std * main_components(vectors, model.config.hidden_size)
    with torch.no_grad():
        table[1 : len(vectors) + 1, : components.shape[1]] = torch.from_numpy(components).to(table)


__all__ = [
    "count_item_values",
    "never_trained",
    "start_item_embeddings",
    "start_item_head",
    "start_model",
    "start_prefix_vectors",
]
