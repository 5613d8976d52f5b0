"""Every trainer stops where its loss or weights are lost, before a checkpoint of them is written."""

from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from test_encoder_tuning import catalog_in_pairs, tiny_encoder  # noqa: F401
from test_instruction import config, pairs_of, vlm  # noqa: F401
from test_reward_model import planted
from test_rspo_processes import uneven_lists
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from gr4ad.tokenization.ad_embedding import AdEmbedder
from gr4ad.trainers import RewardConfig, RewardModel, RewardTrainer, RSPOConfig, RSPOTrainer, VSLConfig, VSLTrainer
from gr4ad.trainers.cooccurrence import EncoderTuningConfig, ItemSequenceConfig, train_item_vectors, tune_encoder
from gr4ad.trainers.finite_training import NonFiniteTrainingError
from gr4ad.trainers.instruction import build_instruction_trainer
from gr4ad.trainers.rspo import check_lists

LOST = "Step 7: the loss is not finite.*checkpoint-4, is good: resume it"


class PoisonAt(TrainerCallback):
    """Makes a gradient NaN before the optimizer's step `step`."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            next(p for p in model.parameters() if p.grad is not None).grad.fill_(float("nan"))


SETTINGS = {
    "per_device_train_batch_size": 8,
    "save_strategy": "steps",
    "save_steps": 4,
    "use_cpu": True,
    "bf16": False,
    "logging_steps": 100,
    "max_steps": 40,
    "disable_tqdm": True,
}


@pytest.mark.parametrize("kind", ["vsl", "rspo", "reward"])
def test_the_recommenders_trainers_stop(kind, build_ring_model, ring_tokenizer, ring_log, tmp_path):
    policy = build_ring_model()
    model, trainer, config_class, data = {
        "vsl": lambda: (policy, VSLTrainer, VSLConfig, ring_log),
        "rspo": lambda: (policy, RSPOTrainer, RSPOConfig, uneven_lists(ring_log, 64)),
        "reward": lambda: (RewardModel.from_policy(policy), RewardTrainer, RewardConfig, planted(64, 0)),
    }[kind]()
    trainer = trainer(
        model=model,
        args=config_class(str(tmp_path), **SETTINGS),
        train_dataset=data,
        processing_class=ring_tokenizer,
        callbacks=[PoisonAt(6)],
    )
    with pytest.raises(NonFiniteTrainingError, match=LOST):
        trainer.train()
    assert Path(get_last_checkpoint(str(tmp_path))).name == "checkpoint-4"


def test_item_vectors_stop(tmp_path):
    content = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
    config = ItemSequenceConfig(epochs=1, dimension=4, num_heads=1, learning_rate=float("inf"), bf16=False)
    with pytest.raises(NonFiniteTrainingError, match="Step 1: a parameter.*There is no checkpoint: start anew"):
        train_item_vectors([np.arange(5), np.arange(6)], content, config, output_dir=tmp_path)


def test_encoder_tuning_stops(tiny_encoder, tmp_path):  # noqa: F811
    embedder = AdEmbedder(str(tiny_encoder), ["title"])
    next(embedder.encoder.parameters()).data[3] = float("nan")
    config = EncoderTuningConfig(epochs=1, batch_size=8, bf16=False)
    with pytest.raises(NonFiniteTrainingError, match="Step 1: the loss is not finite"):
        tune_encoder(embedder, *catalog_in_pairs(), config, output_dir=tmp_path)


def test_instruction_tuning_stops(vlm, tmp_path):  # noqa: F811
    processor = AutoProcessor.from_pretrained(vlm)
    catalog = Dataset.from_dict({"item_id": ["a", "b"], "title": ["red", "blue"], "brand": ["acme", "boots"]})
    pairs, _ = pairs_of(catalog, processor, None, image_column=None, image_root=None, form_column=None)
    model = AutoModelForImageTextToText.from_pretrained(vlm)
    trainer = build_instruction_trainer(model, config(tmp_path), pairs, processor, callbacks=[PoisonAt(3)])
    with pytest.raises(NonFiniteTrainingError, match="Step 3: a parameter|Step 4: the loss is not finite"):
        trainer.train()


@pytest.mark.parametrize(
    ("column", "row", "value", "message"),
    [
        ("ref_logps", 3, [-1.0, None], "`ref_logps` of row 3 must be finite and <= 0. Received: None"),
        ("ref_logps", 3, [float("-inf"), -1.0], "`ref_logps` of row 3 must be finite and <= 0. Received: -inf"),
        ("ref_logps", 0, [-1.0, float("nan")], "`ref_logps` of row 0 must be finite and <= 0. Received: nan"),
        ("ref_logps", 2, [0.5, -1.0], "`ref_logps` of row 2 must be finite and <= 0. Received: 0.5"),
        ("ref_logps", 2, None, "`ref_logps` of row 2 must have one number for each of its 2 cand.*Received: None"),
        ("rewards", 1, [1.0, None], "`rewards` of row 1 must be finite and >= 0. Received: None"),
        ("rewards", 1, [1.0], "`rewards` of row 1 must have one number for each of its 2 candidates. Received: 1"),
        ("candidates", 1, ["ad_1", None], "`candidates` of row 1 must be a list of item ids.*Received: None"),
        ("candidates", 1, None, "`candidates` of row 1 must be a list of item ids.*Received: None"),
    ],
)  # fmt: skip
def test_lists_are_checked_by_row(column, row, value, message):
    rows = [
        {"items": ["ad_1"], "candidates": ["ad_2", "ad_3"], "rewards": [0.0, 1.0], "ref_logps": [-1.0, -2.0]}
        for _ in range(4)
    ]
    assert len(check_lists(Dataset.from_list(rows), "logged")) == 4
    rows[row][column] = value
    lists = Dataset.from_list(rows)
    with pytest.raises(ValueError, match=message):
        check_lists(lists, "logged")
    if column == "ref_logps":  # which nothing else reads
        assert len(check_lists(lists, "frozen")) == 4


def test_the_first_lost_step_is_named(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    trainer = VSLTrainer(
        model=build_ring_model(), args=VSLConfig(str(tmp_path), use_cpu=True), train_dataset=ring_log,
        processing_class=ring_tokenizer,
    )  # fmt: skip
    for step, lost in enumerate([0, 0, 3, 0, 5], start=1):
        loss = torch.tensor(float("inf") if lost else 1.0)
        trainer.state.global_step = step - 1
        trainer.note_loss(loss)
    assert int(trainer.lost_step) == 3
