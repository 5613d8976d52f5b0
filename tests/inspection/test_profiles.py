import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from gr4ad.inspection.profiles import Column

MOMENTS = pd.to_datetime(["2024-03-01 10:00:00", "2024-05-07 23:59:59", "2025-01-01 00:00:01"])
SECONDS = MOMENTS.as_unit("s").astype("int64").to_numpy()


def column(values, name="when"):
    return Column(name, pa.chunked_array([pa.array(values)]))


@pytest.mark.parametrize(
    ("values", "unit", "exact"),
    [
        (SECONDS, "s", True),
        (SECONDS * 1000, "ms", True),
        ([str(value) for value in SECONDS * 1000], "ms", True),
        (SECONDS * 10**6, "us", True),
        (SECONDS * 10**9, "ns", True),
        ([int(moment.strftime("%Y%m%d%H%M%S")) for moment in MOMENTS], "date", True),
        ([int(moment.strftime("%Y%m%d")) for moment in MOMENTS], "date", False),
        ([moment.isoformat() for moment in MOMENTS], "iso", True),
        ([f"{moment} UTC" for moment in MOMENTS], "iso", True),
        ([moment.strftime("%d.%m.%Y %H:%M:%S") for moment in MOMENTS], "unreadable", True),
        (MOMENTS.to_numpy(), "iso", True),
    ],
)
def test_times_of_any_unit(values, unit, exact):
    times = column(values)
    assert times.time_unit == unit
    expected = SECONDS if exact else SECONDS // 86400 * 86400
    np.testing.assert_allclose(times.seconds, expected)


@pytest.mark.parametrize("values", [[1, 2, 3], ["a", "b"], [1.5, 2.5], [0, 52], ["12", "7"], [[1], [2]]])
def test_other_numbers_and_texts_are_no_times(values):
    assert column(values).time_unit is None


def test_ids_that_look_like_times_are_ids():
    baskets = column([31317046240, 1_400_000_000, 1_500_000_000], "basket_id")
    assert baskets.time_unit is None and baskets.is_id


def test_shares_of_units_tell_a_mixture():
    assert column([*SECONDS, *(SECONDS * 1000)]).unit_shares == {"s": 0.5, "ms": 0.5}


def test_blank_and_missing_cells():
    texts = column(["a", " ", None, "b", "a"])
    assert texts.blank.tolist() == [False, True, True, False, False]
    assert texts.filled == 3 and texts.distinct == 2 and not texts.is_key
    numbers = column(["1.5", "x", "", None, "2"])
    np.testing.assert_array_equal(numbers.numbers, [1.5, np.nan, np.nan, np.nan, 2.0])
    assert numbers.number_share == 2 / 3 and not numbers.is_number


def test_ids_of_a_typed_file_that_gaps_made_floating():
    assert column([12000.0, None, 12001.0]).text.to_pylist() == ["12000", None, "12001"]


def test_words_keys_and_decimal_commas():
    titles = column(["red lamp", "oak chair", "tall vase"], "title")
    assert titles.has_words and titles.has_spaces and titles.is_key
    assert not column(["0001", "0002"], "sku").has_words
    assert column(["12,50", "1.200,00", "3,99"], "Umsatz").has_decimal_commas
    assert not column(["12.50", "3.99"], "Umsatz").has_decimal_commas
