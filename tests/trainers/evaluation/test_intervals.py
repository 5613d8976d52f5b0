import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.trainers.evaluation import bootstrap_interval, paired_difference, seed_interval
from gr4ad.trainers.evaluation.intervals import interval, resampled_means, seed_mean


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 4), st.integers(0, 9), st.randoms(use_true_random=False))
def test_means_equal_a_loop_over_the_drawn_users(users, columns, seed, random):
    values = np.array([[random.choice([0.0, 1.5, 4.0, math.nan]) for _ in range(columns)] for _ in range(users)])
    got = resampled_means(values, seed, n=20)
    drawn = np.random.default_rng(seed).integers(users, size=(20, users))
    for line, row in zip(got, drawn, strict=True):
        for column in range(columns):
            known = [values[user, column] for user in row if not math.isnan(values[user, column])]
            wanted = sum(known) / len(known) if known else math.nan
            np.testing.assert_allclose(line[column], wanted, rtol=1e-12)


def test_equal_seeds_draw_equal_users_whatever_the_columns(monkeypatch):
    values = np.random.default_rng(0).normal(size=(50, 3))
    whole = resampled_means(values, 7, n=30)
    np.testing.assert_allclose(whole[:, 1:2], resampled_means(values[:, 1:2], 7, n=30))
    monkeypatch.setattr("gr4ad.trainers.evaluation.intervals._BLOCK", 120)  # two resamples at once
    np.testing.assert_allclose(whole, resampled_means(values, 7, n=30))


def test_users_who_do_not_count_widen_the_interval_only():
    rng = np.random.default_rng(0)
    known = rng.normal(2.0, 1.0, 400)
    values = np.concatenate([known, np.full(1600, math.nan)])
    low, high = bootstrap_interval(values, 0)
    half = 1.96 * known.std() / 20
    assert low == pytest.approx(known.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(known.mean() + half, abs=0.15 * half)
    assert seed_mean(values[None]) == pytest.approx(known.mean())
    assert math.isnan(seed_mean(np.full((1, 3), math.nan)))
    assert all(map(math.isnan, bootstrap_interval(np.full(3, math.nan), 0)))


def test_a_paired_difference_is_the_interval_of_the_differences():
    rng = np.random.default_rng(3)
    users = rng.exponential(10.0, 500)
    ours, theirs = users + 0.2 + rng.normal(0, 0.5, 500), users
    found = paired_difference(ours, theirs, 5)
    assert found.difference == pytest.approx((ours - theirs).mean())
    assert (found.low, found.high) == pytest.approx(bootstrap_interval(ours - theirs, 5))
    assert found.low > 0 and found.relative == pytest.approx(found.difference / theirs.mean())
    assert 0 < found.relative_low < found.relative < found.relative_high
    back = paired_difference(theirs, ours, 5)
    assert (back.difference, back.low, back.high) == pytest.approx((-found.difference, -found.high, -found.low))


def test_a_difference_from_nothing_has_no_relative_size():
    found = paired_difference(np.ones(4), np.zeros(4), 0)
    assert (found.difference, found.low, found.high) == (1, 1, 1)
    assert all(map(math.isnan, (found.relative, found.relative_low, found.relative_high)))


def test_one_seed_adds_no_level_and_equal_seeds_no_spread():
    values = np.random.default_rng(0).exponential(2.0, 300)
    assert seed_interval(values[None], 4) == pytest.approx(bootstrap_interval(values, 4))
    assert seed_interval(np.stack([values] * 3), 4) == pytest.approx(bootstrap_interval(values, 4))
    assert paired_difference(values[None], values, 4).high == 0


def test_seeds_widen_the_interval_by_their_variance():
    # Users are all alike: what is left is the spread of the seeds, (S - 1) / S of the sample variance over S.
    seeds = np.random.default_rng(1).normal(0, 1, 20)
    values = np.repeat(seeds[:, None], 40, axis=1)
    low, high = seed_interval(values, 0, n=4000)
    half = 1.96 * seeds.std(ddof=0) / math.sqrt(20)
    assert low == pytest.approx(seeds.mean() - half, abs=0.12 * half)
    assert high == pytest.approx(seeds.mean() + half, abs=0.12 * half)


def test_a_paired_difference_over_seeds_covers_the_truth_as_often_as_it_says():
    # 95% intervals of a true difference of 0 between systems whose users are strongly correlated, of 8 seeds each.
    rng, held = np.random.default_rng(0), 0
    for trial in range(80):
        users = rng.exponential(3.0, 200)
        ours, theirs = (users + rng.normal(0, 0.05, (8, 1)) + rng.normal(0, 0.3, (8, 200)) for _ in range(2))
        found = paired_difference(ours, theirs, trial, n=300)
        held += found.low <= 0 <= found.high
    assert 66 <= held <= 80  # (8 - 1) / 8 of the seeds' variance: a little under 95%


@pytest.mark.parametrize(
    ("ours", "theirs"), [(np.ones(3), np.ones(4)), (np.ones((2, 3)), np.ones((2, 4))), (np.empty(0), np.empty(0))]
)
def test_pairs_need_the_same_users(ours, theirs):
    with pytest.raises(ValueError, match="same users.*Align"):
        paired_difference(ours, theirs, 0)


def test_bad_settings_are_named():
    for shape in ((3,), (0, 2)):
        with pytest.raises(ValueError, match="`values` should be a"):
            resampled_means(np.ones(shape), 0)
    with pytest.raises(ValueError, match="`values` should be a non-empty"):
        seed_interval(np.ones(3), 0)
    with pytest.raises(ValueError, match="`level`"):
        interval(np.ones(3), 1.5)
