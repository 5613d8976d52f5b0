import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr4ad.trainers.evaluation.intervals import paired_difference
from gr4ad.trainers.evaluation.selection import best_of, deciding_metrics

USERS = 200


def candidate(revenue, value_ndcg, ndcg=0.01):
    revenue, value_ndcg = np.asarray(revenue, float), np.asarray(value_ndcg, float)
    return {"revenue@10": revenue, "value_ndcg@10": value_ndcg, "ndcg@10": np.full(len(revenue), ndcg)}


def test_one_large_basket_does_not_decide():
    plain = candidate(np.full(USERS, 1.0), np.full(USERS, 0.06))
    lucky = candidate(np.r_[np.full(USERS - 1, 0.98), 50.0], np.full(USERS, 0.05))
    assert lucky["revenue@10"].mean() > plain["revenue@10"].mean()
    assert best_of([lucky, plain], "revenue@10") == 1


@pytest.mark.parametrize(("single", "taken"), [(1.0, 0), (0.5, 0), (0.4, 1)])
def test_where_most_users_have_one_target_revenue_decides(single, taken):
    """Their value-NDCG is their NDCG."""
    of_one = np.arange(USERS) < single * USERS
    likely = candidate(np.full(USERS, 1.0), np.full(USERS, 0.06))
    dear = candidate(np.r_[np.full(USERS - 1, 0.98), 50.0], np.full(USERS, 0.05))
    for own in (dear, likely):
        own["ndcg@10"] = np.where(of_one, own["value_ndcg@10"], 0.01)
    assert best_of([dear, likely], "revenue@10") == taken


def test_what_earns_surely_more_is_taken_whatever_its_value_ndcg():
    plain = candidate(np.full(USERS, 1.0), np.full(USERS, 0.06))
    better = candidate(np.full(USERS, 1.1), np.full(USERS, 0.05))
    assert best_of([plain, better], "revenue@10") == 1


def test_other_metrics_are_taken_at_their_mean():
    first, second = ({"ndcg@10": np.r_[np.full(USERS - 1, 0.1), last]} for last in (0.1, 0.2))
    assert deciding_metrics("ndcg@10") == ("ndcg@10",)
    assert best_of([first, second], "ndcg@10") == 1
    assert best_of([second, second], "ndcg@10") == 0  # the first of equals


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_choice_is_never_surely_worse_than_another(seed, count):
    rng = np.random.default_rng(seed)
    candidates = [candidate(rng.exponential(size=30) ** 2, rng.random(30)) for _ in range(count)]
    taken = candidates[best_of(candidates, "revenue@10")]
    most = max(candidates, key=lambda own: own["revenue@10"].mean())
    assert paired_difference(taken["revenue@10"], most["revenue@10"], 0).high >= 0
    assert taken["value_ndcg@10"].mean() >= most["value_ndcg@10"].mean()


def test_nothing_to_choose_from():
    with pytest.raises(ValueError, match="`candidates` should hold at least one way to rank"):
        best_of([], "ndcg@10")


def test_of_one_user_nothing_can_be_told_apart():
    assert best_of([candidate([5.01], [0.1]), candidate([5.0], [0.9])], "revenue@10") == 1


def test_metrics_that_are_no_numbers_are_named():
    with pytest.raises(ValueError, match="`revenue@10` must be finite.*nan for user 1 of candidate 1"):
        best_of([candidate([1.0, 2.0], [0.1, 0.1]), candidate([1.0, np.nan], [0.1, 0.1])], "revenue@10")
