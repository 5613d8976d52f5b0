"""What the benchmarks share, held against what it says."""

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from measurement.own_process import in_own_process, peak_gb
from measurement.random_artifact import random_codes, random_tokenizer
from measurement.results import Benchmark, result_row, rounded, rounds_row, seeds_row
from measurement.sid_contenders import contend, score
from measurement.timing import interleaved, ratio


def benchmark() -> Benchmark:
    made = Benchmark("/anywhere/benchmarks/some.py", "What is asked.\n\nMore.")
    made.add_argument("--work", type=Path, metavar="OUT")
    made.add_argument("--seeds", type=int, nargs="+", default=[0])
    made.add_argument("--item-weight", type=float)
    made.add_argument("--compile", action="store_true")
    return made


def test_a_command_names_what_was_asked_and_no_folder():
    made = benchmark()
    arguments = made.parse_args(["--work", "/tmp/x", "--out", "/tmp/y.json", "--seeds", "0", "2", "--compile"])
    assert made.command(arguments) == "python benchmarks/some.py --out FILE --work OUT --seeds 0 2 --compile"
    assert made.command(made.parse_args([])) == "python benchmarks/some.py"


def test_options_follow_from_their_defaults():
    made = Benchmark("/anywhere/benchmarks/some.py", "What is asked.")
    made.take("--work", rounds=3, share=(0.5, "Of what."), wide_beams=[8, 16], compile=False)
    asked = ["--work", "w", "--share", "1", "--wide-beams", "4"]
    given = made.start(asked, rounds=1)
    assert (given.work, given.rounds, given.share, given.wide_beams, given.compile) == (Path("w"), 3, 1.0, [4], False)
    assert made.start([*asked, "--smoke"], rounds=1).rounds == 1


def test_a_result_is_written_once_and_whole(tmp_path, capsys):
    made = benchmark()
    arguments = made.parse_args(["--out", str(tmp_path / "new" / "some.json")])
    rows = [result_row("a", "time", np.float64(1 / 3), "ms", (0.123456789, np.int64(2)), by=np.arange(2))]
    made.write(arguments, rows, {"a_over_b": 2 / 3}, seeds=[3], threads=1, versions={"other": "1"}, note="n")
    content = json.loads((tmp_path / "new" / "some.json").read_text())
    assert content["rows"] == [
        {"name": "a", "metric": "time", "value": 0.333333, "spread": [0.123457, 2], "unit": "ms", "by": [0, 1]}
    ]
    assert content["ratios"] == {"a_over_b": 0.666667} and content["seeds"] == [3] and content["note"] == "n"
    assert content["machine"]["threads"] == 1 and content["versions"]["other"] == "1"
    assert "0.333333" in capsys.readouterr().out


def test_an_unknown_name_ends_the_command(capsys):
    with pytest.raises(SystemExit):
        benchmark().one_of("part", {"a": 1, "b": 2}, ["c"])
    assert "no part 'c'; there are: a, b" in capsys.readouterr().err
    assert benchmark().one_of("part", {"a": 1, "b": 2}, None) == ["a", "b"]


def test_rows_of_rounds_and_seeds():
    row = rounds_row("a", "time", [4.0, 1.0, 2.0, 3.0, 5.0], "ms")
    assert (row["value"], row["spread"]) == (3.0, 2.0)  # quartiles 2 and 4
    row = seeds_row("a", "loss", [1.0, 2.0, 4.0], "nats")
    assert row["value"] == pytest.approx(7 / 3, rel=1e-5) and row["by_seed"] == [1.0, 2.0, 4.0]
    assert row["spread"] == pytest.approx(np.std([1, 2, 4], ddof=1), rel=1e-5)
    assert seeds_row("a", "loss", [1.0], "nats")["spread"] is None
    assert rounded({"a": [1234567.0, None, "x", 10_000_001]}) == {"a": [1234570.0, None, "x", 10_000_001]}


def test_rounds_take_all_systems_in_turns_and_the_first_does_not_count():
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    systems = {name: partial(measure, name) for name in "ab"}
    found = interleaved(systems, 2)
    assert order == list("ababab")
    assert {name: part.tolist() for name, part in found.items()} == {"a": [3.0, 5.0], "b": [4.0, 6.0]}
    assert interleaved(systems, 1, warm_up=False)["a"].tolist() == [7.0]
    assert ratio([2.0, 9.0, 8.0], [1.0, 3.0, 2.0]) == 3.0  # of the rounds' ratios 2, 3, 4


def test_work_in_its_own_process():
    ballast = np.ones(40_000_000)  # of this process, which the other does not have
    assert 0 < in_own_process(peak_gb) < peak_gb() - ballast.nbytes / 2e9
    with pytest.raises(RuntimeError, match="(?s)peak_gb of measurement.own_process failed: .*takes 0 positional"):
        in_own_process(peak_gb, "one argument too many")


def test_random_sids_are_distinct_where_that_is_asked():
    rng = np.random.default_rng(0)
    sizes = [8, 6, 4]
    codes = random_codes(sizes, 190, rng, distinct=True)
    assert len(np.unique(codes, axis=0)) == 190 and (codes >= 0).all() and (codes < sizes).all()
    codes = random_codes(sizes, 80, rng, per_prefix=4)
    assert len(np.unique(codes, axis=0)) == 80 and len(np.unique(codes[:, :2], axis=0)) == 20
    tokenizer = random_tokenizer(sizes, 30)
    assert tokenizer.index.item_ids.tolist() == [f"ad_{n}" for n in range(30)]
    assert tokenizer.level_sizes == sizes


@pytest.mark.parametrize("name", ["gr4ad", "faiss"])
def test_contenders_are_scored_alike(name, tmp_path):
    data = np.random.default_rng(0).normal(size=(400, 16)).astype(np.float32)
    np.save(tmp_path / "data.npy", data)
    found = contend(name, str(tmp_path / "data.npy"), (8, 4))
    assert 0 < found["error"] < float((data**2).sum(1).mean()) and found["seconds"] > 0
    assert found["fullest"] >= 1.0 and (name == "faiss" or found["fullest"] == 1.0)  # ours are balanced


def test_the_error_of_codes_is_that_of_what_they_leave():
    data = np.array([[1.0, 0.0], [0.0, 3.0]], dtype=np.float32)
    books = [np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([[0.0, 0.0], [0.0, 1.0]], np.float32)]
    found = score(data, np.array([[0, 0], [1, 1]]), books, 1.0)
    assert found["error"] == pytest.approx(0.5) and found["fullest"] == 1.0  # (0 + 1) / 2
