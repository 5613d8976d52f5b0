"""The table of types on entry: what each type becomes, and which are refused or left out."""

import datetime
import decimal
import uuid

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr4ad.data import DataConfig, DataError
from gr4ad.data.column_types import plain_column, with_plain_types
from gr4ad.data.reading import read_source

DAY = datetime.date(2024, 1, 31)
NOON = datetime.datetime(2024, 1, 31, 12, 0, 5)
ZONE = datetime.timezone(datetime.timedelta(hours=2))


def plain(values, kind=None, lists=False, moments=False):
    column = plain_column(pa.chunked_array([pa.array(values, kind)]), lists=lists, moments=moments)
    return None if column is None else (column.type, column.to_pylist())


@pytest.mark.parametrize(
    ("values", "kind", "becomes", "wanted"),
    [
        (["a", None], pa.string(), pa.string(), ["a", None]),
        (["a"], pa.large_string(), pa.large_string(), ["a"]),
        (["a"], pa.string_view(), pa.large_string(), ["a"]),
        ([1, None], pa.uint8(), pa.uint8(), [1, None]),
        ([0.5], pa.float16(), pa.float32(), [0.5]),
        ([True, None], pa.bool_(), pa.bool_(), [True, None]),
        ([None], pa.null(), pa.null(), [None]),
        ([decimal.Decimal("12.50"), None], pa.decimal128(10, 2), pa.float64(), [12.5, None]),
        ([decimal.Decimal(7)], pa.decimal128(10, 0), pa.int64(), [7]),
        ([decimal.Decimal(10**20 + 1)], pa.decimal128(30, 0), pa.string(), ["100000000000000000001"]),
        ([DAY, None], pa.date32(), pa.string(), ["2024-01-31", None]),
        ([DAY], pa.date64(), pa.string(), ["2024-01-31"]),
        ([NOON, None], pa.timestamp("ns"), pa.string(), ["2024-01-31T12:00:05", None]),
        ([NOON.replace(microsecond=250000)], pa.timestamp("us"), pa.string(), ["2024-01-31T12:00:05.250"]),
        ([NOON.replace(tzinfo=ZONE)], pa.timestamp("us", "+02:00"), pa.string(), ["2024-01-31T10:00:05Z"]),
        ([datetime.time(9, 30)], pa.time32("s"), pa.string(), ["09:30:00"]),
    ],
)
def test_what_a_type_becomes(values, kind, becomes, wanted):
    assert plain(values, kind) == (becomes, wanted)


def test_moments_of_a_clock_stay():
    assert plain([NOON], pa.timestamp("us"), moments=True) == (pa.timestamp("us"), [NOON])
    assert plain([DAY], pa.date32(), moments=True) == (pa.date32(), [DAY])


def test_dictionaries():
    text = pa.chunked_array([pa.array(["a", "b", "a"]).dictionary_encode()])
    assert plain_column(text, lists=False, moments=False) is text
    days = pa.chunked_array([pa.array([DAY, DAY]).dictionary_encode()])
    assert plain_column(days, lists=False, moments=False).to_pylist() == ["2024-01-31"] * 2


def test_uuids_are_text():
    value = uuid.uuid4()
    stored = pa.array([value.bytes, None], pa.binary(16))
    column = pa.chunked_array([pa.ExtensionArray.from_storage(pa.uuid(), stored)])
    assert plain_column(column, lists=False, moments=False).to_pylist() == [str(value), None]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([b"a"], pa.binary()),
        ([datetime.timedelta(1)], pa.duration("s")),
        ([{"a": 1}], pa.struct([("a", pa.int64())])),
        ([[("a", 1)]], pa.map_(pa.string(), pa.int64())),
        ([[["a"]]], pa.list_(pa.list_(pa.string()))),
        ([[DAY]], pa.list_(pa.date32())),
    ],
)
def test_types_that_are_not_allowed(values, kind):
    assert plain(values, kind, lists=True) is None


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string()), pa.list_(pa.string(), 2)])
def test_lists_are_for_catalogs(kind):
    assert plain([["a", "b"]], kind) is None
    assert plain([["a", "b"]], kind, lists=True) == (kind, [["a", "b"]])


def test_a_needed_column_is_refused_and_another_is_left_out():
    table = pa.table({"id": [b"a"], "payload": [{"x": 1}], "title": ["t"]})
    with pytest.raises(DataError, match="f: column `id` is of type binary. Allowed: text, numbers, .*lists of text"):
        with_plain_types(table, "f", "catalog", needed=["id"])
    kept, left_out = with_plain_types(table, "f", "catalog", needed=["title"])
    assert kept.column_names == ["title"] and left_out == {"id": "binary", "payload": "struct<x: int64>"}
    same, nothing = with_plain_types(kept, "f", "catalog", needed=["title"])
    assert same.equals(kept) and nothing == {}


def test_a_file_of_odd_types_is_read_and_said(tmp_path):
    table = pa.table(
        {
            "sku": pa.array([decimal.Decimal(7), decimal.Decimal(8)], pa.decimal128(18, 0)),
            "since": pa.array([DAY, None], pa.date32()),
            "price": pa.array([decimal.Decimal("9.90"), None], pa.decimal128(9, 2)),
            "extra": [{"a": 1}, {"a": 2}],
        }
    )
    pq.write_table(table, tmp_path / "catalog.parquet")
    raw = read_source(DataConfig(root=str(tmp_path), catalog_columns={"item_id": "sku"}), "catalog")
    assert raw.table.to_pylist() == [
        {"item_id": 7, "since": "2024-01-31", "price": 9.9},
        {"item_id": 8, "since": None, "price": None},
    ]
    assert raw.notes == ["left out columns of types that are not read here: `extra` (struct<a: int64>)"]
    assert raw.theirs == {"item_id": "sku"}
    events = pa.table({"user_id": [b"u"], "item_id": ["a"], "timestamp": [1]})
    pq.write_table(events, tmp_path / "events.parquet")
    with pytest.raises(DataError, match="events.parquet: column `user_id` is of type binary"):
        read_source(DataConfig(root=str(tmp_path)), "events")
