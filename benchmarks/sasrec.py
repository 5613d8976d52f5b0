"""SASRec with full cross-entropy: tuned on validation, then ranked once on test, as a run that others compare with.

    python benchmarks/sasrec.py amazon_beauty --data DIR --work OUT --out benchmarks/results/sasrec_beauty.json

The network is transformers' GPT-2 over item ids with tied embeddings: a causal self-attention over the history whose
last state scores every item, trained on the next item of every prefix (SASRec, arXiv 1808.09781, with the loss of
arXiv 2309.07602). Data, splits, targets, weights of ties and metrics are those of the recipe. Settings and epoch are
chosen by the recipe's metric on validation for the first seed; every seed then trains at that choice, its epoch chosen
by its own validation, and ranks the test users once. OUT/seedN (with item neighbours, below, OUT/seedN_neighbours)
holds scores per user that `gr4ad compare` reads.

With money in the log the value of an item may count: items are then ranked by log p(item) + a log(mean training value
of the item), a chosen on validation. In a log without repeats, `--repeat-bias` adds the learned number of our item
head to the logits of history items, to tell the network's ranking from its ignorance of that one rule.

Where the recipe counts item neighbours, a second system adds them to SASRec's scores as our model does, by a weight
from the recipe's list that validation chooses: what of our ranking they would give to any network.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import math
import time
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from recipe import METRICS, unit_of
from safetensors.torch import load_model, save_model
from scipy import sparse
from torch.nn import functional as F
from transformers import GPT2Config, GPT2Model

from gr4ad.cli import keep_freed_memory
from gr4ad.data import load_prepared, prepare
from gr4ad.modeling_gr4ad.item_neighbours_gr4ad import SIMILARITY_SCALE
from gr4ad.pipeline import load_recipe
from gr4ad.pipeline.run import VERSIONS, machine
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.scoring import SystemScores, has_values
from gr4ad.pipeline.settings import NeighbourConfig
from gr4ad.trainers.evaluation import ItemKNN, KNNSettings, SequenceTable, check_no_leakage, evaluate_rankings
from gr4ad.trainers.evaluation.per_user import FILE_NAME
from gr4ad.trainers.vsl.epoch_sampler import LengthGroupedEpochSampler

TOP_K = 20
NAME, WITH_NEIGHBOURS = "SASRec", "SASRec + item neighbours"
PROTOCOLS = {"test": False, "test_history_excluded": True}
FIXED = ("recipe", "layers", "heads", "epochs", "validate_every", "max_items", "batch_size", "learning_rate",
         "value_powers", "repeat_bias")  # fmt: skip
"""What a run's weights depend on beside its setting and seed."""
logger = logging.getLogger("sasrec")


class Setting(NamedTuple):
    """What is tuned."""

    dimension: int
    dropout: float
    weight_decay: float

    @property
    def name(self) -> str:
        return f"d{self.dimension}_dropout{self.dropout:g}_decay{self.weight_decay:g}"


class SASRec(torch.nn.Module):
    """Next-item network. Items are rows + 1, 0 is padding on the right."""

    def __init__(self, num_items: int, args: argparse.Namespace, dimension: int, dropout: float):
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
        self.repeat_bias = torch.nn.Parameter(torch.full((1,), -8.0)) if args.repeat_bias else None

    def logits(self, items: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """float (N, num_items + 1) of the N chosen places (bool, (B, S)) of items (int64, (B, S))."""
        states = self.network(items, attention_mask=(items > 0).long()).last_hidden_state[chosen]
        logits = F.linear(states, self.network.wte.weight)
        if self.repeat_bias is None:
            return logits
        length = items.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=items.device).tril(-1)
        distinct = items.masked_fill(((items.unsqueeze(2) == items.unsqueeze(1)) & earlier).any(-1), 0)
        seen = distinct.unsqueeze(1).expand(-1, length, -1).masked_fill(earlier.T, 0)[chosen]
        return logits.scatter_add(1, seen, torch.where(seen > 0, self.repeat_bias, 0.0))


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
    log: list[np.ndarray], num_items: int, args: argparse.Namespace, setting: Setting, seed: int, validate
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
    history, start = [], time.monotonic()
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
        line = {"epoch": epoch, "loss": total / batches, "seconds": time.monotonic() - start}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipe", help="Recipe whose data, splits and metric are used.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--dimensions", type=int, nargs="+", default=[64])
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--validate-every", type=int, default=2)
    parser.add_argument("--max-items", type=int, default=50)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dropouts", type=float, nargs="+", default=[0.3, 0.4, 0.5])
    parser.add_argument("--weight-decays", type=float, nargs="+", default=[0.01])
    parser.add_argument("--value-powers", type=float, nargs="+", default=[0.0, 0.5, 0.75, 1.0])
    parser.add_argument("--repeat-bias", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    keep_freed_memory()

    recipe = load_recipe(args.recipe, data_root=args.data)
    prepare(recipe.data, args.work / "prepared")
    data = load_prepared(args.work / "prepared")
    ids = list(data.catalog["item_id"])
    tables = [SequenceTable.from_dataset(part, ids) for part in (data.train, data.validation, data.test)]
    train_table, validation, test = tables
    check_no_leakage(train_table, validation)
    check_no_leakage(train_table, test)
    logs = [np.split(table.history.items, table.history.offsets[1:-1]) for table in tables]
    metric, priced = recipe.evaluate.metric, has_values(train_table)
    powers = args.value_powers if priced else [0.0]
    events = train_table.history
    value = np.bincount(events.items, events.values, len(ids)) / np.maximum(
        np.bincount(events.items, None, len(ids)), 1
    )
    log_value = np.log(np.maximum(value, value[value > 0].min())).astype(np.float32)

    counted = recipe.neighbours
    evidence = neighbour_scores(counted, train_table, tables[1:]) if counted is not None else []
    weights = recipe.evaluate.neighbour_weights

    def ranked(model: SASRec, part: int, power: float, weight: float = 0.0, *, exclude: bool = False) -> np.ndarray:
        """Rankings of validation (part 1) or test (part 2)."""
        return rank(
            model,
            logs[part],
            args,
            exclude=exclude,
            prior=power * log_value if power else None,
            evidence=weight * evidence[part - 1] if weight else None,
        )

    def scored(model: SASRec, power: float, weight: float = 0.0, *, exclude: bool = False) -> float:
        rankings = ranked(model, 1, power, weight, exclude=exclude)
        return evaluate_rankings(rankings, validation.held_out, catalog_size=len(ids))[metric]

    def validate(model: SASRec) -> float:
        return max(scored(model, power) for power in powers)

    tried, best = [], None
    for values in itertools.product(args.dimensions, args.dropouts, args.weight_decays):
        setting = Setting(*values)
        _, history = train(logs[0], len(ids), args, setting, args.seeds[0], validate)
        score = max(line["validation"] for line in history if "validation" in line)
        tried.append({**setting._asdict(), metric: score, "log": history})
        if best is None or score > best[0]:
            best = score, setting
    assert best is not None
    chosen = best[1]
    rows, choices = [], {}
    for seed in args.seeds:
        model, history = train(logs[0], len(ids), args, chosen, seed, validate)
        power = max(powers, key=lambda candidate: scored(model, candidate))
        scores = SystemScores(train_table, test, np.zeros((len(ids), 1), dtype=np.int64), seed)
        systems = {NAME: 0.0}
        if evidence:
            systems[WITH_NEIGHBOURS] = max(weights, key=lambda candidate: scored(model, power, candidate))
        for protocol, exclude in PROTOCOLS.items():
            for system, weight in systems.items():
                scores.add(protocol, system, ranked(model, 2, power, weight, exclude=exclude))
        unit = str(data.summary.get("value_unit") or "") if priced else ""
        scores.compare(NAME)
        for system in systems:
            folder = args.work / (f"seed{seed}" if system == NAME else f"seed{seed}_neighbours")
            folder.mkdir(parents=True, exist_ok=True)
            scores.for_file(final=system, metric=metric, seed=seed, value_unit=unit).save(folder / FILE_NAME)
        choices[f"seed {seed}"] = {
            **chosen._asdict(),
            "value_power": power,
            "neighbour_weight": systems.get(WITH_NEIGHBOURS),
            "validation": scored(model, power),
            "validation, history excluded": scored(model, power, exclude=True),
            "log": history,
        }
        for protocol, prefix in (("test", ""), ("test_history_excluded", "history excluded: ")):
            for system, name in itertools.product(systems, METRICS):
                figures = scores.means[protocol][system]
                rows.append(
                    {
                        "name": f"{prefix}{system}/{name}",
                        "metric": name,
                        "value": round(figures[name], 5),
                        "spread": round(figures.get(f"{name}_se", 0.0), 5),
                        "unit": unit_of(name, unit or "events"),
                        "seed": seed,
                    }
                )
    result = {
        "command": f"python benchmarks/sasrec.py {args.recipe} --data DIR --work OUT --out FILE --dimensions "
        f"{' '.join(map(str, args.dimensions))} --dropouts {' '.join(map(str, args.dropouts))}"
        + (" --repeat-bias" if args.repeat_bias else ""),
        "machine": machine(),
        "versions": {name: version(name) for name in VERSIONS},
        "seeds": args.seeds,
        "settings": {name: value for name, value in vars(args).items() if name not in ("data", "work", "out")},
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "tried": tried,
        "choices": choices,
        "rows": rows,
        "ratios": {},
    }
    write_json(args.out, result)
    print(json.dumps({k: v for k, v in result.items() if k in ("choices", "rows")}, indent=1, default=str))  # noqa: T201


if __name__ == "__main__":
    main()
