"""Stages that train: VSL, then alignment by RSPO."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.recipe import RecipeError
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import ListConfig, ModelSettings

if TYPE_CHECKING:
    from datasets import Dataset

    from gr4ad import GR4ADConfig, RSPOConfig, UASIDTokenizer, VSLConfig


LISTS_FILE = "lists.parquet"
LOSS_WEIGHTS = ("value_loss_weight", "mtp_loss_weight", "item_loss_weight", "label_smoothing")


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


def model_config(settings: ModelSettings, tokenizer: UASIDTokenizer, **loss_weights: float) -> GR4ADConfig:
    """The network's configuration: the recipe's shape, what follows from the tokenizer, and the loss weights that
    alignment and online learning go on with."""
    from gr4ad import GR4ADConfig
    from gr4ad.modeling_gr4ad import SIDTrie
    from gr4ad.modeling_gr4ad.prefix_vectors_gr4ad import count_prefixes

    values = asdict(settings)
    item_embeddings, most = values.pop("item_embeddings"), values.pop("prefix_vectors")
    if most and len(tokenizer.index):
        values["num_prefix_vectors"] = min(most, count_prefixes(SIDTrie.from_index(tokenizer.index, removed=True)))
    values["prefix_size"] = min(values["prefix_size"], values["hidden_size"]) if most else 0
    for name in ("context_values", "item_values"):
        values[name] = values[name] and bool(tokenizer.value_bucket_means)
    values["item_values"] = values["item_values"] and item_embeddings
    without: dict[str, dict[str, Any]] = {
        "context_events": {"num_events": 0},
        "context_times": {"num_time_buckets": 0},
        "context_cross_domain": {"num_cross_domain_items": 0},
        "user_features": {"user_feature_sizes": []},
    }
    for switch, left_out in without.items():
        if not values.pop(switch):
            values |= left_out
    return GR4ADConfig.from_tokenizer(
        tokenizer, num_items=len(tokenizer.index) + 1 if item_embeddings else 0, **values, **loss_weights
    )


def train_model(
    settings: ModelSettings, arguments: VSLConfig, *, data_dir: Path, tokenizer_dir: Path, out_dir: Path
) -> dict:
    """VSL from scratch, or from the last checkpoint in `out_dir/checkpoints`; writes `model/` and `log.json`."""
    import torch

    from gr4ad import GR4ADForRecommendation, UASIDTokenizer, VSLTrainer

    data = load_prepared(data_dir, held_out=("test",))
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    torch.manual_seed(arguments.seed)
    loss_weights = {name: getattr(arguments, name) for name in LOSS_WEIGHTS}
    model = GR4ADForRecommendation(model_config(settings, tokenizer, **loss_weights))
    trainer = VSLTrainer(
        model=model,
        args=arguments,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=tokenizer,
    )
    run_training(trainer, out_dir)
    return finish_training(trainer, out_dir)


def run_training(trainer: Any, out_dir: Path) -> None:
    """Trains from the last checkpoint in `out_dir/checkpoints`, where a killed run left one."""
    from gr4ad.trainers.training_lines import told_in_lines
    from gr4ad.trainers.whole_checkpoints import last_checkpoint

    with told_in_lines(trainer):
        trainer.train(resume_from_checkpoint=last_checkpoint(out_dir / "checkpoints"))


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
    model_dir: Path,
    out_dir: Path,
    reward_dir: Path | None = None,
) -> dict:
    """RSPO on preference lists; writes `model/` and `log.json`. Raises RecipeError if the lists are to come from a
    reward model, and `reward_dir` holds none."""
    from gr4ad import GR4ADForRecommendation, RSPOTrainer, UASIDTokenizer
    from gr4ad.trainers.rspo import beam_lists

    data = load_prepared(data_dir, held_out=("test",))
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    model = GR4ADForRecommendation.from_pretrained(model_dir / "model")
    if lists.source == "reward_model":
        rows = reward_lists(reward_dir)
    elif lists.source == "impressions":
        rows = logged_impressions(data)
    else:
        rows = beam_lists(
            data.train,
            model,
            tokenizer,
            weights=arguments.eval_weights,
            list_size=lists.list_size,
            held_share=lists.held_share,
        )
    rows = drawn_rows(rows, lists.max_lists, arguments.seed)
    trainer = RSPOTrainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=data.validation, processing_class=tokenizer
    )
    run_training(trainer, out_dir)
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


def drawn_rows(rows: Dataset, most: int, seed: int) -> Dataset:
    """At most so many rows, drawn at random, in their order."""
    if len(rows) <= most:
        return rows
    return rows.select(np.sort(np.random.default_rng(seed).permutation(len(rows))[:most]))


def logged_impressions(data: PreparedData) -> Dataset:
    """The shown lists of the training log with the users' histories before them. Raises RecipeError if there are
    none."""
    if data.impressions is None:
        raise RecipeError("`lists.source` is impressions, but the log has none: use `beams`, or leave `align` out.")
    return data.impressions


def read_log(folder: Path) -> list[dict]:
    """Trainer log written by `finish_training`; [] if the stage has none."""
    path = folder / "log.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else []
