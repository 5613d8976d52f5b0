"""Benchmarks on runs of a recipe, at their smallest size: what their figures have in common with each other."""

import json
import math
from importlib.util import find_spec

import numpy as np
import pytest
import yaml
from measurement.accuracy import METRICS, PREFIXES
from measurement.shop_exports import SHOPS
from result_checks import FOLDER, values

from gr4ad.inspection import inspect_folder

pytestmark = pytest.mark.slow


def test_recipe(recipe_run):
    work, content = recipe_run
    figures = {(row["name"], row["seed"]): row for row in content["rows"]}
    for prefix in PREFIXES.values():
        for metric in METRICS:
            name = f"{prefix}ours/{metric}"
            by_seed = [figures[name, seed]["value"] for seed in (0, 1)]
            both = figures[name, None]
            assert both["value"] == pytest.approx(np.mean(by_seed), rel=1e-4) and both["by_seed"] == by_seed
            assert both["spread"] == pytest.approx(np.std(by_seed, ddof=1), rel=1e-3, abs=1e-9)
            if not metric.startswith("revenue"):
                assert 0 <= both["value"] <= 1
    for seed in (0, 1):
        assert figures["ours/illegal_sids", seed]["value"] == 0
        assert figures["ours/ndcg@5", seed]["value"] <= figures["ours/ndcg@10", seed]["value"]
        choice = content["choices"][f"seed {seed}"]
        assert choice["serving"]["item_weight"] in {tried["item_weight"] for tried in choice["validation"]}
    kept = json.loads((work / "metrics.json").read_text())
    assert figures["ours/ndcg@10", 0]["value"] == pytest.approx(kept["test"][kept["final"]]["ndcg@10"], rel=1e-5)


def test_a_system_does_not_differ_from_itself(bench, recipe_run):
    runs = f"{recipe_run[0]},{recipe_run[0]}-seed1"
    content = bench("comparison", f"ours={runs}", f"again={runs}")
    figures = values(content)
    assert figures["ours/ndcg@10", "ndcg@10"] == figures["again/ndcg@10", "ndcg@10"]
    ours = {(row["name"], row["seed"]): row["value"] for row in recipe_run[1]["rows"]}
    assert figures["ours/ndcg@10", "ndcg@10"] == pytest.approx(ours["ours/ndcg@10", None], rel=1e-5)
    for difference in content["ratios"].values():
        assert difference["difference"] == 0 and difference["low"] <= 0 <= difference["high"]


def test_ablations(bench, recipe_run):
    content = bench("ablations", "demo", "--work", recipe_run[0], "--seeds", 0, 1)
    figures = values(content)
    assert set(content["variants"]) == {"vanilla AR, K = 0"}
    for name, difference in content["ratios"].items():
        ours = name.replace("vanilla AR, K = 0", "ours")
        metric = name.partition("/")[2]
        apart = figures[name, metric] - figures[ours, metric]
        assert difference["difference"] == pytest.approx(apart, abs=1e-4 * abs(figures[ours, metric]) + 1e-6)
        assert difference["low"] <= difference["difference"] <= difference["high"]


def test_what_sids_reach_by_themselves(bench, recipe_run):
    content = bench("generative", "demo", "--work", recipe_run[0])
    figures, ours = values(content), values(recipe_run[1])
    served = figures["served/ndcg@10", "ndcg@10"]
    assert served == pytest.approx(ours["ours/ndcg@10", "ndcg@10"], rel=1e-5)
    for system in ("beams alone", "item weight 1"):
        difference = content["differences"][f"served over {system}/ndcg@10"]["difference"]
        assert difference == pytest.approx(served - figures[f"{system}/ndcg@10", "ndcg@10"], abs=1e-6)
        assert all(
            weights[system]["item_weight"] == (system != "beams alone") for weights in content["weights"].values()
        )
    assert 0 < figures["sid nats", "nats"] and 0 < figures["item nats", "nats"]
    ratio = figures["sid nats", "nats"] / figures["item nats", "nats"]
    assert content["ratios"]["sid_nats_over_item_nats"] == pytest.approx(ratio, rel=0.1)


def test_likelihoods(bench, recipe_run):
    content = bench("likelihoods", "--runs", f"smoke={recipe_run[0]},{recipe_run[0]}-seed1")
    figures = {row["name"].removeprefix("smoke/"): row["value"] for row in content["rows"]}
    assert figures["sid nats"] > 0 and figures["item nats"] > 0
    assert figures["uniform nats"] == pytest.approx(math.log(120)) and figures["items per SID"] >= 1


def test_value_estimates(bench, recipe_run):
    content = bench("value_estimates", "--runs", f"smoke={recipe_run[0]},{recipe_run[0]}-seed1")
    figures = values(content)
    assert 0.1 <= content["prior_events"]["smoke"] <= 100
    for split in ("validation", "test"):
        errors = {
            name: figures[f"smoke, {split}: {name}", "mean absolute error"] for name in ("token", "counted", "both")
        }
        assert len(set(errors.values())) == 3 and min(errors.values()) > 0


def test_a_search_keeps_every_try(bench, tmp_path):
    tries = ["no prefix vectors", "taught by the item head, weight .5", "SIDs of content"]
    content = bench("generative_search", "demo", "--work", tmp_path / "run", "--tries", *tries)
    figures = values(content)
    assert list(content["tries"]) == tries
    for name in ("recipe", *tries):
        best, without = (figures[f"{name}: {way}/recall@10", "recall@10"] for way in ("served", "item weight 1"))
        assert 0 <= without <= best <= 1
    for name, lift in content["ratios"].items():
        own, metric = name.partition("/")[::2]
        apart = figures[name, metric] - figures[f"recipe: {own.partition(': ')[2]}/{metric}", metric]
        assert lift["difference"] == pytest.approx(apart, rel=1e-4, abs=1e-5)


def test_beam_frontier(bench, recipe_run):
    content = bench("beam_frontier", "--runs", f"smoke={recipe_run[0]}")
    figures = values(content)
    for label, speed in content["ratios"].items():
        name = label.removeprefix("speed, ")
        widest = f"{name.rpartition(', ')[0]}, equal 16"
        assert speed == pytest.approx(figures[widest, "CPU ms a user"] / figures[name, "CPU ms a user"], rel=1e-3)
        assert 0 <= figures[name, "ndcg@10"] <= 1
        loss = 1 - figures[name, "ndcg@10"] / figures[widest, "ndcg@10"]
        assert figures[name, "loss of ndcg@10"] == pytest.approx(loss, abs=1e-4)
    chosen = content["fastest_within_half_a_percent"]
    assert all(figures[f"{run}, {choice['name']}", "loss of ndcg@10"] <= 0.005 for run, choice in chosen.items())


def test_precision(bench, recipe_run):
    content = bench("precision", "--runs", f"smoke={recipe_run[0]}")
    figures = values(content)
    assert figures["smoke, float32", "loss of ndcg@10"] == 0 and figures["smoke, float32", "same ads"] == 1
    for name in ("float32", "int8", "bfloat16"):
        spent = figures["smoke, float32", "CPU ms a user"] / figures[f"smoke, {name}", "CPU ms a user"]
        assert content["ratios"][f"speed, smoke, {name}"] == pytest.approx(spent, rel=1e-3)
        assert figures[f"smoke, {name}", "same ads"] > 0.5


def test_decoders_are_of_one_size_and_comparable(bench, recipe_run, tmp_path):
    names = ["MTP heads", "LazyAR, K = 1, prefix fused"]
    words = ["demo", "--run", recipe_run[0], "--work", tmp_path / "work", "--seeds", 0, 1, "--decoders", *names]
    content = bench("decoders", *words)
    assert set(content["parameters"]) == {"vanilla AR, K = 0", *names}
    sizes = content["parameters"].values()
    assert max(sizes) < 1.1 * min(sizes)  # in steps of 8 columns, which are wide for so small a model
    rows = {row["name"]: row for row in content["rows"]}
    for name in content["parameters"]:
        row = rows[f"{name}/ndcg@10"]
        assert row["value"] == pytest.approx(np.mean(row["by_seed"]), rel=1e-4) and row["low"] <= row["high"]
    assert set(content["ratios"]) == {name for name in rows if not name.startswith("vanilla")}

    # What is finished is not trained again.
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "work").rglob("facts.json")}
    assert len(before) == 2 * 3
    assert bench("decoders", *words) == content
    assert {file: file.stat().st_mtime_ns for file in before} == before

    # A baseline's runs are compared with ours, user by user.
    runs = [f"ours={recipe_run[0]},{recipe_run[0]}-seed1", f"MTP={tmp_path / 'work' / 'MTP_heads'}"]
    compared = {row["name"]: row for row in bench("comparison", *runs, "--protocols", "test")["rows"]}
    assert compared["MTP/ndcg@10"]["by_seed"] == rows["MTP heads/ndcg@10"]["by_seed"][:1]


def test_scaling(bench, recipe_run, tmp_path):
    sizes = ["--widths", 16, 32, "--beams", 4, 8, "--seeds", 0, 1]
    content = bench("scaling", "demo", "--run", recipe_run[0], "--work", tmp_path / "sizes", *sizes)
    figures = values(content)
    assert set(figures) == {
        (f"d = {d}", m) for d in (16, 32) for m in ("loss", "ndcg@10, 4 beams", "ndcg@10, 8 beams")
    }
    for (_, metric), value in figures.items():
        # Of three codes out of eight: no model is much worse than a guess.
        assert 0 < value < 1.2 * 3 * np.log(8) if metric == "loss" else 0 <= value <= 1
    parameters = [row["parameters"] for row in content["rows"]]
    assert parameters == sorted(parameters) and parameters[0] < parameters[-1]


def test_sasrec(bench, tmp_path):
    content = bench("sasrec", "demo", "--work", tmp_path / "work", "--seeds", 0, 1, "--dropouts", 0.1, 0.3)
    figures = values(content)
    systems = ("SASRec", "SASRec + item neighbours")
    names = {f"{prefix}{system}/{metric}" for prefix in PREFIXES.values() for system in systems for metric in METRICS}
    assert {name for name, _ in figures} == names and content["parameters"] > 0
    best = max(content["tried"], key=lambda tried: tried["recall@10"])
    for seed in (0, 1):
        chosen = content["choices"][f"seed {seed}"]
        assert chosen["dropout"] == best["dropout"] and chosen["neighbour_weight"] in (0.0, 0.7)
        folder = tmp_path / "work" / f"seed{seed}"
        assert (folder / "per_user.parquet").is_file()
    compared = values(bench("comparison", f"SASRec={tmp_path}/work/seed0,{tmp_path}/work/seed1"))
    mean = np.mean([row["value"] for row in content["rows"] if row["name"] == "SASRec/ndcg@10"])
    assert compared["SASRec/ndcg@10", "ndcg@10"] == pytest.approx(mean, rel=1e-4)


def test_sid_downstream(bench, tmp_path):
    variants = ["raw text", "tuned text + collaborative"]
    content = bench("sid_downstream", "--work", tmp_path, "--variants", *variants)
    figures = values(content)
    assert {name for name, _ in figures} == {
        f"{variant}/{ranked}/{metric}"
        for variant in variants
        for ranked in ("beams alone", "item head")
        for metric in ("recall@10", "ndcg@10")
    }
    assert all(0 <= value <= 1 for value in figures.values())
    stages = {variant: {p.name for p in (tmp_path / variant.replace(" ", "_").replace("+", "_") / "stages").iterdir()}
              for variant in variants}  # fmt: skip
    assert "tune" not in stages["raw text"] and "tune" in stages["tuned text + collaborative"]


def test_cooccurrence(bench, tmp_path):
    content = bench("cooccurrence", "--work", tmp_path)
    figures = values(content)
    for name, ratio in content["ratios"].items():
        metric = name.rpartition("_")[2]
        tuned, raw = (figures[f"amazon_beauty/{kind}/{metric}", metric] for kind in ("tuned", "raw"))
        assert ratio == pytest.approx(tuned / raw, rel=1e-4) and 0 <= tuned <= 1
    assert figures["swing/100000/neighbours", "neighbours"] >= 0  # few of so few users share two of so many ads
    assert figures["swing/100000/log_gb", "log_gb"] <= figures["swing/100000/peak_gb", "peak_gb"]


def test_cold_ads(bench, tmp_path):
    content = bench("cold_ads", "demo", "--work", tmp_path)
    figures = values(content)
    counts = content["counts"]
    assert 0 < counts["cold_ads"] < counts["ads"] == 120 and counts["test_users"] > 0
    for question in ("among all ads", "among new ads", "every target"):
        recalls = [figures[f"{question}/gr4ad/recall@{k}", f"recall@{k}"] for k in (10, 50, 100)]
        assert 0 <= recalls[0] <= recalls[1] <= recalls[2] <= 1
    by_likelihood = ("among new ads/gr4ad, by likelihood/recall@10", "recall@10") in figures
    compared = "gr4ad, by likelihood" if by_likelihood else "gr4ad"
    ours, theirs = (
        figures[f"among new ads/{name}/recall@10", "recall@10"] for name in (compared, "accounts of the history")
    )
    assert content["ratios"]["among new ads: recall@10 over accounts of the history"] == pytest.approx(
        ours / theirs, rel=1e-4
    )
    # All new ads fit into a list of 100: nobody misses one then.
    assert counts["cold_ads"] > 100 or figures["among new ads/text neighbours, mean/recall@100", "recall@100"] == 1


def test_inspect_shops(bench, tmp_path):
    content = bench("inspect_shops", "--work", tmp_path, "--seeds", 0)
    figures = values(content)
    metrics, kinds = ("recall@10", "ndcg@10", "revenue@10"), ("by hand", "written")
    assert set(figures) == {(f"{shop}, {kind}/{m}", m) for shop in SHOPS for kind in kinds for m in metrics}
    for shop in SHOPS:
        for metric in metrics:
            by_hand, written = (figures[f"{shop}, {kind}/{metric}", metric] for kind in kinds)
            found = content["ratios"][f"{shop}, written/{metric}, over by hand"]
            assert found["ratio"] == pytest.approx(written / by_hand, rel=1e-3)
            assert found["low"] <= found["ratio"] <= found["high"]
        assert content["choices"][f"{shop}, written, seed 0"]["validation revenue@10"] > 0
        # Of the recipe that was run nothing was changed by hand: it is what a second look at the export writes.
        written = yaml.safe_load((tmp_path / "exports" / f"{shop}.yaml").read_text(encoding="utf-8"))
        assert written == yaml.safe_load(inspect_folder(tmp_path / "exports" / shop).recipe)


def test_sid_tokenization(bench, tmp_path):
    content = bench("sid_tokenization", "--work", tmp_path, "--data", tmp_path)
    figures, ratios = values(content), content["ratios"]
    kept = json.loads((FOLDER / "results" / "tokenize.json").read_text(encoding="utf-8"))
    assert ratios.keys() == {name for name in kept["ratios"] if "semantic_id" not in name or find_spec("semantic_id")}
    for name, metric in (("time", "seconds"), ("error", "error"), ("peak_memory", "peak_gb")):
        ours, theirs = (figures[f"2000 ads/{system}/{metric}", metric] for system in ("gr4ad", "faiss"))
        assert ratios[f"{name}_vs_faiss"] == pytest.approx(ours / theirs, rel=1e-4)
    assert figures["2000 ads/gr4ad/fullest", "fullest"] == 1.0  # balanced to the cap
    for name, metric in figures:
        if metric in ("cpr", "col", "util") and name.startswith("amazon_beauty"):
            assert figures[name, metric] >= 1 if metric == "cpr" else 0 <= figures[name, metric] <= 1
    distinct = [figures[f"amazon_beauty/{kind}/col", "col"] for kind in ("+ collision-aware", "RQ-KMeans")]
    assert distinct[0] <= distinct[1]


@pytest.mark.skipif(find_spec("cornac") is None, reason="cornac is not installed: pip install cornac==3.0.1")
def test_training_speed(bench, recipe_run):
    content = bench("training_speed", "demo", "--run", recipe_run[0])
    figures = values(content)
    rates = [figures[system, "targets_per_s"] for system in ("ours", "TIGER")]
    assert content["ratios"]["targets_per_s_vs_cornac_tiger"] == pytest.approx(rates[0] / rates[1], rel=1e-4)
    assert "speedup_vs_cornac_tiger" in content["ratios"]
