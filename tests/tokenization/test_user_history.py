import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.tokenization import (
    HISTORY_COLUMNS,
    HISTORY_FEATURES,
    ITEM_COLUMNS,
    HistoryError,
    UASIDTokenizer,
    UserHistory,
)
from gr4ad.tokenization.user_history import history_places


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    from gr4ad.tokenization import SIDIndex

    path = tmp_path_factory.mktemp("table") / "items.parquet"
    SIDIndex(["a", "b", "5"], np.array([[0, 1], [1, 0], [2, 2]])).save(path)
    return UASIDTokenizer(
        str(path),
        codebook_sizes=[3, 3],
        event_names=["click", "buy"],
        user_features={"city": ["x", "y"]},
        value_bucket_edges=[1.0, 5.0],
        value_bucket_means=[0.0, 2.0, 9.0],
        num_time_buckets=4,
        num_cross_domain_items=20,
    )


def test_the_table_names_every_column_once():
    fields = set(UserHistory.__dataclass_fields__) - {"user_features"}
    assert set(HISTORY_COLUMNS) == fields and len(set(HISTORY_COLUMNS)) == len(HISTORY_COLUMNS)
    assert set(ITEM_COLUMNS) == {"events", "values", "times"}
    assert all(feature.along in HISTORY_COLUMNS for feature in HISTORY_FEATURES)


@pytest.mark.parametrize(
    "items", [["a", "b"], ("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object), pd.Series(["a", "b"])]
)
def test_text_in_any_array_is_ids(tokenizer, items):
    assert UserHistory(items).items == ["a", "b"]
    assert tokenizer.encode_rows([{"items": items}])["item_ids"].tolist() == [[1, 2]]


def test_an_integer_array_is_rows(tokenizer):
    assert tokenizer.encode_rows([{"items": np.array([2, 0], np.int32)}])["item_ids"].tolist() == [[3, 1]]


@pytest.mark.parametrize(
    ("row", "field", "message"),
    [
        ({}, "items", "`items` is missing"),
        ({"items": [5, 7]}, "items", r"`items\[0\]` must be text. Received: 5 \(int\).*e.g. '5'.*would be item rows"),
        ({"items": ["a", None]}, "items", r"`items\[1\]` must be text. Received: None"),
        ({"items": "ab"}, "items", "`items` must be a list. Received: 'ab'"),
        ({"items": np.array([1.0])}, "items", r"`items\[0\]` must be text. Received: 1.0"),
        ({"items": pd.Series([5])}, "items", r"`items\[0\]` must be text. Received: 5"),
        ({"items": []}, "items", "The history is empty"),
        ({"items": ["a"], "events": ["look"]}, "events", "`events` holds 'look'. Allowed: click, buy"),
        ({"items": ["a"], "events": [1]}, "events", r"`events\[0\]` must be text"),
        ({"items": ["a"], "events": ["click", "buy"]}, "events", "`events` must be as long as `items`, 1"),
        (
            {"items": ["a", "b"], "values": [1.0, -2.0]},
            "values",
            r"`values\[1\]` is -2.0. Allowed: finite numbers >= 0",
        ),
        ({"items": ["a"], "values": [float("nan")]}, "values", r"`values\[0\]` is nan"),
        ({"items": ["a"], "values": [None]}, "values", r"`values\[0\]` is None"),
        ({"items": ["a"], "values": ["5"]}, "values", r"`values\[0\]` is '5'"),
        ({"items": ["a"], "values": [True]}, "values", r"`values\[0\]` is True"),
        ({"items": ["a"], "values": [10**400]}, "values", "`values` must hold finite numbers"),
        ({"items": ["a"], "times": ["2020"]}, "times", r"`times\[0\]` is '2020'. Allowed: numbers"),
        ({"items": ["a"], "cross_domain": [3]}, "cross_domain", r"`cross_domain\[0\]` must be text"),
        ({"items": ["a"], "cross_domain_times": [3]}, "cross_domain_times", "needs `cross_domain`"),
        (
            {"items": ["a"], "cross_domain": ["v"], "cross_domain_times": [3]},
            "cross_domain_times",
            "are compared with `times`",
        ),
        ({"items": ["a"], "city": 7}, "city", r"`city` must be text or None. Received: 7 \(int\)"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tokenizer, row, field, message):
    with pytest.raises(HistoryError, match=f"^Row 1: .*{message}") as caught:
        tokenizer.encode_rows([{"items": ["a"]}, row])
    assert caught.value.field == field and caught.value.row == 1


FEATURES = {
    "events": st.sampled_from(["click", "buy"]),
    "values": st.floats(0, 100),
    "times": st.none() | st.integers(0, 10**6),
}


@st.composite
def rows(draw):
    """A row with any of the features, some of them None."""
    size = draw(st.integers(1, 5))
    row = {"items": draw(st.lists(st.sampled_from(["a", "b", "5"]), min_size=size, max_size=size))}
    for name, entry in FEATURES.items():
        if draw(st.booleans()):
            row[name] = draw(st.none() | st.lists(entry, min_size=size, max_size=size))
    if draw(st.booleans()):
        row["cross_domain"] = draw(st.lists(st.text(max_size=3), max_size=4))
        if row.get("times") is not None and draw(st.booleans()):
            moments = st.lists(st.integers(0, 10**6), min_size=len(row["cross_domain"]))
            row["cross_domain_times"] = draw(moments)[: len(row["cross_domain"])]
    row["city"] = draw(st.sampled_from([None, "x", "never seen"]))
    return row


@settings(max_examples=150, deadline=None)
@given(st.lists(rows(), min_size=1, max_size=4), st.none() | st.integers(1, 4))
def test_rows_that_differ_share_a_batch_and_are_encoded_as_alone(tokenizer, batch, most):
    together = tokenizer.encode_rows(batch, max_items=most)
    for number, row in enumerate(batch):
        alone = tokenizer.encode_rows([row], max_items=most)
        size = alone["item_ids"].shape[1]
        for name, values in together.items():
            line = np.asarray(values)[number]
            if name in alone:
                own = np.asarray(alone[name])[0]
                assert line[: len(own)].tolist() == own.tolist() and not line[len(own) :].any(), name
            elif name in ("event_ids", "value_ids", "time_ids"):
                assert (line == -1).all(), name
            else:
                assert name.startswith("cross_domain") and not line.any(), name
        assert size == min(len(row["items"]), most or 5)


@settings(max_examples=100, deadline=None)
@given(rows())
def test_a_row_comes_back_as_it_was(row):
    history = UserHistory.from_row(row, ["city"])
    again = UserHistory.from_row(history.to_row(), ["city"])
    assert again.to_row().keys() == history.to_row().keys()
    for name in HISTORY_COLUMNS:
        given_list, kept = row.get(name), vars(again)[name]
        assert (given_list is None) == (kept is None)
        if kept is not None:
            known = [None if value != value else value for value in list(kept)]
            assert known == list(given_list)


@settings(max_examples=100, deadline=None)
@given(rows(), st.integers(0, 6))
def test_the_first_items_know_only_what_happened_before_the_next(row, count):
    history = UserHistory.from_row(row)
    first = history.first(count)
    assert list(first.items) == row["items"][:count]
    if history.events is not None:
        assert first.events == row["events"][:count]
    if row.get("cross_domain_times") is not None:
        places = history_places(history.times, history.cross_domain_times)
        assert first.cross_domain == [
            entry for entry, place in zip(row["cross_domain"], places, strict=True) if place <= count
        ]


def test_missing_categories_of_a_data_frame_are_none():
    assert UserHistory(["a"], user_features={"city": float("nan")}).user_features == {"city": None}
