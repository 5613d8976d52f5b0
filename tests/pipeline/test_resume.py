"""`kill -9` in the middle of a training, then the same command again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EPOCHS = 6
TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"


def command(recipe: Path, out: Path) -> list[str]:
    return [sys.executable, "-m", "gr4ad.cli", "run", str(recipe), "--out", str(out)]


def scores(out: Path) -> dict:
    metrics = json.loads((out / "metrics.json").read_text())
    return {name: metrics[name] for name in ("validation", "test", "test_history_excluded", "serving", "final")}


@pytest.mark.slow
def test_a_killed_run_ends_as_an_uninterrupted_one(tiny_encoder, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    text = TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3)
    recipe.write_text(
        text.replace(
            'train: {num_train_epochs: 1, per_device_train_batch_size: 32, save_strategy: "no"}',
            f"train: {{num_train_epochs: {EPOCHS}, per_device_train_batch_size: 4, save_steps: 10}}",
        )
    )
    assert f"num_train_epochs: {EPOCHS}" in recipe.read_text()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command(recipe, tmp_path / "whole"), check=True, env=environment, capture_output=True)

    out = tmp_path / "killed"
    run = subprocess.Popen(command(recipe, out), env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    checkpoints = out / "stages" / "train" / "checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("checkpoint-[2-9]0/trainer_state.json")):
        assert run.poll() is None and time.monotonic() < deadline, "the run ended before it could be killed"
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (out / "stages" / "train" / "stage.json").exists()

    again = subprocess.run(command(recipe, out), check=True, env=environment, capture_output=True, text=True)
    assert "embed: kept" in again.stderr and "train: resumed" in again.stderr
    assert scores(out) == scores(tmp_path / "whole")
