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
    text = TEMPLATE.read_text().replace("horizon_days: 1", "horizon_days: 2")
    path.write_text(text.format(encoder=tiny_encoder, align_rate=1e-3))
    words = ["--recipe", path, "--work", tmp_path / "work", "--out", tmp_path / "ab.json", "--seeds", 0, 1]
    words += ["--steps", "VSL + DPO", "VSL + RSPO, unified, reward model"]
    command = [sys.executable, str(FOLDER / "closed_loop.py"), *map(str, words)]
    done = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads((tmp_path / "ab.json").read_text())
    rows = {row["name"]: row for row in content["rows"] if row["metric"] == "revenue"}
    steps = {"VSL", "VSL + DPO", "VSL + RSPO, unified, reward model"}
    assert set(rows) == steps | {"popularity by revenue", "item-kNN + value, tuned", "DLRM-style", "oracle"}
    for row in rows.values():
        assert row["value"] == pytest.approx(np.mean(row["by_seed"]), abs=1e-3)
        assert all(0 < money <= best for money, best in zip(row["by_seed"], rows["oracle"]["by_seed"], strict=True))
    for lifts, reference in ((content["ratios"], "DLRM-style"), (content["lifts_over_vsl"], "VSL")):
        assert set(lifts) == set(rows) - {reference}
        lift = lifts["oracle"]
        assert lift["relative"] == pytest.approx(rows["oracle"]["value"] / rows[reference]["value"] - 1, abs=1e-3)
        assert lift["low"] <= lift["difference"] <= lift["high"]
    # The lists stay as they are, the users do not: what was best for them at the end of the log is not a day later.
    assert all(len(days) == 2 and days[0] == 1 for days in content["decay"].values())
    assert content["decay"]["oracle"][1] < 1
    cold = {row["name"]: row["value"] for row in content["rows"] if row["metric"] == "cold_share"}
    assert set(cold) == set(rows) and all(0 <= share <= 1 for share in cold.values())
    assert cold["popularity by revenue"] == 0 < cold["oracle"]
    again = subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert again.returncode == 0 and "started" not in again.stderr  # nothing is computed twice
    assert json.loads((tmp_path / "ab.json").read_text())["rows"] == content["rows"]
