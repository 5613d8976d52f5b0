"""Times of every unit mean the same moment, in every kind of file; mixtures are refused."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gr4ad.data import DataConfig, DataError, prepare
from gr4ad.data.clocks import moment_text, read_bound, read_clock, unit_of
from gr4ad.tokenization import UASIDTokenizer

START, DAY = 1_700_000_000, 86_400  # 2023-11-14 22:13:20 UTC
UTC = datetime.UTC


def iso(second):
    return datetime.datetime.fromtimestamp(second, UTC)


# How a log may write the moment of a second, and whether its unit has seconds at all.
WRITTEN = {
    "seconds": (lambda t: t, True),
    "float seconds": (lambda t: t + 0.25, True),
    "milliseconds": (lambda t: t * 1000 + 7, True),
    "microseconds": (lambda t: t * 10**6 + 7, True),
    "nanoseconds": (lambda t: t * 10**9 + 123_456_789, True),
    "ISO": (lambda t: iso(t).isoformat(), True),
    "ISO with Z": (lambda t: iso(t).strftime("%Y-%m-%dT%H:%M:%SZ"), True),
    "with the word UTC": (lambda t: iso(t).strftime("%Y-%m-%d %H:%M:%S UTC"), True),
    "YYYYMMDDhhmmss": (lambda t: int(iso(t).strftime("%Y%m%d%H%M%S")), True),
    "YYYYMMDDhhmmssmmm": (lambda t: int(iso(t).strftime("%Y%m%d%H%M%S")) * 1000 + 7, True),
    "YYYYMMDD": (lambda t: int(iso(t).strftime("%Y%m%d")), False),
    "day": (lambda t: iso(t).strftime("%Y-%m-%d"), False),
}
BOUNDS = [
    ("2023-11-17", "2023-11-18"),
    (20231117, 20231118),
    (1700179200, 1700265600),
    (1700179200000, 1700265600000),
    ("2023-11-17T00:00:00Z", "20231118000000"),
]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize("written", WRITTEN)
def test_a_moment_is_the_same_however_it_is_written(tmp_path, written, suffix):
    write, to_the_second = WRITTEN[written]
    seconds = [START + DAY * day + user for user in range(1, 6) for day in range(6)]
    events = pd.DataFrame(
        {
            "user_id": [f"u{user}" for user in range(1, 6) for _ in range(6)],
            "item_id": [f"i{(user + day) % 6}" for user in range(1, 6) for day in range(6)],
            "when": [write(second) for second in seconds],
        }
    )
    (events.to_csv if suffix == ".csv" else events.to_parquet)(tmp_path / f"events{suffix}", index=False)
    pd.DataFrame({"item_id": [f"i{k}" for k in range(6)]}).to_csv(tmp_path / "catalog.csv", index=False)
    common = {"root": str(tmp_path), "catalog": "catalog.csv", "events": f"events{suffix}"}
    common["event_columns"] = {"timestamp": "when"}
    wanted = seconds[:4] if to_the_second else [second // DAY * DAY for second in seconds[:4]]
    data = prepare(DataConfig(**common), tmp_path / "out")
    assert data.train["times"][0] == wanted
    told = data.summary["accounting"]["time_unit"]["when"]
    assert told["first"].startswith("2023-11-14") and told["last"].startswith("2023-11-19")
    for validation_start, test_start in BOUNDS:
        bounds = {"validation_start": validation_start, "test_start": test_start}
        data = prepare(DataConfig(**common, split="temporal", **bounds), tmp_path / "out")
        assert data.train["times"][0] == wanted[:3] and data.validation["target_items"][0] == ["i4"]


def test_days_as_numbers_have_the_gaps_of_days():
    """A day is 86,400 seconds: bucket 17, not the second one."""
    tokenizer = UASIDTokenizer(num_time_buckets=24)
    clock = read_clock(pa.chunked_array([[20231130, 20231201, 20240101]]))
    seconds = (clock.values // 10**6).tolist()
    assert np.diff(seconds).tolist() == [DAY, 31 * DAY]
    assert tokenizer.time_indices(seconds).tolist() == [0, 17, 22]


@pytest.mark.parametrize(
    ("values", "unit"),
    [
        ([1, 2, 3], ""),
        ([1700000000, 1700000001], "s"),
        ([1700000000000], "ms"),
        ([1700000000000000], "us"),
        ([1700000000000000000], "ns"),
        ([20231115, 20231201], "date"),
        ([20231115093000], "date"),
        ([20231315, 20231340, 29999999], ""),  # months 13: numbers, no dates
        ([0, 1700000000, 1700000001], "s"),
    ],
)
def test_units_by_magnitude(values, unit):
    assert unit_of(np.array(values)) == unit


@given(st.integers(946_684_800, 4_102_444_799), st.sampled_from(["s", "ms", "us", "ns"]), st.booleans())
def test_any_second_of_this_century_is_found(second, unit, as_text):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    column = pa.chunked_array([[str(second * scale) if as_text else second * scale]])
    clock = read_clock(column)
    assert clock.unit == unit and not clock.bad.any() and not clock.mixed.any()
    assert clock.values.tolist() == [second * 10**6 if clock.is_date else second]


MIXTURES = [
    ([1700000000, 1700000001, 1700000002000], 2, "seconds, as most rows have"),
    ([1700000000000, 1700000001000, 1700000002], 2, "milliseconds, as most rows have"),
    ([1700000000, 0, 1700000002], 1, "seconds, as most rows have"),
    ([20231115, 20231116, 1700000002], 2, "dates as numbers, as most rows have"),
    ([1, 2, 1700000000000], 2, "numbers of one unit"),
]


@pytest.mark.parametrize(("values", "row", "text"), MIXTURES)
def test_mixtures_are_refused_with_the_row(tmp_path, values, row, text):
    pd.DataFrame({"item_id": ["a", "b", "c"]}).to_csv(tmp_path / "catalog.csv", index=False)
    events = {"user_id": ["u"] * 6, "item_id": list("abcabc"), "timestamp": [*values, *values]}
    pd.DataFrame(events).to_csv(tmp_path / "events.csv", index=False)
    settings = {"root": str(tmp_path), "catalog": "catalog.csv", "events": "events.csv"}
    with pytest.raises(DataError, match=rf"column `timestamp`, row {row} .*received .*{text}.*time_unit.*bad_time"):
        prepare(DataConfig(**settings), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_setting_says_what_magnitude_cannot():
    steps = pa.chunked_array([[1000, 2000, 86_400_000]])  # milliseconds since the start of a session
    assert read_clock(steps).unit == "" and read_clock(steps).values.tolist() == [1000, 2000, 86_400_000]
    clock = read_clock(steps, "ms")
    assert clock.given and clock.values.tolist() == [10**6, 2 * 10**6, 86_400 * 10**6]
    assert moment_text(clock, clock.values[2]) == "1970-01-02 00:00:00"
    hours = read_clock(pa.chunked_array([[2023111509, 2023111624]]), "date")
    assert hours.bad.tolist() == [False, True] and moment_text(hours, hours.values[0]) == "2023-11-15 09:00:00"
    assert read_clock(pa.chunked_array([[2**62]]), "s").bad.tolist() == [False]
    assert read_clock(pa.chunked_array([[2**62]]), "ms").bad.tolist() == [True]  # beyond 64 bits of microseconds


def test_positions_have_no_unit():
    assert read_clock(pa.chunked_array([[1700000000000, 3]]), "").values.tolist() == [1700000000000, 3]


def test_bounds_in_the_terms_of_the_log():
    steps = read_clock(pa.chunked_array([[1, 7]]))
    assert read_bound("test_start", 5, steps, "timestamp", "f") == 5
    with pytest.raises(
        DataError, match=r"is a date \('2023-11-17'\) but .* no times since 1970 \(1 to 7\).*time_unit"
    ):
        read_bound("test_start", "2023-11-17", steps, "timestamp", "f")
    with pytest.raises(DataError, match="no whole number and no ISO date"):
        read_bound("test_start", "soon", steps, "timestamp", "f")
    milliseconds = read_clock(pa.chunked_array([[1000, 7000]]), "ms")
    assert read_bound("test_start", 5000, milliseconds, "timestamp", "f") == 5_000_000
    dates = read_clock(pa.chunked_array([[20231115]]), "date")
    with pytest.raises(DataError, match="`test_start` is not of the unit dates as numbers. Received: 20231399"):
        read_bound("test_start", 20231399, dates, "timestamp", "f")
