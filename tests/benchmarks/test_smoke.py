"""Benchmarks run to their end in their smallest size, where only the form of their figures means anything."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"


def run(script: str, out: Path, *arguments: str) -> dict:
    done = subprocess.run(
        [sys.executable, str(FOLDER / script), "--smoke", "--out", str(out), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    content = json.loads(out.read_text(encoding="utf-8"))
    assert {"command", "machine", "versions", "seeds", "rows", "ratios"} <= content.keys()
    for row in content["rows"]:
        assert {"name", "metric", "value", "spread", "unit"} <= row.keys()
    return content


def test_decode(tmp_path):
    figure = tmp_path / "decode.svg"
    content = run("decode.py", tmp_path / "decode.json", "--threads", "1", "--figure", str(figure))
    kept = json.loads((FOLDER / "results" / "decode.json").read_text(encoding="utf-8"))
    assert content["ratios"].keys() == kept["ratios"].keys()
    assert all(ratio > 0 for ratio in content["ratios"].values())
    # What no machine changes: work per request, which the kept file states for the paper's shape.
    assert content["ratios"]["theory_lazyar_vs_vanilla"] == kept["ratios"]["theory_lazyar_vs_vanilla"]
    names = {row["name"] for row in content["rows"]}
    assert {"LazyAR, L = 4, K = 3", "vanilla, L = 4", "MTP heads, L = 4", "generate, T5, 20 positions"} <= names
    assert figure.read_text(encoding="utf-8").count("<svg") == 1


def test_rspo_speed(tmp_path):
    content = run("rspo_speed.py", tmp_path / "rspo_speed.json", "--threads", "1", "--candidates", "4")
    assert [row["name"] for row in content["rows"]] == ["together, n = 4", "one by one, n = 4"]
    assert list(content["ratios"]) == ["lists_per_s_vs_one_by_one_n4"]


@pytest.mark.slow
def test_sid_index(tmp_path):
    assert run("sid_index.py", tmp_path / "sid_index.json")["rows"]


@pytest.mark.slow
def test_streaming(tmp_path):
    content = run("streaming.py", tmp_path / "streaming.json")
    rows = {(row["name"], row["metric"]): row["value"] for row in content["rows"]}
    assert rows["stream, whole log", "events in the log"] >= 40_000
    kept = json.loads((FOLDER / "results" / "streaming.json").read_text(encoding="utf-8"))
    assert content["ratios"].keys() == kept["ratios"].keys()


@pytest.mark.slow
def test_online(tmp_path):
    figure = tmp_path / "online.svg"
    content = run("online.py", tmp_path / "online.json", "--figure", str(figure))
    rows = {(row["name"], row["metric"]): row["value"] for row in content["rows"]}
    assert rows["online", "samples lost or used twice"] == 0 < rows["online", "samples written"]
    assert rows["online", "versions published"] > 1 and rows["online", "seconds to be served, largest"] > 0
    [seed] = content["runs"]
    for day in seed["days"]:
        money = [value for name, value in day.items() if name not in ("day", "best possible")]
        assert all(0 < value <= day["best possible"] for value in money)
    names = {"recovered", "recovered_of_all_days", "frozen_share", "recovered_of_the_gap"}
    assert content["ratios"].keys() == names
    assert figure.read_text(encoding="utf-8").count("<svg") == 1


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make test` installs its CPU build")
def test_vllm_beams(tmp_path):
    content = run("vllm_beams.py", tmp_path / "vllm.json", "--rounds", "1")
    assert set(content["ratios"]) == {
        "speedup_vs_vllm_beam_search_8",
        "speedup_vs_vllm_beam_search_16",
        "throughput_vs_vllm_beam_search_8",
        "native_vs_vllm",
    }
    assert all(value > 0 for value in content["ratios"].values())


def test_soak(tmp_path):
    figure = tmp_path / "soak.svg"
    content = run("soak.py", tmp_path / "soak.json", "--figure", str(figure))
    rows = {(row["name"], row["metric"]): row["value"] for row in content["rows"]}
    assert not any(value for (_, metric), value in rows.items() if metric == "must be 0")
    for name in ("valid requests", "valid inferences", "reloads", "damaged weights refused", "clients that left"):
        assert rows[name, "seen"] > 0, name
    assert figure.read_text(encoding="utf-8").count("<svg") == 1
