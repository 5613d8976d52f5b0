"""Accuracy benchmarks on tiny runs of the chain: every decoder is trained, ranked and compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gr4ad.pipeline import load_recipe, run_recipe

FOLDER = Path(__file__).parents[2] / "benchmarks"
TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"
LAZY = {f"LazyAR, K = {k}{fused}" for k in (1, 2) for fused in ("", ", prefix fused")}
NAMES = {"vanilla AR, K = 0", "MTP heads", *LAZY}


def run(script: str, *arguments: object) -> None:
    words = [sys.executable, str(FOLDER / script), *map(str, arguments)]
    done = subprocess.run(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.slow
def test_decoders_of_two_seeds_side_by_side(tiny_encoder, tmp_path):
    text = TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3)
    path = tmp_path / "tiny.yaml"
    path.write_text(text.replace("num_hidden_layers: 2", "num_hidden_layers: 3"))
    for seed, folder in ((0, tmp_path / "run"), (1, tmp_path / "run-seed1")):
        run_recipe(load_recipe(path, seed=seed), folder, command="gr4ad run tiny")
    arguments = ["--runs", tmp_path / "run", "--work", tmp_path / "work", "--seeds", 0, 1]
    run("decoders.py", path, *arguments, "--out", tmp_path / "decoders.json")
    content = json.loads((tmp_path / "decoders.json").read_text())
    assert set(content["parameters"]) == NAMES
    sizes = content["parameters"].values()
    assert max(sizes) < 1.1 * min(sizes)  # in steps of 8 columns, which are wide for so small a model
    rows = {row["name"]: row for row in content["rows"]}
    for name in NAMES:
        row = rows[f"{name}/ndcg@10"]
        assert row["value"] == pytest.approx(np.mean(row["by_seed"]), abs=1e-5) and row["low"] <= row["high"]
    assert set(content["ratios"]) == {name for name in rows if not name.startswith("vanilla")}

    # What is finished is not trained again.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("facts.json")}
    assert len(before) == 2 * len(NAMES)
    run("decoders.py", path, *arguments, "--out", tmp_path / "again.json")
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert json.loads((tmp_path / "again.json").read_text()) == content

    words = [f"ours={tmp_path / 'run'},{tmp_path / 'run-seed1'}", f"MTP={tmp_path / 'work' / 'MTP_heads'}"]
    run("comparison.py", *words, "--protocols", "test", "--out", tmp_path / "comparison.json")
    compared = {row["name"]: row for row in json.loads((tmp_path / "comparison.json").read_text())["rows"]}
    assert compared["MTP/ndcg@10"]["by_seed"] == rows["MTP heads/ndcg@10"]["by_seed"][:1]

    figure, out = tmp_path / "scaling.svg", tmp_path / "scaling.json"
    sizes = ["--widths", 16, 32, "--beams", 4, 8, "--seeds", 0, 1]
    runs = ["--runs", tmp_path / "run", "--work", tmp_path / "sizes"]
    run("scaling.py", path, *runs, *sizes, "--out", out, "--figure", figure)
    scaled = {(row["name"], row["metric"]): row for row in json.loads(out.read_text())["rows"]}
    assert set(scaled) == {(f"d = {d}", m) for d in (16, 32) for m in ("loss", "ndcg@10, 4 beams", "ndcg@10, 8 beams")}
    assert all(row["value"] > 0 for (_, metric), row in scaled.items() if metric == "loss")
    assert figure.read_text().count("<svg") == 1
