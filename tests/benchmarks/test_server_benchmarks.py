"""Benchmarks of servers under load, of learning online and of policies in a market, at their smallest size."""

import json

import numpy as np
import pytest
from market_steps import lift
from result_checks import FOLDER, values
from scipy import stats


@pytest.mark.slow
def test_soak(bench, tmp_path):
    figure = tmp_path / "soak.svg"
    content = bench("soak", "--figure", figure)
    figures = values(content)
    assert not any(value for (_, metric), value in figures.items() if metric == "must be 0")
    for name in ("valid requests", "valid inferences", "reloads", "damaged weights refused", "clients that left"):
        assert figures[name, "seen"] > 0, name
    assert figures["server", "exit code on SIGTERM"] == 0
    assert figures["valid requests", "latency P50"] <= figures["valid requests", "latency P99"]
    before = json.loads((FOLDER / "results" / "soak.json").read_text(encoding="utf-8"))
    assert set(figures) == {(row["name"], row["metric"]) for row in before["rows"]}
    assert 0.5 < content["ratios"]["memory_last_fifth_vs_second_fifth"] < 2
    assert figure.read_text(encoding="utf-8").count("<svg") == 1


@pytest.mark.slow
def test_serving_load(bench, recipe_run, tmp_path):
    words = ["--run", recipe_run[0], "--widths", 8, 16, 16, "--figure", tmp_path / "day.svg"]
    content = bench("serving_load", *words)
    figures = values(content)
    for system in ("fixed", "narrow", "adaptive"):
        for load in ("0.5x", "1.5x", "day"):
            name = f"{system}, {load}"
            shares = [figures[name, metric] for metric in ("answered", "refused", "failed")]
            assert sum(shares) == pytest.approx(1, abs=1e-4) and figures[name, "within_slo"] <= shares[0] + 1e-5
            assert 0 <= figures[name, "ndcg"] <= 1 and figures[name, "p50_ms"] <= figures[name, "p99_ms"]
    assert figures["fixed, 0.5x", "beam_rows"] == 40 > figures["narrow, 0.5x", "beam_rows"]
    for name, ratio in content["ratios"].items():
        if name.startswith("day_"):
            metric, other = name.removeprefix("day_").split("_adaptive_vs_")
            apart = figures["adaptive, day", metric] / figures[f"{other}, day", metric]
            assert ratio == pytest.approx(apart, rel=1e-3)
    assert content["slo_ms"] > 0 and set(content["day"]) == {"fixed", "narrow", "adaptive"}


@pytest.mark.slow
def test_online(bench, tmp_path):
    figure = tmp_path / "online.svg"
    content = bench("online", "--figure", figure)
    figures = values(content)
    assert figures["online", "samples lost or used twice"] == 0 < figures["online", "samples written"]
    assert figures["online", "samples used"] == figures["online", "samples written"]
    assert figures["online", "versions published"] > 1 and figures["online", "seconds to be served, largest"] > 0
    [seed] = content["runs"]
    for day in seed["days"]:
        money = [value for name, value in day.items() if name not in ("day", "best possible")]
        assert all(0 < value <= day["best possible"] for value in money)
    last = seed["days"][-1]
    assert content["ratios"]["recovered"]["mean"] == pytest.approx(last["online"] / last["oracle"], rel=1e-4)
    names = {"recovered", "recovered_of_all_days", "frozen_share", "recovered_of_the_gap"}
    assert content["ratios"].keys() == names
    assert figure.read_text(encoding="utf-8").count("<svg") == 1


@pytest.mark.slow
def test_two_steps_in_two_markets(bench, tmp_path):
    steps = ["VSL + DPO", "VSL + RSPO, unified, reward model"]
    words = ["--work", tmp_path / "work", "--seeds", 0, 1, "--steps", *steps]
    content = bench("closed_loop", *words)
    rows = {row["name"]: row for row in content["rows"] if row["metric"] == "revenue"}
    assert set(rows) == {"VSL", *steps, "popularity by revenue", "item-kNN + value, tuned", "DLRM-style", "oracle"}
    for row in rows.values():
        assert row["value"] == pytest.approx(np.mean(row["by_seed"]), abs=1e-3)
        assert all(0 < money <= best for money, best in zip(row["by_seed"], rows["oracle"]["by_seed"], strict=True))
    for lifts, reference in ((content["ratios"], "DLRM-style"), (content["lifts_over_vsl"], "VSL")):
        assert set(lifts) == set(rows) - {reference}
        oracle = lifts["oracle"]
        assert oracle["relative"] == pytest.approx(rows["oracle"]["value"] / rows[reference]["value"] - 1, abs=1e-3)
        assert oracle["low"] <= oracle["difference"] <= oracle["high"]
    # The lists stay as they are, the users do not: what was best for them at the end of the log is not a day later.
    assert all(len(days) == 2 and days[0] == 1 for days in content["decay"].values())
    assert content["decay"]["oracle"][1] < 1
    cold = {row["name"]: row["value"] for row in content["rows"] if row["metric"] == "cold_share"}
    assert set(cold) == set(rows) and all(0 <= share <= 1 for share in cold.values())
    assert cold["popularity by revenue"] == 0 < cold["oracle"]
    finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("stage.json")}
    assert finished and bench("closed_loop", *words)["rows"] == content["rows"]
    assert {file: file.stat().st_mtime_ns for file in finished} == finished  # no stage is run twice


def test_markets_run_apart_become_one_table(bench, tmp_path):
    earned = {"VSL": [10.0, 20.0, 30.0], "VSL + DPO": [11.0, 21.0, 36.0], "VSL + RSPO": [12.0, 26.0, 33.0]}
    parts = []
    for seed in range(3):
        rows = [{"name": name, "metric": "revenue", "by_seed": [by_seed[seed]]} for name, by_seed in earned.items()]
        part = {"command": f"part {seed}", "seeds": [seed], "steps": {}, "align": {"beta": 1}, "rows": rows}
        parts.append(tmp_path / f"part{seed}.json")
        parts[-1].write_text(json.dumps(part))
    content = bench("market_steps", *parts)
    assert content["seeds"] == [0, 1, 2] and content["parts"] == ["part 0", "part 1", "part 2"]
    assert values(content)["VSL", "revenue"] == 20.0
    shares = np.array([12 / 11, 26 / 21, 33 / 36]) - 1
    low, high = stats.t.interval(0.95, 2, shares.mean(), stats.sem(shares))
    found = content["ratios"]["VSL + RSPO over VSL + DPO"]
    assert found["relative"] == pytest.approx(shares.mean(), rel=1e-4)
    assert (found["relative_low"], found["relative_high"]) == pytest.approx((low, high), rel=1e-4)
    assert set(content["ratios"]) == {"VSL + DPO over VSL", "VSL + RSPO over VSL", "VSL + RSPO over VSL + DPO"}
    assert lift([2.0, 2.0], [1.0, 1.0]) == {"relative": 1.0, "relative_low": 1.0, "relative_high": 1.0}
