"""What users did elsewhere, joined to users and cut before what a row must not know: against a plain Python loop."""

import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tie_order import tie_hash

from gr4ad.data import DataConfig, DataError, prepare
from gr4ad.report.accounting_rows import accounting_rows
from gr4ad.tokenization.user_history import HISTORY_COLUMNS

EVENTS = {
    "user_id": ["u"] * 4 + ["v"] * 3,
    "item_id": list("abca") + list("cab"),
    "timestamp": [10, 20, 30, 40, 10, 20, 30],
    "event": ["click", "impression", "click", "click", "click", "click", "click"],
}
ELSEWHERE = {
    "user_id": ["u", "u", "u", "v", "w", "w"],
    "item_id": ["v1", "v2", "v3", "v1", "v9", "v9"],
    "timestamp": [5, 29, 30, 20, 1, 2],
}


def write(folder, events, elsewhere, suffix=".parquet", **config):
    pd.DataFrame({"item_id": list("abc")}).to_parquet(folder / "catalog.parquet")
    pd.DataFrame(events).to_parquet(folder / "events.parquet")
    frame = pd.DataFrame(elsewhere)
    if suffix == ".parquet":
        frame.to_parquet(folder / "seen.parquet")
    elif suffix == ".csv":
        frame.to_csv(folder / "seen.csv", index=False)
    else:
        frame.to_json(folder / "seen.jsonl", orient="records", lines=True)
    settings = {"root": str(folder), "cross_domain": f"seen{suffix}", **config}
    return prepare(DataConfig(**settings), folder / "out")


def entries(row):
    return list(zip(row["cross_domain"], row["cross_domain_times"], strict=True))


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_rows_hold_what_came_before_their_targets(tmp_path, suffix):
    data = write(tmp_path, EVENTS, ELSEWHERE, suffix)
    assert [entries(row) for row in data.train] == [[("v1", 5), ("v2", 29)], []]
    assert [entries(row) for row in data.validation] == [[("v1", 5), ("v2", 29)], []]
    assert [entries(row) for row in data.test] == [[("v1", 5), ("v2", 29), ("v3", 30)], [("v1", 20)]]
    assert [entries(row) for row in data.impressions] == [[("v1", 5)]]
    for table in (data.train, data.test, data.impressions):
        assert [name for name in table.column_names if name in HISTORY_COLUMNS] == list(HISTORY_COLUMNS)
        assert str(table.features["cross_domain_times"].feature.dtype) == "int64"
    assert data.user_features == []
    assert data.summary["cross_domain"] == {
        "entries": 4,
        "users": 2,
        "users_without": 0,
        "unmatched_users": 1,
        "unmatched_entries": 2,
        "sorted_rows": 0,
        "repeats": 0,
        "mean_train": 1.0,
        "mean_validation": 1.0,
        "mean_test": 2.0,
        "mean_impressions": 1.0,
    }


def test_without_the_input_there_are_no_columns(tmp_path):
    write(tmp_path, EVENTS, ELSEWHERE)
    data = prepare(DataConfig(root=str(tmp_path)), tmp_path / "out")
    assert "cross_domain" not in data.summary and "cross_domain" not in data.train.column_names


EVENT = st.tuples(
    st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(0, 7), st.sampled_from(["impression", "click"])
)
ENTRY = st.tuples(st.sampled_from("uvwx"), st.sampled_from(["p", "q"]), st.integers(0, 8))


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    events=st.lists(EVENT, min_size=12, max_size=40, unique=True),
    elsewhere=st.lists(ENTRY, min_size=1, max_size=20),
    split=st.sampled_from(["leave_one_out", "temporal"]),
)
def test_cuts_match_brute_force(tmp_path_factory, events, elsewhere, split):
    folder = tmp_path_factory.mktemp("log")
    columns = ["user_id", "item_id", "timestamp", "event"]
    bounds = {"validation_start": 3, "test_start": 5, "test_end": 7}
    try:
        data = write(
            folder,
            pd.DataFrame(events, columns=columns),
            pd.DataFrame(elsewhere, columns=["user_id", "item_id", "timestamp"]),
            split=split,
            drop=["unsorted_time"],
            **bounds,
        )
    except DataError as error:
        assume(False)
        raise AssertionError from error
    clicks = {u: sorted(time for user, _, time, event in events if user == u and event == "click") for u in "uvw"}

    def held_out(user):
        if split == "leave_one_out":
            return clicks[user][-2:]
        return [time for time in clicks[user] if 3 <= time < 7]

    def before(user, moment):
        rows = sorted((time, tie_hash(who, item), item) for who, item, time in set(elsewhere) if who == user)
        return [(item, time) for time, _, item in rows if time < moment]

    earliest = min(time for user in "uvw" for time in held_out(user))
    for row in data.train:
        user = row["user_id"]
        assert entries(row) == before(user, min(held_out(user), default=earliest))
    for name, later in (("validation", False), ("test", True)):
        for row in getattr(data, name):
            times = held_out(row["user_id"])
            moment = times[-1] if split == "leave_one_out" else min(t for t in times if (t >= 5) == later)
            if split == "leave_one_out" and not later:
                moment = times[0]
            assert entries(row) == before(row["user_id"], moment)
    for row in data.impressions or []:
        moments = {t for u, _, t, e in events if u == row["user_id"] and e == "impression"}
        fitting = [t for t in moments if [x for x in clicks[row["user_id"]] if x < t] == row["times"]]
        assert any(entries(row) == before(row["user_id"], moment) for moment in fitting)


@pytest.mark.parametrize("dated", ["events", "elsewhere", "both"])
def test_dates_and_seconds_are_one_clock(tmp_path, dated):
    def dates(table, wanted):
        return {**table, "timestamp": pd.to_datetime(table["timestamp"], unit="s")} if wanted else table

    data = write(tmp_path, dates(EVENTS, dated != "elsewhere"), dates(ELSEWHERE, dated != "events"))
    assert entries(data.test[0]) == [("v1", 5), ("v2", 29), ("v3", 30)]
    assert data.test[0]["times"] == [10, 30]
    warned = [text for text in data.summary["accounting"]["warnings"] if "are taken as one clock" in text]
    assert len(warned) == (dated != "both")
    first, last = ("5", "30") if dated == "elsewhere" else ("1970-01-01 00:00:05", "1970-01-01 00:00:30")
    told = data.summary["accounting"]["time_unit"]["cross_domain"]
    assert (told["first"], told["last"]) == (first, last)
    assert told["known_by"] == ("magnitude" if dated == "events" else "type")
    assert dated == "both" or f"`cross_domain` holds {first} to {last}" in warned[0]


def test_columns_are_mapped(tmp_path):
    elsewhere = {"viewer": ELSEWHERE["user_id"], "video": ELSEWHERE["item_id"], "at": ELSEWHERE["timestamp"]}
    columns = {"user_id": "viewer", "item_id": "video", "timestamp": "at"}
    data = write(tmp_path, EVENTS, elsewhere, cross_domain_columns=columns)
    assert data.summary["cross_domain"]["users"] == 2
    with pytest.raises(DataError, match="`cross_domain_columns` has an unknown name 'event'"):
        DataConfig(cross_domain="x.csv", cross_domain_columns={"event": "kind"})
    with pytest.raises(DataError, match="`cross_domain_columns` names columns of no file"):
        DataConfig(cross_domain_columns={"user_id": "viewer"})


@pytest.mark.parametrize(
    ("reason", "column", "row", "value"),
    [
        ("missing", "user_id", 1, None),
        ("missing", "item_id", 1, " "),
        ("missing", "timestamp", 1, None),
        ("bad_time", "timestamp", 1, 2.5),
        ("unsorted_time", "timestamp", 2, 1),
    ],
)
def test_a_bad_row_raises_or_is_dropped(tmp_path, reason, column, row, value):
    cells = list(ELSEWHERE[column])
    cells[row] = value
    elsewhere = {**ELSEWHERE, column: cells}
    with pytest.raises(DataError, match=rf"seen.parquet: column `{column}`, row {row} .*drop: \[{reason}\]"):
        write(tmp_path, EVENTS, elsewhere)
    summary = write(tmp_path, EVENTS, elsewhere, drop=[reason]).summary
    if reason == "unsorted_time":
        assert summary["cross_domain"]["sorted_rows"] == 1 and summary["dropped"] == {}
    else:
        assert summary["dropped"] == {reason: 1} and summary["cross_domain"]["entries"] == 3


def test_inputs_that_tell_nothing_are_refused(tmp_path):
    strangers = {**ELSEWHERE, "user_id": ["x"] * 6, "timestamp": range(6)}
    with pytest.raises(DataError, match="none of its users stands in the event log. Received e.g. 'x', .*'u'"):
        write(tmp_path, EVENTS, strangers)
    with pytest.raises(DataError, match="no training history has an entry before its end. .*20000 to 30000"):
        write(tmp_path, EVENTS, {**ELSEWHERE, "timestamp": [20_000, 29_000, 30_000, 20_000, 1, 2]})
    positions = {("position" if name == "timestamp" else name): cells for name, cells in EVENTS.items()}
    with pytest.raises(DataError, match="the events have no `timestamp`"):
        write(tmp_path, positions, ELSEWHERE)
    with pytest.raises(DataError, match="no column `timestamp`"):
        write(tmp_path, EVENTS, {"user_id": ["u"], "item_id": ["x"]})
    dated = {**EVENTS, "timestamp": pd.to_datetime(EVENTS["timestamp"], unit="s")}
    far = {**ELSEWHERE, "timestamp": [5, 29, 30, 20, 1, 2**53 + 1]}
    with pytest.raises(DataError, match=r"row 5 .*received 9007199254740993, allowed: numbers of one unit"):
        write(tmp_path, dated, far)
    with pytest.raises(DataError, match=r"row 5 .*received 9007199254740993, allowed: seconds"):
        write(tmp_path, dated, far, time_unit="s")


def test_exact_repeats_are_left_out_and_counted_as_those_of_the_log_are(tmp_path):
    """A table that was written twice doubled what users did elsewhere."""
    once = {**ELSEWHERE, "page": list("xyzxyz")}
    twice = pd.concat([pd.DataFrame(once)] * 2)
    first, again = (write(tmp_path, EVENTS, table) for table in (once, twice))
    assert [entries(row) for row in again.test] == [entries(row) for row in first.test]
    assert again.summary["cross_domain"] == {
        **first.summary["cross_domain"], "repeats": 6,
    }  # fmt: skip
    told = again.summary["accounting"]["files"][-1]
    assert told["rows"] == 12 and told["kept"] == 6 and told["repeats"] == 6
    assert "6 equal to another row" in dict(accounting_rows(again.summary))["Cross domain"]
    other = pd.concat([pd.DataFrame(once), pd.DataFrame({**once, "page": list("uuuuuu")})])  # another page: no repeat
    assert [len(row["cross_domain"]) for row in write(tmp_path, EVENTS, other, drop=["unsorted_time"]).test] == [6, 2]
