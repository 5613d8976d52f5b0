"""Columns of whatever type a file has, and the small functions of the splits, against plain Python."""

import datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr4ad.data import DataConfig, DataError, columns
from gr4ad.data.checking import RowChecks, shown
from gr4ad.data.clocks import read_clock
from gr4ad.data.columns import as_ids, as_numbers, blanks, nulls, whole
from gr4ad.data.event_columns import read_event_names, read_values
from gr4ad.data.reading import locate
from gr4ad.data.splits import Rows, rows_before, spans
from gr4ad.data.tables import HistoryTrack, tables_of, write_tables
from gr4ad.tokenization.user_history import MAX_ID_LENGTH


def chunked(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def checks_of(length):
    return RowChecks("file", length, [])


@pytest.mark.parametrize(
    ("values", "kind", "ids"),
    [
        (["a", " ", None, "007"], pa.string(), ["a", None, None, "007"]),
        (["a", "b"], pa.large_string(), ["a", "b"]),
        (["a", "b"], pa.string_view(), ["a", "b"]),
        ([7, None], pa.int32(), ["7", None]),
        ([7.0, float("nan"), None], pa.float64(), ["7", None, None]),
        ([None, None], pa.null(), [None, None]),
    ],
)
def test_ids_are_text(values, kind, ids):
    assert as_ids(chunked(values, kind), "id", checks_of(len(values))).to_pylist() == ids


def test_item_ids_are_as_long_as_a_request_may_name_them():
    assert columns.MAX_ID_LENGTH == MAX_ID_LENGTH
    longest, beyond = "x" * MAX_ID_LENGTH, "x" * (MAX_ID_LENGTH + 1)
    assert as_ids(chunked([longest, None]), "item_id", checks_of(2)).to_pylist() == [longest, None]
    assert as_ids(chunked([beyond]), "user_id", checks_of(1)).to_pylist() == [beyond]
    with pytest.raises(
        DataError, match=r"file: column `item_id`, row 1 \(0-based\): an id of more than 1000 char.*1 such"
    ):
        as_ids(chunked(["a", beyond]), "item_id", checks_of(2))


def test_ids_of_a_dictionary_and_of_other_types():
    column = pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()])
    assert as_ids(column, "id", checks_of(3)).to_pylist() == ["a", "b", "a"]
    with pytest.raises(DataError, match="file: column `id` is of type bool"):
        as_ids(chunked([True]), "id", checks_of(1))


def test_ids_that_were_rounded_are_refused_with_column_and_row():
    """Three ids of 18 digits that one empty cell turned into one floating-point number."""
    ids = [720575940631797750.0, 720575940631797751.0, 720575940631797752.0]
    assert len(set(ids)) == 1
    checks = RowChecks("log", 4, [], {"user_id": "uid"})
    text = r"log: column `uid` \(our `user_id`\), row 1 \(0-based\): received 7.205759406317978e\+17, an id that was "
    with pytest.raises(DataError, match=text + r"rounded to a floating-point number \(3 such rows\)"):
        as_ids(chunked([None, *ids]), "user_id", checks)
    with pytest.raises(DataError, match=r"row 1 .0-based.: received '7.205759406317978e\+17', an id that was rounded"):
        as_ids(chunked(["7", "7.205759406317978e+17"]), "user_id", checks)  # what a csv makes of it
    assert as_ids(chunked([2.0**53 - 1, None]), "user_id", checks).to_pylist() == ["9007199254740991", None]
    assert checks.notes == {"whole_float_ids": ["uid"]}
    assert as_ids(chunked(["1e5", "1.5e3"]), "user_id", checks).to_pylist() == ["1e5", "1.5e3"]  # ids like any other


def test_text_of_whole_floats_is_whole_numbers_where_all_of_it_is():
    """What pandas writes into a csv once one id is missing."""
    checks = checks_of(4)
    for form in (pa.string(), pa.dictionary(pa.int32(), pa.string())):
        column = chunked(["7.0", "", None, "12.0"]).cast(form)
        assert as_ids(column, "id", checks).to_pylist() == ["7", None, None, "12"]
    coded = chunked(["7.0", None]).cast(pa.dictionary(pa.int32(), pa.string()))
    assert as_ids(coded, "id", checks, coded=True).to_pylist() == ["7", None]
    assert checks.notes == {"whole_float_ids": ["id"] * 3}
    assert as_ids(chunked(["7.0", "v2", "12.0"]), "id", checks).to_pylist() == ["7.0", "v2", "12.0"]
    with pytest.raises(DataError, match=r"row 1 .0-based.: received '9007199254740992.0', an id that was rounded"):
        as_ids(chunked(["7.0", "9007199254740992.0"]), "id", checks)


def test_blanks_are_null_nan_and_spaces():
    assert blanks(chunked(["1", " ", "", None])).tolist() == [False, True, True, True]
    assert blanks(chunked([1.0, float("nan"), None])).tolist() == [False, True, True]
    assert blanks(chunked(["1", " "], pa.string_view())).tolist() == [False, True]


def test_numbers_and_what_is_none():
    text = as_numbers(chunked(["1.5", "x", None, "2"]))
    np.testing.assert_array_equal(text, [1.5, np.nan, np.nan, 2.0])
    np.testing.assert_array_equal(as_numbers(chunked([1, None])), [1.0, np.nan])
    assert np.isnan(as_numbers(chunked([True, False]))).all()


@pytest.mark.parametrize(
    ("values", "clock", "bad", "is_date"),
    [
        ([3, None], [3, 0], [False, True], False),
        (["3", "4.5", "x"], [3, 4, 0], [False, True, True], False),
        ([datetime.date(1970, 1, 2), None], [86_400_000_000, 0], [False, True], True),
        (["1970-01-01T00:00:01", "1970-01-01T01:00:00+01:00", "7"], [1_000_000, 0, 0], [False, False, True], True),
        ([2.0, 2.5, float("inf")], [2, 2, 0], [False, True, True], False),
    ],
)
def test_times_are_one_integer_clock(values, clock, bad, is_date):
    got = read_clock(chunked(values))
    assert not got.mixed.any()
    assert (got.values[~got.bad].tolist(), got.bad.tolist(), got.is_date) == (
        [time for time, wrong in zip(clock, bad, strict=True) if not wrong],
        bad,
        is_date,
    )


@pytest.mark.parametrize("values", [["1970-01-01T00:00:01", None, "1970-01-02"], ["1.5", " ", "7"], [3, None, 3]])
def test_coded_columns_mean_what_their_values_mean(values):
    plain, coded = chunked(values), chunked(values).dictionary_encode()
    np.testing.assert_array_equal(as_numbers(coded), as_numbers(plain))
    assert blanks(coded).tolist() == blanks(plain).tolist()
    one, other = read_clock(plain), read_clock(coded)
    assert (one.values.tolist(), one.bad.tolist(), one.unit) == (other.values.tolist(), other.bad.tolist(), other.unit)


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_moments_beyond_the_clock_are_bad(unit):
    got = read_clock(chunked([2**62, -(2**62), 5, None], pa.timestamp(unit)))
    assert got.bad.tolist() == [True, True, False, True] and got.values[2] == {"s": 5_000_000, "ms": 5_000}[unit]


def test_nulls_and_whole_columns():
    column = pa.chunked_array([["a", None], ["b"]])
    assert nulls(column).tolist() == nulls(whole(column)).tolist() == [False, True, False]
    assert whole(column).to_pylist() == ["a", None, "b"] and whole(pa.array([1])).to_pylist() == [1]


def test_event_names_and_values():
    table = pa.table({"event": ["click", "impression", None], "value": [2.0, None, None]})
    checks = RowChecks("f", 3, ["missing", "bad_value"])
    event = read_event_names(table, checks)
    assert event.tolist()[:2] == [1, 0] and checks.keep.tolist() == [True, True, False]
    assert read_values(table, checks, np.array([1, 0, 1])).to_pylist()[:2] == [2.0, 0.0]
    bare = table.select([])
    assert read_values(bare, checks, np.array([0, 1, 2])).to_pylist() == [0.0, 1.0, 1.0]
    assert read_event_names(pa.table({"x": [1, 2]}), RowChecks("f", 2, [])).tolist() == [2, 2]


def test_row_checks_count_each_row_once():
    checks = RowChecks("f", 3, ["missing"])
    column = chunked(["a", None, None])
    checks.refuse(np.array([False, True, False]), "missing", "x", column, "text")
    checks.refuse(np.array([False, True, True]), "missing", "x", column, "text")
    assert checks.dropped == {"missing": 2} and checks.keep.tolist() == [True, False, False]
    with pytest.raises(DataError, match=r"f: column `x`, row 0 .0-based.: received 'a', allowed: b \(1 such row\)"):
        checks.refuse(np.array([True, True, True]), "bad_value", "x", column, "b")
    checks.refuse(np.array([True, True, True]), "missing", "x", column, "text")
    with pytest.raises(DataError, match=r"f: no rows left \(3 missing\)"):
        checks.require_rows()
    assert shown("x" * 100) == "'" + "x" * 76 + "..."


def test_tables_are_files_below_the_root_or_hub_names(tmp_path):
    assert locate("shop/ads", tmp_path) == "shop/ads" and locate("hf://a/b:dev", tmp_path) == "hf://a/b:dev"
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "ads").write_text("x")
    assert locate("shop/ads", tmp_path) == tmp_path / "shop" / "ads"
    assert locate("ads.csv", tmp_path) == tmp_path / "ads.csv"
    config = DataConfig(catalog="a.csv", cross_domain="seen.csv")
    assert config.sources() == {"catalog": "a.csv", "events": "events.parquet", "cross_domain": "seen.csv"}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=8))
def test_spans_against_a_loop(ranges):
    start = np.array([low for low, _ in ranges], dtype=np.int64)
    stop = start + np.array([size for _, size in ranges], dtype=np.int64)
    wanted = [place for low, high in zip(start, stop, strict=True) for place in range(low, high)]
    assert spans(start, stop).tolist() == wanted


PAIR = st.tuples(st.integers(0, 3), st.integers(-3, 3))


@given(st.lists(PAIR, max_size=12), st.lists(PAIR, max_size=6))
def test_rows_before_against_a_loop(rows, asked):
    rows.sort()
    row_user, row_clock, user, clock = (
        np.array([pair[which] for pair in pairs], dtype=np.int64) for pairs in (rows, asked) for which in (0, 1)
    )
    wanted = [sum((who, time) < (u, c) for who, time in rows) for u, c in asked]
    assert rows_before(row_user, row_clock, user, clock).tolist() == wanted


def test_tables_hold_tracks_lists_and_features(tmp_path):
    rows = Rows(
        user=np.array([1, 0]),
        start=np.array([2, 0]),
        stop=np.array([3, 2]),
        moment=np.array([5, 9]),
        lengths=np.array([1, 2]),
        lists={"target_items": np.array([1, 0, 1]), "target_values": np.array([0.5, 1.0, 2.0])},
        left_out={},
    )
    items = pa.DictionaryArray.from_arrays(pa.array([0, 1, 1]), pa.array(["a", "b"]))
    seen = HistoryTrack({"cross_domain": pa.array(["p", "q"])}, (np.array([0, 1]), np.array([9, 4])))
    parts = tables_of(
        rows,
        [HistoryTrack({"items": items}), seen],
        pa.array(["u", "v"]),
        pa.array(["a", "b"]),
        pa.table({"x": [1, 2]}),
    )
    write_tables(tmp_path / "t.parquet", parts)
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == [
        {"user_id": "v", "items": ["b"], "cross_domain": ["q"], "target_items": ["b"], "target_values": [0.5], "x": 2},
        {
            "user_id": "u",
            "items": ["a", "b"],
            "cross_domain": [],
            "target_items": ["a", "b"],
            "target_values": [1.0, 2.0],
            "x": 1,
        },
    ]
