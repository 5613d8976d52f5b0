import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.tokenization.distinct_codes import colliding_groups, free_codes, spread_hashed, spread_quantized
from gr4ad.tokenization.residual_points import ResidualPoints


def points(seed: int, count: int, dimension: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dimension)).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 4)), min_size=1, max_size=40))
def test_hashed_codes_spread_evenly_in_each_prefix(pairs):
    prefixes, code = np.array([[p] for p, _ in pairs]), np.array([c for _, c in pairs])
    out = spread_hashed(prefixes, code, 5)
    for prefix in np.unique(prefixes):
        members = np.flatnonzero(prefixes[:, 0] == prefix)
        counts = np.bincount(out[members], minlength=5)
        if len(np.unique(code[members])) == len(members):
            np.testing.assert_array_equal(out[members], code[members])  # no collision: nothing moves
        assert counts.max() <= -(-len(members) // 5) and counts.sum() == len(members)
        if len(members) <= 5:
            assert set(code[members].tolist()) <= set(out[members].tolist())  # every hash that was taken stays taken


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 4))
def test_quantized_codes_have_the_least_total_distance(seed, members):
    residual, codebook = points(seed, members), points(seed + 1, 4)
    distance = ((residual[:, None].astype(np.float64) - codebook) ** 2).sum(-1)
    nearest = distance.argmin(1)
    code = spread_quantized(np.zeros((members, 1), np.int64), nearest, ResidualPoints(residual), codebook)
    best = min(distance[range(members), list(p)].sum() for p in itertools.permutations(range(4), members))
    assert len(set(code.tolist())) == members
    assert distance[range(members), code].sum() == pytest.approx(best, rel=1e-5)


def test_more_ads_than_codes_share_evenly():
    residual, codebook = points(0, 10), points(1, 4)
    code = spread_quantized(np.zeros((10, 1), np.int64), np.zeros(10, np.int64), ResidualPoints(residual), codebook)
    assert sorted(np.bincount(code, minlength=4).tolist()) in ([1, 3, 3, 3], [2, 2, 3, 3])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 3)), max_size=25))
def test_groups_are_those_with_a_collision(sids):
    codes = np.array(sids, dtype=np.int64).reshape(-1, 3)
    found = {
        tuple(codes[members[0], :2]): sorted(members.tolist())
        for members in colliding_groups(codes[:, :2], codes[:, 2])
    }
    expected = {}
    for prefix in {tuple(row[:2]) for row in codes}:
        members = [n for n, row in enumerate(codes) if tuple(row[:2]) == prefix]
        if len({int(codes[n, 2]) for n in members}) < len(members):
            expected[prefix] = members
    assert found == expected


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), max_size=8),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=6),
)
def test_new_codes_are_free_while_any_is(taken, new):
    codes, used = np.array(new, dtype=np.int64), np.array(taken, dtype=np.int64).reshape(-1, 2)
    last = free_codes(codes, used, 4)
    in_use = {prefix: {c for p, c in taken if p == prefix} for prefix in range(3)}
    for (prefix, wanted), got in zip(new, last.tolist(), strict=True):
        if len(in_use[prefix]) < 4:
            assert got not in in_use[prefix] and (got == wanted or wanted in in_use[prefix])
        else:
            assert got == wanted
        in_use[prefix].add(got)
