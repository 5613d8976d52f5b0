import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.trainers.evaluation import Sequences, bootstrap_interval, evaluate_rankings, ranking_metrics

N_ITEMS = 12
PLACES = 6
USER = st.tuples(
    st.lists(st.integers(-1, N_ITEMS - 1), min_size=PLACES, max_size=PLACES),
    st.lists(
        st.tuples(st.integers(0, N_ITEMS - 1), st.sampled_from([0.0, 0.5, 1.0, 3.0, 7.25])), min_size=1, max_size=9
    ),
)


def brute_force(ranking: list[int], targets: list[tuple[int, float]], k: int, valid: set[int]) -> dict[str, float]:
    value: dict[int, float] = {}
    for item, amount in targets:
        value[item] = value.get(item, 0.0) + amount
    seen: set[int] = set()
    hits, dcg, revenue, value_dcg = 0, 0.0, 0.0, 0.0
    for place, item in enumerate(ranking[:k], start=1):
        if item in value and item not in seen and item in valid:
            hits += 1
            dcg += 1 / math.log2(place + 1)
            revenue += value[item]
            value_dcg += value[item] / math.log2(place + 1)
        seen.add(item)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(k, len(value)) + 1))
    best = sorted(value.values(), reverse=True)[:k]
    ideal_value = sum(amount / math.log2(place + 1) for place, amount in enumerate(best, start=1))
    return {
        f"recall@{k}": hits / len(value),
        f"hit@{k}": float(hits > 0),
        f"ndcg@{k}": dcg / ideal,
        f"revenue@{k}": revenue,
        f"value_ndcg@{k}": value_dcg / ideal_value if ideal_value else 0.0,
    }


def as_sequences(targets: list[list[tuple[int, float]]]) -> Sequences:
    return Sequences.from_lists([[i for i, _ in t] for t in targets], [[v for _, v in t] for t in targets])


@settings(deadline=None, max_examples=150)
@given(
    st.lists(USER, min_size=1, max_size=5),
    st.none() | st.lists(st.integers(0, N_ITEMS - 1), min_size=1, max_size=N_ITEMS),
)
def test_metrics_equal_brute_force(users, valid_items):
    rankings = np.array([ranking for ranking, _ in users])
    targets = [target for _, target in users]
    valid = set(range(N_ITEMS)) if valid_items is None else set(valid_items)
    rows = None if valid_items is None else np.array(valid_items)
    ks = (1, 3, PLACES)
    arguments = {"ks": ks, "catalog_size": N_ITEMS, "valid_items": rows}
    got = ranking_metrics(rankings, as_sequences(targets), **arguments)
    report = evaluate_rankings(rankings, as_sequences(targets), **arguments)

    for k in ks:
        wanted = [brute_force(ranking, target, k, valid) for ranking, target in users]
        for name in wanted[0]:
            np.testing.assert_allclose(got[name], [row[name] for row in wanted], err_msg=name, atol=1e-12)
            assert report[name] == pytest.approx(np.mean([row[name] for row in wanted]))
        served = [item for ranking, _ in users for item in ranking[:k] if item >= 0]
        assert report[f"coverage@{k}"] == pytest.approx(len(set(served) & valid) / len(valid))
        if valid_items is not None:
            bad = sum(item not in valid for item in served)
            assert report[f"invalid@{k}"] == pytest.approx(bad / len(served) if served else 0.0)
    assert report["spend"] == pytest.approx(sum(v for t in targets for _, v in t) / len(users))


def test_known_values():
    # User 0 wants 3 (worth 1) and 5 (worth 4) and gets 5 second; user 1 wants 7 and gets it nowhere.
    report = evaluate_rankings(
        np.array([[0, 5, 5], [1, 2, -1]]), as_sequences([[(3, 1.0), (5, 4.0)], [(7, 2.0)]]), ks=(3,), catalog_size=10
    )
    second = 1 / math.log2(3)
    assert report["recall@3"] == 0.25
    assert report["recall@3_se"] == pytest.approx(0.25)
    assert report["revenue@3"] == 2.0
    assert report["ndcg@3"] == pytest.approx(second / (1 + second) / 2)
    assert report["value_ndcg@3"] == pytest.approx(4 * second / (4 + second) / 2)
    assert report["coverage@3"] == 0.4
    assert report["spend"] == 3.5


def test_a_perfect_value_ranking_scores_one():
    report = evaluate_rankings(
        np.array([[4, 1, 2]]), as_sequences([[(1, 5.0), (2, 1.0), (4, 9.0)]]), ks=(1, 2, 3), catalog_size=5
    )
    for k in (1, 2, 3):
        assert report[f"ndcg@{k}"] == pytest.approx(1)
        assert report[f"value_ndcg@{k}"] == pytest.approx(1)
    assert report["revenue@3"] == report["spend"] == 15.0
    assert math.isnan(report["recall@1_se"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ks": (4,)}, "`ks`"),
        ({"ks": ()}, "`ks`"),
        ({"rankings": np.array([[0, 1, 9]])}, "`rankings` should hold catalog rows 0 to 8"),
        ({"rankings": np.array([[0.0, 1.0, 2.0]])}, "integer"),
        ({"rankings": np.array([[0, 1, 2], [0, 1, 2]])}, "same users"),
        ({"targets": as_sequences([[]])}, "at least one item"),
        ({"targets": as_sequences([[(9, 1.0)]])}, "`targets.items`"),
        ({"targets": as_sequences([[(1, -2.0)]])}, "Received: -2.0"),
        ({"targets": as_sequences([[(1, math.nan)]])}, "finite"),
        ({"valid_items": np.array([True, False])}, "flatnonzero"),
        ({"valid_items": np.array([9])}, "`valid_items`"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"rankings": np.array([[0, 1, 2]]), "targets": as_sequences([[(1, 1.0)]]), "ks": (3,), **change}
    with pytest.raises(ValueError, match=message):
        ranking_metrics(catalog_size=9, **arguments)


def test_bootstrap_interval_matches_the_normal_interval():
    values = np.random.default_rng(0).exponential(2.0, 4000)
    low, high = bootstrap_interval(values, seed=1, n=2000)
    half = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half, abs=0.1 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.1 * half)
    assert (low, high) == bootstrap_interval(values, seed=1, n=2000)
    narrow = bootstrap_interval(values, seed=1, n=2000, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_paired_interval_sees_what_separate_intervals_miss():
    rng = np.random.default_rng(3)
    users = rng.exponential(10.0, 500)
    ours, theirs = users + 0.2 + rng.normal(0, 0.5, 500), users
    assert bootstrap_interval(ours, 0)[0] < bootstrap_interval(theirs, 0)[1]
    assert bootstrap_interval(ours - theirs, 0)[0] > 0


@pytest.mark.parametrize("arguments", [{"n": 0}, {"level": 1.0}, {"values": np.empty(0)}, {"values": np.ones((2, 2))}])
def test_bootstrap_rejects(arguments):
    with pytest.raises(ValueError, match=f"`{next(iter(arguments))}`"):
        bootstrap_interval(**{"values": np.ones(3), "seed": 0, **arguments})
