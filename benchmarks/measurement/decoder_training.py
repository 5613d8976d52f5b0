"""The decoder of a recipe alone, trained on semantic IDs without what would hide it (`decoders.py`, `scaling.py`)."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gr4ad import GR4ADConfig, GR4ADForRecommendation, UASIDTokenizer, VSLConfig, VSLTrainer
from gr4ad.pipeline import Recipe
from gr4ad.pipeline.comparing import seed_folder
from gr4ad.pipeline.training import model_config, trainer_arguments
from measurement.runs import FinishedRun, recipe_of

UNPLACED = ("item_head_copy", "item_head_repeat")
DECODER_ALONE = {
    "value_loss_weight": 0.0,
    "mtp_loss_weight": 0.0,
    "item_loss_weight": 0.0,
    "eval_strategy": "no",
    "save_strategy": "no",
    "load_best_model_at_end": False,
    "metric_for_best_model": None,
}


@dataclass(frozen=True)
class Stages:
    """A recipe, and the finished run of it that data, tokenizer and item vectors are taken from."""

    recipe: Recipe
    run: FinishedRun

    @classmethod
    def of_run(cls, name: str, data: str | None, folder: Path, seed: int, *, smoke: bool) -> "Stages":
        """`folder` is that of seed 0."""
        recipe = recipe_of(name, folder, smoke=smoke, data=data, seed=seed)
        return cls(recipe, FinishedRun(seed_folder(folder, seed)))


def decoder_config(
    recipe: Recipe, tokenizer: UASIDTokenizer, parallel_layers: int, fuse_prefix: bool = False
) -> GR4ADConfig:
    """The recipe's network without item head and value token."""
    shape = {"num_parallel_layers": parallel_layers, "fuse_prefix": fuse_prefix}
    settings = replace(recipe.model, **shape, item_head=False, **dict.fromkeys(UNPLACED, False))
    config = model_config(replace(settings, context_values=False, item_values=False), tokenizer).to_dict()
    return GR4ADConfig(**{**config, "num_value_buckets": 0, "value_bucket_means": None})


def train_decoder(
    stages: Stages, build: Callable[[], GR4ADForRecommendation], folder: Path
) -> tuple[VSLTrainer, float]:
    """Trains by the recipe's schedule on SIDs alone; returns the trainer, at its end, and its seconds."""
    torch.manual_seed(stages.recipe.seed)
    model = build()
    settings = {**stages.recipe.train, **DECODER_ALONE}
    args = trainer_arguments(VSLConfig, "train", settings, folder / "training", stages.recipe.seed)
    started = time.monotonic()
    trainer = VSLTrainer(
        model=model, args=args, train_dataset=stages.run.data.train, processing_class=stages.run.tokenizer
    )
    trainer.train()
    return trainer, time.monotonic() - started
