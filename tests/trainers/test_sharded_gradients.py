"""FSDP2 of torch on two processes. Not by way of the trainers: accelerate shards on accelerators alone and trains by
DDP where both are asked of CPUs."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

SCRIPT = str(Path(__file__).with_name("sharded_gradients.py"))


@pytest.fixture(scope="module")
def parts(tmp_path_factory, build_ring_model, ring_tokenizer, ring_log) -> Path:
    folder = tmp_path_factory.mktemp("parts")
    build_ring_model(initializer_range=0.3).save_pretrained(folder / "model")
    ring_tokenizer.save_pretrained(folder / "tokenizer")
    rows, rng = list(ring_log)[:16], np.random.default_rng(3)
    Dataset.from_list(rows).to_parquet(folder / "log.parquet")
    lists = [
        {name: row[name] for name in ("items", "events", "values", "city")}
        | {"candidates": [f"ad_{n}" for n in rng.choice(24, 5, replace=False)], "rewards": [0.0, 2.0, 1.0, 1.0, 5.0]}
        for row in rows
    ]
    Dataset.from_list(lists).to_parquet(folder / "lists.parquet")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["vsl", "rspo"])
def test_sharded_parameters_get_the_gradients_of_whole_ones(parts, tmp_path, loss):
    many = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    found = {}
    for name, launcher in (("one", []), ("two", many)):
        command = [sys.executable, *launcher, SCRIPT, loss, str(parts), str(tmp_path / f"{name}.safetensors")]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        found[name] = load_file(tmp_path / f"{name}.safetensors")
    assert found["one"].keys() == found["two"].keys() and len(found["one"]) > 20
    for name, gradient in found["one"].items():
        torch.testing.assert_close(found["two"][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
