"""Public data sets, as they were published, are known by their files and read by their presets."""

import sys
from pathlib import Path

import pytest
import yaml

from gr4ad.inspection.inspecting import inspect_folder, write_recipe
from gr4ad.inspection.preset_samples import preset_of

sys.path.append(str(Path(__file__).parents[1] / "data"))
from preset_files import FILES  # noqa: E402


def published(preset, folder):
    for name, text in FILES[preset].items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize("preset", FILES)
def test_a_public_data_set_is_known(preset, tmp_path):
    folder = published(preset, tmp_path)
    assert preset_of(folder) == preset
    inspection = inspect_folder(folder)
    recipe = yaml.safe_load(inspection.recipe)
    assert recipe["data"]["preset"] == preset and "events" not in recipe["data"]
    assert inspection.layout.user == "user_id" and inspection.layout.clock == "timestamp"
    write_recipe(inspection, tmp_path / "recipe.yaml")


def test_files_of_other_columns_are_no_public_data_set(tmp_path):
    (tmp_path / "2024-01.csv").write_text("user_id,item_id,timestamp\n1,2,3\n")
    (tmp_path / "ad_feature.csv").write_text("item_id,title\n2,a\n")
    (tmp_path / "raw_sample.csv").write_text("user_id,item_id,timestamp\n1,2,3\n")
    (tmp_path / "user_profile.csv").write_text("user_id,region\n1,a\n")
    assert preset_of(tmp_path) is None
