from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.tokenization.mgmr_quantizer import LevelSize
from gr4ad.tokenization.sid_quality import (
    SIDCollapseError,
    check_collapse,
    interaction_exposure,
    prefix_groups,
    prefix_purity,
    sid_quality,
)

CODES = np.array([[0, 0], [0, 0], [0, 1], [1, 1], [1, 1], [1, 0]])


@st.composite
def labelled_items(draw):
    items, levels = draw(st.integers(1, 30)), draw(st.integers(1, 4))
    codes = draw(
        st.lists(st.lists(st.integers(0, 3), min_size=levels, max_size=levels), min_size=items, max_size=items)
    )
    labels = draw(st.lists(st.sampled_from([None, "x", "y", "z"]), min_size=items, max_size=items))
    return np.array(codes, dtype=np.int64), labels, draw(st.integers(1, levels))


def purity_by_hand(codes: np.ndarray, labels: list, level: int, smallest: int) -> float:
    groups = defaultdict(list)
    for code, label in zip(codes.tolist(), labels, strict=True):
        if label is not None:
            groups[tuple(code[:level])].append(label)
    kept = [members for members in groups.values() if len(members) >= smallest]
    items = sum(map(len, kept))
    return sum(Counter(members).most_common(1)[0][1] for members in kept) / items if items else np.nan


@settings(max_examples=80, deadline=None)
@given(labelled_items())
def test_purity_is_that_of_counting(case):
    codes, labels, level = case
    figures = prefix_purity(codes, labels, level, permutations=2)
    assert figures["purity"] == pytest.approx(purity_by_hand(codes, labels, level, 1), nan_ok=True)
    assert figures["shared_purity"] == pytest.approx(purity_by_hand(codes, labels, level, 2), nan_ok=True)
    numbers = np.array([-1 if label is None else "xyz".index(label) for label in labels])
    assert prefix_purity(codes, numbers, level)["purity"] == pytest.approx(figures["purity"], nan_ok=True)
    known = [code for code, label in zip(codes.tolist(), labels, strict=True) if label is not None]
    sizes = Counter(tuple(code[:level]) for code in known)
    assert (figures["items"], figures["prefixes"]) == (len(known), len(sizes))
    assert figures["shared_items"] == sum(size for size in sizes.values() if size > 1)
    if known and figures["chance"] < 1:
        # Groups of one add alike to purity and chance: the adjusted figure does not see them.
        shared, chance = figures["shared_purity"], figures["shared_chance"]
        assert figures["adjusted"] == pytest.approx((shared - chance) / (1 - chance))


def test_purity_by_hand():
    figures = prefix_purity(CODES, ["x", "x", "y", "y", "y", None], 1)
    assert figures["purity"] == pytest.approx((2 + 2) / 5)
    assert (figures["items"], figures["prefixes"], figures["shared_items"]) == (5, 2, 5)
    figures = prefix_purity(CODES, ["x", "x", "y", "y", "x", None], 2)
    assert figures["purity"] == pytest.approx(4 / 5) and figures["shared_purity"] == pytest.approx(3 / 4)
    assert figures["prefixes"] == 3 and figures["shared_items"] == 4


def test_chance_is_the_mean_over_all_deals():
    # Two groups of two, two categories of two: of the three ways to pair, one is pure (1) and two are mixed (1/2).
    codes, labels = np.array([[0], [0], [1], [1]]), ["x", "x", "y", "y"]
    figures = prefix_purity(codes, labels, 1, permutations=3000, seed=4)
    assert figures["chance"] == pytest.approx(2 / 3, abs=0.02) and figures["purity"] == figures["shared_purity"] == 1
    assert figures["adjusted"] == 1
    assert figures == prefix_purity(codes, labels, 1, permutations=3000, seed=4)


def test_categories_dealt_at_random_are_no_better_than_chance():
    rng = np.random.default_rng(0)
    figures = prefix_purity(rng.integers(0, 40, (4000, 1)), rng.integers(0, 8, 4000), 1, permutations=20)
    assert abs(figures["adjusted"]) < 0.02 and figures["purity"] > 1 / 8


def test_single_items_are_pure_and_say_nothing():
    figures = prefix_purity(np.arange(4)[:, None], ["x", "y", "x", "y"], 1)
    assert figures["purity"] == figures["chance"] == 1 and figures["shared_items"] == 0
    assert np.isnan(figures["adjusted"]) and np.isnan(figures["shared_purity"])
    nothing = prefix_purity(CODES, [None] * 6, 1)
    assert nothing["items"] == nothing["prefixes"] == 0 and np.isnan(nothing["purity"])


def test_wrong_arguments_are_told():
    with pytest.raises(ValueError, match=r"`level` .* 1\.\.2\. Received: 3"):
        prefix_purity(CODES, ["x"] * 6, 3)
    with pytest.raises(ValueError, match=r"one label an item\. Received: 2 for 6"):
        prefix_purity(CODES, ["x"] * 2, 1)
    with pytest.raises(ValueError, match="`permutations` must be >= 1"):
        prefix_purity(CODES, ["x"] * 6, 1, permutations=0)
    with pytest.raises(ValueError, match="for each of 6 items"):
        interaction_exposure(CODES, np.ones(5))
    with pytest.raises(ValueError, match="least -1"):
        interaction_exposure(CODES, np.array([1, 1, 1, 1, 1, -1]))


@settings(max_examples=60, deadline=None)
@given(labelled_items(), st.integers(0, 1000))
def test_exposure_and_groups_are_those_of_counting(case, seed):
    codes, _, level = case
    counts = np.random.default_rng(seed).integers(0, 9, len(codes))
    sids = [tuple(code) for code in codes.tolist()]
    shared = sum(int(count) for sid, count in zip(sids, counts, strict=True) if sids.count(sid) > 1)
    assert interaction_exposure(codes, counts) == pytest.approx(shared / counts.sum() if counts.sum() else 0.0)
    prefixes = [sid[:level] for sid in sids]
    numbers = {prefix: number for number, prefix in enumerate(sorted(set(prefixes)))}
    assert prefix_groups(codes, level).tolist() == [numbers[prefix] for prefix in prefixes]
    sizes = Counter(sids)
    quality = sid_quality(codes, [4] * codes.shape[1])
    assert quality["cpr"] == pytest.approx(len(sids) / len(sizes))
    assert quality["col"] == pytest.approx(sum(size > 1 for size in sizes.values()) / len(sizes))


def test_exposure_by_hand():
    assert interaction_exposure(CODES, np.array([1, 2, 3, 0, 4, 10])) == pytest.approx(7 / 20)
    assert interaction_exposure(CODES, np.zeros(6)) == 0


def test_wide_codebooks_do_not_overflow():
    codes = np.full((3, 5), 2**20 - 1)
    codes[2, 4] = 0
    assert prefix_groups(codes, 5).tolist() == [1, 1, 0]


def test_a_collapsed_codebook_is_refused():
    levels = [LevelSize(4, False), LevelSize(4, False), LevelSize(4, True)]
    codes = np.array([[n % 4, n % 2, 0] for n in range(8)])
    quality = sid_quality(codes, [4, 4, 4])
    check_collapse(quality, levels, 0.5)  # the hashed level uses a quarter and is not judged
    with pytest.raises(SIDCollapseError, match=r"Level 2 uses 50\.0% of its 4 codes, less than `min_used` = 60%"):
        check_collapse(quality, levels, 0.6)
    assert issubclass(SIDCollapseError, ValueError)


def test_use_is_judged_against_what_the_items_could_fill():
    codes = np.array([[0], [5], [9]])
    quality = sid_quality(codes, [1000])
    check_collapse(quality, [LevelSize(1000, False)], 1.0)
    with pytest.raises(SIDCollapseError, match=r"Level 1 uses 33\.3% of its 3 codes"):
        check_collapse(sid_quality(codes * 0, [1000]), [LevelSize(1000, False)], 0.5)
