"""One alignment in one process, in two, and with accumulation: one trajectory, by every loss."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from gr4ad.trainers import RSPOConfig, RSPOTrainer
from gr4ad.trainers.rspo.preference_losses import dpo_loss, grpo_loss, loss_of, rspo_loss, sdpo_loss

WORKER = str(Path(__file__).with_name("rspo_worker.py"))
STEPS = 8
LOSSES = {"rspo": rspo_loss, "dpo": dpo_loss, "sdpo": sdpo_loss, "grpo": grpo_loss}


def uneven_lists(log, count: int) -> Dataset:
    """Lists of 2 to 6 candidates with ties, so that no two batches hold as many anchors, pairs or candidates."""
    rng, rows = np.random.default_rng(3), []
    for row in list(log)[:count]:
        ads = rng.choice(24, rng.integers(2, 7), replace=False)
        rewards = rng.integers(0, 3, len(ads)).astype(float)
        rewards[:2] = (0.0, 2.0)
        kept = {name: row[name] for name in ("items", "events", "values", "city")}
        rows.append(kept | {"candidates": [f"ad_{n}" for n in ads], "rewards": rewards.tolist()})
    return Dataset.from_list(rows)


def doubled_loss(policy_logps, grades, ref_logps, mask, *, beta, count):
    """A loss of one's own."""
    loss, metrics = sdpo_loss(policy_logps, grades, ref_logps, mask, beta=2 * beta, count=count)
    return loss, {"margin": metrics["margin"]}


def check_same(one, other, loss: str) -> None:
    """Equal up to the order of sums, which AdamW's steps of one size magnify."""
    assert len(one[1]) == len(other[1]) == STEPS
    for log, same in zip(one[1], other[1], strict=True):
        for name in ("loss", "grad_norm", f"rspo/{loss}", "rspo/vsl"):
            assert log[name] == pytest.approx(same[name], rel=1e-3, abs=1e-4), (log["step"], name)
    for name, value in one[0].items():
        torch.testing.assert_close(value, other[0][name], rtol=1e-3, atol=2e-3, msg=name)


@pytest.mark.parametrize(
    ("loss", "unified"),
    [("rspo", False), ("rspo", True), ("dpo", False), ("sdpo", False), ("grpo", False), (doubled_loss, False)],
)
def test_accumulated_batches_align_as_whole_ones(build_ring_model, ring_tokenizer, ring_log, tmp_path, loss, unified):
    results = []
    for size, accumulated in ((8, 1), (1, 8)):
        trainer = RSPOTrainer(
            model=build_ring_model(initializer_range=0.3),
            args=RSPOConfig(
                str(tmp_path), loss_type=loss, unified=unified, per_device_train_batch_size=size, max_steps=STEPS,
                gradient_accumulation_steps=accumulated, use_cpu=True, bf16=False, save_strategy="no", beta=0.5,
                logging_steps=1, learning_rate=3e-3, disable_tqdm=True,
            ),
            train_dataset=uneven_lists(ring_log, 64),
            processing_class=ring_tokenizer,
        )  # fmt: skip
        trainer.train()
        logs = [log for log in trainer.state.log_history if "loss" in log]
        results.append((trainer.model.state_dict(), logs))
    loss = trainer.args.loss_name
    check_same(*results, loss)
    for log in results[0][1]:  # what is logged adds up to the loss
        assert log["loss"] == pytest.approx(log[f"rspo/{loss}"] + 0.1 * log["rspo/vsl"], abs=2e-3)


@pytest.mark.parametrize("loss", list(LOSSES))
def test_parts_divided_by_what_the_whole_counts_add_up_to_it(loss):
    rng = np.random.default_rng(0)
    logps, ref = (torch.from_numpy(rng.normal(-5, 2, (6, 5))) for _ in range(2))
    grades, mask = (
        torch.from_numpy(rng.integers(0, 3, (6, 5)).astype(float)),
        torch.from_numpy(rng.random((6, 5)) < 0.8),
    )
    grades[4] = 1.0  # a list without a preference
    whole, _ = LOSSES[loss](logps, grades, ref, mask, beta=0.5)
    count = sum(loss_of(loss).counted(grades[rows], mask[rows]) for rows in ([0], [1, 2], [3, 4, 5]))
    assert count == loss_of(loss).counted(grades, mask) > 0
    parts = [LOSSES[loss](logps[rows], grades[rows], ref[rows], mask[rows], beta=0.5, count=count)[0]
             for rows in ([0], [1, 2], [3, 4, 5])]  # fmt: skip
    torch.testing.assert_close(sum(parts), whole)


@pytest.fixture(scope="module")
def parts(tmp_path_factory, build_ring_model, ring_tokenizer, ring_log) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    build_ring_model(initializer_range=0.3).save_pretrained(folder / "model")
    ring_tokenizer.save_pretrained(folder / "tokenizer")
    uneven_lists(ring_log, 64).to_parquet(folder / "lists.parquet")
    return folder


def align(parts: Path, out: Path, *, processes: int = 1, **settings):
    """Final parameters and the logs of every step."""
    out.mkdir(exist_ok=True)
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)] if processes > 1 else []
    command = [sys.executable, *many, WORKER, str(parts), str(out), json.dumps({"max_steps": STEPS, **settings})]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    logs = json.loads((out / "result.json").read_text())
    return load_file(out / "result.safetensors"), [log for log in logs if "loss" in log]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [
    {"per_device_train_batch_size": 8},
    {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "unified": True},
    {"per_device_train_batch_size": 8, "loss_type": "grpo"},
], ids=["rspo", "unified, accumulated", "grpo"])  # fmt: skip
def test_two_processes_align_as_one(parts, tmp_path, settings):
    whole = {**settings, "per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
    one = align(parts, tmp_path / "one", **whole)
    check_same(one, align(parts, tmp_path / "two", processes=2, **settings), settings.get("loss_type", "rspo"))
