# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Trains and calibrates a reward model on exposures."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from tqdm.auto import tqdm
from transformers import Trainer, TrainerCallback
from transformers.trainer_utils import speed_metrics

from gr4ad.tokenization import UASIDTokenizer

from ..finite_training import FiniteTrainingMixin
from ..row_datasets import Rows, as_table
from ..whole_checkpoints import WholeCheckpointMixin
from .exposure_lists import ExposureCollator, check_exposures, examination_of
from .exposure_metrics import reward_metrics
from .reward_config import RewardConfig
from .reward_model import VALUE_GIVEN, RewardModel
from .score_calibration import fit_calibration

logger = logging.getLogger(__name__)


@dataclass
class ExposureScores:
    """What a reward model says of E exposures, one after the other, and what came of them; float64 (E,) but
    `outcomes`, int64 (E,). Logits and `click_probs` are those of the place where each ad stood."""

    outcomes: np.ndarray
    values: np.ndarray
    click_logits: np.ndarray
    conversion_logits: np.ndarray
    value_logs: np.ndarray
    click_probs: np.ndarray
    conversion_probs: np.ndarray
    expected_values: np.ndarray

    def metrics(self) -> dict[str, float]:
        """See `reward_metrics`."""
        return reward_metrics(
            self.outcomes, self.values, self.click_probs, self.conversion_probs, self.expected_values
        )


class RewardTrainer(WholeCheckpointMixin, FiniteTrainingMixin, Trainer):
    """
    Trains a [`RewardModel`] on exposures: what users did with the ads that they were shown.

    Example:

    ```python
    trainer = RewardTrainer(
        model=RewardModel.from_policy(policy, num_positions=6),
        args=RewardConfig("reward"),
        train_dataset=shown,  # rows: items (history), candidates (from the top), outcomes, rewards
        eval_dataset=measured,
        processing_class=tokenizer,
    )
    trainer.train()
    trainer.calibrate(held_out)
    trainer.evaluate()
    ```

    Args:
        model ([`RewardModel`]): Its `value_scale` is set to the mean value of the training exposures, and its bias of
            places starts from how likely they are looked at.
        args ([`RewardConfig`]): Settings.
        train_dataset, eval_dataset (`Dataset`, `DataFrame` or list of dicts): Exposures, see `check_exposures`.
        processing_class ([`UASIDTokenizer`]): The policy's tokenizer.
        callbacks (`list`, *optional*): Further callbacks.

    Raises:
        ValueError: If model and tokenizer disagree, or as `check_exposures`.
    """

    args: RewardConfig
    processing_class: UASIDTokenizer
    loss_is_scaled_for_ga = True  # divided by the exposures of the whole accumulated batch

    def __init__(
        self,
        model: RewardModel,
        args: RewardConfig,
        train_dataset: Rows,
        processing_class: UASIDTokenizer,
        eval_dataset: Rows | None = None,
        callbacks: list[TrainerCallback] | None = None,
        **kwargs: Any,
    ):
        model.config.check_tokenizer(processing_class)
        rows = check_exposures(as_table(train_dataset, "train_dataset", read_streams=True))
        if not args.train_context:
            model.freeze_context()
        model.config.value_scale = mean_value(rows, model.config.value_given)
        shown = [processing_class.item_rows(part) for part in rows["candidates"]]
        model.start_positions(torch.from_numpy(examination_of(rows, shown, model.config.num_positions)))
        self.parts: dict[str, list[torch.Tensor]] = defaultdict(list)  # of the loss, since the log at `parts_step`
        self.parts_step = 0
        super().__init__(
            model=model,
            args=args,
            train_dataset=rows,
            eval_dataset=None if eval_dataset is None else check_exposures(as_table(eval_dataset, "eval_dataset")),
            processing_class=processing_class,
            data_collator=ExposureCollator(
                processing_class,
                args.max_items or model.config.max_context_items,
                args.item_dropout,
                model.config.max_cross_domain_items,
            ),
            callbacks=callbacks,
            **kwargs,
        )

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], torch.Tensor]:
        """The batches of one step, and the exposures in them over all processes: what its loss is divided by."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        count = sum((batch["candidate_mask"].sum() for batch in batches), torch.tensor(0)).to(device)
        return batches, self.accelerator.gather(count).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        outputs = model(**inputs, num_items_in_batch=num_items_in_batch)
        for name, part in outputs.losses.items():
            self.parts[name].append(part)
        # Gradients are averaged over the processes, whose sums are divided by the exposures of all.
        loss = outputs.loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs and self.parts:
            names = sorted(self.parts)  # one order in all processes
            steps = max(1, self.state.global_step - self.parts_step)
            sums = torch.stack([torch.stack(self.parts[name]).sum() for name in names]) / steps
            sums = self.accelerator.reduce(sums, "sum").tolist()
            logs |= {f"loss_{name}": part for name, part in zip(names, sums, strict=True)}
            self.parts.clear()
            self.parts_step = self.state.global_step
        super().log(logs, start_time)

    def loss_parts(self) -> dict[str, float]:
        return {name: float(sum(parts)) for name, parts in self.parts.items()}

    def predict_exposures(self, dataset: Dataset) -> ExposureScores:
        """See the function of this name."""
        model = self.accelerator.unwrap_model(self.model)
        return predict_exposures(
            model, self.processing_class, dataset, self.args.per_device_eval_batch_size, self.args.max_items
        )

    def evaluate(
        self,
        eval_dataset: Dataset | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """`eval_click_auc`, `eval_value_bias`, ...: see `reward_metrics`."""
        dataset: Dataset = self.eval_dataset if eval_dataset is None else check_exposures(eval_dataset)
        start = time.time()
        metrics = {f"{metric_key_prefix}_{name}": v for name, v in self.predict_exposures(dataset).metrics().items()}
        metrics.update(speed_metrics(metric_key_prefix, start, num_samples=len(dataset)))
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def calibrate(self, held_out: Dataset) -> dict[str, dict[str, object]]:
        """Fits the maps of the three scores on exposures that were not trained on and puts them into the model's
        config; a head with too few outcomes keeps none, and a warning says so. Returns them."""
        method, config = self.args.calibration, self.accelerator.unwrap_model(self.model).config
        config.calibration = None
        if method == "none":
            return {}
        scores = self.predict_exposures(check_exposures(held_out))
        clicked = scores.outcomes >= 1
        priced = scores.outcomes >= VALUE_GIVEN.index(config.value_given)
        fits = {
            "click": (scores.click_logits, clicked.astype(np.float64), True),
            "conversion": (scores.conversion_logits[clicked], (scores.outcomes[clicked] >= 2).astype(float), True),
            "value": (scores.value_logs[priced], scores.values[priced] / config.value_scale, False),
        }
        maps: dict[str, dict[str, object]] = {}
        for name, (score, outcome, probability) in fits.items():
            try:
                maps[name] = fit_calibration(method, score, outcome, probability=probability)
            except ValueError as error:
                logger.warning("%s stays uncalibrated. %s", name, error)
        config.calibration = maps or None
        return maps


def mean_value(exposures: Dataset, given: str) -> float:
    """Mean value of the exposures that carry one; 1 in a log without values."""
    least = VALUE_GIVEN[VALUE_GIVEN.index(given) :]
    values = [
        value
        for came, rewards in zip(exposures["outcomes"], exposures["rewards"], strict=True)
        for name, value in zip(came, rewards, strict=True)
        if name in least
    ]
    mean = float(np.mean(values)) if values else 0.0
    if mean <= 0:
        logger.warning("The exposures carry no value above 0: expected values will be about 0 and rank nothing.")
        return 1.0
    return mean


@torch.no_grad()
def predict_exposures(
    model: RewardModel,
    tokenizer: UASIDTokenizer,
    exposures: Dataset,
    batch_size: int = 256,
    max_items: int | None = None,
    progress: bool = False,
) -> ExposureScores:
    """Scores lists of `check_exposures` in their order, contexts of similar length together; `max_items` of a history
    are by default the model's `max_context_items`."""
    was_training = model.training
    model.eval()
    config = model.config
    collate = ExposureCollator(
        tokenizer, max_items or config.max_context_items, max_cross_domain=config.max_cross_domain_items
    )
    order = np.argsort([len(items) for items in exposures["items"]], kind="stable")
    names = ("click_logits", "conversion_logits", "value_logs", "click_probs", "conversion_probs", "expected_values")
    found: list[dict[str, np.ndarray]] = [{} for _ in range(len(exposures))]
    for start in tqdm(range(0, len(order), batch_size), desc="Rewards", unit="batch", disable=not progress):
        chosen = order[start : start + batch_size]
        batch = collate([exposures[int(row)] for row in chosen])
        came, values, mask = batch.pop("outcomes"), batch.pop("values"), batch["candidate_mask"].numpy()
        output = model(**{name: tensor.to(model.device) for name, tensor in batch.items()})
        columns = {name: output[name].double().cpu().numpy() for name in names}
        columns |= {"outcomes": came.numpy(), "values": values.double().numpy()}
        for line, row in enumerate(chosen):
            found[row] = {name: column[line][mask[line]] for name, column in columns.items()}
    model.train(was_training)
    return ExposureScores(**{name: np.concatenate([part[name] for part in found]) for name in found[0]})


__all__ = ["ExposureScores", "RewardTrainer", "mean_value", "predict_exposures"]
