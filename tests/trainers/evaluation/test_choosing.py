from dataclasses import replace

import pytest

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.trainers.evaluation.choosing import best_row, weight_grid

ROWS = [
    {"value_weight": 0.0, "ndcg@10": 0.100, "revenue@10": 1.0},
    {"value_weight": 0.0, "ndcg@10": 0.090, "revenue@10": 1.1},
    {"value_weight": 0.2, "ndcg@10": 0.099, "revenue@10": 1.2},
    {"value_weight": 0.5, "ndcg@10": 0.080, "revenue@10": 1.9},
]


@pytest.mark.parametrize(("max_ndcg_loss", "revenue"), [(1.0, 1.9), (0.21, 1.9), (0.19, 1.2), (0.01, 1.2), (0.0, 1.0)])
def test_weights_are_chosen_within_the_bound(max_ndcg_loss, revenue):
    assert best_row(ROWS, "revenue@10", max_ndcg_loss)["revenue@10"] == revenue


def test_a_grid_holds_what_the_model_has_parts_for(tiny_artifact):
    model = GR4ADForRecommendation.from_pretrained(tiny_artifact)  # with value and item head, without neighbours
    base = RankingWeights((4, 8, 8), item_weight=1.0, item_candidates=5, score_history=True)
    grid = weight_grid(model, base, item_weights=[0.0, 0.5], value_weights=[0.0, 1.0], neighbour_weights=[0.0, 0.7])
    plain = RankingWeights((4, 8, 8), score_history=True)
    share = replace(base, item_weight=0.5)
    assert grid == [plain, replace(plain, value_weight=1.0), share, replace(share, value_weight=1.0)]
    for weights in grid:
        weights.check(model.config)
