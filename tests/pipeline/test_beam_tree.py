"""The beams of one request, as the report draws them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline.artifact import beam_tree

ARTIFACT = Path(__file__).parents[1] / "stored" / "all_features"


@pytest.mark.parametrize("widths, ads", [((4, 6, 8), 8), ((4, 6, 20), 10)])
def test_a_last_level_narrower_than_the_list_shortens_the_list(tmp_path, widths, ads):
    shutil.copytree(ARTIFACT, tmp_path / "artifact")
    weights = RankingWeights.from_pretrained(str(ARTIFACT))
    replace(weights, beam_widths=widths).save_pretrained(str(tmp_path / "artifact"))
    tree = beam_tree(tmp_path / "artifact", ["ad_1", "ad_2"])
    assert len(tree["recommendations"]) == ads
    assert len(tree["levels"][-1]) == min(widths[-1], 12)
