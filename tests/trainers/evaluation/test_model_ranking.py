import numpy as np
import pytest

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.trainers.evaluation import Sequences
from gr4ad.trainers.evaluation.model_ranking import predict_values, rank_users

WIDTHS = {"top_k": 24, "weights": RankingWeights((4, 24), item_weight=0.5)}


def test_users_are_ranked_with_all_that_their_rows_say(build_ring_model, timed_tokenizer, timed_log):
    model = build_ring_model(
        num_time_buckets=8, num_cross_domain_items=50, max_cross_domain_items=3, initializer_range=0.3
    ).eval()
    rows = timed_log.select(range(30))
    whole = rank_users(model, timed_tokenizer, rows, batch_size=7, **WIDTHS)
    assert whole.illegal == 0 and whole.checked == 30 * 24
    batch = timed_tokenizer.encode_histories(
        rows["items"],
        events=rows["events"],
        values=rows["values"],
        times=rows["times"],
        cross_domain=rows["cross_domain"],
        user_features={"city": rows["city"]},
        max_items=6,
        max_cross_domain=3,
        return_tensors="pt",
    )
    ranking = model.recommend(**batch, trie=model.build_trie(timed_tokenizer), **WIDTHS)
    np.testing.assert_allclose(whole.values, ranking.expected_values, rtol=1e-4)
    assert (whole.items == ranking.items.numpy()).mean() > 0.99  # ties may fall either way in other batches
    for column in ("events", "values", "times", "cross_domain"):
        # moments of other entries are compared with times, and mean nothing without
        without = [column, "cross_domain_times"] if column in ("times", "cross_domain") else [column]
        part = rank_users(model, timed_tokenizer, rows.remove_columns(without), batch_size=7, **WIDTHS)
        assert not np.allclose(part.values, whole.values), column


def test_values_of_given_items_are_those_of_the_served_ones(build_ring_model, timed_tokenizer, timed_log, monkeypatch):
    model = build_ring_model(
        num_time_buckets=8, num_cross_domain_items=50, max_cross_domain_items=3, initializer_range=0.3
    )
    rows = timed_log.select(range(20))
    ranked = rank_users(model, timed_tokenizer, rows, batch_size=7, **WIDTHS)
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 6, 20)
    places = [np.sort(rng.permutation(24)[:length]) for length in lengths]
    targets = Sequences.from_lists(
        [ranked.items[user][part] for user, part in enumerate(places)], [np.ones(length) for length in lengths]
    )
    served = np.concatenate([ranked.values[user][part] for user, part in enumerate(places)])
    for at_once in (64, 2):
        monkeypatch.setattr("gr4ad.trainers.evaluation.model_ranking.TARGETS_AT_ONCE", at_once)
        expected = predict_values(model, timed_tokenizer, rows, targets, batch_size=6)
        assert expected.shape == (lengths.sum(),)
        np.testing.assert_allclose(expected, served, rtol=1e-4)
    assert model.training and expected.std() > 0


def test_values_need_a_value_head_and_the_same_users(build_ring_model, ring_tokenizer, ring_log):
    model, rows = build_ring_model(), ring_log.select(range(3))
    with pytest.raises(ValueError, match="`targets` should be of the dataset's 3 users. Received: 1"):
        predict_values(model, ring_tokenizer, rows, Sequences.from_lists([[0]], [[1.0]]))
    model.value_head = None
    with pytest.raises(ValueError, match="num_value_buckets"):
        predict_values(model, ring_tokenizer, rows, Sequences.from_lists([[0]] * 3, [[1.0]] * 3))
