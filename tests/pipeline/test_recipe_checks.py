"""Everything in a recipe is refused before the first stage: in one line, and without importing torch."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from gr4ad.cli import main
from gr4ad.market import AdMarket, MarketConfig
from gr4ad.pipeline import RecipeError, load_recipe
from gr4ad.pipeline.recipe_checks import MARKET_COLUMNS, check_has_impressions

RUN = """
import sys
from gr4ad.cli import main
code = main(["run", sys.argv[1], "--data", sys.argv[2], "--out", sys.argv[3]])
heavy = {"torch", "transformers", "trl", "datasets"} & set(sys.modules)
print(*heavy)
sys.exit(code)
"""
LOG = "data: {catalog: catalog.csv, events: events.csv, split: leave_one_out}\n"
MISTAKES = [
    ("trian: {num_train_epochs: 1}", "unknown section `trian`. Did you mean `train`?"),
    ("train: {num_train_epoch: 1}", "unknown field `train.num_train_epoch`. Did you mean `num_train_epochs`?"),
    ("train: {taget_window: 3}", "unknown field `train.taget_window`. Did you mean `target_window`?"),
    ("align: {bta: 0.1}", "unknown field `align.bta`. Did you mean `beta`?"),
    ("reward: {item_dropout: 2.0}", "section `reward`: `item_dropout` is a share in [0, 1). Received: 2.0."),
    ("tune: {epochs: many}", "`tune.epochs` must be a whole number. Received: 'many'."),
    ("cooccurrence: {dimension: 64, num_heads: 3}", "`cooccurrence.num_heads` must divide `cooccurrence.dimension`."),
    ("train: {lr_scheduler_type: cosin}", "`train.lr_scheduler_type` must be one of linear, cosine, "),
    ("train: {target_window: 0}", "section `train`: `target_window` must be >= 1. Received: 0."),
    ("train: {eval_item_weight: 1.5}", "section `train`: `eval_item_weight` is a share in [0, 1]. Received: 1.5."),
    ("align: {beta: -1.0}", "section `align`: `beta` must be > 0 and finite. Received: -1.0."),
    ("train: {output_dir: x}", "section `train`: `output_dir` follows from the folder that is written"),
    ("train: {load_best_model_at_end: true}", "`train.load_best_model_at_end` needs `eval_strategy` = "),
    ("model: {num_hidden_layers: 2, num_parallel_layers: 2}", "`num_parallel_layers` (K) must be below"),
    ("model: {hidden_size: 65}", "`num_attention_heads` must divide `hidden_size`"),
    ("model: {item_embedding_std: 0.1}", "`model.item_embedding_std` is now `train.item_embedding_std`"),
    ("tokenize: {codebook_sizes: [8, '8*', 8]}", "only the last level may be hashed (`*`), not the first. Received: "),
    ("evaluate: {beam_widths: [50, 100]}", "`evaluate.beam_widths` needs one width of 1 or more for each of the 3"),
    ("evaluate: {neighbour_weights: [0.0, 1.0]}", "`evaluate.neighbour_weights` need the section `neighbours`"),
    ("align: {}\nexplore: {beam_widths: [5]}\nlists: {source: reward_model}", "`lists.list_size` must be at most"),
    ("train: {eval_strategy: epoch}\ntokenize: {codebook_sizes: [8, 8]}\nevaluate: {beam_widths: [8, 8]}",
     "`train.eval_beam_widths` needs one width of 1 or more for each of the 2 levels"),
    ("embed: {vectors: x.npy, id_column: sku}", "`embed.id_column` names 'sku', which the catalog does not have."),
    ("embed: {text_columns: [titel]}", "`embed.text_columns` names 'titel', which the catalog does not have."),
    ("align: {}\nlists: {source: impressions}", "`lists.source` is impressions, but the events have no column"),
    ("tokenize: {num_time_buckets: 8}", "`tokenize.num_time_buckets` = 8 needs the time of each event"),
    (LOG.replace("}", ", users: users.csv}"), "`data.users` needs `data.user_features`: which of its columns the "
     "model may learn. It has: mail, age."),
    (LOG.replace("}", ", users: users.csv, user_features: [town]}"), "`data.user_features` names 'town', which the "),
    (LOG.replace("}", ", user_features: [age]}"), "`user_features` names columns of no file."),
    (LOG.replace("}", ", time_unit: hours}"), "`data.time_unit` must be one of auto, s, ms, us, ns, date."),
    (LOG.replace("}", ", event_names: {buy: purchase}}"), "`event_names` has an unknown name 'purchase'."),
]  # fmt: skip


@pytest.fixture(scope="module")
def log(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("log")
    (folder / "catalog.csv").write_text("item_id,title\na,shoe\nb,hat\n")
    (folder / "events.csv").write_text("user_id,item_id,position\nu,a,1\nu,b,2\nu,a,3\n")
    (folder / "users.csv").write_text("user_id,mail,age\nu,u@example.com,37\n")
    return folder


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_are_refused_before_the_first_stage(log, tmp_path, capsys, text, message):
    recipe, out = tmp_path / "mine.yaml", tmp_path / "out"
    recipe.write_text(text if "data:" in text else LOG + text)
    assert main(["run", str(recipe), "--data", str(log), "--out", str(out)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("gr4ad run: ") and message in lines[0]
    assert not out.exists()


@pytest.mark.parametrize(("text", "message"), [MISTAKES[place] for place in (0, 2, 4, 10, 12, 13, 17, 19, 21, 22)])
def test_no_mistake_needs_torch_to_be_found(log, tmp_path, text, message):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(LOG + text)
    command = [sys.executable, "-c", RUN, str(recipe), str(log), str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout.strip() == "", done.stdout
    [line] = done.stderr.strip().splitlines()
    assert message in line


def test_a_simulated_market_has_the_columns_that_recipes_are_checked_by(tmp_path):
    AdMarket(MarketConfig(users=60, ads=50, accounts=5, days=2, horizon_days=0)).write(tmp_path)
    for role, columns in MARKET_COLUMNS.items():
        assert tuple(pd.read_parquet(tmp_path / f"{role}.parquet").columns) == columns


def test_impressions_that_the_data_turn_out_not_to_have_are_told_after_the_data_stage(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("align: {}")
    recipe = vars(load_recipe(path))
    check_has_impressions(recipe, {"impressions": {"lists": 3}})
    with pytest.raises(RecipeError, match="`lists.source` is impressions, but the log has no impressions"):
        check_has_impressions(recipe, {})
    check_has_impressions({**recipe, "align": None}, {})


def test_a_folder_of_another_recipe_or_other_data_is_not_overwritten(log, tmp_path, capsys):
    out, recipe = tmp_path / "out", tmp_path / "mine.yaml"
    out.mkdir()

    def refused(name: str, data: Path) -> str:
        recipe.write_text(f"name: {name}\n" + LOG)
        # The folder is claimed before the data stage, which then ends the run: two events are no test user.
        assert main(["run", str(recipe), "--data", str(data), "--out", str(out)]) == 2
        return capsys.readouterr().err.splitlines()[-1]

    other = tmp_path / "other"
    other.mkdir()
    (other / "catalog.csv").write_text("item_id,title\na,boot\nb,hat\n")
    (other / "events.csv").write_text((log / "events.csv").read_text())
    first = refused("mine", log)
    assert "holds a run" not in first
    kept = json.loads((out / "run.json").read_text())
    assert kept["recipe"] == "mine" and refused("mine", log) == first
    for name, data, what in (("yours", log, "recipe 'mine'"), ("mine", other, "other data")):
        message = refused(name, data)
        assert f"{out}: holds a run of {what}" in message and "Give another `--out`" in message
    assert json.loads((out / "run.json").read_text()) == kept
