from dataclasses import replace

import numpy as np
import pytest

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.trainers.evaluation.choosing import WeightCandidate, best_candidate, weight_grid


def tried(value_weight, ndcg, revenue):
    row = {"value_weight": value_weight, "ndcg@10": ndcg, "revenue@10": revenue}
    per_user = {"revenue@10": np.full(20, revenue), "value_ndcg@10": np.full(20, ndcg), "ndcg@10": np.full(20, 0.5)}
    return WeightCandidate(RankingWeights((4, 8, 8), value_weight=value_weight), row, per_user)


TRIED = [tried(0.0, 0.100, 1.0), tried(0.0, 0.090, 1.1), tried(0.2, 0.099, 1.2), tried(0.5, 0.080, 1.9)]


@pytest.mark.parametrize(("max_ndcg_loss", "revenue"), [(1.0, 1.9), (0.21, 1.9), (0.19, 1.2), (0.01, 1.2), (0.0, 1.0)])
def test_weights_are_chosen_within_the_bound(max_ndcg_loss, revenue):
    assert best_candidate(TRIED, "revenue@10", max_ndcg_loss).row["revenue@10"] == revenue


def test_a_grid_holds_what_the_model_has_parts_for(tiny_artifact):
    model = GR4ADForRecommendation.from_pretrained(tiny_artifact)  # with value and item head, without neighbours
    base = RankingWeights((4, 8, 8), item_weight=1.0, item_candidates=5, score_history=True)
    grid = weight_grid(model, base, item_weights=[0.0, 0.5], value_weights=[0.0, 1.0], neighbour_weights=[0.0, 0.7])
    plain = RankingWeights((4, 8, 8), score_history=True)
    share = replace(base, item_weight=0.5)
    assert grid == [plain, replace(plain, value_weight=1.0), share, replace(share, value_weight=1.0)]
    for weights in grid:
        weights.check(model.config)
