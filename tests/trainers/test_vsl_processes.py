"""One training in one process, in two, with accumulation, killed and resumed: one trajectory."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers.trainer_utils import get_last_checkpoint

from gr4ad.modeling_gr4ad import GR4ADForRecommendation

WORKER = str(Path(__file__).with_name("vsl_worker.py"))
SETTINGS = {"max_steps": 12, "save_steps": 4, "target_window": 2, "lr_scheduler_type": "cosine"}


@pytest.fixture(scope="module")
def parts(tmp_path_factory, build_ring_model, ring_tokenizer, ring_log) -> Path:
    """Model, tokenizer and a log of 64 users: four steps of 16 an epoch, so that no batch is filled up."""
    folder = tmp_path_factory.mktemp("parts")
    build_ring_model().save_pretrained(folder / "model")
    ring_tokenizer.save_pretrained(folder / "tokenizer")
    Dataset.from_list(list(ring_log)[:64]).to_parquet(folder / "log.parquet")
    return folder


def launch(processes: int) -> list[str]:
    if processes == 1:
        return [sys.executable]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]


def start(parts: Path, out: Path, *, processes: int = 1, **settings) -> subprocess.Popen:
    command = [*launch(processes), WORKER, str(parts), str(out), json.dumps({**SETTINGS, **settings})]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def train(parts: Path, out: Path, **settings) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Final parameters and the logs of every step."""
    run = start(parts, out, **settings)
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 0, errors[-3000:]
    logs = json.loads((out / "result.json").read_text())
    return load_file(out / "result.safetensors"), [log for log in logs if "loss" in log]


@pytest.fixture(scope="module")
def whole(parts, tmp_path_factory):
    """One process, batches of 16."""
    return train(parts, tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def whole_stream(parts, tmp_path_factory):
    return train(parts, tmp_path_factory.mktemp("whole_stream"), streaming=True, shuffle_buffer=32)


def check_same(one, other) -> None:
    """Equal up to the order of sums: logs to 1e-3 of themselves, and parameters, whose steps AdamW scales to one size
    however small a gradient is, to 2e-3 with a learning rate of 5e-3."""
    assert len(one[1]) == len(other[1]) == SETTINGS["max_steps"]
    for log, same in zip(one[1], other[1], strict=True):
        for name in ("loss", "loss_sid", "loss_value", "loss_mtp", "loss_item", "grad_norm", "acc_level_1",
                     "acc_level_2", "value_ratio"):  # fmt: skip
            assert log[name] == pytest.approx(same[name], rel=1e-3, abs=1e-4), (log["step"], name)
    for name, value in one[0].items():
        torch.testing.assert_close(value, other[0][name], rtol=1e-3, atol=2e-3, msg=name)


@pytest.mark.parametrize("settings", [
    {"processes": 2, "per_device_train_batch_size": 8},
    {"processes": 2, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 2},
], ids=["2 processes x 8", "2 processes x 2 steps x 4"])  # fmt: skip
@pytest.mark.slow
def test_two_processes_train_as_one(parts, whole, tmp_path, settings):
    check_same(whole, train(parts, tmp_path, **settings))


@pytest.mark.slow
def test_two_processes_share_a_stream(parts, whole_stream, tmp_path):
    settings = {"streaming": True, "shuffle_buffer": 32, "processes": 2, "per_device_train_batch_size": 8}
    check_same(whole_stream, train(parts, tmp_path, **settings))


@pytest.mark.slow
def test_accumulated_batches_train_as_whole_ones(parts, tmp_path):
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1}
    eight_by_one = train(parts, tmp_path / "8x1", **settings)
    settings = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 8}
    check_same(eight_by_one, train(parts, tmp_path / "1x8", **settings))


def wait_for(path: Path, run: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while not path.exists():
        assert run.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.005)


@pytest.mark.slow
@pytest.mark.parametrize("streaming", [False, True], ids=["dataset", "stream"])
def test_a_killed_training_resumes_to_the_same_bits(parts, whole, whole_stream, tmp_path, streaming):
    settings = {"streaming": True, "shuffle_buffer": 32} if streaming else {}
    run = start(parts, tmp_path, **settings, max_steps=SETTINGS["max_steps"])
    wait_for(tmp_path / "checkpoint-4", run)
    run.send_signal(signal.SIGKILL)
    run.communicate()
    assert run.returncode == -signal.SIGKILL
    assert not (tmp_path / "result.json").exists()
    parameters, _ = train(parts, tmp_path, resume=True, **settings)
    expected, _ = whole_stream if streaming else whole
    assert parameters.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(parameters[name], value), name


@pytest.mark.slow
def test_a_killed_rank_ends_the_run_and_leaves_a_checkpoint(parts, whole, tmp_path):
    settings = {"processes": 2, "per_device_train_batch_size": 8}
    run = start(parts, tmp_path, kill_rank_at=6, **settings)
    _, errors = run.communicate(timeout=200)  # the launcher ends the other rank, which waits in vain
    assert run.returncode not in (0, None)
    assert "Signal 9 (SIGKILL)" in errors
    last = get_last_checkpoint(str(tmp_path))
    assert last == str(tmp_path / "checkpoint-4")
    GR4ADForRecommendation.from_pretrained(last)
    resumed = train(parts, tmp_path, resume=True, **settings)
    check_same((whole[0], whole[1]), resumed)
