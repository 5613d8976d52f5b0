"""The reward stage on a tiny market: exposures -> reward model -> lists -> alignment."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from gr4ad import RewardModel
from gr4ad.cli import main
from gr4ad.data import load_prepared
from gr4ad.pipeline import load_recipe, run_recipe
from gr4ad.pipeline.rewarding import split_users
from gr4ad.pipeline.settings import ExploreConfig, ListConfig
from gr4ad.trainers.bfloat16 import fast_bfloat16

TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"


@pytest.fixture(scope="module")
def run(tiny_encoder, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("rewarded")
    path = folder / "tiny.yaml"
    path.write_text(TEMPLATE.read_text().format(encoder=tiny_encoder, align_rate=1e-3))
    recipe = replace(
        load_recipe(path),
        lists=ListConfig(source="reward_model", max_lists=50, list_size=6),
        explore=ExploreConfig(beam_widths=[8, 16, 20], exploration=0.5),
        reward={"num_train_epochs": 1, "save_strategy": "no"},
        tune=None,
    )
    return folder / "out", run_recipe(recipe, folder / "out")


def test_the_alignment_reads_the_lists_of_the_reward_model(run):
    out, metrics = run
    stages = out / "stages"
    assert {path.name for path in (stages / "reward").iterdir()} >= {
        "model", "log.json", "reward_metrics.json", "lists.parquet"}  # fmt: skip
    lists = pq.read_table(stages / "reward" / "lists.parquet").to_pylist()
    assert len(lists) == 50 and "VSL + RSPO" in metrics["test"]
    for row in lists:
        assert len(row["candidates"]) == len(row["rewards"]) == len(row["ref_logps"]) == len(row["propensities"]) == 6
        assert min(row["rewards"]) >= 0 >= max(row["ref_logps"]) and len(row["times"]) == len(row["items"])
        np.testing.assert_allclose(row["propensities"], [1.0] * 3 + [3 / 17] * 3)
    aligned = json.loads((stages / "align" / "stage.json").read_text())["summary"]
    assert 0 < aligned["lists"] <= 50
    summary = json.loads((stages / "reward" / "stage.json").read_text())["summary"]
    kept = json.loads((stages / "reward" / "reward_metrics.json").read_text())
    assert summary["click_auc"] == kept["click_auc"]
    model = RewardModel.from_pretrained(stages / "reward" / "model")
    assert model.config.num_positions == 6 and {"click", "value"} <= set(model.config.calibration)


def test_the_commands_do_what_the_stages_do(run, tmp_path, capsys):
    stages = run[0] / "stages"
    folders = ["--data", str(stages / "data" / "prepared"), "--tokenizer", str(stages / "tokenize")]
    folders += ["--model", str(stages / "train"), "--save_strategy", "no", "--seed", "1", "--max_lists", "50"]
    folders += ["--use_cpu", "true", "--bf16", str(fast_bfloat16()).lower(), "--num_train_epochs", "1"]
    arguments = ["--list_size", "6", "--beam_widths", "8", "16", "20", "--exploration", "0.5"]
    assert main(["reward", *folders, *arguments, "--out", str(tmp_path / "reward")]) == 0
    ours, theirs = (pq.read_table(folder / "lists.parquet") for folder in (tmp_path / "reward", stages / "reward"))
    assert ours["candidates"].to_pylist() == theirs["candidates"].to_pylist()
    np.testing.assert_allclose(*(np.concatenate(part["rewards"].to_pylist()) for part in (ours, theirs)), rtol=1e-4)
    align = ["align", *folders, "--source", "reward_model", "--out", str(tmp_path / "align")]
    assert main([*align, "--reward", str(tmp_path / "reward")]) == 0
    assert (tmp_path / "align" / "model" / "model.safetensors").is_file()
    capsys.readouterr()
    assert main(align) == 2 and "holds no lists.parquet" in capsys.readouterr().err


def test_no_user_is_in_two_parts(run):
    data = load_prepared(run[0] / "stages" / "data" / "prepared")
    parts = split_users(data.impressions, 0.2, seed=0)
    users = [set(part["user_id"]) for part in parts]
    assert sum(map(len, parts)) == len(data.impressions) and all(len(part) for part in parts)
    assert not (users[0] & users[1] or users[0] & users[2] or users[1] & users[2])
    assert len(users[1]) + len(users[2]) == round(0.2 * len(set.union(*users)))
    again = split_users(Dataset.from_list(data.impressions.to_list()), 0.2, seed=0)
    assert [part["user_id"][:] for part in again] == [part["user_id"][:] for part in parts]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exploration": -0.1}, r"`exploration` is a share in \[0, 1\]. Received: -0.1"),
        ({"held_out_share": 1.0}, r"`held_out_share` is a share in \(0, 1\). Received: 1.0"),
        ({"value_given": "sale"}, "`value_given` must be one of impression, click, conversion. Received: 'sale'"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(ValueError, match=message):
        ExploreConfig(**changes)
