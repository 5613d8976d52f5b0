"""A recipe run at once, and its stages run one by one as commands: the same artifact."""

import json
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from gr4ad.cli import main
from gr4ad.pipeline import load_recipe, run_recipe

TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"
SECTIONS_OF = {
    "simulate": ("market",),
    "data": ("data",),
    "tune": ("embed", "tune"),
    "embed": ("embed", "cooccurrence"),
    "tokenize": ("tokenize",),
    "train": ("model", "train"),
    "neighbours": ("neighbours",),
    "align": ("lists", "align"),
    "evaluate": ("evaluate",),
}


@pytest.fixture(scope="module")
def folders(tiny_encoder, tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a run, and one with a folder for each command of a chain with the same settings."""
    folder = tmp_path_factory.mktemp("stage_chain")
    path = folder / "tiny.yaml"
    path.write_text(TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3))
    run_recipe(load_recipe(path), folder / "run")

    recipe = yaml.safe_load(path.read_text())

    def stage(command: str, *flags: str, **values) -> None:
        config = {name: value for section in SECTIONS_OF[command] for name, value in recipe[section].items()}
        file = folder / f"{command}.yaml"
        file.write_text(yaml.safe_dump({**config, "out": str(folder / command), **values}))
        named = [word if word.startswith("--") else f"{folder}/{word}" for word in flags]
        assert main([command, *named, "--config", str(file)]) == 0

    data, tokenizer = ("--data", "data"), ("--tokenizer", "tokenize")
    stage("simulate")
    stage("data", "--root", "simulate")
    stage("tune", *data, train_seed=1)
    stage("embed", *data, "--tuned", "tune", train_seed=1)
    # A stage's folder of a run is as good as that of a command.
    stage("tokenize", "--data", "run/stages/data", "--embeddings", "embed", codebook_seed=1)
    stage("train", *data, *tokenizer, seed=1)
    stage("neighbours", *data, *tokenizer, "--model", "train")
    stage("align", *data, *tokenizer, "--model", "neighbours", seed=1)
    models = [f"VSL={folder}/neighbours", f"VSL + RSPO={folder}/align"]
    stage("evaluate", *data, *tokenizer, sample_seed=1, models=models)
    return folder / "run", folder


def content(path: Path) -> object:
    """A file's bytes; of safetensors, whose metadata stand in no order, what they hold."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "np") as tensors:
        return tensors.metadata(), {name: tensors.get_tensor(name).tobytes() for name in tensors.keys()}


def test_a_chain_of_commands_ends_in_the_artifact_of_a_run(folders, capsys):
    run, chain = folders
    stages = [str(chain / command) for command in SECTIONS_OF if command != "simulate"]
    assert main(["artifact", "--stages", *stages, "--out", str(chain / "artifact"), "--name", "tiny"]) == 0
    theirs = {path.relative_to(run) for path in run.rglob("*") if path.is_file() and "stages" not in path.parts}
    ours = {path.relative_to(chain / "artifact") for path in (chain / "artifact").rglob("*") if path.is_file()}
    assert ours == theirs - {Path("run.json")}
    told = {Path(name) for name in ("README.md", "report.html", "metrics.json")}  # they tell time and command too
    scores = Path("per_user.parquet")  # of its NaNs the sign may differ
    for name in sorted(ours - told - {scores}):
        assert content(chain / "artifact" / name) == content(run / name), name
    tables = [pq.read_table(folder / scores).to_pandas() for folder in (run, chain / "artifact")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    metrics = [json.loads((folder / "metrics.json").read_text()) for folder in (run, chain / "artifact")]
    assert metrics[0].pop("seconds").keys() - {"market"} == metrics[1].pop("seconds").keys()
    assert metrics[0] == metrics[1]
    assert "hidden_size: 16" in (chain / "artifact" / "README.md").read_text()


def test_an_artifact_of_a_runs_own_stages_is_the_runs(folders, tmp_path):
    run, _ = folders
    stages = [str(folder) for folder in (run / "stages").iterdir()]
    assert main(["artifact", "--stages", *stages, "--out", str(tmp_path / "again")]) == 0
    for name in ("model.safetensors", "config.json", "generation_config.json", "items.parquet"):
        assert (tmp_path / "again" / name).read_bytes() == (run / name).read_bytes()


def test_stages_that_do_not_make_an_artifact_are_refused(folders, tmp_path, capsys):
    run, chain = folders
    of_run = {folder.name: str(folder) for folder in (run / "stages").iterdir()}
    without = {name: [path for stage, path in of_run.items() if stage != name] for name in of_run}
    final = json.loads((run / "metrics.json").read_text())["final"]
    for stages, message in (
        (without["tokenize"], "An artifact needs the stage `tokenize`"),
        ([*of_run.values(), str(chain / "train")], "`--stages` should hold one train"),
        ([*without["data"], str(chain)], "holds no finished stage"),
        (without["align" if "RSPO" in final else "neighbours"], f"The final model {final!r} is not among the stages"),
    ):
        assert main(["artifact", "--stages", *stages, "--out", str(tmp_path / "x")]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gr4ad artifact: ")]
        assert message in line
    assert not (tmp_path / "x").exists()
