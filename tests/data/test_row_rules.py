"""What the rows of a log mean: ties, repeats, merges, refunds, blanks and names; each fault with its right value."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_logs import ITEMS, T, accounting, tables, write

from gr4ad.data import DataConfig, DataError

# --- the file's order
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def visits():
    """300 users, 3 visits of 4 items drawn at random: nothing can be predicted. All rows of a visit have one time."""
    draw, rows = np.random.default_rng(0), []
    for user in range(300):
        for visit in range(3):
            rows += [(f"u{user:03d}", f"p{i:03d}", T + 86400 * visit) for i in draw.choice(200, 4, replace=False)]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return frame, {"item_id": [f"p{k:03d}" for k in range(200)]}


def test_the_order_of_the_file_means_nothing(tmp_path, visits):
    """In item order, the last item of a visit was its greatest: NDCG@10 .0727 instead of .0249 for nothing."""
    frame, catalog = visits
    by_item = frame.sort_values(["user_id", "timestamp", "item_id"])
    shuffled = frame.sample(frac=1, random_state=1).sort_values(["user_id", "timestamp"], kind="stable")
    first, second = (write(tmp_path, rows, catalog) for rows in (by_item, shuffled))
    assert tables(first) == tables(second)
    greatest = [row["target_items"][0] == max([*row["items"][-3:], *row["target_items"]]) for row in first.test]
    assert 0.17 < np.mean(greatest) < 0.33  # of four
    assert accounting(first)["ties"] == {"rows": 3600, "share": 1.0}
    assert "100% of the events share their moment with another of the same user" in accounting(first)["warnings"][0]


def test_no_item_comes_first_for_all_users(tmp_path, visits):
    frame, catalog = visits
    rows = write(tmp_path, frame, catalog).test
    targets = pd.Series([row["target_items"][0] for row in rows]).value_counts()
    assert len(targets) > 120 and targets.max() < 12  # 300 draws of 200


def test_a_list_stands_as_it_was_shown(tmp_path):
    """The place of an ad in a list says how likely it was seen; the order of its rows is the only sign of it."""
    events = {
        "user_id": ["u"] * 7,
        "item_id": ["a", "d", "b", "c", "b", "e", "f"],
        "timestamp": [T, *[T + 9] * 4, T + 20, T + 30],
        "event": ["click", *["impression"] * 3, "click", "click", "click"],
    }
    data = write(tmp_path, events)
    assert data.impressions["candidates"][:] == [["d", "b", "c"]] and data.test["items"][0] == ["a", "b", "e"]
    again = {name: [cells[place] for place in (0, 3, 2, 1, 3, 4, 5, 6)] for name, cells in events.items()}
    data = write(tmp_path, again)
    assert data.impressions["candidates"][:] == [["c", "b", "d"]] and accounting(data)["repeats"] == 1


def test_few_ties_are_counted_without_a_warning(tmp_path):
    events = {"user_id": ["u"] * 21, "item_id": ["a", "b", "c"] * 7, "timestamp": [T, *range(T, T + 20)]}
    found = accounting(write(tmp_path, events))
    assert found["ties"]["rows"] == 2 and not any("moment" in text for text in found["warnings"])


ROW = st.tuples(
    st.sampled_from("uvw"),
    st.sampled_from("abc"),
    st.integers(0, 4),
    st.sampled_from(["click", "conversion", "impression"]),
    st.integers(0, 2),
    st.sampled_from("xy"),
)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(ROW, min_size=8, max_size=40), seed=st.integers(0, 9), merge=st.sampled_from([0, 2]))
def test_any_order_and_any_number_of_copies_give_the_same_rows(tmp_path_factory, rows, seed, merge):
    """Users keep the order in which the file names them; all else is the same rows, and the account adds up."""
    folder = tmp_path_factory.mktemp("log")
    columns = ["user_id", "item_id", "timestamp", "event", "value", "store"]
    frame = pd.DataFrame([(u, "abc"[0], -1, "click", 0, "x") for u in "uvw"] + rows, columns=columns)
    copies = pd.concat([frame, frame.sample(frac=0.5, random_state=seed)]).sample(frac=1, random_state=seed)
    copies = pd.concat([frame[:3], copies])
    settings = {"merge_seconds": merge, "drop": ["unsorted_time"]}
    try:
        plain = write(folder, frame, **settings)
    except DataError:
        return
    twice = write(folder, copies, **settings)
    assert tables(plain) == tables(twice)
    for data, raw in ((plain, frame), (twice, copies)):
        found = accounting(data)
        assert found["repeats"] == int(raw.duplicated().sum())
        assert found["rows_in"] == len(raw) == found["kept"] + found["repeats"] + found["merged"]


# --- logs that say a thing twice
# ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clicks():
    draw = np.random.default_rng(0)
    items = [int(item) for _ in range(40) for item in draw.permutation(6)]
    users = np.repeat([f"u{n}" for n in range(40)], 6)
    return pd.DataFrame(
        {"user_id": users, "item_id": [ITEMS[n] for n in items], "timestamp": T + 4000 * np.tile(range(6), 40)}
    )


def test_a_log_written_twice_is_read_once(tmp_path, clicks):
    """Every row twice made each target the item before it: NDCG@10 .909."""
    once = write(tmp_path, clicks)
    for twice in (pd.concat([clicks, clicks]), clicks.loc[clicks.index.repeat(2)]):
        data = write(tmp_path, twice)
        assert tables(data) == tables(once)
        assert accounting(data)["repeats"] == len(clicks) and accounting(data)["kept"] == len(clicks)
        assert accounting(data)["repeated_targets"] == {"train": 0.0, "validation": 0.0, "test": 0.0}
        assert "50% of the rows repeat another in every column" in accounting(data)["warnings"][0]
    differ = pd.concat([clicks.assign(store=1), clicks.assign(store=2)])
    assert accounting(write(tmp_path, differ, drop=["unsorted_time"]))["repeats"] == 0  # two rows that say two things


def test_rows_of_a_position_may_be_written_twice(tmp_path):
    events = pd.DataFrame({"user_id": ["u"] * 4, "item_id": list("abca"), "position": range(4)})
    data = write(tmp_path, pd.concat([events, events]))
    assert accounting(data)["repeats"] == 4 and data.test["items"][0] == ["a", "b", "c"]


def with_conversions(clicks, delay):
    bought = clicks.assign(timestamp=clicks["timestamp"] + delay, event="conversion")
    return pd.concat([clicks.assign(event="click"), bought]).sort_values(["user_id", "timestamp"], kind="stable")


def test_a_click_and_its_conversion_are_one_event(tmp_path, clicks):
    """A conversion 30 s after each click made each target the item before it."""
    log = with_conversions(clicks, 30)
    data = write(tmp_path, log)
    assert accounting(data)["merged"] == len(clicks)
    assert accounting(data)["repeated_targets"]["test"] == 0.0
    assert set(data.test["events"][0]) == {"conversion"} and data.test["times"][0][0] == T + 30
    kept = write(tmp_path, log, merge_seconds=0)
    assert accounting(kept)["merged"] == 0 and accounting(kept)["repeated_targets"]["test"] == 1.0
    assert any("100% of the test targets repeat the item just before them" in t for t in accounting(kept)["warnings"])
    assert accounting(write(tmp_path, log, merge_seconds=29))["merged"] == 0
    assert accounting(write(tmp_path, log, merge_seconds=30))["merged"] == len(clicks)
    # Histories of clicks alone have no conversion that a click could become.
    assert accounting(write(tmp_path, log, history_events=["click"]))["merged"] == 0


@pytest.mark.parametrize("unit", ["s", "ms"])
def test_merging_against_a_loop(tmp_path, unit):
    draw = np.random.default_rng(3)
    rows = sorted(
        {
            (
                f"u{draw.integers(4)}",
                ITEMS[draw.integers(3)],
                T + int(draw.integers(400)),
                ["click", "conversion"][kind],
            )
            for kind in draw.integers(0, 2, 300)
        },
        key=lambda row: (row[0], row[2]),
    )
    sold = [row for row in rows if row[3] == "conversion"]
    wanted = [
        row
        for row in rows
        if row[3] == "click" and any(row[:2] == other[:2] and abs(row[2] - other[2]) <= 20 for other in sold)
    ]
    frame = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event"])
    frame["timestamp"] *= 1000 if unit == "ms" else 1
    assert accounting(write(tmp_path, frame, merge_seconds=20))["merged"] == len(wanted) > 10


# --- values
# ---------------------------------------------------------------------------------------------------------------------


def shop():
    return pd.DataFrame(
        {
            "user_id": ["u"] * 6 + ["v"] * 6,
            "item_id": list("abcdef") + list("fedcba"),
            "timestamp": [T + 9000 * k for k in range(6)] * 2,
            "event": ["view", "add_to_cart", "purchase", "add_to_cart", "purchase", "purchase"] * 2,
            "price": [None, None, 5.0, None, 7.0, 9.0] * 2,
        }
    )


NAMES = {"view": "impression", "add_to_cart": "click", "purchase": "conversion"}


def test_blanks_are_no_value_and_no_error(tmp_path):
    """The advised `drop: [bad_value]` deleted all rows of a kind without a word."""
    data = write(tmp_path, shop(), event_names=NAMES, event_columns={"value": "price"}, value_unit="USD")
    found = accounting(data)
    assert found["blank_values"] == {"impression": 2, "click": 4} and found["kept"] == 12
    assert data.test["items"][0] == list("bcde") and data.test["values"][0] == [0.0, 5.0, 0.0, 7.0]
    assert not any("no value" in text for text in found["warnings"])  # a click need not earn anything
    assert found["event_names"] == {
        name: {"as": ours, "rows": count} for (name, ours), count in zip(NAMES.items(), [2, 4, 6], strict=True)
    }


def test_a_remedy_that_empties_a_kind_of_events_says_so(tmp_path):
    log = shop()
    log["price"] = log["price"].astype(object).where(log["price"].notna(), "n/a")
    common = {"event_names": NAMES, "event_columns": {"value": "price"}}
    with pytest.raises(DataError, match=r"column `price` \(our `value`\), row 0 .*received 'n/a'.*6 such rows"):
        write(tmp_path, log, **common)
    found = accounting(write(tmp_path, log, **common, drop=["bad_value"]))
    assert found["emptied_events"] == {"impression": 2, "click": 4} and found["dropped"] == {"bad_value": 6}
    assert "`drop` left none of the log's 4 click rows (dropped: 6 bad_value)" in " ".join(found["warnings"])


def test_names_of_events_are_mapped_and_errors_name_the_users_column(tmp_path):
    log = shop().rename(columns={"event": "action"})
    columns = {"event": "action", "value": "price"}
    with pytest.raises(DataError) as caught:
        write(tmp_path, log, event_columns=columns)
    text = str(caught.value)
    assert "column `action` (our `event`), row 0 (0-based): received 'view', allowed: impression, click," in text
    assert "unknown here: 'view', 'add_to_cart', 'purchase'; map each to one of ours in `event_names`" in text
    some = {"purchase": "conversion"}
    data = write(tmp_path, log, event_columns=columns, event_names=some, drop=["unknown_event"])
    assert accounting(data)["event_names"]["view"] == {"as": None, "rows": 2} and accounting(data)["kept"] == 6
    with pytest.raises(DataError, match="`event_names` names events .purchase., but there is no column `event`"):
        write(tmp_path, log, event_names=some)


def refunds(tmp_path, rows, **config):
    columns = ["user_id", "item_id", "timestamp", "value"]
    others = [(f"o{n}", item, T + 50 * place, 1.0) for n in range(3) for place, item in enumerate("abc")]
    frame = pd.DataFrame(rows + others, columns=columns)
    return write(tmp_path, frame, **config)


RETURNED = [
    ("u", "a", T, 10.0),
    ("u", "b", T + 10, 4.0),
    ("u", "a", T + 20, 6.0),
    ("u", "a", T + 30, -8.0),
    ("u", "c", T + 40, 1.0),
    ("u", "d", T + 50, 1.0),
]


def test_refunds_are_refused_unless_the_recipe_says_what_they_are(tmp_path):
    with pytest.raises(DataError, match="row 3 .*received '-8.0'.*for refunds say `refunds: zero` or `refunds: net`"):
        refunds(tmp_path, RETURNED)


def test_refunds_worth_nothing(tmp_path):
    data = refunds(tmp_path, RETURNED, refunds="zero")
    row = next(row for row in data.test if row["user_id"] == "u")
    assert row["items"] == list("abaac") and row["values"] == [10.0, 4.0, 6.0, 0.0, 1.0]
    assert accounting(data)["refunds"]["negative_values"] == 1


def test_refunds_are_taken_off_the_latest_purchases(tmp_path):
    data = refunds(tmp_path, RETURNED, refunds="net")
    row = next(row for row in data.test if row["user_id"] == "u")
    assert row["items"] == list("abac") and row["values"] == [8.0, 4.0, 0.0, 1.0]
    found = accounting(data)
    assert found["refunds"] == {
        "policy": "net",
        "negative_values": 1,
        "rows": 1,
        "amount": 8.0,
        "netted": 8.0,
        "unmatched": 0.0,
        "held_back": 0.0,
    }
    assert found["rows_in"] == found["kept"] + 1
    assert sum(data.test["values"][0]) == sum(value for *_, value in RETURNED[:-1])  # money is neither made nor lost


def test_refunds_without_a_purchase_are_told(tmp_path):
    rows = [*RETURNED[:2], ("u", "b", T + 15, -5.0), ("u", "e", T + 20, -3.0), *RETURNED[4:]]
    found = accounting(refunds(tmp_path, rows, refunds="net", value_unit="EUR"))
    assert (found["refunds"]["netted"], found["refunds"]["unmatched"]) == (4.0, 4.0)
    assert any("refunds of 4 EUR have no earlier purchase" in text for text in found["warnings"])


@pytest.mark.parametrize("split", ["leave_one_out", "temporal"])
def test_training_does_not_see_what_was_returned_later(tmp_path, split):
    rows = [("u", "a", T, 10.0), ("u", "b", T + 10, 4.0), ("u", "c", T + 20, 1.0)]
    rows += [("u", "a", T + 25, -8.0), ("u", "d", T + 30, 1.0)]
    bounds = {"validation_start": T + 20, "test_start": T + 30} if split == "temporal" else {}
    data = refunds(tmp_path, rows, refunds="net", split=split, **bounds)
    row = next(row for row in data.train if row["user_id"] == "u")
    assert row["items"] == ["a", "b"] and row["values"] == [10.0, 4.0]
    assert accounting(data)["refunds"]["held_back"] == 8.0 and accounting(data)["refunds"]["netted"] == 0.0


def test_a_negative_click_is_no_refund(tmp_path):
    log = shop().assign(price=[-1.0] * 12)
    with pytest.raises(DataError, match="allowed: a finite number >= 0, or a negative conversion, which is a refund"):
        write(tmp_path, log, event_names=NAMES, event_columns={"value": "price"}, refunds="net")


# --- settings and what is told
# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"user_features": ["age"]}, "`user_features` names columns of no file"),
        ({"users": "u.csv", "user_features": {"age": {"bins": 1}}}, r"Received for 'age': \{'bins': 1\}"),
        ({"users": "u.csv", "user_features": {"age": {"buckets": 4}}}, "a map of columns to"),
        ({"users": "u.csv", "user_features": "age"}, "should be JSON such as"),
        ({"event_names": {"buy": "purchase"}}, "`event_names` has an unknown name 'purchase'"),
        ({"event_names": '["buy"]'}, "should map the log's names to impression, click, conversion"),
        ({"time_unit": "hours"}, "`time_unit` should be one of auto, s, ms, us, ns, date"),
        ({"refunds": "ignore"}, "`refunds` should be one of refuse, zero, net"),
        ({"merge_seconds": -1}, "`merge_seconds` should be a whole number of seconds >= 0"),
    ],
)
def test_settings_are_checked(given, text):
    with pytest.raises(DataError, match=text):
        DataConfig(**given)


def test_settings_as_flags():
    config = DataConfig(
        users="u.csv", user_features='{"age": {"bins": 5}, "region": null}', event_names='{"buy": "click"}'
    )
    assert config.bins_of_features() == {"age": 5, "region": 0} and config.event_names == {"buy": "click"}


def test_figures_of_one_user_mean_nothing(tmp_path):
    events = {"user_id": ["u"] * 4, "item_id": ["a"] * 4, "timestamp": [T, T + 1, T + 2, T + 3]}
    warnings = accounting(write(tmp_path, events, catalog={"item_id": ["a"]}))["warnings"]
    assert any("Only one user is tested: the figures mean nothing" in text for text in warnings)
    assert any("The catalog has one item: every list is right" in text for text in warnings)


def test_numbers_that_are_no_times_are_told(tmp_path):
    events = {"user_id": ["u"] * 4, "item_id": list("abcd"), "timestamp": [1, 2, 3, 4]}
    assert any(
        "`timestamp` holds 1 to 4, no times since 1970" in t for t in accounting(write(tmp_path, events))["warnings"]
    )


def test_the_account_is_stored_and_names_the_files(tmp_path):
    events = {"user_id": ["u"] * 4, "item_id": list("abcz"), "timestamp": [T, T + 1, T + 2, T + 3]}
    data = write(tmp_path, events, drop=["unknown_item"])
    found = json.loads((tmp_path / "out" / "data.json").read_text())["accounting"]
    assert found == accounting(data)
    assert [(file["role"], file["file"], file["format"], file["rows"], file["kept"]) for file in found["files"]] == [
        ("catalog", "catalog.csv", "csv", 6, 6),
        ("events", "events.csv", "csv", 4, 3),
    ]
