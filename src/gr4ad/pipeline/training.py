"""Stages that train: VSL, then alignment by RSPO."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.recipe import RecipeError
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import ListConfig, ModelSettings
from gr4ad.pipeline.tokenizing import SEQUENCE_COLUMNS

if TYPE_CHECKING:
    from datasets import Dataset

    from gr4ad import GR4ADConfig, GR4ADForRecommendation, RSPOConfig, UASIDTokenizer, VSLConfig


LISTS_FILE = "lists.parquet"


def trainer_arguments(kind: type, section: str, values: dict[str, Any], output_dir: Path, seed: int) -> Any:
    """Arguments of a trainer from a recipe's section. Raises RecipeError for an unknown field or a bad value."""
    import torch

    from gr4ad.trainers.bfloat16 import fast_bfloat16

    known = {name for name, f in kind.__dataclass_fields__.items() if f.init}  # type: ignore[attr-defined]
    unknown = sorted(set(values) - known)
    if unknown:
        raise RecipeError(f"Unknown field `{section}.{unknown[0]}`: it is not one of {kind.__name__}.")
    given = {
        "use_cpu": not torch.cuda.is_available(),
        "bf16": fast_bfloat16(),
        "seed": seed,
        "save_total_limit": 2,
        **values,
    }
    try:
        return kind(output_dir=str(output_dir), **given)
    except (ValueError, TypeError) as error:
        raise RecipeError(f"Section `{section}`: {error}") from error


def model_config(settings: ModelSettings, tokenizer: UASIDTokenizer) -> GR4ADConfig:
    """The network's configuration: the recipe's shape, and what follows from the tokenizer."""
    from gr4ad import GR4ADConfig

    values = asdict(settings)
    item_embeddings = values.pop("item_embeddings")
    values.pop("item_embedding_std")
    values["context_values"] = values["context_values"] and bool(tokenizer.value_bucket_means)
    without: dict[str, dict[str, Any]] = {
        "context_events": {"num_events": 0},
        "context_times": {"num_time_buckets": 0},
        "user_features": {"user_feature_sizes": []},
    }
    for switch, left_out in without.items():
        if not values.pop(switch):
            values |= left_out
    return GR4ADConfig.from_tokenizer(
        tokenizer, num_items=len(tokenizer.index) + 1 if item_embeddings else 0, **values
    )


def start_item_head(model: GR4ADForRecommendation, tokenizer: UASIDTokenizer, train: Dataset) -> None:
    """Starts the item head from what the log says, so that it need not be learned: its bias from the log of each
    item's training events (+ 1), centred; its repeat bias from the log of the share of events that repeat an item."""
    import torch

    head = model.item_head
    assert head is not None
    counts = torch.log1p(torch.from_numpy(tokenizer.index.priority.copy()))
    repeats = events = 1
    for items in train["items"]:
        repeats += len(items) - len(set(items))
        events += max(0, len(items) - 1)
    with torch.no_grad():
        head.bias[1:] = (counts - counts.mean()).to(head.bias)
        if head.repeats:
            head.repeat_bias.fill_(math.log(min(repeats / events, 1.0)))


def start_item_embeddings(model: GR4ADForRecommendation, embeddings: np.ndarray, std: float) -> None:
    """Sets the item table to the main components of ad embeddings (float32, (N, d)), at standard deviation `std`; what
    is wider than the embeddings have components stays random."""
    import torch

    from gr4ad.trainers.cooccurrence import main_components

    components = std * main_components(embeddings, model.config.hidden_size)
    table = model.model.context_processor.item_embeddings.weight
    with torch.no_grad():
        table[1:, : components.shape[1]] = torch.from_numpy(components).to(table)


def train_model(
    settings: ModelSettings, arguments: VSLConfig, *, data_dir: Path, tokenizer_dir: Path, out_dir: Path
) -> dict:
    """VSL from scratch, or from the last checkpoint in `out_dir/checkpoints`; writes `model/` and `log.json`."""
    import torch
    from safetensors.numpy import load_file
    from transformers.trainer_utils import get_last_checkpoint

    from gr4ad import GR4ADForRecommendation, UASIDTokenizer, VSLTrainer

    data = load_prepared(data_dir)
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    torch.manual_seed(arguments.seed)
    model = GR4ADForRecommendation(model_config(settings, tokenizer))
    if settings.item_embedding_std and settings.item_embeddings:
        vectors = load_file(tokenizer_dir / "item_embeddings.safetensors")
        # Vectors learned from sequences are what the model would have to learn itself; content is the second best.
        start = vectors.get("collaborative", vectors["item_embeddings"])
        start_item_embeddings(model, start, settings.item_embedding_std)
    if model.config.item_head:
        start_item_head(model, tokenizer, data.train)
    trainer = VSLTrainer(
        model=model,
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=tokenizer,
    )
    checkpoints = out_dir / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    return finish_training(trainer, out_dir)


def finish_training(trainer: Any, out_dir: Path) -> dict:
    """Writes model and log of a trainer, in its process 0, and removes its checkpoints; returns the summary."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    # Of sharded parameters every process has a part, so all gather them.
    state = trainer.accelerator.get_state_dict(trainer.model) if trainer.is_fsdp_enabled else None
    if trainer.is_world_process_zero():
        model.save_pretrained(out_dir / "model", state_dict=state)
        write_json(out_dir / "log.json", trainer.state.log_history)
        shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)
    trainer.accelerator.wait_for_everyone()
    return {
        "parameters": sum(p.numel() for p in trainer.model.parameters()),
        "steps": trainer.state.global_step,
        "best_metric": trainer.state.best_metric,
    }


def align_model(
    lists: ListConfig,
    arguments: RSPOConfig,
    *,
    data_dir: Path,
    tokenizer_dir: Path,
    train_dir: Path,
    out_dir: Path,
    reward_dir: Path | None = None,
) -> dict:
    """RSPO on preference lists; writes `model/` and `log.json`.

    Raises:
        RecipeError: The lists are to come from a reward model, and `reward_dir` holds none.
    """
    from transformers.trainer_utils import get_last_checkpoint

    from gr4ad import GR4ADForRecommendation, RSPOTrainer, UASIDTokenizer

    data = load_prepared(data_dir)
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    model = GR4ADForRecommendation.from_pretrained(train_dir / "model")
    if lists.source == "reward_model":
        rows = reward_lists(reward_dir)
    elif lists.source == "impressions":
        rows = impression_lists(data)
    else:
        rows = beam_lists(
            data,
            model,
            tokenizer,
            lists,
            item_weight=arguments.item_weight,
            score_history=arguments.eval_score_history,
        )
    if len(rows) > lists.max_lists:
        chosen = np.random.default_rng(arguments.seed).permutation(len(rows))[: lists.max_lists]
        rows = rows.select(np.sort(chosen))
    trainer = RSPOTrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=data.validation, processing_class=tokenizer
    )
    checkpoints = out_dir / "checkpoints"
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None)
    return {"lists": len(rows), **finish_training(trainer, out_dir)}


def reward_lists(folder: Path | None) -> Dataset:
    """The lists that `gr4ad reward` left in its folder. Raises RecipeError if there are none."""
    import pyarrow.parquet as pq
    from datasets import Dataset

    if folder is None or not (folder / LISTS_FILE).is_file():
        raise RecipeError(
            f"`lists.source` is reward_model, but {folder or '`reward`'} holds no {LISTS_FILE}. Give the `--out` "
            "folder of `gr4ad reward`, or use `impressions` or `beams`."
        )
    return Dataset(pq.read_table(folder / LISTS_FILE, memory_map=False))


def impression_lists(data: PreparedData) -> Dataset:
    """The shown lists of the training log, with the values logged for them.

    Raises:
        RecipeError: If the log has no impressions.
    """
    if data.impressions is None:
        raise RecipeError("`lists.source` is impressions, but the log has none: use `beams`, or leave `align` out.")
    users = {user: row for row, user in enumerate(data.train["user_id"])}
    lists = data.impressions.filter(lambda user: user in users, input_columns="user_id", keep_in_memory=True)
    columns = [name for name in data.train.column_names if name not in ("user_id", "items")]
    logs = {name: data.train[name][:] for name in columns}

    def with_context(row: dict) -> dict:
        # The history of a list is a prefix of the user's training log, so what is known of its items stands there too.
        user, length = users[row["user_id"]], len(row["items"])
        return {name: logs[name][user][:length] if name in SEQUENCE_COLUMNS else logs[name][user] for name in columns}

    return lists.map(with_context, keep_in_memory=True, load_from_cache_file=False, desc="Preference lists")


def beam_lists(
    data: PreparedData,
    model: GR4ADForRecommendation,
    tokenizer: UASIDTokenizer,
    config: ListConfig,
    *,
    item_weight: float = 0.0,
    score_history: bool = False,
) -> Dataset:
    """Lists out of the model's own beams, one a user: the history is the first part of the training log, the
    candidates are what the model ranks first from there (`item_weight`, `score_history`: as it is served), and one
    that the user bought in the held-back last part has its value, the others 0.

    What was bought and not proposed stays out: a list that holds it because it was bought says of everything else that
    it was not, and teaches to push the likeliest ads down.
    """
    from datasets import Dataset

    from gr4ad.modeling_gr4ad import RankingWeights
    from gr4ad.trainers.evaluation.model_ranking import rank_users

    columns = [name for name in data.train.column_names if name != "user_id"]
    kept: list[dict] = []
    bought: list[dict[str, float]] = []
    for row in data.train.select_columns(columns):
        cut = len(row["items"]) - max(1, round(config.held_share * len(row["items"])))
        if cut < 1:
            continue
        kept.append({name: row[name][:cut] if name in SEQUENCE_COLUMNS else row[name] for name in columns})
        money: dict[str, float] = {}
        for item, value in zip(row["items"][cut:], row["values"][cut:], strict=True):
            money[item] = money.get(item, 0.0) + value
        bought.append(money)
    histories = Dataset.from_list(kept)
    width = config.list_size
    rankings = rank_users(
        model,
        tokenizer,
        histories,
        weights=RankingWeights(
            (width,) * tokenizer.num_levels,
            item_weight=item_weight,
            item_candidates=width if item_weight else 0,
            score_history=score_history,
        ),
        top_k=width,
        progress=True,
    )
    ids = tokenizer.index.item_ids
    candidates = [[ids[row] for row in ranked if row >= 0] for ranked in rankings.items]
    rewards = [[money.get(item, 0.0) for item in items] for items, money in zip(candidates, bought, strict=True)]
    return histories.add_column("candidates", candidates).add_column("rewards", rewards)


def read_log(folder: Path) -> list[dict]:
    """Trainer log written by `finish_training`; [] if the stage has none."""
    path = folder / "log.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []


__all__ = [
    "LISTS_FILE",
    "align_model",
    "beam_lists",
    "finish_training",
    "impression_lists",
    "read_log",
    "reward_lists",
    "train_model",
    "trainer_arguments",
]
