"""The splits against a plain Python version, on small random logs."""

from collections import defaultdict

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tie_order import tie_hash

from gr4ad.data import DataConfig, DataError, prepare

ITEMS = ["a", "b", "c", "d", "e"]
EVENT = st.tuples(
    st.sampled_from(["u", "v", "w"]),
    st.sampled_from(ITEMS),
    st.integers(0, 7),
    st.sampled_from(["impression", "click", "click", "conversion"]),
    st.integers(0, 4),
)


def responses(log, shown, by_request):
    """Clicks and conversions that came of an impression."""
    same = [row for row in log if row["item_id"] == shown["item_id"]]
    if by_request:
        return [row for row in same if row["event"] != "impression" and row["request_id"] == shown["request_id"]]
    start = shown["timestamp"]
    end = min((r["timestamp"] for r in same if r["event"] == "impression" and r["timestamp"] > start), default=99)
    return [row for row in same if row["event"] != "impression" and start <= row["timestamp"] < end]


def furthest(rows):
    events = {row["event"] for row in rows}
    return next((event for event in ("conversion", "click") if event in events), "impression")


def history_of(rows):
    return {
        "items": [row["item_id"] for row in rows],
        "events": [row["event"] for row in rows],
        "values": [float(row["value"]) for row in rows],
        "times": [row["timestamp"] for row in rows],
    }


def place_in_time(numbered, history_events):
    """Of a row and its number in the file: what is shown stands from the top, all else by a hash."""
    number, row = numbered
    kind = ["impression", "click", "conversion"].index(row["event"])
    if kind == 0 and "impression" not in history_events:
        return row["timestamp"], 0, number
    return row["timestamp"], 1, tie_hash(row["user_id"], row["item_id"]), kind, row["value"]


def brute(rows, split, history_events, minimum, bounds, by_request):
    """(train, validation, test, impressions) as lists of dicts, straight from the definitions."""
    logs = defaultdict(list)
    for _, row in sorted(enumerate(rows), key=lambda numbered: place_in_time(numbered, history_events)):
        logs[row["user_id"]].append(row)
    first_seen = list(dict.fromkeys(row["user_id"] for row in rows))
    train, validation, test, impressions = [], [], [], []
    for user in first_seen:
        past = [row for row in logs[user] if row["event"] in history_events]
        if split == "leave_one_out":
            parts = past[:-2], past[-2:-1] if len(past) > 1 else [], past[-1:]
            counted = len(past)
        else:
            start, cut, end = bounds
            parts = (
                [row for row in past if row["timestamp"] < start],
                [row for row in past if start <= row["timestamp"] < cut],
                [row for row in past if cut <= row["timestamp"] < end],
            )
            counted = len(parts[0])
        if not past or counted < minimum:
            continue
        for into, history, held_out in (
            (train, parts[0], None),
            (validation, parts[0], parts[1]),
            (test, parts[0] + parts[1], parts[2]),
        ):
            if not history or held_out == []:
                continue
            entry = {"user_id": user, **history_of(history)}
            if held_out is not None:
                sums = defaultdict(float)
                for row in held_out:
                    sums[row["item_id"]] += row["value"]
                entry |= {"target_items": list(sums), "target_values": list(sums.values())}
            into.append(entry)
        limit = (parts[1] + parts[2])[0]["timestamp"] if split == "leave_one_out" else bounds[0]
        lists = defaultdict(list)
        for row in logs[user]:
            if row["event"] == "impression" and row["timestamp"] < limit:
                lists[row["request_id"] if by_request else row["timestamp"]].append(row)
        for shown in lists.values():
            before = history_of([row for row in past if row["timestamp"] < shown[0]["timestamp"]])
            if before["items"]:
                came = [responses(logs[user], row, by_request) for row in shown]
                known = all(row["timestamp"] < limit for part in came for row in part)
                impressions.append(
                    {
                        "user_id": user,
                        **before,
                        "candidates": [row["item_id"] for row in shown],
                        "rewards": [float(row["value"]) for row in shown],
                        "outcomes": [furthest(part) for part in came] if known else None,
                    }
                )
    return train, validation, test, impressions


def unordered(rows):
    return sorted(map(repr, rows))


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=st.lists(EVENT, min_size=12, max_size=40, unique=True),
    split=st.sampled_from(["leave_one_out", "temporal"]),
    history_events=st.sampled_from([["click", "conversion"], ["conversion"], ["impression", "click"]]),
    minimum=st.integers(0, 3),
    bounds=st.tuples(st.integers(2, 4), st.integers(1, 2), st.integers(1, 3)),
    by_request=st.booleans(),
)
def test_splits_match_brute_force(tmp_path_factory, events, split, history_events, minimum, bounds, by_request):
    folder = tmp_path_factory.mktemp("log")
    start, middle, end = bounds[0], bounds[0] + bounds[1], sum(bounds)
    frame = pd.DataFrame(events, columns=["user_id", "item_id", "timestamp", "event", "value"])
    if by_request:
        frame["request_id"] = "r" + (frame["value"] % 2).astype(str) + (frame["timestamp"] // 3).astype(str)
    frame.to_parquet(folder / "events.parquet")
    pd.DataFrame({"item_id": ITEMS}).to_parquet(folder / "catalog.parquet")
    expected = brute(frame.to_dict("records"), split, history_events, minimum, (start, middle, end), by_request)
    config = DataConfig(
        root=str(folder),
        split=split,
        validation_start=start,
        test_start=middle,
        test_end=end,
        history_events=history_events,
        min_user_events=minimum,
        merge_seconds=0,
        drop=["unsorted_time"],
    )
    if not all(expected[:3]):
        with pytest.raises(DataError, match="empty"):
            prepare(config, folder / "out")
        return
    data = prepare(config, folder / "out")
    for got, wanted in zip((data.train, data.validation, data.test), expected, strict=False):
        assert unordered(got.to_list()) == unordered(wanted)
    if data.impressions is None:
        assert not (frame["event"] == "impression").any()
    else:
        assert unordered(data.impressions.to_list()) == unordered(expected[3])


def write(folder, events, **config):
    pd.DataFrame({"item_id": ITEMS}).to_parquet(folder / "catalog.parquet")
    pd.DataFrame(events).to_parquet(folder / "events.parquet")
    return prepare(DataConfig(root=str(folder), **config), folder / "out")


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]])
def test_rows_of_one_time_are_in_the_order_of_a_hash_of_the_ids(tmp_path, order):
    events = {"user_id": ["u"] * 4, "item_id": ["dbca"[place] for place in order], "timestamp": [5, 5, 5, 5]}
    data = write(tmp_path, events)
    wanted = sorted("abcd", key=lambda item: tie_hash("u", item))
    assert data.test[0]["items"] == wanted[:3] and data.test[0]["target_items"] == wanted[3:]
    assert data.test[0]["values"] == [1.0, 1.0, 1.0] and data.test[0]["target_values"] == [1.0]


def test_targets_are_distinct_in_order_of_first_occurrence_with_values_summed(tmp_path):
    events = {
        "user_id": ["v"] * 3 + ["u"] * 7,
        "item_id": list("abe") + list("abdcdbd"),
        "timestamp": [1, 2, 3] + [1, 2, 3, 3, 3, 3, 3],
        "value": [1, 1, 8, 1, 1, 1, 2, 4, 8, 16],
    }
    data = write(tmp_path, events, split="temporal", validation_start=2, test_start=3)
    wanted = sorted("bcd", key=lambda item: tie_hash("u", item))
    assert data.test["target_items"][:] == [["e"], wanted]
    assert data.test["target_values"][:] == [[8.0], [{"b": 8.0, "c": 2.0, "d": 21.0}[item] for item in wanted]]


DATES = ["2017-01-01T00:00:00", "2017-01-02T12:00:00", "2017-01-03T00:00:00.250", "2017-01-05T00:00:00"]


@pytest.mark.parametrize("kind", ["datetime", "utc", "text", "seconds"])
@pytest.mark.parametrize(
    "validation_start, test_start", [("2017-01-03", "2017-01-04T00:00:00Z"), (1483401600, "1483488000")]
)
def test_dates_and_their_bounds(tmp_path, kind, validation_start, test_start):
    moments = pd.to_datetime(pd.Series(DATES), format="ISO8601")
    stamps = {
        "datetime": moments,
        "utc": moments.dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"),
        "text": DATES,
        "seconds": [int(moment.timestamp()) for moment in moments],
    }[kind]
    data = write(
        tmp_path,
        {"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": stamps},
        split="temporal",
        validation_start=validation_start,
        test_start=test_start,
    )
    assert data.train[0]["items"] == ["a", "b"]
    assert data.train[0]["times"] == [1483228800, 1483228800 + 36 * 3600]
    assert data.validation[0]["target_items"] == ["c"]
    assert data.test[0]["target_items"] == ["d"] and data.test[0]["times"][2] == 1483401600


def test_split_column_that_is_also_the_mapped_time(tmp_path):
    data = write(
        tmp_path,
        {"user_id": ["u"] * 3, "item_id": list("abc"), "week": [1, 2, 3]},
        event_columns={"timestamp": "week"},
        split="temporal",
        split_column="week",
        validation_start=2,
        test_start=3,
    )
    assert data.test[0]["target_items"] == ["c"]
