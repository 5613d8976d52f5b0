import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.trainers.evaluation import value_calibration

# Nothing like 1e-320, which loses its digits when it is scaled.
MONEY = st.sampled_from([0.0, 0.25, 1.0, 1.5, 4.0, 100.0]) | st.floats(1e-3, 1e3)
PAIRS = st.lists(st.tuples(MONEY, MONEY), min_size=1, max_size=30)


def brute_force(pairs: list[tuple[float, float]], bins: int) -> dict:
    groups: dict[int, list[tuple[float, float]]] = {}
    for predicted, true in pairs:
        smaller = sum(other < predicted for other, _ in pairs)
        groups.setdefault(bins * smaller // len(pairs), []).append((predicted, true))
    rows, ece = [], 0.0
    for number in sorted(groups):
        group = groups[number]
        mean_predicted = sum(p for p, _ in group) / len(group)
        mean_true = sum(v for _, v in group) / len(group)
        squares = sum((v - mean_true) ** 2 for _, v in group)
        error = math.sqrt(squares / (len(group) - 1) / len(group)) if len(group) > 1 else math.nan
        rows.append((min(group)[0], max(group)[0], len(group), mean_predicted, mean_true, error))
        ece += len(group) / len(pairs) * abs(mean_predicted - mean_true)
    true = sum(v for _, v in pairs)
    return {
        "bins": rows,
        "ece": ece,
        "ratio": sum(p for p, _ in pairs) / true if true else math.nan,
        "ece_relative": ece / (true / len(pairs)) if true else math.nan,
    }


@settings(deadline=None, max_examples=200)
@given(PAIRS, st.integers(1, 12), st.randoms())
def test_calibration_equals_brute_force_in_any_order(pairs, bins, random):
    wanted = brute_force(pairs, bins)
    shuffled = random.sample(pairs, len(pairs))
    for order in (pairs, shuffled):
        predicted, true = np.array(order).T
        got = value_calibration(predicted, true, bins)
        assert got.pairs == len(pairs) == sum(part.pairs for part in got.bins)
        rows = [(b.low, b.high, b.pairs, b.mean_predicted, b.mean_true, b.true_se) for b in got.bins]
        np.testing.assert_allclose(rows, wanted["bins"], rtol=1e-9, atol=1e-6)
        for name in ("ece", "ratio", "ece_relative"):
            np.testing.assert_allclose(getattr(got, name), wanted[name], rtol=1e-9, atol=1e-9, err_msg=name)


@settings(deadline=None, max_examples=50)
@given(PAIRS, st.integers(1, 12), st.floats(0.01, 100))
def test_units_scale_what_has_a_unit_only(pairs, bins, factor):
    predicted, true = np.array(pairs).T
    one, other = value_calibration(predicted, true, bins), value_calibration(factor * predicted, factor * true, bins)
    if len(one.bins) == len(other.bins):  # rounding may merge or part two predictions
        np.testing.assert_allclose(other.ece, factor * one.ece, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(other.ratio, one.ratio, rtol=1e-9)
        np.testing.assert_allclose(other.ece_relative, one.ece_relative, rtol=1e-6, atol=1e-9)


def test_known_values():
    calibration = value_calibration(np.array([1.0, 3.0, 2.0, 4.0]), np.array([2.0, 3.0, 0.0, 7.0]), bins=2)
    assert [(b.low, b.high, b.pairs, b.mean_predicted, b.mean_true) for b in calibration.bins] == [
        (1.0, 2.0, 2, 1.5, 1.0),
        (3.0, 4.0, 2, 3.5, 5.0),
    ]
    assert [b.true_se for b in calibration.bins] == [1.0, 2.0]
    assert calibration.ratio == 10 / 12 and calibration.ece == 1.0
    assert calibration.ece_relative == pytest.approx(1 / 3)


def test_the_mean_is_calibrated_in_sum_but_not_by_bin():
    true = np.array([0.0, 2.0, 0.0, 2.0])
    constant = value_calibration(np.full(4, 1.0), true)
    assert constant.ratio == 1 and constant.ece == 0 and len(constant.bins) == 1
    wrong = value_calibration(np.array([2.0, 0.0, 2.0, 0.0]), true, bins=2)
    assert wrong.ratio == 1 and wrong.ece == 2.0 and wrong.ece_relative == 2.0
    assert value_calibration(true, true, bins=3).ece == 0


def test_a_perfect_predictor_differs_by_noise_alone():
    rng = np.random.default_rng(0)
    predicted = rng.exponential(3.0, 20_000)
    true = rng.exponential(predicted)
    calibration = value_calibration(predicted, true)
    assert calibration.ratio == pytest.approx(1, abs=0.03)
    noise = np.mean([b.true_se for b in calibration.bins])
    assert calibration.ece < 2 * noise < 0.1 * calibration.mean_true
    assert all(b.pairs == 2000 for b in calibration.bins)


def test_json_holds_no_nan():
    content = value_calibration(np.array([1.0]), np.array([0.0])).to_json()
    assert content["ratio"] is None and content["ece_relative"] is None and content["bins"][0]["true_se"] is None
    assert json.loads(json.dumps(content, allow_nan=False)) == content


@pytest.mark.parametrize(
    ("predicted", "true", "bins", "message"),
    [
        ([], [], 10, "at least one pair"),
        ([1.0], [1.0, 2.0], 10, r"shapes \(1,\) and \(2,\)"),
        ([1.0], [-2.0], 10, "`true` .*Received: -2.0"),
        ([math.nan], [1.0], 10, "`predicted` .*Received: nan"),
        ([1.0], [1.0], 0, "`bins` .*Received: 0"),
    ],
)
def test_bad_input_is_named(predicted, true, bins, message):
    with pytest.raises(ValueError, match=message):
        value_calibration(np.array(predicted), np.array(true), bins)
