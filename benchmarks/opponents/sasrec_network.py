"""SASRec on transformers' GPT-2: the network, its training to the best epoch on validation, and its rankings.

The network is a causal self-attention over the history whose last state scores every item by tied embeddings (SASRec,
arXiv 1808.09781), trained on the next item of every prefix with full cross-entropy (arXiv 2309.07602).
"""

import argparse
import json
import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_model, save_model
from scipy import sparse
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model

from gr4ad.modeling_gr4ad.item_neighbours_gr4ad import SIMILARITY_SCALE
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import NeighbourConfig
from gr4ad.trainers.evaluation import ItemKNN, KNNSettings, SequenceTable
from gr4ad.trainers.vsl.epoch_sampler import LengthGroupedEpochSampler

TOP_K = 20
FIXED = ("recipe", "layers", "heads", "epochs", "validate_every", "max_items", "batch_size", "learning_rate",
         "value_powers")  # fmt: skip
"""What a run's weights depend on beside its setting and seed."""
logger = logging.getLogger("sasrec")


class Setting(NamedTuple):
    dimension: int
    dropout: float
    weight_decay: float

    @property
    def name(self) -> str:
        return f"d{self.dimension}_dropout{self.dropout:g}_decay{self.weight_decay:g}"


class SASRec(torch.nn.Module):
    """Next-item network. Items are rows + 1, 0 is padding on the right."""

    def __init__(self, num_items: int, args: argparse.Namespace, dimension: int, dropout: float) -> None:
        super().__init__()
        self.network = GPT2Model(
            GPT2Config(
                vocab_size=num_items + 1,
                n_positions=args.max_items,
                n_embd=dimension,
                n_layer=args.layers,
                n_head=args.heads,
                embd_pdrop=dropout,
                resid_pdrop=dropout,
                attn_pdrop=0.0,  # dropout inside attention takes torch's slow kernel on CPU
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=0,
            )
        )

    def logits(self, items: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """float (N, num_items + 1) of the N chosen places (bool, (B, S)) of items (int64, (B, S))."""
        states = self.network(items, attention_mask=(items > 0).long()).last_hidden_state[chosen]
        return F.linear(states, self.network.wte.weight)


def padded(sequences: list[np.ndarray]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.from_numpy(s + 1) for s in sequences], batch_first=True)


def neighbour_scores(
    config: NeighbourConfig, train: SequenceTable, tables: list[SequenceTable]
) -> list[sparse.csr_array]:
    """What the item neighbours of the training log say of each user and item, (U, items), for each of the tables: the
    scores of `GR4ADItemNeighbours`."""
    num_items = len(train.item_ids)
    # Counted in tie order, as the model's: kept by catalog row, equal neighbours would tell of the order of the file.
    place = np.argsort(train.ties)
    similarity = ItemKNN(KNNSettings(**vars(config))).similarities(train)[place][:, place]
    found = []
    for table in tables:
        history = table.history
        weights = sparse.csr_array(
            (config.decay**history.age, history.items.copy(), history.offsets.copy()), shape=(len(history), num_items)
        )
        total = sparse.csr_array(weights @ similarity)
        total.data = np.log1p(total.data / SIMILARITY_SCALE).astype(np.float32)
        found.append(total)
    return found


@torch.no_grad()
def rank(
    model: SASRec,
    histories: list[np.ndarray],
    args: argparse.Namespace,
    *,
    exclude: bool,
    prior: np.ndarray | None,
    evidence: sparse.csr_array | None = None,
) -> np.ndarray:
    """int64 (U, TOP_K), catalog rows; `prior` (float32, (items,)) and `evidence` (float32, (U, items)) are added to
    the scores."""
    model.eval()
    found = np.empty((len(histories), TOP_K), dtype=np.int64)
    order = np.argsort([len(history) for history in histories], kind="stable")
    for start in range(0, len(order), 256):
        users = order[start : start + 256]
        items = padded([histories[user][-args.max_items :] for user in users])
        last = torch.arange(items.shape[1]) == (items > 0).sum(1, keepdim=True) - 1
        scores = model.logits(items, last)
        if prior is not None:
            scores[:, 1:] = scores[:, 1:].log_softmax(-1) + torch.from_numpy(prior)
        if evidence is not None:
            scores[:, 1:] += torch.from_numpy(evidence[users].toarray())
        if exclude:
            scores.scatter_(1, padded([histories[user] for user in users]), -torch.inf)
        scores[:, 0] = -torch.inf
        found[users] = scores.topk(TOP_K).indices.numpy() - 1
    return found


def train(
    log: list[np.ndarray],
    num_items: int,
    args: argparse.Namespace,
    setting: Setting,
    seed: int,
    validate: Callable[[SASRec], float],
) -> tuple[SASRec, list[dict]]:
    """The network at its best epoch on validation (`validate(model)` -> a figure), and its log.

    Both are kept in the working folder: what was trained before is not trained again.
    """
    torch.manual_seed(seed)
    model = SASRec(num_items, args, setting.dimension, setting.dropout)
    folder = args.work / f"{setting.name}_seed{seed}"
    weights, finished = folder / "model.safetensors", folder / "log.json"
    fixed = {name: vars(args)[name] for name in FIXED}
    if finished.is_file() and (kept_run := json.loads(finished.read_text(encoding="utf-8")))["settings"] == fixed:
        load_model(model, weights)
        return model, kept_run["log"]
    rows = [items[-args.max_items - 1 :] for items in log if len(items) > 1]
    sampler = LengthGroupedEpochSampler([len(row) for row in rows], args.batch_size, seed)
    steps = args.epochs * math.ceil(len(rows) / args.batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=setting.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    kept: tuple[float, dict] = (-1.0, {})
    history: list[dict[str, Any]] = []
    start = time.monotonic()
    for epoch in range(1, args.epochs + 1):
        model.train()
        sampler.set_epoch(epoch)
        total, batches = 0.0, 0
        order = list(sampler)
        for first in range(0, len(order), args.batch_size):
            items = padded([rows[key % len(rows)] for key in order[first : first + args.batch_size]])
            known, targets = items[:, :-1], items[:, 1:]
            chosen = targets > 0
            loss = F.cross_entropy(model.logits(known, chosen), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total, batches = total + loss.item(), batches + 1
        line: dict[str, Any] = {"epoch": epoch, "loss": total / batches, "seconds": time.monotonic() - start}
        if epoch % args.validate_every == 0 or epoch == args.epochs:
            line["validation"] = validate(model)
            if line["validation"] > kept[0]:
                kept = line["validation"], {name: value.clone() for name, value in model.state_dict().items()}
        history.append(line)
        logger.info("seed %d, %s: %s", seed, setting.name, line)
    model.load_state_dict(kept[1])
    folder.mkdir(parents=True, exist_ok=True)
    save_model(model, str(weights))
    write_json(finished, {"settings": fixed, "log": history})
    return model, history
