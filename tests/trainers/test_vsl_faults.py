"""What can go wrong in a training: it says so, and what was saved before is whole."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from gr4ad.modeling_gr4ad import GR4ADForRecommendation
from gr4ad.tokenization import fit_value_buckets
from gr4ad.trainers import VSLConfig, VSLTrainer
from gr4ad.trainers.vsl import NonFiniteTrainingError, tokenize_histories


def arguments(folder, **changes) -> VSLConfig:
    given = {"per_device_train_batch_size": 16, "learning_rate": 5e-3, "save_strategy": "steps", "save_steps": 4}
    given |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 4, "max_steps": 40, **changes}
    return VSLConfig(output_dir=str(folder), **given)


class PoisonAt(TrainerCallback):
    """Makes a parameter NaN (as a step on a bad gradient would) before the optimizer's step `step`."""

    def __init__(self, step: int):
        self.step = step

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        if state.global_step + 1 == self.step:
            model.sid_heads[0].weight.grad[0, 0] = float("nan")


@pytest.mark.parametrize(
    ("poisoned", "message", "last"),
    [
        # The loss of step 7 is the first that is lost; it is noticed at the save of step 8.
        (6, r"Step 7: the loss is not finite.* sid nan.*learning rate 0\.00.*checkpoint-4, is good", "checkpoint-4"),
        # The loss of step 8 was finite, its gradient was not: the model it left must not be saved.
        (8, r"Step 8: a parameter, after a step whose loss was finite, is not finite.*checkpoint-4, is good",
         "checkpoint-4"),
        (2, r"Step 3: the loss is not finite.*There is no checkpoint: start anew", None),
    ],
)  # fmt: skip
def test_a_lost_loss_stops_before_it_is_saved(
    build_ring_model, ring_tokenizer, ring_log, tmp_path, poisoned, message, last
):
    def trainer(callbacks=None) -> VSLTrainer:
        # Unclipped: clipping by a norm that is NaN would spread it to every parameter, with the same end.
        return VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, max_grad_norm=0.0),
            train_dataset=ring_log,
            processing_class=ring_tokenizer,
            callbacks=callbacks,
        )

    with pytest.raises(NonFiniteTrainingError, match=message):
        trainer([PoisonAt(poisoned)]).train()
    found = get_last_checkpoint(str(tmp_path))
    assert (found and Path(found).name) == last
    if last:
        resumed = trainer()
        resumed.train(resume_from_checkpoint=True)
        assert resumed.state.global_step == 40
        assert all(parameter.isfinite().all() for parameter in resumed.model.parameters())


def test_a_loss_lost_in_the_last_steps_is_not_handed_on(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    trainer = VSLTrainer(
        model=build_ring_model(),
        args=arguments(tmp_path, max_steps=6, save_strategy="no", logging_steps=100),
        train_dataset=ring_log,
        processing_class=ring_tokenizer,
        callbacks=[PoisonAt(6)],
    )
    with pytest.raises(NonFiniteTrainingError, match="Step 6: a parameter"):
        trainer.train()


@pytest.mark.parametrize(
    ("parts", "weight", "given", "message"),
    [
        ({}, 0.0, True, "`teacher` would not be asked: `teacher_loss_weight` is 0"),
        ({"codebook": True}, 0.5, True, "teaches a p.SID. over the catalog. Received: .* 'codebook'"),
        ({"item_head": False}, 0.5, False, "needs a teacher. Received: a model without item head"),
    ],
)
def test_a_teacher_that_would_not_teach_is_named(
    build_ring_model, ring_tokenizer, ring_log, tmp_path, parts, weight, given, message
):
    with pytest.raises(ValueError, match=message):
        VSLTrainer(
            build_ring_model(**parts),
            VSLConfig(str(tmp_path), teacher_loss_weight=weight),
            ring_log,
            ring_tokenizer,
            teacher=(lambda items, seen: torch.zeros(len(items), 1)) if given else None,
        )


def test_an_empty_split_is_named(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    def trainer(train: Dataset, evaluation: Dataset | None) -> VSLTrainer:
        return VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path),
            train_dataset=train,
            eval_dataset=evaluation,
            processing_class=ring_tokenizer,
        )

    with pytest.raises(ValueError, match="The training log is empty: `train_dataset` has 0 rows"):
        trainer(ring_log.select([]), None)
    with pytest.raises(ValueError, match="The validation split is empty: `eval_dataset` has 0 rows"):
        trainer(ring_log, ring_log.select([]))
    with pytest.raises(ValueError, match="`eval_dataset` must be a `Dataset`: all.* Received: an IterableDataset"):
        trainer(ring_log, ring_log.to_iterable_dataset())


def test_a_long_history_is_read_from_its_end(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    long = [f"ad_{n % 24}" for n in range(100)]
    row = {**ring_log[0], "items": long, "events": ["click"] * 100, "values": [1.0] * 100}
    log = Dataset.from_list([row, ring_log[1]])
    model = build_ring_model()
    trainer = VSLTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=1, save_strategy="no"),
        train_dataset=log,
        processing_class=ring_tokenizer,
    )
    kept = trainer.train_dataset[0]["item_ids"]
    assert [f"ad_{row - 1}" for row in kept] == long[-7:]  # six items of context and one more to predict
    assert trainer.train().global_step == 1
    with pytest.raises(
        ValueError, match="`max_items` must be at most the model's `max_context_items`, 6. Received: 9"
    ):
        VSLTrainer(
            model=model,
            args=arguments(tmp_path, max_items=9),
            train_dataset=log,
            processing_class=ring_tokenizer,
        )


@pytest.mark.parametrize("streaming", [False, True])
def test_values_that_are_all_zero_weigh_alike(build_ring_model, ring_tokenizer, ring_log, tmp_path, caplog, streaming):
    log = ring_log.map(lambda row: {"values": [0.0] * len(row["values"])}, keep_in_memory=True)
    caplog.set_level(logging.WARNING)
    trainer = VSLTrainer(
        model=build_ring_model(),
        args=arguments(tmp_path, max_steps=5, save_strategy="no", target_value_power=1.0, logging_steps=1),
        train_dataset=log.to_iterable_dataset() if streaming else log,
        processing_class=ring_tokenizer,
    )
    assert any("All `values` of the training log are 0" in message for message in caplog.messages)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert all(np.isfinite(log["loss"]) and log["loss_sid"] > 0 for log in logs)
    assert all("value_ratio" not in log for log in logs)  # nothing true to compare with
    batch = next(iter(trainer.get_train_dataloader()))
    assert set(batch["sample_weight"][batch["labels"][..., 0] >= 0].tolist()) == {1.0}


def test_values_that_are_no_values_are_refused(ring_tokenizer, ring_log):
    for bad in (float("nan"), float("inf"), -1000.0):
        rows = [{**row, "values": [*row["values"][:-1], bad if n else 1.0]} for n, row in enumerate(ring_log)]
        place = len(rows[1]["values"]) - 1
        with pytest.raises(ValueError, match=rf"Row 1: `values\[{place}\]` is {bad}. Allowed: finite numbers >= 0"):
            tokenize_histories(Dataset.from_list(rows), ring_tokenizer, max_items=6)
    with pytest.raises(ValueError, match="needs the column `values`"):
        tokenize_histories(ring_log.remove_columns("values"), ring_tokenizer, max_items=6, target_value_power=1.0)


@pytest.mark.parametrize(
    ("values", "edges", "means"),
    [
        ([0.0] * 50, [], []),
        ([3.0] * 50, [], []),
        ([], [], []),
        ([0.0] * 49 + [8.0], [8.0], [0.0, 8.0]),  # all quantiles but the highest are ties
        ([0.0] * 25 + [2.0] * 25, [2.0], [0.0, 2.0]),
    ],
)
def test_value_buckets_of_zeros_and_ties(values, edges, means):
    assert fit_value_buckets(np.array(values), 4) == (edges, means)


@pytest.fixture(scope="module")
def saved_parts(tmp_path_factory, build_ring_model, ring_tokenizer, ring_log) -> Path:
    """Model, tokenizer and log for a process of its own."""
    folder = tmp_path_factory.mktemp("parts")
    build_ring_model(hidden_size=64, intermediate_size=256).save_pretrained(folder / "model")
    ring_tokenizer.save_pretrained(folder / "tokenizer")
    ring_log.to_parquet(folder / "log.parquet")
    return folder


def train_elsewhere(parts: Path, out: Path, **settings) -> subprocess.CompletedProcess:
    """`vsl_worker.py` in one process."""
    command = [
        sys.executable,
        str(Path(__file__).with_name("vsl_worker.py")),
        str(parts),
        str(out),
        json.dumps(settings),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


def check_resumable(out: Path, step: int) -> None:
    """The last checkpoint is that of `step`, holds all a resumed run reads, and nothing unfinished lies beside it."""
    last = Path(get_last_checkpoint(str(out)))
    assert last.name == f"checkpoint-{step}"
    names = {
        "model.safetensors",
        "optimizer.pt",
        "scheduler.pt",
        "rng_state.pth",
        "trainer_state.json",
        "items.parquet",
    }
    assert names <= {path.name for path in last.iterdir()}
    GR4ADForRecommendation.from_pretrained(last)
    torch.load(last / "optimizer.pt", weights_only=True)
    assert not (out / ".unfinished").exists()


@pytest.mark.slow
def test_a_file_that_cannot_be_written_leaves_the_last_checkpoint(saved_parts, tmp_path):
    """RLIMIT_FSIZE, lowered between two saves, fails the write of the optimizer's file halfway."""
    done = train_elsewhere(saved_parts, tmp_path, max_steps=12, save_steps=4, limit_file_size_after=4)
    assert done.returncode == 1
    message = " ".join(done.stderr.split())
    assert f"{tmp_path / 'checkpoint-8'} could not be written and was removed" in message
    assert f"MB are free. The last good checkpoint is {tmp_path / 'checkpoint-4'}" in message
    check_resumable(tmp_path, 4)
    again = train_elsewhere(saved_parts, tmp_path, max_steps=12, save_steps=4, resume=True)
    assert again.returncode == 0, again.stderr[-2000:]
    check_resumable(tmp_path, 12)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux") or os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_leaves_the_last_checkpoint(saved_parts, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    sizes = sum(path.stat().st_size for path in (saved_parts / "model").iterdir())
    size = f"size={int(sizes * 4.5)}"  # a checkpoint takes three times the model: room for one, not for two
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("not allowed to mount a file system")
    try:
        done = train_elsewhere(saved_parts, disk, max_steps=12, save_steps=4)
        assert done.returncode == 1
        message = " ".join(done.stderr.split())
        assert "could not be written and was removed" in message and "MB are free" in message
        assert f"The last good checkpoint is {disk / 'checkpoint-4'}" in message
        check_resumable(disk, 4)
        shutil.copytree(disk / "checkpoint-4", tmp_path / "roomy" / "checkpoint-4")
    finally:
        subprocess.run(["umount", str(disk)], check=True)
    again = train_elsewhere(saved_parts, tmp_path / "roomy", max_steps=12, save_steps=4, resume=True)
    assert again.returncode == 0, again.stderr[-2000:]


def test_what_a_killed_save_leaves_is_not_resumed_from(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    def trainer(**changes) -> VSLTrainer:
        return VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, **{"max_steps": 8, **changes}),
            train_dataset=ring_log,
            processing_class=ring_tokenizer,
        )

    trainer().train()
    half = tmp_path / ".unfinished" / "checkpoint-12"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-8")
    trainer(max_steps=12, save_total_limit=2).train(resume_from_checkpoint=True)
    check_resumable(tmp_path, 12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-12", "checkpoint-8"]
    trainer(max_steps=12).train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))  # writes over the other
    check_resumable(tmp_path, 12)


def test_validation_rows_are_read_before_training(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    def trainer(row: dict) -> VSLTrainer:
        return VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, eval_beam_widths=[4, 8]),
            train_dataset=ring_log,
            eval_dataset=[row],
            processing_class=ring_tokenizer,
        )

    history = ring_log[0]["items"][:3]
    with pytest.raises(ValueError, match="`eval_dataset` needs the column `target_values`"):
        trainer({"items": history, "target_items": history[:1]})
    with pytest.raises(ValueError, match="no_such_ad"):
        trainer({"items": history, "target_items": ["no_such_ad"], "target_values": [1.0]})
    found = trainer({"items": history, "target_items": history[:1], "target_values": [1.0]}).evaluate()
    assert 0 <= found["eval_ndcg@10"] <= 1  # neither `user_id` nor `values` is needed
