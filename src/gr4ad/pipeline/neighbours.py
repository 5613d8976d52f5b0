"""Stage that counts item neighbours from the training log and puts them into the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import sparse

from gr4ad.data import load_prepared
from gr4ad.pipeline.settings import NeighbourConfig


def add_item_neighbours(
    config: NeighbourConfig, *, data_dir: Path, tokenizer_dir: Path, model_dir: Path, out_dir: Path
) -> dict:
    """Writes `model/`: the model of `model_dir` with the neighbours of its items.

    Returns:
        `items_with_neighbours`, and `neighbours` per item on average.

    Raises:
        ValueError: The model has no item head, or not one row for each item of the tokenizer.
    """
    import torch

    from gr4ad import GR4ADForRecommendation, UASIDTokenizer
    from gr4ad.trainers.evaluation import ItemKNN, KNNSettings, SequenceTable

    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    model = GR4ADForRecommendation.from_pretrained(model_dir / "model")
    if not model.config.item_head:
        raise ValueError(
            f"{model_dir}: this model has no item head, whose scores item neighbours add to. Train with `item_head` = "
            "True, or leave the neighbours out."
        )
    data = load_prepared(data_dir, held_out=("validation", "test"))
    train = SequenceTable.from_dataset(data.train, tokenizer.index.item_ids.tolist())
    # Counted as for the item-kNN: which of equally similar items are kept does not depend on the catalog's order.
    similarity = ItemKNN(KNNSettings(**vars(config))).similarities(train)
    items, weights = neighbour_table(similarity, train.ties)
    model.set_item_neighbours(torch.from_numpy(items), torch.from_numpy(weights), config.decay)
    model.save_pretrained(out_dir / "model")
    found = (weights > 0).sum(1)
    return {"items_with_neighbours": int((found > 0).sum()), "neighbours": float(found.mean())}


def neighbour_table(similarity: sparse.csr_array, item_of: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the model's item table (int32, (N + 1, n)) and their similarity (float32), 0 where there are no more;
    row 0, the unknown item, has none.

    Args:
        similarity: (N, N) CSR; n is the most that a row holds.
        item_of: int64 (N,), the catalog row of each row and column.
    """
    counts = np.diff(similarity.indptr)
    rows = np.repeat(np.arange(len(item_of)), counts)
    places = np.arange(len(rows)) - np.repeat(similarity.indptr[:-1], counts)
    shape = (len(item_of) + 1, max(1, int(counts.max(initial=0))))
    items, weights = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
    items[item_of[rows] + 1, places] = item_of[similarity.indices] + 1
    weights[item_of[rows] + 1, places] = similarity.data
    return items, weights
