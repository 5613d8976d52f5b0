import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.trainers.cooccurrence import swing, swing_similarity

LOGS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 7)), min_size=1, max_size=40)


def brute_force(log: list[tuple[int, int]], num_items: int, alpha: float, single_users: bool) -> np.ndarray:
    baskets = [{i for u, i in log if u == user} for user in sorted({u for u, _ in log})]
    similarity = np.zeros((num_items, num_items))
    pairs = list(itertools.combinations(baskets, 2)) + ([(b, b) for b in baskets] if single_users else [])
    for first, second in pairs:
        common = first & second
        for i, j in itertools.permutations(common, 2):
            similarity[i, j] += 1 / (alpha + len(common))
    return similarity


@settings(max_examples=80, deadline=None)
@given(LOGS, st.sampled_from([0.0, 1.0, 5.0]), st.booleans(), st.integers(1, 200))
def test_swing_is_its_definition(log, alpha, single_users, block):
    users, items = np.array(log).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swing, "BLOCK_COUNTS", block)  # many small blocks, one, and those between
        found = swing_similarity(users, items, 8, alpha=alpha, single_users=single_users)
    np.testing.assert_allclose(found.toarray(), brute_force(log, 8, alpha, single_users), rtol=1e-5)
    assert found.dtype == np.float32 and found.has_sorted_indices


def test_only_the_most_similar_are_kept_and_ties_go_to_the_lower_item():
    log = [(u, i) for u in range(3) for i in (0, 1, 2)] + [(u, i) for u in (0, 1) for i in (3, 4)]
    users, items = np.array(log).T
    kept = swing_similarity(users, items, 5, top_k=2)
    assert kept[[0]].indices.tolist() == [1, 2] and kept[[3]].indices.tolist() == [0, 1]
    full = swing_similarity(users, items, 5)
    np.testing.assert_array_equal(kept[[0]].data, full.toarray()[0, [1, 2]])


def test_popular_items_and_long_histories_are_sampled():
    users, items = np.repeat(np.arange(50), 2), np.tile([0, 1], 50)
    bounded = swing_similarity(users, items, 2, max_users_per_item=10)
    assert 0 < bounded[0, 1] <= 45 / 3  # at most the pairs of 10 users
    recent = swing_similarity(np.array([0, 0, 0, 1, 1, 1]), np.array([0, 1, 2, 0, 1, 2]), 3, max_items_per_user=2)
    assert recent[1, 2] > 0 and recent[[0]].nnz == 0
    again = swing_similarity(users, items, 2, max_users_per_item=10)
    np.testing.assert_array_equal(bounded.toarray(), again.toarray())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": np.array([0, 9])}, r"`items` must be in 0..2. Received: 0..9"),
        ({"items": np.array([0])}, "two lists of one length"),
        ({"alpha": -1.0}, "`alpha` must be >= 0. Received: -1.0"),
        ({"top_k": 0}, "`top_k` must be >= 1. Received: 0"),
    ],
)
def test_bad_input(settings, message):
    values = {"users": np.array([0, 1]), "items": np.array([0, 1]), "num_items": 3, **settings}
    with pytest.raises(ValueError, match=message):
        swing_similarity(values.pop("users"), values.pop("items"), values.pop("num_items"), **values)


def test_an_empty_log_has_no_neighbours():
    assert swing_similarity(np.zeros(0, int), np.zeros(0, int), 3, single_users=True).nnz == 0
