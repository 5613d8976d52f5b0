import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.trainers.evaluation import Sequences, SequenceTable, cold_recall, shared_sid_exposure, shared_sids
from gr4ad.trainers.evaluation.item_exposure import cold_counts, training_events

N_ITEMS, PLACES = 9, 5
USER = st.tuples(
    st.lists(st.integers(-1, N_ITEMS - 1), min_size=PLACES, max_size=PLACES),
    st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=5),
)


def sequences(lists: list[list[int]]) -> Sequences:
    return Sequences.from_lists(lists, [[1.0] * len(part) for part in lists])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(USER, min_size=1, max_size=5),
    st.lists(st.integers(0, 7), min_size=N_ITEMS, max_size=N_ITEMS),
)
def test_cold_recall_equals_brute_force(users, events):
    rankings, targets = np.array([ranking for ranking, _ in users]), [target for _, target in users]
    ks, limits = (1, 3, PLACES), (0, 5)
    got = cold_recall(rankings, sequences(targets), np.array(events), ks=ks, limits=limits)
    counts = cold_counts(sequences(targets), np.array(events), limits)
    assert set(got) == {f"cold{limit}_recall@{k}" for limit in limits for k in ks}
    for limit in limits:
        cold = [{item for item in target if events[item] <= limit} for target in targets]
        assert counts[f"cold{limit}_targets"] == sum(map(len, cold))
        assert counts[f"cold{limit}_users"] == sum(map(bool, cold))
        for k in ks:
            wanted = [
                len(mine & set(ranking[:k])) / len(mine) if mine else math.nan
                for mine, (ranking, _) in zip(cold, users, strict=True)
            ]
            np.testing.assert_allclose(got[f"cold{limit}_recall@{k}"], wanted)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(USER, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2)), min_size=N_ITEMS, max_size=N_ITEMS),
)
def test_shared_sids_equal_brute_force(users, codes):
    shared = [codes.count(sid) > 1 for sid in codes]
    np.testing.assert_array_equal(shared_sids(np.array(codes)), shared)
    rankings, targets = np.array([ranking for ranking, _ in users]), [target for _, target in users]
    got = shared_sid_exposure(rankings, sequences(targets), np.array(shared), ks=(2, PLACES))
    pairs = [shared[item] for target in targets for item in set(target)]
    assert got["shared_sid_targets"] == pytest.approx(np.mean(pairs))
    for k in (2, PLACES):
        served = [shared[item] for ranking, _ in users for item in ranking[:k] if item >= 0]
        assert got[f"shared_sid@{k}"] == pytest.approx(np.mean(served) if served else 0)


def test_events_are_those_of_the_training_log_alone():
    train = SequenceTable(np.array(["u", "v"]), np.array(list("abcd")), sequences([[0, 0, 1], [1, 3]]))
    assert training_events(train).tolist() == [2, 2, 0, 1]


def test_other_users_are_refused():
    with pytest.raises(ValueError, match="one line per user of `targets`, 2. Received: 1"):
        cold_recall(np.zeros((1, 5), dtype=int), sequences([[0], [1]]), np.zeros(3), ks=(5,))
