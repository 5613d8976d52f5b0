"""Stage that learns what impressions are worth and writes the lists that alignment reads."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gr4ad.data import load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import ExploreConfig, ListConfig
from gr4ad.pipeline.training import LISTS_FILE, drawn_rows, finish_training, logged_impressions, run_training

if TYPE_CHECKING:
    from datasets import Dataset

    from gr4ad import RewardConfig

logger = logging.getLogger(__name__)

MOST_POSITIONS = 64
CONTEXT_ONLY = ("candidates", "rewards", "outcomes")


def train_reward_model(
    lists: ListConfig,
    explore: ExploreConfig,
    arguments: RewardConfig,
    *,
    data_dir: Path,
    tokenizer_dir: Path,
    model_dir: Path,
    out_dir: Path,
) -> dict:
    """Trains, calibrates and measures a reward model on the exposures of the training period, then lets it value what
    the policy would propose to a sample of the same requests.

    Writes `model/`, `log.json`, `reward_metrics.json` and `lists.parquet`: the columns of `candidate_lists`.

    Returns:
        Sizes, and the metrics on users who were neither trained on nor calibrated with; see `reward_metrics`.

    Raises:
        RecipeError: If the log has no impressions. ValueError: As `check_exposures` and `candidate_lists`.
    """
    import torch

    from gr4ad import GR4ADForRecommendation, RewardModel, RewardTrainer, UASIDTokenizer
    from gr4ad.trainers.reward import candidate_lists

    data = load_prepared(data_dir, held_out=("validation", "test"))
    tokenizer = UASIDTokenizer.from_pretrained(tokenizer_dir / "tokenizer")
    policy = GR4ADForRecommendation.from_pretrained(model_dir / "model")
    exposures = logged_impressions(data)
    shown, calibrating, measured = split_users(exposures, explore.held_out_share, arguments.seed)
    torch.manual_seed(arguments.seed)
    longest = max(len(part) for part in exposures["candidates"])
    trainer = RewardTrainer(
        model=RewardModel.from_policy(
            policy, num_positions=min(longest, MOST_POSITIONS), value_given=explore.value_given
        ),
        args=arguments,
        train_dataset=shown,
        eval_dataset=measured,
        processing_class=tokenizer,
    )
    exposure_lists = len(trainer.train_dataset)  # type: ignore[arg-type]  # what it was given, checked
    run_training(trainer, out_dir)
    trainer.calibrate(calibrating)
    metrics = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    summary = {**finish_training(trainer, out_dir), "exposure_lists": exposure_lists, **metrics}
    if not trainer.is_world_process_zero():
        return summary
    logger.info("reward model: %s", {name: round(value, 4) for name, value in metrics.items()})
    write_json(out_dir / "reward_metrics.json", metrics)
    contexts = drawn_rows(exposures.remove_columns(list(CONTEXT_ONLY)), lists.max_lists, arguments.seed)
    rows = candidate_lists(
        policy,
        trainer.accelerator.unwrap_model(trainer.model).to(policy.device),
        tokenizer,
        contexts,
        beam_widths=explore.beam_widths,
        list_size=lists.list_size,
        exploration=explore.exploration,
        score_history=explore.score_history,
        seed=arguments.seed,
        progress=True,
    )
    unfinished = out_dir / f"{LISTS_FILE}.tmp"
    rows.to_parquet(unfinished)
    os.replace(unfinished, out_dir / LISTS_FILE)
    return {**summary, "lists": len(rows)}


def split_users(exposures: Dataset, share: float, seed: int) -> tuple[Dataset, Dataset, Dataset]:
    """Exposures to train on, to calibrate with and to measure on; no user is in two of them."""
    users = np.asarray(exposures["user_id"][:])
    names = np.unique(users)
    places = np.random.default_rng(seed).permutation(len(names))
    held_out = max(2, round(share * len(names)))
    place = places[np.searchsorted(names, users)]
    parts = (place >= held_out, place < held_out // 2, (place >= held_out // 2) & (place < held_out))
    train, calibrate, measure = (exposures.select(np.flatnonzero(part)) for part in parts)
    return train, calibrate, measure
