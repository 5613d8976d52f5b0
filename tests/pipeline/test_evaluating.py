import pytest

from gr4ad.pipeline.evaluating import best_row
from gr4ad.pipeline.settings import EvaluateConfig

ROWS = [
    {"value_weight": 0.0, "ndcg@10": 0.100, "revenue@10": 1.0},
    {"value_weight": 0.0, "ndcg@10": 0.090, "revenue@10": 1.1},
    {"value_weight": 0.2, "ndcg@10": 0.099, "revenue@10": 1.2},
    {"value_weight": 0.5, "ndcg@10": 0.080, "revenue@10": 1.9},
]


@pytest.mark.parametrize(("max_ndcg_loss", "revenue"), [(1.0, 1.9), (0.21, 1.9), (0.19, 1.2), (0.01, 1.2), (0.0, 1.0)])
def test_weights_are_chosen_within_the_bound(max_ndcg_loss, revenue):
    assert best_row(ROWS, "revenue@10", max_ndcg_loss)["revenue@10"] == revenue


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_ndcg_loss": 1.5}, "`max_ndcg_loss` is a share in .* Received: 1.5"),
        ({"max_ndcg_loss": 0.02, "value_weights": [0.5]}, "`value_weights` must hold 0. Received: .0.5."),
        ({"neighbour_weights": [-1.0]}, "`neighbour_weights` should be 0 or more. Received: -1.0"),
        ({"neighbour_weights": [0.5], "item_weights": [0.0]}, "`neighbour_weights` add to .* Received: .0.5."),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**changes)
