import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import DEFAULT_BEAM_WIDTH, GR4ADConfig, RankingWeights

CONFIG = GR4ADConfig(
    codebook_sizes=[4, 4], num_items=9, item_head=True, num_item_neighbours=2, num_value_buckets=3, hidden_size=8
)
SHARES = st.floats(0, 1)


@given(
    st.none() | st.lists(st.integers(1, 600), min_size=1, max_size=4),
    SHARES,
    st.floats(0, 9),
    st.booleans(),
    st.booleans(),
)
def test_weights_survive_their_file(tmp_path_factory, widths, item_weight, value_weight, score, exclude):
    weights = RankingWeights(
        None if widths is None else tuple(widths),
        item_weight,
        value_weight,
        score_history=score,
        exclude_history=exclude,
    )
    folder = tmp_path_factory.mktemp("weights")
    weights.save_pretrained(folder)
    assert RankingWeights.from_pretrained(folder) == weights


def test_what_a_file_lacks_has_its_default(tmp_path):
    (tmp_path / "generation_config.json").write_text(json.dumps({"item_weight": 0.5, "transformers_version": "5.0"}))
    weights = RankingWeights.from_pretrained(tmp_path)
    assert weights == RankingWeights(item_weight=0.5)
    assert weights.widths(3) == (DEFAULT_BEAM_WIDTH,) * 3
    weights.check(CONFIG)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("beam_widths", [4, 0], "`beam_widths` must be numbers >= 1"),
        ("beam_widths", [], "`beam_widths` must be numbers >= 1"),
        ("beam_widths", ["4"], r"`beam_widths` must be whole numbers. Received: \['4'\]"),
        ("item_weight", 1.5, r"`item_weight` must be in \[0, 1\].*Received: 1.5"),
        ("item_weight", "1", "`item_weight` must be like its default, 0.0. Received: '1'"),
        ("item_weight", float("nan"), r"`item_weight` must be in \[0, 1\]"),
        ("value_weight", float("inf"), "`value_weight` must be finite and >= 0. Received: inf"),
        ("value_weight", -1.0, "`value_weight` must be finite and >= 0"),
        ("item_candidates", 2.5, "`item_candidates` must be like its default, 0. Received: 2.5"),
        ("item_candidates", 3, "`item_candidates` = 3 is part of the item head's score"),
        ("neighbour_weight", 0.5, "`neighbour_weight` = 0.5 is part of the item head's score"),
        ("score_history", 1, "`score_history` must be like its default, False. Received: 1"),
    ],
)
def test_bad_values_are_named(field, value, message):
    with pytest.raises(ValueError, match=message):
        RankingWeights.from_dict({field: value})


def test_one_width_for_all_levels_is_refused_with_what_to_write():
    with pytest.raises(
        ValueError, match=r"`beam_widths` must be a list of widths.*Received: 64. Write e.g. \(64, 64, 64\)"
    ):
        RankingWeights(64)


@pytest.mark.parametrize(
    ("weights", "left_out", "message"),
    [
        (RankingWeights((4,)), {}, r"`beam_widths` must hold 2 numbers.*\(4,\)"),
        (RankingWeights(item_weight=0.5), {"item_head": False, "num_item_neighbours": 0}, "needs an item head"),
        (RankingWeights(value_weight=0.5), {"num_value_buckets": 0}, "needs a value head"),
        (
            RankingWeights(item_weight=1.0, neighbour_weight=1.0),
            {"num_item_neighbours": 0},
            "needs a model with item n",
        ),
    ],
)
def test_a_model_that_cannot_rank_so_is_named(weights, left_out, message):
    if len(weights.beam_widths or (1, 1)) == 2:
        weights.check(CONFIG)
    with pytest.raises(ValueError, match=message):
        weights.check(GR4ADConfig(**{**CONFIG.to_dict(), **left_out}))


def test_without_the_item_head_nothing_of_it_is_left():
    weights = RankingWeights((2, 2), 0.5, 0.1, 2.0, 7, True)
    assert weights.with_item_weight(0.0) == RankingWeights((2, 2), 0.0, 0.1, 0.0, 0, True)
    assert weights.with_item_weight(0.9).item_candidates == 7
