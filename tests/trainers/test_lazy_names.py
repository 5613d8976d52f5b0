"""Packages of trainers import what is asked for, and settings are checked without torch."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

PACKAGES = ["trainers", *(f"trainers.{name}" for name in ("vsl", "rspo", "reward", "cooccurrence", "evaluation"))]


@pytest.mark.parametrize("name", PACKAGES)
def test_every_name_is_there_and_is_no_module(name):
    package = import_module(f"gr4ad.{name}")
    modules = {path.stem for path in Path(package.__path__[0]).iterdir()}
    assert package.__all__ and not modules & set(package.__all__)
    for public in package.__all__:
        assert getattr(package, public).__name__ == public
    with pytest.raises(AttributeError, match=f"module 'gr4ad.{name}' has no attribute 'nothing'"):
        _ = package.nothing


def test_settings_are_checked_without_torch():
    code = """
import sys
from gr4ad.trainers.evaluation.ranking_fields import RankingEvaluationConfig
from gr4ad.trainers.reward.reward_fields import RewardFields
from gr4ad.trainers.rspo.preference_fields import RSPOFields
from gr4ad.trainers.vsl.vsl_fields import VSLFields

RewardFields().check_reward_fields(), RSPOFields().check_rspo_fields(), VSLFields().check_vsl_fields()
for bad in (RewardFields(item_dropout=2.0).check_reward_fields, RSPOFields(loss_type="ppo").check_rspo_fields,
            VSLFields(target_window=0).check_vsl_fields, VSLFields(label_smoothing=1.0).check_vsl_fields,
            VSLFields(behavior_weights={"click": -1.0}).check_vsl_fields):
    try:
        bad()
    except ValueError as error:
        print(error)
print(sorted({"torch", "transformers", "trl", "datasets", "pandas"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *errors, imported = done.stdout.splitlines()
    assert imported == "[]"
    assert [error.partition("`")[2].partition("`")[0] for error in errors] == [
        "item_dropout", "loss_type", "target_window", "label_smoothing", "behavior_weights"]  # fmt: skip
