import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from transformers import HfArgumentParser

from gr4ad.market import AdMarket, MarketConfig
from gr4ad.market.vocabulary import load_vocabulary


def test_config_parses_from_flags_and_names_a_bad_field():
    (config,) = HfArgumentParser(MarketConfig).parse_args_into_dataclasses(["--users", "12", "--ctr_mean", "0.03"])
    assert (config.users, config.ctr_mean, config.seed) == (12, 0.03, 0)
    with pytest.raises(ValueError, match="`ctr_mean`.*0.15.*ctr_mean = 0.5"):
        MarketConfig(ctr_mean=0.5)
    with pytest.raises(ValueError, match="`accounts`.*Lower"):
        MarketConfig(ads=60, accounts=61)
    with pytest.raises(ValueError, match="`candidates`"):
        MarketConfig(positions=8, candidates=8)


def test_equal_seeds_give_equal_tables_and_others_do_not(small):
    again = AdMarket(small.config)
    pd.testing.assert_frame_equal(small.catalog(), again.catalog())
    pd.testing.assert_frame_equal(small.users(), again.users())
    pd.testing.assert_frame_equal(small.simulate(), again.simulate())
    other = AdMarket(MarketConfig(users=300, ads=500, accounts=40, days=8, seed=4))
    assert not small.catalog()["title"].equals(other.catalog()["title"])
    assert len(other.simulate()) != len(small.simulate())


def test_tables_of_a_seed_stay_what_they_were():
    # Values are left out: their last digits are the machine's.
    market = AdMarket(MarketConfig(users=60, ads=80, accounts=12, days=3, seed=5))
    tables = market.catalog(), market.users(), market.simulate().drop(columns="value")
    digests = [hashlib.sha256(table.to_csv(index=False).encode()).hexdigest()[:16] for table in tables]
    assert digests == ["7d29cfe5f372227c", "b538b8d2b9aa06ed", "354da96f0a52bca3"]


def test_the_vocabulary_is_rectangular_and_its_templates_are_filled():
    words = load_vocabulary()
    shapes = {
        (len(v.categories), len(v.selling_points), len(v.audiences), *(len(c.products) for c in v.categories))
        for v in words.verticals
    }
    assert len(words.verticals) == 8 and shapes == {(6, 8, 4, *[6] * 6)}
    for vertical in words.verticals:
        assert sum(vertical.conversion_types.values()) == pytest.approx(1)
        assert vertical.conversion_types.keys() <= words.calls.keys()
    fields = {field for text in (*words.titles, *words.openings) for field in re.findall(r"{(\w+)}", text)}
    known = "brand point product product_start purpose category category_lower audience"
    assert fields == set(known.split())


def test_events_follow_the_raw_contract(small):
    events = small.simulate()
    assert list(events.columns) == ["user_id", "item_id", "timestamp", "event", "value", "request_id"]
    assert events["timestamp"].dtype == np.int64 and events["value"].dtype == np.float64
    assert set(events["event"]) == {"impression", "click", "conversion"}
    assert (events["value"] > 0).all() and not events.isna().any().any()
    assert events["item_id"].isin(small.catalog()["item_id"]).all()
    assert events["user_id"].isin(small.users()["user_id"]).all()
    ordered = events.sort_values(["user_id", "timestamp"], kind="stable")
    assert ordered.index.equals(events.index)
    assert events["timestamp"].min() >= small.config.start_time


def test_clicks_come_from_impressions_and_conversions_from_clicks(small):
    events = small.simulate()
    keys = ["user_id", "request_id", "item_id"]
    parts = {name: part.set_index(keys) for name, part in events.groupby("event")}
    assert all(part.index.is_unique for part in parts.values())
    for later, earlier in (("click", "impression"), ("conversion", "click")):
        joined = parts[later].join(parts[earlier], rsuffix="_before", how="left")
        assert (joined["timestamp"] > joined["timestamp_before"]).all()
        assert (joined["value"] == joined["value_before"]).all()
    shown = parts["impression"].groupby("request_id").size()
    assert shown.max() == small.config.positions


def test_ads_enter_over_time_and_are_not_shown_before(small):
    events = small.simulate()
    first = events.groupby("item_id")["timestamp"].min()
    entry = pd.Series(small.rules.ads.entry_day, index=small.rules.ads.item_ids)
    assert (first >= small.config.start_time + 86_400 * entry[first.index]).all()
    assert 0.15 < (entry > 0).mean() < 0.35


def test_catalog_columns_and_types(small):
    catalog = small.catalog()
    assert list(catalog.columns) == [
        "item_id",
        "title",
        "description",
        "category",
        "brand",
        "account_id",
        "conversion_type",
        "price",
    ]
    assert catalog["item_id"].is_unique and catalog["item_id"][42] == "ad_00042"
    assert set(catalog["conversion_type"]) <= {"purchase", "install", "form", "follow"}
    assert catalog["account_id"].nunique() == small.config.accounts
    assert (catalog.groupby("account_id")["brand"].nunique() == 1).all()
    assert (catalog["price"] >= 0).all()
    assert catalog["title"].nunique() > 0.9 * len(catalog)
    assert not catalog["description"].str.contains(r"[{}]").any()


def test_write_leaves_the_three_tables_and_the_statistics(small, tmp_path):
    small.write(tmp_path / "market")
    assert sorted(path.name for path in (tmp_path / "market").iterdir()) == [
        "catalog.parquet",
        "events.parquet",
        "market.json",
        "users.parquet",
    ]
    events = pd.read_parquet(tmp_path / "market" / "events.parquet")
    pd.testing.assert_frame_equal(events, small.simulate())
    content = json.loads((tmp_path / "market" / "market.json").read_text())
    counts = events["event"].value_counts()
    assert content["config"]["seed"] == small.config.seed
    assert content["statistics"]["impressions"] == counts["impression"]
    assert content["statistics"]["ctr"] == pytest.approx(counts["click"] / counts["impression"])
    assert content["statistics"]["cvr"] == pytest.approx(counts["conversion"] / counts["click"])
    assert content["statistics"]["mean_ecpm"] == pytest.approx(
        events.loc[events["event"] == "impression", "value"].mean(), rel=1e-5
    )
