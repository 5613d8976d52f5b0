"""Joins of the tables are counted, and features of users are chosen: each fault with its right value."""

import numpy as np
import pandas as pd
import pytest
from row_logs import ITEMS, T, accounting, write

from gr4ad.data import DataConfig, DataError, prepare


@pytest.fixture
def clicks():
    """40 users, each of whom clicks 6 items."""
    users = np.repeat([f"u{n}" for n in range(40)], 6)
    return pd.DataFrame({"user_id": users, "item_id": ITEMS * 40, "timestamp": T + 4000 * np.tile(range(6), 40)})


def test_joins_are_counted_and_one_that_matches_nothing_is_refused(tmp_path, clicks):
    zeros = {"user_id": [f"{n:05d}" for n in range(40)], "age": range(40)}
    events = clicks.assign(user_id=[int(user[1:]) for user in clicks["user_id"]])
    features = {"age": {"bins": 4}}
    with pytest.raises(DataError, match=r"users.csv: column `user_id`: none of its users .*'00000', allowed: .*'0'"):
        write(tmp_path, events, users=zeros, user_features=features)
    users = {"user_id": [*range(10), 77], "age": range(11)}
    found = accounting(write(tmp_path, events, users=users, user_features=features))
    assert found["joins"]["events_users"] == {"matched": 10, "unmatched": 30, "users_without_events": 1}
    assert any("30 of 40 users of the log are not in `users`" in text for text in found["warnings"])
    gone = events.assign(item_id=events["item_id"].where(events["user_id"] > 1, "z"))  # all rows of two users
    found = accounting(write(tmp_path, gone, users=users, user_features=features, drop=["unknown_item"]))
    assert found["joins"]["events_users"] == {"matched": 8, "unmatched": 30, "users_without_events": 3}
    log = clicks.assign(item_id=clicks["item_id"].where(clicks["item_id"] != "a", "z"))
    found = accounting(write(tmp_path, log, drop=["unknown_item"]))
    assert found["joins"]["events_catalog"] == {"matched": 200, "unmatched": 40, "items_without_events": 1}
    with pytest.raises(DataError, match="column `item_id`: none of its 240 rows is of an item of the catalog"):
        write(tmp_path, clicks.assign(item_id="z"), drop=["unknown_item"])


def people(count=100):
    return {
        "user_id": [f"u{n}" for n in range(count)],
        "email": [f"person{n}@example.com" for n in range(count)],
        "income": [20_000 + 137 * n for n in range(count)],
        "region": [f"region {n % 4}" for n in range(count)],
    }


def test_features_are_chosen_and_names_are_not_learned(tmp_path):
    """100 addresses went into the tokenizer, and `income` became 100 categories."""
    users = people()
    log = {
        "user_id": np.repeat(users["user_id"], 3),
        "item_id": list("abc") * 100,
        "timestamp": [T, T + 1, T + 2] * 100,
    }
    with pytest.raises(DataError, match="should say which of its columns .* Columns there are: email, income, region"):
        write(tmp_path, log, users=users)
    with pytest.raises(DataError, match="column `email` is nearly unique: 100 values for 100 users.*Leave it out"):
        write(tmp_path, log, users=users, user_features=["region", "email"])
    with pytest.raises(DataError, match=r"column `income` is nearly unique.*into bins, \{income: \{bins: 5\}\}"):
        write(tmp_path, log, users=users, user_features=["income"])
    with pytest.raises(DataError, match="`user_features` names 'town', which is no column"):
        write(tmp_path, log, users=users, user_features=["town"])
    data = write(tmp_path, log, users=users, user_features={"income": {"bins": 4}, "region": {}})
    assert data.user_features == ["income", "region"] and data.train["income"][:2] == ["20000", "20137"]
    assert data.summary["user_features"] == {"income": 4, "region": 0}
    users["income"][3] = "much"
    with pytest.raises(DataError, match="column `income`, row 3 .*received 'much', allowed: a number"):
        write(tmp_path, log, users=users, user_features={"income": {"bins": 4}})
    users["income"][3] = " "
    data = write(tmp_path, log, users=users, user_features={"income": {"bins": 4}})
    assert data.train["income"][2:5] == ["20274", None, "20548"]


def test_categories_of_pandas_are_features_and_numbers(tmp_path):
    users = people(40)
    log = {"user_id": np.repeat(users["user_id"], 3), "item_id": list("abc") * 40, "timestamp": [T, T + 1, T + 2] * 40}
    frame = pd.DataFrame(
        {"user_id": users["user_id"], "age": [str(20 + n) for n in range(40)], "city": ["x", "y"] * 20}
    )
    frame.astype({"age": "category", "city": "category"}).to_parquet(tmp_path / "people.parquet")
    pd.DataFrame(log).to_csv(tmp_path / "events.csv", index=False)
    pd.DataFrame({"item_id": ITEMS}).to_csv(tmp_path / "catalog.csv", index=False)
    config = DataConfig(
        root=str(tmp_path),
        catalog="catalog.csv",
        events="events.csv",
        users="people.parquet",
        user_features={"age": {"bins": 4}, "city": {}},
    )
    data = prepare(config, tmp_path / "out")
    assert data.test[0]["city"] == "x" and float(data.test[0]["age"]) == 20


@pytest.mark.parametrize(
    ("count", "values", "refused"), [(20, 20, True), (10, 10, True), (8, 5, False), (20, 16, False), (20, 17, True)]
)
def test_addresses_are_no_feature_of_a_small_shop_but_age_groups_are(tmp_path, count, values, refused):
    """20 addresses of 20 users went into the tokenizer, because so few values were always allowed."""
    names = [f"u{n}" for n in range(count)]
    log = {"user_id": np.repeat(names, 3), "item_id": list("abc") * count, "timestamp": [T, T + 1, T + 2] * count}
    users = {"user_id": names, "column": [f"value {n % values}" for n in range(count)]}
    if not refused:
        assert write(tmp_path, log, users=users, user_features=["column"]).user_features == ["column"]
        return
    with pytest.raises(DataError, match=f"column `column` is nearly unique: {values} values for {count} users"):
        write(tmp_path, log, users=users, user_features=["column"])


@pytest.mark.parametrize("options", [{}, {"bins": 2}])
def test_a_feature_that_no_training_user_has_is_refused(tmp_path, clicks, options):
    """It became an empty vocabulary, and nobody was told."""
    users = {"user_id": [f"u{n}" for n in range(40)], "region": list("xy") * 20, "age": [""] * 40}
    with pytest.raises(DataError, match=r"column `age` \(`user_features`\) is blank for all 40 users of the training"):
        write(tmp_path, clicks, users=users, user_features={"region": {}, "age": options})
    late = pd.DataFrame({"user_id": "late", "item_id": ITEMS, "timestamp": T + 90_000 + np.arange(6)})
    users = {"user_id": [*users["user_id"], "late"], "age": [*users["age"], 30]}
    split = {"split": "temporal", "validation_start": T + 19_000, "test_start": T + 90_003}
    back = late.assign(user_id="u1", timestamp=T + 90_000 + np.arange(6))
    with pytest.raises(DataError, match=r"blank for all 40 users of the training split; 1 users of the log have a"):
        write(tmp_path, pd.concat([clicks, back, late]), users=users, user_features={"age": options}, **split)
