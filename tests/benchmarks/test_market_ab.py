"""The A/B test on a tiny market: every policy is priced on the same users, below the oracle."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"


@pytest.mark.slow
def test_two_steps_in_two_markets(tiny_encoder, tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3))
    words = ["--recipe", path, "--work", tmp_path / "work", "--out", tmp_path / "ab.json", "--seeds", 0, 1]
    words += ["--steps", "VSL + DPO", "VSL + RSPO, unified"]
    command = [sys.executable, str(FOLDER / "market_ab.py"), *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "ab.json").read_text())
    rows = {row["name"]: row for row in content["rows"]}
    steps = {"VSL", "VSL + DPO", "VSL + RSPO, unified"}
    assert set(rows) == steps | {"popularity by revenue", "item-kNN + value, tuned", "oracle"}
    for row in rows.values():
        assert row["value"] == pytest.approx(np.mean(row["by_seed"]), abs=1e-3)
        assert all(0 < money <= best for money, best in zip(row["by_seed"], rows["oracle"]["by_seed"], strict=True))
    assert set(content["ratios"]) == set(rows) - {"VSL"}
    lift = content["ratios"]["oracle"]
    assert lift["relative"] == pytest.approx(rows["oracle"]["value"] / rows["VSL"]["value"] - 1, abs=1e-3)
    assert lift["low"] <= lift["difference"] <= lift["high"]
