import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest

from gr4ad.cli import main
from gr4ad.pipeline.comparing import compare_runs, read_groups, save_comparison, seed_folder
from gr4ad.trainers.evaluation import PerUserScores, paired_difference, seed_interval

USERS = 60
EASE = np.random.default_rng(9).exponential(0.05, USERS)


def write_run(folder: Path, seed: int, *, gain: float = 0.0, data: str = "d1", users: int = USERS, **facts) -> Path:
    """A run with the final model "VSL" and one baseline; its users stand in an order of its own."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    order = rng.permutation(users)
    ease = np.resize(EASE, users)[order]
    ours = {"ndcg@10": ease + gain + rng.normal(0, 0.01, users), "cold0_recall@10": np.full(users, math.nan)}
    theirs = {"ndcg@10": ease, "cold0_recall@10": np.full(users, math.nan)}
    ids = np.array([f"u{number}" for number in order], dtype=object)
    scores = {"test": {"VSL": ours, "popularity": theirs}, "test_history_excluded": {"VSL": ours}}
    PerUserScores(ids, scores, {"data": data, "final": "VSL", "seed": seed, **facts}).save(folder / "per_user.parquet")
    return folder


def by_user(folder: Path, system: str = "VSL") -> np.ndarray:
    run = PerUserScores.load(folder / "per_user.parquet")
    return run.scores["test"][system]["ndcg@10"][np.argsort(run.user_ids)]


def test_seeds_of_one_model_beside_its_baselines(tmp_path):
    folders = [write_run(tmp_path / f"out{seed}", seed, gain=0.02 + 0.004 * seed) for seed in range(3)]
    found = compare_runs({"ours": folders}, metrics=["ndcg@10"])
    assert found["users"] == USERS and list(found["systems"]) == ["ours", "popularity"]
    ours, popularity = (found["systems"][name] for name in ("ours", "popularity"))
    means = [by_user(folder).mean() for folder in folders]
    assert ours["seeds"] == [0, 1, 2] and ours["runs"] == [str(folder) for folder in folders]
    scores = ours["metrics"]["ndcg@10"]
    assert scores["by_run"] == pytest.approx(means) and scores["mean"] == pytest.approx(np.mean(means))
    assert scores["spread"] == pytest.approx(np.std(means, ddof=1)) and "difference" not in scores
    # Users stand in the first run's order, so the draws are compared on the same footing.
    order = PerUserScores.load(folders[0] / "per_user.parquet").user_ids
    place = np.searchsorted(np.sort(order), order)
    stacked = np.stack([by_user(folder)[place] for folder in folders])
    low, high = seed_interval(stacked, 0)
    assert scores["low"] == pytest.approx(low, rel=0.02) and scores["high"] == pytest.approx(high, rel=0.02)
    theirs = popularity["metrics"]["ndcg@10"]
    assert theirs["spread"] == pytest.approx(0, abs=1e-12)
    difference = theirs["difference"]
    wanted = paired_difference(np.stack([by_user(folder, "popularity")[place] for folder in folders]), stacked, 0)
    assert difference["difference"] == pytest.approx(wanted.difference)
    assert difference["low"] == pytest.approx(wanted.low, rel=0.1) and difference["high"] < 0
    assert scores["low"] < theirs["high"], "users differ more than systems: only the paired interval tells them apart"


def test_models_are_compared_with_the_first(tmp_path):
    base = [write_run(tmp_path / f"base{seed}", seed) for seed in range(2)]
    better = [write_run(tmp_path / f"better{seed}", 5 + seed, gain=0.03) for seed in range(2)]
    found = compare_runs({"base": base, "better": better})
    assert found["metrics"] == ["ndcg@10"], "of the four by default, these runs have one"
    difference = found["systems"]["better"]["metrics"]["ndcg@10"]["difference"]
    assert difference["low"] > 0 and difference["difference"] == pytest.approx(0.03, abs=0.005)
    files = save_comparison(found, tmp_path / "together")
    names = [path.relative_to(tmp_path / "together").as_posix() for path in files]
    assert names == ["comparison.json", "comparison.md", "plots/ndcg_at_10.svg"]
    assert json.loads(files[0].read_text())["systems"].keys() == {"base", "better"}
    assert "| better | 2 |" in files[1].read_text() and "less base" in files[1].read_text()
    svg = files[2].read_text()
    assert svg.startswith("<?xml") and "var(--" not in svg and "better" in svg


def test_the_command_prints_and_writes(tmp_path, capsys):
    one, two = write_run(tmp_path / "one", 1), write_run(tmp_path / "two", 2)
    assert main(["compare", str(one), f"both={one},{two}", "--out", str(tmp_path / "x")]) == 0
    shown = capsys.readouterr().out
    assert "both" in shown and "differences on the same users" in shown and "comparison.json" in shown
    assert main(["compare", str(one), "--protocol", "test_history_excluded"]) == 0
    assert "items of the history excluded" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({"data": "d2"}, [], "b: `data` should be that of"),
        ({"users": 50}, [], "`user_ids` should be the same users in both runs. Received: 50 and 60 users, 50 of them"),
        ({}, ["--metrics", "ndcg@7"], "`metrics` should be among what all runs have: ndcg@10, cold0_recall@10"),
        ({}, ["--metrics", "cold0_recall@10"], "cold0_recall@10 has no value for any user of a"),
        ({}, ["none"], "none: holds no per_user.parquet"),
        ({}, ["="], "A run should be FOLDER"),
        ({}, ["a=x"], "Received: 'a' twice"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(tmp_path, monkeypatch, capsys, change, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_run(Path("a"), 0)
    write_run(Path("b"), 1, **change)
    assert main(["compare", "a", "b", *arguments]) == 2
    captured = capsys.readouterr()
    [line] = [line for line in captured.err.splitlines() if line.startswith("gr4ad compare: ")]
    assert message in line and captured.out == ""


def test_groups_are_named_by_their_first_folder():
    assert read_groups(["x/a,x/b", "y/a", "wide=c"]) == {"a": ["x/a", "x/b"], "y/a": ["y/a"], "wide": ["c"]}
    assert [str(seed_folder("o/ut/", seed)) for seed in (0, 2)] == ["o/ut", "o/ut-seed2"]


def test_benchmark_rows_over_seeds(tmp_path, monkeypatch):
    path = Path(__file__).parents[2] / "benchmarks" / "recipe.py"
    monkeypatch.syspath_prepend(str(path.parent))  # scripts import their siblings
    spec = importlib.util.spec_from_file_location("benchmark_recipe", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    folders = [write_run(tmp_path / f"out{seed}", seed, gain=0.02) for seed in range(3)]
    rows = [
        {"name": name, "metric": "ndcg@10", "value": value, "spread": 0.1, "unit": "share", "seed": seed}
        for name, values in {"ours/ndcg@10": (0.1, 0.2, 0.6), "popularity/ndcg@10": (0.1, 0.1, 0.1)}.items()
        for seed, value in enumerate(values)
    ]
    rows.append({**rows[0], "name": "ours/illegal_sids", "metric": "illegal_sids"})
    comparison = compare_runs({"ours": folders}, metrics=["ndcg@10"])
    ours, popularity = benchmark.rows_over_seeds(rows, {"test": comparison})
    assert (ours["name"], ours["value"], ours["seed"]) == ("ours/ndcg@10", 0.3, None)
    assert ours["spread"] == pytest.approx(np.std([0.1, 0.2, 0.6], ddof=1), abs=1e-6)
    assert ours["seeds"] == [0, 1, 2] and ours["low"] < ours["high"]
    assert popularity["spread"] == pytest.approx(0, abs=1e-12)
    assert benchmark.differences_of(comparison)["popularity"]["ndcg@10"]["high"] < 0
    assert benchmark.rows_over_seeds(rows[:1], {}) == []
    assert "low" not in benchmark.rows_over_seeds(rows, {})[0]
    with pytest.raises(ValueError, match="holds no per_user.parquet"):
        benchmark.comparisons_of([tmp_path / "nothing"])


def test_several_seeds_are_run_and_compared(tmp_path, monkeypatch, capsys):
    ran = []

    def run_recipe(recipe, out, *, command):
        ran.append((recipe.seed, recipe.market.seed, Path(out).name, command))
        write_run(Path(out), recipe.seed, gain=0.02)
        return {}

    monkeypatch.setattr("gr4ad.pipeline.run.run_recipe", run_recipe)
    monkeypatch.setattr("gr4ad.commands.chain.show_run", lambda metrics, out: None)
    assert main(["run", "demo", "--out", f"{tmp_path}/out/", "--seeds", "0", "2"]) == 0
    # The data stay those of the recipe, or their users could not be compared.
    assert ran == [(s, 0, name, f"gr4ad run demo --out OUT --seed {s}") for s, name in ((0, "out"), (2, "out-seed2"))]
    content = json.loads((tmp_path / "out-seeds" / "comparison.json").read_text())
    assert content["systems"]["gr4ad-demo"]["seeds"] == [0, 2] and "popularity" in content["systems"]
    assert "standard deviation over seeds" in capsys.readouterr().out
    assert main(["run", "demo", "--out", str(tmp_path / "x"), "--seeds", "1", "1"]) == 2
    assert "`--seeds` should name each seed once. Received: 1 1" in capsys.readouterr().err
