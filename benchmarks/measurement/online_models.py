"""Models of the online benchmark: trained from scratch on a time of the log, and the lists that they serve."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from datasets import Dataset
from safetensors.numpy import save_file
from transformers import set_seed

from gr4ad import GR4ADConfig, GR4ADForRecommendation, Recommender, UASIDTokenizer, VSLConfig, VSLTrainer
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.tokenization import MGMRQuantizer, SIDIndex, fit_value_buckets
from measurement.market_log import MAX_ITEMS, Log

LOSS = {"mtp_loss_weight": 0.1, "value_loss_weight": 0.5, "item_loss_weight": 1.0}
"""Of the training, and of the learning online that goes on from there."""


@dataclass(frozen=True)
class Size:
    """How much is simulated and trained."""

    users: int
    ads: int
    accounts: int
    before: int  # days of the log before the change
    after: int
    epochs: int
    asked: int  # users whose lists are priced
    codebooks: tuple[str, ...]
    hidden: int
    publish_steps: int


def new_tokenizer(
    folder: Path, size: Size, embeddings: np.ndarray, ids: list[str], log: Log, until: int
) -> tuple[UASIDTokenizer, np.ndarray]:
    """The tokenizer of the ads there are at a time, and its embeddings by row."""
    folder.mkdir(parents=True, exist_ok=True)
    there = [row for row, item in enumerate(ids) if log.entry[item] < until]
    names = [ids[row] for row in there]
    quantizer = MGMRQuantizer(list(size.codebooks), distinct_last=True)
    codes = quantizer.fit(embeddings[there], names)
    quantizer.save(folder / "codebooks.safetensors")
    past = [click for click in log.clicks if click[0] < until]
    counts = Counter(item for _, _, item, _ in past)
    SIDIndex(names, codes, np.array([counts[item] for item in names])).save(folder / "items.parquet")
    edges, means = fit_value_buckets(np.array([value for *_, value in past]), 16)
    tokenizer = UASIDTokenizer(
        str(folder / "items.parquet"),
        str(folder / "codebooks.safetensors"),
        codebook_sizes=list(size.codebooks),
        business_fields=["item_id"],
        value_bucket_edges=edges,
        value_bucket_means=means,
        value_unit="fen eCPM",
    )
    return tokenizer, embeddings[there]


def trained(
    folder: Path,
    size: Size,
    tokenizer: UASIDTokenizer,
    embeddings: np.ndarray,
    log: Log,
    since: int,
    until: int,
    seed: int,
) -> Path:
    """A model trained from scratch by VSL on the clicks of a time; its artifact lies in `folder`."""
    rows = []
    for user in sorted(log.of_user):
        past = [(item, value) for moment, item, value in log.of_user[user] if since <= moment < until]
        if len(past) >= 2:
            rows.append({"items": [item for item, _ in past], "values": [value for _, value in past]})
    set_seed(seed)
    config = GR4ADConfig.from_tokenizer(
        tokenizer,
        num_items=len(tokenizer.index) + 1,
        item_head=True,
        item_head_copy=True,
        context_values=True,
        hidden_size=size.hidden,
        intermediate_size=3 * size.hidden,
        num_hidden_layers=3,
        num_parallel_layers=2,
        num_attention_heads=2,
        max_context_items=MAX_ITEMS,
        **LOSS,
    )
    model, train = GR4ADForRecommendation(config), Dataset.from_list(rows)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.item_vectors_file = str(folder / "item_vectors.safetensors")  # which the training starts from
    save_file({"item_vectors": embeddings}, tokenizer.item_vectors_file)
    arguments = VSLConfig(
        str(folder / "checkpoints"),
        num_train_epochs=size.epochs,
        per_device_train_batch_size=64,
        learning_rate=2e-3,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        item_embedding_std=0.1,
        **LOSS,
        save_strategy="no",
        disable_tqdm=True,
        logging_strategy="no",
        use_cpu=True,
        seed=seed,
    )
    VSLTrainer(model, arguments, train, tokenizer).train()
    artifact = folder / "artifact"
    model.save_pretrained(artifact)
    tokenizer.save_pretrained(artifact)
    RankingWeights(
        (32, 64, 64), item_weight=0.5, value_weight=0.5, item_candidates=32, score_history=True
    ).save_pretrained(artifact)
    return artifact


History = tuple[list[str], list[float]]
"""Items and their values."""


def lists_of(answer: Callable[[list[History]], list[list[str]]], histories: list[History], places: int) -> list:
    """One list of `places` item ids a user, "" where `answer` (histories -> a list each) has no more; users without a
    history are not asked about."""
    lists = [[""] * places for _ in histories]
    asked = [number for number, (items, _) in enumerate(histories) if items]
    for start in range(0, len(asked), 50):
        part = asked[start : start + 50]
        for number, items in zip(part, answer([histories[number] for number in part]), strict=True):
            lists[number][: len(items)] = items
    return lists


def known_lists(recommender: Recommender, histories: list[History], places: int) -> list[list[str]]:
    """`lists_of` a recommender in this process; who has no item that it knows has an empty list."""

    def answer(part: list[History]) -> list[list[str]]:
        found = recommender.recommend([items for items, _ in part], values=[v for _, v in part], top_k=places)
        return [[ad.item_id for ad in ads] for ads in found]

    known = recommender.tokenizer.index.rows
    return lists_of(answer, [(own if any(i in known for i in own[0]) else ([], [])) for own in histories], places)
