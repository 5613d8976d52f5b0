"""The chain in two processes, as `torchrun` and `accelerate launch` start it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gr4ad.data import load_prepared

TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"


def launch(recipe: Path, out: Path, processes: int) -> subprocess.CompletedProcess:
    # `accelerate launch` does the same where there are accelerators; of CPUs it starts one process.
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes),
               "-m", "gr4ad.cli", "run", str(recipe), "--out", str(out)]  # fmt: skip
    return subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=500
    )


@pytest.mark.slow
def test_a_chain_in_two_processes_is_written_once(tiny_encoder, tmp_path):
    recipe, out = tmp_path / "tiny.yaml", tmp_path / "out"
    recipe.write_text(TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3))
    done = launch(recipe, out, processes=2)
    assert done.returncode == 0, done.stderr[-4000:]
    stages = ["market", "data", "tune", "embed", "tokenize", "train", "align", "evaluate"]
    for stage in stages:
        assert done.stderr.count(f" {stage}: started") == done.stderr.count(f" {stage}: finished") == 1, stage
    assert done.stdout.count("artifact: ") == 1
    summary = json.loads((out / "stages" / "train" / "stage.json").read_text())["summary"]
    users = sum(len(items) > 1 for items in load_prepared(out / "stages" / "data" / "prepared").train["items"])
    assert summary["steps"] == -(-users // 64)  # batches of 32 in each process
    assert {"config.json", "model.safetensors", "metrics.json", "report.html"} <= {path.name for path in out.iterdir()}

    again = launch(recipe, out, processes=2)
    assert again.returncode == 0, again.stderr[-4000:]
    assert all(again.stderr.count(f" {stage}: kept") == 1 for stage in stages)


@pytest.mark.slow
def test_a_stage_that_fails_ends_every_process(tiny_encoder, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    text = TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3)
    recipe.write_text(text.replace("[title, category]", "[title, nothing]"))
    done = launch(recipe, tmp_path / "out", processes=2)
    assert done.returncode == 1
    assert "nothing" in done.stderr and not (tmp_path / "out" / "stages" / "embed" / "stage.json").exists()
