import datetime
import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr4ad.data import DROP_REASONS, DataConfig, DataError, prepare

CATALOG = {"item_id": ["a", "b", "c"], "title": ["A", "B", "C"]}
EVENTS = {
    "user_id": ["u", "u", "u", "v", "v", "v"],
    "item_id": ["a", "b", "c", "c", "b", "a"],
    "timestamp": [1, 2, 3, 1, 2, 3],
    "event": ["click", "conversion", "click", "click", "click", "conversion"],
    "value": [0.5, 1, 2, 0, 1, 3],
}


def write(folder, name, columns, suffix):
    frame = pd.DataFrame(columns)
    path = folder / f"{name}{suffix}"
    if suffix == ".parquet":
        frame.to_parquet(path)
    elif suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        path.write_text(
            "".join(
                json.dumps(row) + "\n" for row in frame.astype(object).where(frame.notna(), None).to_dict("records")
            )
        )
    return path.name


def run(folder, events=EVENTS, catalog=CATALOG, users=None, suffix=".csv", **settings):
    config = DataConfig(
        root=str(folder),
        catalog=write(folder, "catalog", catalog, suffix),
        events=write(folder, "events", events, suffix),
        users=None if users is None else write(folder, "users", users, suffix),
        **({} if users is None else {"user_features": [name for name in users if name != "user_id"]}),
        **settings,
    )
    return prepare(config, folder / "out")


def changed(column, row, value):
    """The good events, with one cell replaced."""
    cells = list(EVENTS[column])
    cells[row] = value
    return EVENTS | {column: cells}


def refused(folder, **arguments):
    shutil.rmtree(folder / "out", ignore_errors=True)
    with pytest.raises(DataError) as caught:
        run(folder, **arguments)
    text = str(caught.value)
    assert "\n" not in text
    assert not (folder / "out").exists()
    return text


BAD_CELLS = [
    ("missing", "user_id", 3, None),
    ("missing", "user_id", 3, "  "),
    ("missing", "item_id", 0, None),
    ("missing", "timestamp", 2, None),
    ("missing", "event", 5, None),
    ("unknown_item", "item_id", 4, "nosuch"),
    ("bad_value", "value", 1, "abc"),
    ("bad_value", "value", 1, -0.01),
    ("bad_value", "value", 1, float("inf")),
    ("bad_value", "value", 1, 1e39),  # infinite as float32, which prepared rows hold
    ("bad_time", "timestamp", 5, "soon"),
    ("bad_time", "timestamp", 5, 3.5),
    ("unknown_event", "event", 2, "purchase"),
]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("reason, column, row, value", BAD_CELLS)
def test_bad_cell_raises_or_is_dropped(tmp_path, suffix, reason, column, row, value):
    events = changed(column, row, value)
    typed = len({type(cell) for cell in events[column]} - {type(None)} - {int, float}) > 0
    if typed and column in ("value", "timestamp"):
        # Typed formats cannot hold numbers and text in one column: all of it becomes text.
        events[column] = [None if cell is None else str(cell) for cell in events[column]]
    if suffix == ".jsonl" and isinstance(value, float) and np.isinf(value):
        return
    text = refused(tmp_path, events=events, suffix=suffix)
    assert f"events{suffix}: column `{column}`, row {row} (0-based): received" in text
    assert f"drop: [{reason}]" in text
    if value is not None:
        assert str(value) in text
    data = run(tmp_path, events=events, suffix=suffix, drop=[reason])
    assert data.summary["dropped"] == {reason: 1}
    assert data.summary["events"] == 5


def test_nan_value_in_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    write(tmp_path, "catalog", CATALOG, ".parquet")
    table = pa.table(changed("value", 1, float("nan")))
    assert table["value"].null_count == 0
    pq.write_table(table, tmp_path / "events.parquet")
    data = prepare(DataConfig(root=str(tmp_path)), tmp_path / "out")
    assert data.test["values"][0] == [0.5, 0.0]  # a conversion without a value is worth nothing
    assert data.summary["accounting"]["blank_values"] == {"conversion": 1}
    assert "1 conversion rows have no value and are worth 0 count." in data.summary["accounting"]["warnings"]


def test_the_first_of_many_rows_is_named_and_all_are_counted(tmp_path):
    events = EVENTS | {"value": [0.5, -1, 2, -2, 1, -3]}
    text = refused(tmp_path, events=events)
    assert "row 1 (0-based): received '-1.0', allowed: a finite number >= 0; for refunds say `refunds:" in text
    assert "(3 such rows)" in text


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_duplicate_and_missing_items(tmp_path, suffix):
    catalog = {"item_id": ["a", "b", "a", "c"], "title": ["A", "B", "A2", "C"]}
    text = refused(tmp_path, catalog=catalog, suffix=suffix)
    assert f"catalog{suffix}: column `item_id`, row 2 (0-based): received 'a'" in text
    data = run(tmp_path, catalog=catalog, suffix=suffix, drop=["duplicate_item"])
    assert data.catalog["title"][:] == ["A", "B", "C"]
    assert data.summary["dropped"] == {"duplicate_item": 1}
    catalog = {"item_id": ["a", None, None, "b", "c"], "title": list("abcde")}
    assert "row 1 (0-based): received None" in refused(tmp_path, catalog=catalog, suffix=suffix)
    assert run(tmp_path, catalog=catalog, suffix=suffix, drop=["missing"]).summary["dropped"] == {"missing": 2}


def test_duplicate_user(tmp_path):
    users = {"user_id": ["u", "v", "u"], "age": [1, 2, 3]}
    assert "users.csv: column `user_id`, row 2 (0-based): received 'u'" in refused(tmp_path, users=users)
    data = run(tmp_path, users=users, drop=["duplicate_user"])
    assert data.train["age"][:] == ["1", "2"]


def test_unsorted_time_is_an_error_unless_allowed(tmp_path):
    events = EVENTS | {"timestamp": [1, 3, 2, 1, 2, 3]}
    text = refused(tmp_path, events=events)
    assert "column `timestamp`, row 2 (0-based): received '2'" in text and "'3' in row 1" in text
    data = run(tmp_path, events=events, drop=["unsorted_time"])
    assert data.summary["sorted_rows"] == 1 and data.summary["dropped"] == {}
    assert data.test[0]["items"] == ["a", "c"] and data.test[0]["target_items"] == ["b"]


def test_users_may_be_interleaved(tmp_path):
    order = [0, 3, 1, 4, 2, 5]
    events = {name: [cells[row] for row in order] for name, cells in EVENTS.items()}
    assert run(tmp_path, events=events).test[1]["items"] == ["c", "b"]


def test_duplicate_position(tmp_path):
    events = {name: cells for name, cells in EVENTS.items() if name != "timestamp"} | {"position": [0, 1, 1, 0, 1, 2]}
    assert "column `position`, row 2 (0-based): received '1'" in refused(tmp_path, events=events)
    assert run(tmp_path, events=events, drop=["duplicate_position"]).summary["dropped"] == {"duplicate_position": 1}
    events["event"] = ["click", "impression", "click", "click", "click", "click"]
    assert run(tmp_path, events=events).summary["dropped"] == {}


def test_no_time_column(tmp_path):
    events = {name: cells for name, cells in EVENTS.items() if name != "timestamp"}
    text = refused(tmp_path, events=events)
    assert "no column `timestamp` or `position`. Columns there are: user_id, item_id, event, value" in text


def test_a_moment_that_python_has_no_date_for(tmp_path):
    write(tmp_path, "catalog", CATALOG, ".parquet")
    users, items = (pa.array(EVENTS[name]) for name in ("user_id", "item_id"))
    times = pa.array([2**62, 2, 3, 4, 5, 6], pa.timestamp("us"))
    pq.write_table(pa.table({"user_id": users, "item_id": items, "timestamp": times}), tmp_path / "events.parquet")
    with pytest.raises(
        DataError, match=r"row 1 .*not before the user's previous row \(4611686018427387904 in row 0\)"
    ):
        prepare(DataConfig(root=str(tmp_path)), tmp_path / "out")


def test_nothing_left_no_history_and_empty_split(tmp_path):
    strangers = refused(tmp_path, events=EVENTS | {"item_id": ["x"] * 6}, drop=["unknown_item"])
    assert "none of its 6 rows is of an item of the catalog. Received e.g. 'x', the catalog has e.g. 'a'" in strangers
    assert "no rows left (6 missing)" in refused(tmp_path, events=EVENTS | {"user_id": [None] * 6}, drop=["missing"])
    assert "every history is empty" in refused(tmp_path, events=EVENTS | {"event": ["impression"] * 6})
    short = {name: cells[:2] for name, cells in EVENTS.items()}
    assert "the train split is empty" in refused(tmp_path, events=short)
    temporal = {"split": "temporal", "validation_start": 2}
    assert "the test split is empty" in refused(tmp_path, **temporal, test_start=5, test_end=9)
    assert "bounds should rise" in refused(tmp_path, **temporal, test_start=2, test_end=9)
    assert "no column `week`" in refused(tmp_path, **temporal, test_start=3, split_column="week")
    week = EVENTS | {"week": EVENTS["timestamp"]}
    assert "is a date" in refused(tmp_path, events=week, **temporal, test_start="2020-01-01", split_column="week")
    assert "no ISO date" in refused(tmp_path, **temporal, test_start="soon")
    assert "Received: 2.5" in refused(tmp_path, **temporal, test_start=2.5)


def test_split_column_must_not_go_back(tmp_path):
    events = EVENTS | {"week": [1, 3, 2, 1, 2, 3]}
    text = refused(tmp_path, events=events, split="temporal", split_column="week", validation_start=2, test_start=3)
    assert "column `week`, row 2 (0-based): goes back although `timestamp` goes on" in text


def test_ids_of_another_type_than_the_catalog(tmp_path):
    catalog = {"item_id": [1, 2, 3]}
    pd.DataFrame(catalog).to_parquet(tmp_path / "catalog.parquet")
    pd.DataFrame(EVENTS | {"item_id": [1.0, 2.0, 3.0, 3.0, 2.0, None]}).to_parquet(tmp_path / "events.parquet")
    data = prepare(DataConfig(root=str(tmp_path), drop=["missing"]), tmp_path / "out")
    assert data.test[0]["items"] == ["1", "2"]
    events = pd.DataFrame(EVENTS | {"item_id": [1, 2, 3, 3, 2, 1]})
    events.astype({"user_id": "category", "event": "category"}).to_parquet(tmp_path / "events.parquet")
    assert prepare(DataConfig(root=str(tmp_path)), tmp_path / "out").test["user_id"][:] == ["u", "v"]
    pd.DataFrame(EVENTS | {"item_id": [1.5] * 6}).to_parquet(tmp_path / "events.parquet")
    with pytest.raises(DataError, match=r"column `item_id` has fractions, row 0 .0-based.: received 1.5 .6 such rows"):
        prepare(DataConfig(root=str(tmp_path)), tmp_path / "out")
    pd.DataFrame(EVENTS | {"item_id": [True] * 6}).to_parquet(tmp_path / "events.parquet")
    with pytest.raises(DataError, match="is of type bool"):
        prepare(DataConfig(root=str(tmp_path)), tmp_path / "out")


@pytest.mark.parametrize(
    "settings, text",
    [
        ({"drop": ["everything"]}, "`drop` has an unknown name 'everything'"),
        ({"history_events": ["view"]}, "`history_events` has an unknown name 'view'"),
        ({"history_events": []}, "at least one"),
        ({"split": "random"}, "`split` should be"),
        ({"split": "temporal"}, "needs `validation_start` and `test_start`"),
        ({"min_user_events": -1}, "`min_user_events` should be >= 0"),
        ({"event_columns": {"spend": "sales"}}, "`event_columns` has an unknown name 'spend'"),
        ({"event_columns": "value: sales"}, "should be JSON"),
        ({"catalog_columns": {"item_id": 3}}, "should map names to names"),
    ],
)
def test_settings_are_checked(settings, text):
    with pytest.raises(DataError, match=text):
        DataConfig(**settings)


def test_config_from_yaml_and_flags(tmp_path):
    from trl import TrlParser

    (tmp_path / "r.yaml").write_text(
        "events: log.csv\nevent_columns: {value: paid}\nsplit: temporal\nvalidation_start: 2017-11-05\ntest_start: 9\n"
        "drop: [unknown_item]\n"
    )
    parser = TrlParser((DataConfig,))
    arguments = ["--config", str(tmp_path / "r.yaml"), "--catalog_columns", '{"item_id": "sku"}', "--test_start", "12"]
    (config,) = parser.parse_args_and_config(arguments)
    assert config.columns_of("events") == {"value": "paid"}
    assert config.columns_of("catalog") == {"item_id": "sku"}
    assert config.validation_start == datetime.date(2017, 11, 5).isoformat()
    assert config.test_start == "12" and config.drop == ["unknown_item"]


def test_every_reason_is_tested():
    tested = {case[0] for case in BAD_CELLS} | {
        "duplicate_item",
        "duplicate_user",
        "duplicate_position",
        "unsorted_time",
    }
    assert tested == set(DROP_REASONS)
