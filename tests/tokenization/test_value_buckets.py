"""Bins of user features that are numbers, and what the tokenizer makes of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr4ad import UASIDTokenizer
from gr4ad.tokenization import fit_feature_bins


def test_bins_hold_equally_many_and_are_named():
    edges, names = fit_feature_bins(np.arange(100.0), 4)
    assert edges == [25.0, 50.0, 75.0] and names == ["below 25", "25 to 50", "50 to 75", "75 or more"]
    edges, names = fit_feature_bins(np.array([-2.5, -1.5, 0.5, 3.25]), 2)
    assert edges == [0.5] and names == ["below 0.5", "0.5 or more"]
    assert fit_feature_bins(np.ones(9), 5) == ([], ["any"])


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.integers(2, 6))
def test_every_number_has_the_bin_that_its_edges_say(numbers, count):
    edges, names = fit_feature_bins(np.array(numbers, dtype=float), count)
    assert len(names) == len(edges) + 1 <= max(count, 2) and edges == sorted(set(edges))
    tokenizer = UASIDTokenizer(user_features={"age": names}, user_feature_edges={"age": edges})
    for number in (*numbers, -100, 100):
        wanted = 1 + sum(number >= edge for edge in edges)
        assert tokenizer.feature_index("age", str(number)) == wanted
        assert tokenizer.feature_index("age", str(float(number))) == wanted


def test_what_is_no_number_is_missing():
    tokenizer = UASIDTokenizer(user_features={"age": ["below 30", "30 or more"]}, user_feature_edges={"age": [30]})
    given = (None, "nan", "old", "29.9", "30", "1e9")
    assert [tokenizer.feature_index("age", text) for text in given] == [0, 0, 0, 1, 2, 2]


def test_edges_are_saved_and_must_fit(tmp_path):
    tokenizer = UASIDTokenizer(user_features={"age": ["a", "b"], "city": ["x"]}, user_feature_edges={"age": [30]})
    tokenizer.save_pretrained(tmp_path)
    loaded = UASIDTokenizer.from_pretrained(tmp_path)
    assert loaded.user_feature_edges == {"age": [30.0]} and loaded.feature_index("age", "31") == 2
    assert loaded.feature_index("city", "x") == 1
    with pytest.raises(ValueError, match="`user_feature_edges` of 'age' must be one fewer than its categories"):
        UASIDTokenizer(user_features={"age": ["a"]}, user_feature_edges={"age": [30]})
