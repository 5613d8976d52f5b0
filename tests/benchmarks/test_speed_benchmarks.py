"""Benchmarks of speed at their smallest size: where times mean nothing, what they stand for still does."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from decode import layer_positions
from result_checks import FOLDER, values


def kept(name: str) -> dict:
    return json.loads((FOLDER / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_layer_positions_are_those_of_the_paper():
    assert layer_positions(9, 0, (128, 256, 512)) == 9 * (1 + 128 + 256)
    assert layer_positions(9, 6, (128, 256, 512)) == 6 * 3 + 3 * (1 + 128 + 256)


@pytest.mark.slow
def test_decode(bench, tmp_path):
    figure = tmp_path / "decode.svg"
    content = bench("decode", "--threads", 1, "--figure", figure)
    figures, ratios = values(content), content["ratios"]
    assert ratios.keys() == kept("decode")["ratios"].keys() and all(ratio > 0 for ratio in ratios.values())
    # What no machine changes: work per request, which the kept file states for the paper's shape.
    assert ratios["theory_lazyar_vs_vanilla"] == pytest.approx(
        kept("decode")["ratios"]["theory_lazyar_vs_vanilla"], rel=1e-4
    )
    parameters = {name: value for (name, metric), value in figures.items() if metric == "parameters"}
    assert {"LazyAR, L = 4, K = 3", "vanilla, L = 4", "MTP heads, L = 4", "generate, T5, 20 positions"} <= set(
        parameters
    )
    same = [parameters[name] for name in parameters if "L = 4" in name or name.startswith("generate")]
    assert max(same) < 1.03 * min(same)
    assert 0 < ratios["trie_share_of_decode"] < 1 and 0 < ratios["roofline_share"] < 1
    for name, metric in figures:
        if metric == "roofline share":
            stage = name.removesuffix(", request")
            whole = figures[f"{stage}, request", "work"]
            parts = sum(v for (n, m), v in figures.items() if n.startswith(f"{stage}, ") and m == "work") - whole
            assert parts == pytest.approx(whole, rel=1e-3)
    assert figure.read_text(encoding="utf-8").count("<svg") == 1


@pytest.mark.slow
def test_decode_with_lists_alone(bench):
    content = bench("decode", "--lists", "--threads", 1)
    figures = values(content)
    assert figures["list of 36 ads, one of each of 40 accounts", "searches"] >= 1
    assert {name.split()[0] for name, _ in figures} == {"search", "masks", "list"}
    assert len(content["ratios"]) == 5 and all(ratio > 0 for ratio in content["ratios"].values())
    assert len(kept("decode_lists")["ratios"]) == 6


def test_rspo_speed(bench):
    content = bench("rspo_speed", "--threads", 1, "--candidates", 4)
    assert [row["name"] for row in content["rows"]] == ["together, n = 4", "one by one, n = 4"]
    assert list(content["ratios"]) == ["lists_per_s_vs_one_by_one_n4"]
    assert all(row["value"] > 0 and row["unit"] == "lists / s" for row in content["rows"])


def test_market(bench):
    figures = values(bench("market"))
    assert all(value > 0 for value in figures.values())
    assert figures["market", "build and calibrate"] <= figures["market", "demo log"]
    assert figures["market", "auctions and events table"] <= figures["market", "auctions"]


def test_sid_index(bench):
    content = bench("sid_index")
    before = {row["metric"] for row in kept("sid_index")["rows"]}
    assert {row["metric"] for row in content["rows"]} == before
    for row in content["rows"]:
        assert 0 <= row["min"] <= row["value"] <= row["max"]
        rounding = 1e-6 * row["max"]  # six significant digits are kept
        assert row["spread"] == pytest.approx((row["max"] - row["min"]) / 2, rel=1e-3, abs=rounding)


def test_data_reading(bench, tmp_path):
    figures = values(bench("data_reading", "--work", tmp_path))
    assert {"prepare, csv", "prepare, parquet", "read csv, pyarrow"} <= {name for name, _ in figures}
    assert all(value > 0 for value in figures.values())
    assert set(figures) <= {(row["name"], row["metric"]) for row in kept("data_reading")["rows"]}


@pytest.mark.slow
def test_data_reading_in_parts(bench, tmp_path):
    figures = values(bench("data_reading", "--work", tmp_path, "--partitions", "4"))
    assert {"prepare, csv, in memory", "prepare, parquet, 4 parts"} <= {name for name, _ in figures}
    assert set(figures) <= {(row["name"], row["metric"]) for row in kept("data_streaming")["rows"]}


@pytest.mark.slow
def test_streaming(bench):
    content = bench("streaming")
    figures = values(content)
    log = figures["stream, whole log", "events in the log"]
    assert 40_000 <= log < 41_000
    # Every event but those beyond the context is history or target of one row.
    assert 0.5 * log < figures["stream, whole log", "events within the context, in batches"] <= log
    rate = figures["stream, whole log", "events of the log a second"]
    assert rate == pytest.approx(log / figures["stream, whole log", "one pass"], rel=1e-3)
    assert content["ratios"].keys() == kept("streaming")["ratios"].keys()
    base = figures["imports alone", "peak memory"]
    grown = figures["stream, whole log", "peak memory"] - base
    assert content["ratios"]["memory_of_the_stream_whatever_its_length_mb"] == pytest.approx(grown, abs=0.01 * base)


@pytest.mark.slow
def test_serving(bench):
    content = bench("serving")
    figures, ratios = values(content), content["ratios"]
    names = set(kept("serving")["ratios"])
    assert {name.rpartition("_")[0] for name in ratios if name.endswith("_4")} == {
        name.rpartition("_")[0] for name in names if name.endswith("_512") and not name.startswith("compiled")
    }
    assert ratios["speedup_vs_hf_server"] == ratios["speedup_vs_hf_server_4"] == ratios["generate_4"]
    for (name, _), value in figures.items():
        label = name.removesuffix(", 4 beams")
        reference = "native" if label in ("native", "generate", "generate after one prefill") else "as it is"
        assert ratios[f"{label}_4"] == pytest.approx(figures[f"{reference}, 4 beams", "throughput"] / value, rel=1e-3)


@pytest.mark.slow
def test_a_checkout_beside_itself(bench):
    content = bench("speed", "--before", Path(FOLDER).parent, "--commands", "version=--version")
    assert set(content["ratios"]) == {
        "decode_8_16_32", "latency_8", "latency_16", "native_8", "native_16", "version",
    }  # fmt: skip
    figures = {name: value for (name, _), value in values(content).items()}
    for name, ratio in content["ratios"].items():
        assert figures[f"before, {name}"] > 0 and figures[f"now, {name}"] > 0 and ratio > 0
    # Of one round, so the ratio is that of the rows.
    assert content["ratios"]["version"] == pytest.approx(
        figures["before, version"] / figures["now, version"], rel=1e-3
    )
    assert {row["unit"] for row in content["rows"]} == {"ms", "requests/s", "s"}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed: `make test` installs its CPU build")
def test_vllm_beams(bench):
    content = bench("vllm_beams", "--rounds", 1)
    figures = values(content)
    times = {name: {kind: figures[f"{kind}, {name} beams", "latency"] for kind in ("gr4ad, vLLM", "Llama, vLLM")}
             for name in (8, 16)}  # fmt: skip
    for beams, taken in times.items():  # of one round, so the ratio is that of the rows
        ratio = content["ratios"][f"speedup_vs_vllm_beam_search_{beams}"]
        assert ratio == pytest.approx(taken["Llama, vLLM"] / taken["gr4ad, vLLM"], rel=1e-3)
    assert set(content["ratios"]) == {
        "speedup_vs_vllm_beam_search_8",
        "speedup_vs_vllm_beam_search_16",
        "throughput_vs_vllm_beam_search_8",
        "native_vs_vllm",
    }
    sizes = [row["value"] for row in content["rows"] if row["metric"] == "parameters"]
    assert max(sizes) <= 1.02 * min(sizes)
