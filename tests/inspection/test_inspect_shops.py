"""Each shop's export is made out, and the recipe that is written runs through the data stage as it is."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gr4ad.cli import main
from gr4ad.commands.chain import recommend_command
from gr4ad.data import prepare
from gr4ad.inspection.inspecting import inspect_folder, write_recipe
from gr4ad.pipeline.recipe import load_recipe

EXPECTED = {
    "orders": {
        "catalog": "artikel.csv",
        "events": "bestellungen.csv",
        "users": "kunden.csv",
        "catalog_columns": {"item_id": "Artikelnummer", "account_id": "Hersteller"},
        "event_columns": {
            "user_id": "Kundennummer",
            "item_id": "Artikelnummer",
            "timestamp": "Bestelldatum",
            "value": "Umsatz_EUR",
        },
        "user_columns": {"user_id": "Kundennummer"},
        "user_features": {"Einkommen": {"bins": 10}, "Region": {}, "Newsletter": {}},
        "number_columns": ["Preis"],
        "value_unit": "EUR",
        "split": "temporal",
    },
    "clicks": {
        "catalog": "products.jsonl",
        "events": "clickstream.tsv.gz",
        "catalog_columns": {"item_id": "productId", "account_id": "seller"},
        "event_columns": {
            "user_id": "visitorId",
            "item_id": "productId",
            "timestamp": "eventTime",
            "event": "action",
            "value": "paidAmount",
        },
        "time_unit": "ms",
        "event_names": {"view": "impression", "add_to_cart": "click", "purchase": "conversion"},
        "merge_seconds": 1800,
        "value_unit": "paidAmount",
        "split": "temporal",
        "drop": ["unknown_event", "unsorted_time"],
    },
    "lines": {
        "catalog": "order_lines.parquet",
        "events": "order_lines.parquet",
        "catalog_columns": {"item_id": "StockCode"},
        "event_columns": {
            "user_id": "CustomerID",
            "item_id": "StockCode",
            "timestamp": "InvoiceDate",
            "value": "LineTotal",
        },
        "refunds": "net",
        "value_unit": "LineTotal",
        "split": "temporal",
        "drop": ["missing", "unsorted_time", "duplicate_item"],
    },
}
TEXT = {"orders": ["Bezeichnung", "Kategorie"], "clicks": ["productName"], "lines": ["Description"]}


@pytest.mark.parametrize("shop", EXPECTED)
def test_files_and_columns_are_made_out(shops, shop):
    recipe = yaml.safe_load(inspect_folder(shops / shop).recipe)
    bounds = {"validation_start", "test_start"}
    assert {name: value for name, value in recipe["data"].items() if name not in bounds} == EXPECTED[shop]
    assert recipe["embed"]["text_columns"] == TEXT[shop]


@pytest.mark.parametrize("shop", EXPECTED)
def test_the_recipe_runs_through_the_data_stage(shops, shop, tmp_path):
    inspection = inspect_folder(shops / shop)
    write_recipe(inspection, tmp_path / "recipe.yaml")
    data = prepare(load_recipe(tmp_path / "recipe.yaml", data_root=shops / shop).data, tmp_path / "prepared")
    found, summary = inspection.found, data.summary
    assert summary["items"] == found.items == 96
    assert summary["train"]["users"] == found.users == 240
    assert summary["test"]["users"] == found.split.targets
    # What was counted before the run is what the run counts.
    history = sum(summary["events_by_name"][name] for name in summary["history_events"])
    assert abs(history - found.events) <= 2
    assert summary["accounting"]["merged"] == found.view.merged
    assert abs(summary["accounting"]["ties"]["share"] - found.ties) < 0.05


def test_ids_keep_their_zeros(shops, tmp_path):
    write_recipe(inspect_folder(shops / "orders"), tmp_path / "recipe.yaml")
    data = prepare(load_recipe(tmp_path / "recipe.yaml", data_root=shops / "orders").data, tmp_path / "prepared")
    assert data.catalog["item_id"][10] == "0000010" and data.train["user_id"][0].startswith("000")
    assert data.catalog["account_id"][1] == "H001"


def test_persons_are_no_features(shops):
    warnings = " ".join(inspect_folder(shops / "orders").found.warnings)
    assert "`EMail` of kunden.csv is left out" in warnings and "single persons" in warnings
    assert "mail.example" not in inspect_folder(shops / "orders").recipe


def test_what_is_odd_is_said(shops):
    clicks, lines = inspect_folder(shops / "clicks"), inspect_folder(shops / "lines")
    searches = [how_many for what, how_many in clicks.found.counts if "search" in what]
    assert len(searches) == 1 and searches[0].endswith("read as nothing: dropped")
    assert any("every column" in text and "9.1%" in text for text in clicks.found.warnings)
    assert any("negative `LineTotal`" in text for text in lines.found.warnings)
    assert any("catalog is made of the log itself" in text for text in lines.layout.remarks)
    assert not clicks.found.stops and not lines.found.stops


def test_the_command_writes_a_recipe_once(shops, tmp_path, capsys):
    recipe = tmp_path / "shop.yaml"
    assert main(["inspect", str(shops / "orders"), "--recipe", str(recipe)]) == 0
    shown = capsys.readouterr().out
    assert f"gr4ad run {recipe} --data {shops / 'orders'} --out out" in shown
    assert "event log" in shown and "semicolons" in shown
    before = recipe.read_text(encoding="utf-8")
    assert main(["inspect", str(shops / "orders"), "--recipe", str(recipe)]) == 2
    assert "is there already" in capsys.readouterr().err and recipe.read_text(encoding="utf-8") == before
    assert [path.name for path in tmp_path.iterdir()] == ["shop.yaml"]


def test_what_is_wrong_is_told_in_a_line(shops, tmp_path, capsys):
    for folder, words in ((tmp_path / "none", "no such folder"), (tmp_path, "holds no file that could be a table")):
        assert main(["inspect", str(folder)]) == 2
        assert words in capsys.readouterr().err
    assert main(["inspect", str(shops / "orders"), "--rows", "10"]) == 2
    assert "`--rows` must be 1000 or more" in capsys.readouterr().err
    (tmp_path / "titles.csv").write_text("id,title\n1,a lamp\n2,a rug\n")
    assert main(["inspect", str(tmp_path)]) == 2
    assert "no file looks like an event log" in capsys.readouterr().err


def test_a_run_ends_with_the_command_to_try():
    command = recommend_command(Path("out/my shop"), ["a,b", "0001", "7", "it's", "x y"])
    assert shlex.split(command)[2:] == ["--model", "out/my shop", "--history", "7,it's,x y", "--top-k", "10"]
    assert recommend_command(Path("out"), []) == ""


def test_torch_is_not_imported(shops):
    code = (
        "import sys; from gr4ad.cli import main; code = main(['inspect', sys.argv[1], '--recipe', sys.argv[2]]); "
        "sys.exit(code or 10 * ('torch' in sys.modules))"
    )
    recipe = shops / "no_torch.yaml"
    done = subprocess.run([sys.executable, "-c", code, str(shops / "clicks"), str(recipe)], capture_output=True)
    assert done.returncode == 0, done.stderr


REAL = Path(__file__).parents[2] / os.environ.get("GR4AD_DATA", "data")
BY_HAND = {
    "amazon_beauty": [
        ("data", "catalog_columns"),
        ("data", "split"),
        ("embed", "text_columns"),
        ("embed", "category_columns"),
        ("cooccurrence", "epochs"),
        ("tokenize", "codebook_sizes"),
        ("tokenize", "num_value_buckets"),
        ("model", "hidden_size"),
        ("model", "max_context_items"),
        ("model", "item_head_repeat"),
        ("train", "num_train_epochs"),
        ("train", "per_device_train_batch_size"),
        ("neighbours", "shrinkage"),
        ("evaluate", "metric"),
        ("evaluate", "beam_widths"),
    ],
    "complete_journey": [
        ("data", "catalog_columns"),
        ("data", "event_columns"),
        ("data", "split"),
        ("data", "split_column"),
        ("data", "validation_start"),
        ("data", "test_start"),
        ("data", "drop"),
        ("tokenize", "codebook_sizes"),
        ("tokenize", "business_fields"),
        ("tokenize", "num_value_buckets"),
        ("model", "hidden_size"),
        ("model", "max_context_items"),
        ("model", "item_head_copy"),
        ("model", "item_head_gain"),
        ("train", "num_train_epochs"),
        ("train", "per_device_train_batch_size"),
        ("train", "target_window"),
        ("evaluate", "metric"),
        ("evaluate", "score_history"),
    ],
}


@pytest.mark.data
@pytest.mark.parametrize("name", BY_HAND)
def test_real_logs_get_what_was_chosen_by_hand(name):
    if not (REAL / name).exists():
        pytest.skip("no real data: set GR4AD_DATA")
    by_hand = yaml.safe_load((Path(__file__).parents[2] / "recipes" / f"{name}.yaml").read_text(encoding="utf-8"))
    written = yaml.safe_load(inspect_folder(REAL / name).recipe)
    assert {key: written[key[0]][key[1]] for key in BY_HAND[name]} == {
        key: by_hand[key[0]][key[1]] for key in BY_HAND[name]
    }


@pytest.mark.data
@pytest.mark.parametrize("name", BY_HAND)
def test_real_logs_are_prepared_as_by_hand(name, tmp_path):
    if not (REAL / name).exists():
        pytest.skip("no real data: set GR4AD_DATA")
    write_recipe(inspect_folder(REAL / name), tmp_path / "recipe.yaml")
    recipes = {"written": tmp_path / "recipe.yaml", "by_hand": name}
    prepared = [
        prepare(load_recipe(recipe, data_root=REAL / name).data, tmp_path / folder)
        for folder, recipe in recipes.items()
    ]
    for part in ("catalog", "train", "validation", "test"):
        written, by_hand = (getattr(data, part).data.table for data in prepared)
        assert written.equals(by_hand), part
