"""Counts against pandas, and the dangers that are to be told."""

import numpy as np
import pandas as pd
import pytest

from gr4ad.data import DataError, prepare
from gr4ad.inspection.inspecting import inspect_folder, write_recipe
from gr4ad.pipeline.recipe import load_recipe

START = 1_700_000_000


def log_of(seed, users=60, items=40, rows=1500):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "user_id": rng.integers(users, size=rows),
            "item_id": rng.integers(items, size=rows) + 1000,
            "timestamp": START + rng.integers(0, 400, size=rows) * 86400,
            "revenue": np.round(rng.lognormal(1, 1, size=rows), 2),
        }
    ).sort_values(["timestamp", "user_id"], kind="stable", ignore_index=True)


def catalog_of(log, **columns):
    items = np.sort(log["item_id"].unique())
    rng = np.random.default_rng(9)
    rng.shuffle(items)
    return pd.DataFrame({"item_id": items, "title": [f"thing {item} blue" for item in items], **columns})


def inspected(folder, log, catalog=None, users=None):
    log.to_csv(folder / "events.csv", index=False)
    (catalog_of(log) if catalog is None else catalog).to_csv(folder / "catalog.csv", index=False)
    if users is not None:
        users.to_csv(folder / "users.csv", index=False)
    return inspect_folder(folder)


@pytest.mark.parametrize("seed", range(3))
def test_counts_are_those_of_pandas(tmp_path, seed):
    log = log_of(seed)
    log = pd.concat([log, log.iloc[::20]], ignore_index=True)
    found = inspected(tmp_path, log).found
    once = log.drop_duplicates()
    assert found.view.repeated.sum() == len(log) - len(once)
    assert found.events == len(once) and found.users == once["user_id"].nunique()
    assert found.ties == pytest.approx(once.duplicated(["user_id", "timestamp"], keep=False).mean())
    sizes = once.groupby(["user_id", "timestamp"]).size()
    assert found.visit == pytest.approx((sizes**2).sum() / sizes.sum())
    assert found.repeats == pytest.approx(once.duplicated(["user_id", "item_id"]).mean())
    lengths = once.groupby("user_id").size()
    assert found.mean_length == pytest.approx(lengths.mean())
    assert found.long_length == int(np.quantile(lengths, 0.99))
    split = found.split
    assert split.kind == "temporal"
    cut = [pd.Timestamp(bound).timestamp() for bound in (split.validation, split.test)]
    before, after = once[once["timestamp"] < cut[0]], once[once["timestamp"] >= cut[1]]
    assert len(before) / len(once) == pytest.approx(0.82, abs=0.02)
    assert len(after) / len(once) == pytest.approx(0.10, abs=0.02)
    assert split.targets == len(set(after["user_id"]) & set(once[once["timestamp"] < cut[1]]["user_id"]))
    assert split.cold == pytest.approx(1 - after["item_id"].isin(before["item_id"]).mean())
    assert split.seen == len(before)


def told(found, *words):
    return any(all(word in text for word in words) for text in (*found.warnings, *found.stops))


def test_item_numbers_that_follow_the_log(tmp_path):
    log = log_of(0, items=200)
    first = log.drop_duplicates("item_id")["item_id"].to_numpy()
    log["item_id"] = log["item_id"].map({item: place for place, item in enumerate(first)})
    catalog = catalog_of(log).assign(sku=lambda frame: [f"AB-{number * 7919 % 10007}" for number in frame["item_id"]])
    inspection = inspected(tmp_path, log, catalog)
    assert inspection.found.ordered_items > 0.99 and told(inspection.found, "item numbers rise")
    assert "catalog_columns: {item_id: sku, event_key: item_id}" in inspection.recipe
    assert not told(inspected(tmp_path, log_of(1)).found, "item numbers rise")


def test_columns_that_were_counted_on_the_whole_log(tmp_path):
    log = log_of(0)
    sold = log["item_id"].value_counts()
    spent = log["user_id"].value_counts()
    catalog = catalog_of(log).assign(total_sold=lambda frame: frame["item_id"].map(sold) * 10)
    users = pd.DataFrame({"user_id": spent.index, "orders": spent.to_numpy(), "region": spent.index % 5})
    inspection = inspected(tmp_path, log, catalog, users)
    assert told(inspection.found, "`total_sold` of catalog.csv", "counted on held-out events")
    assert told(inspection.found, "`orders` of users.csv", "counted on held-out events")
    assert "user_features: {region: {}}" in inspection.recipe


def test_joins_that_match_nothing(tmp_path):
    log = log_of(0)
    users = pd.DataFrame({"user_id": [f"{user:05}" for user in range(60)], "region": ["R"] * 30 + ["S"] * 30})
    log = log.assign(user_id=log["user_id"] + 1)
    log.to_csv(tmp_path / "events.csv", index=False)
    catalog_of(log).to_csv(tmp_path / "catalog.csv", index=False)
    users.to_csv(tmp_path / "users.csv", index=False)
    inspection = inspect_folder(tmp_path)
    assert any("leading zeros" in text and "cannot be used" in text for text in inspection.layout.remarks)
    assert "\n  users:" not in inspection.recipe


def test_a_catalog_of_other_ids_is_told(tmp_path):
    log = log_of(0)
    catalog = catalog_of(log).assign(item_id=lambda frame: [f"0000{item}" for item in frame["item_id"]])
    with pytest.raises(ValueError, match="the same but for leading zeros"):
        inspected(tmp_path, log, catalog)


def test_a_mixture_of_units_and_unreadable_dates_stop_a_run(tmp_path):
    log = log_of(0)
    log.loc[::3, "timestamp"] *= 1000
    assert told(inspected(tmp_path, log).found, "mixes units", "67% look like s", "33% like ms")
    for every in (2, 1), (3, 3):
        log = log_of(0)
        for place, scale in enumerate((1000, 10**6)[: every[1]]):
            log.loc[place :: every[0], "timestamp"] *= scale
        assert told(inspected(tmp_path, log).found, "mixes units"), every
    dates = pd.to_datetime(log_of(0)["timestamp"], unit="s").dt.strftime("%d.%m.%Y %H:%M")
    inspection = inspected(tmp_path, log_of(0).assign(timestamp=dates))
    assert told(inspection.found, "holds dates such as")
    assert "# TO BE MENDED FIRST" in inspection.recipe


def test_values_of_few_purchases_and_blank_ones(tmp_path):
    log = log_of(0)
    log.loc[::150, "revenue"] = 10_000
    log.loc[1::10, "revenue"] = np.nan
    found = inspected(tmp_path, log).found
    assert told(found, "the top 1% of the events have") and told(found, "have no `revenue`")


def test_lossy_ids_stop_a_run(tmp_path):
    log = log_of(0).assign(user_id=lambda frame: frame["user_id"] * 512 + 2.0**60)
    log.to_parquet(tmp_path / "events.parquet")
    catalog_of(log).to_parquet(tmp_path / "catalog.parquet")
    assert told(inspect_folder(tmp_path).found, "floating numbers above 2^53")


def test_logs_that_say_nothing(tmp_path):
    found = inspected(tmp_path, log_of(0, users=3)).found
    assert told(found, "only 3 users have a history")
    same = catalog_of(log_of(1)).assign(title="one thing")
    inspection = inspected(tmp_path, log_of(1), same)
    assert any("has words that tell items apart" in text for text in inspection.layout.remarks)
    assert "text_columns: [item_id]" in inspection.recipe


def test_a_log_of_one_user_or_one_item_is_known_by_its_names(tmp_path):
    log = log_of(0).assign(user_id="only", event="click", shop="web")
    inspection = inspected(tmp_path, log)
    assert inspection.layout.user == "user_id" and told(inspection.found, "the log has one user")
    log = log_of(0).assign(item_id=7)
    inspection = inspected(tmp_path, log, pd.DataFrame({"item_id": [7], "title": ["blue thing"]}))
    assert inspection.layout.item == "item_id" and told(inspection.found, "the catalog has one item")
    # A column of one value is no user where another tells users apart.
    log = log_of(0).rename(columns={"user_id": "visitor"}).assign(customer="shop")
    assert inspected(tmp_path, log).layout.user == "visitor"


def test_users_without_a_history_are_told(tmp_path):
    log = log_of(0)
    with pytest.raises(ValueError, match="where these ids come back: `user_id` of events.csv has another one in each"):
        inspected(tmp_path, log.assign(user_id=range(len(log))))
    found = inspected(tmp_path, log.assign(user_id=np.arange(len(log)) // 2)).found
    assert found.split.kind == "leave_one_out" and told(found, "no user has three events")
    thirds = log.assign(user_id=np.arange(len(log)) // 3)
    thirds.loc[::3, "revenue"] *= -1  # refunds that may stay as events worth nothing
    assert not told(inspected(tmp_path, thirds).found, "no user has three events")


def test_columns_with_a_name_of_ours_are_read_all_the_same(tmp_path):
    log = log_of(0)
    odd = log.drop(columns="revenue").assign(event="foo", value="3,50")
    found = inspected(tmp_path, odd, catalog_of(log, event_key="x")).found
    assert told(found, "`event` of events.csv is read as the kind", "'foo'")
    assert told(found, "`value` of events.csv is read as money", "'3,50'")
    assert told(found, "`event_key` of catalog.csv is read as")
    inspection = inspected(tmp_path, log.assign(event=["view", "search", "return"] * (len(log) // 3)))
    assert inspection.layout.event == "event" and not inspection.found.stops
    assert "drop: [unknown_event" in inspection.recipe


def test_positions_give_leave_one_out(tmp_path):
    log = log_of(0)
    log["position"] = log.groupby("user_id").cumcount()
    inspection = inspected(tmp_path, log.drop(columns=["timestamp", "revenue"]))
    assert inspection.found.split.kind == "leave_one_out"
    assert "split: leave_one_out" in inspection.recipe and "value" not in inspection.recipe.split("embed:")[0]


def test_impressions_of_requests_are_aligned_on(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for request in range(1500):
        user, at = int(rng.integers(60)), START + request * 3600
        for item in rng.choice(40, 5, replace=False):
            rows.append([user, int(item) + 1000, at, "impression", f"r{request}"])
            if rng.random() < 0.3:
                rows.append([user, int(item) + 1000, at + 60, "click", f"r{request}"])
    log = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event", "request_id"])
    inspection = inspected(tmp_path, log)
    assert inspection.found.lists == 1500 and inspection.found.list_size == 5
    assert "\nalign:\n" in inspection.recipe and "source: impressions" in inspection.recipe


def short_histories(kinds, values):
    """30 users of as many events as kinds, an hour apart but for clicks just after a conversion."""
    rows = []
    for user in range(30):
        moment = START + 86400 * user
        for place, (kind, value) in enumerate(zip(kinds, values, strict=True)):
            item = 1000 + (user + (0 if kind == "again" else place)) % 12
            moment += 60 if kind == "again" else 3600
            rows.append([f"u{user}", item, moment, {"again": "click"}.get(kind, kind), value])
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp", "event", "price"])


@pytest.mark.parametrize(
    ("kinds", "values", "usable"),
    [
        (["click", "purchase"], [-3, 5], 2),  # a click that is worth less than nothing was counted twice
        (["purchase", "purchase", "search"], [5, 5, -3], 2),  # a refund of a kind that is dropped was an event
        (["purchase", "again", "purchase"], [5, 0, 5], 2),  # a click just after its purchase is one event with it
        (["purchase", "purchase", "purchase"], [-5, -5, 5], 3),  # refunds of nothing stay in histories, worth nothing
    ],
)
def test_what_is_left_of_histories_is_counted_as_a_run_counts_it(tmp_path, kinds, values, usable):
    """Recipes were written that the data stage refused: its training split was empty."""
    log = short_histories(kinds, values)
    inspection = inspected(tmp_path, log)
    assert inspection.found.view.lengths.tolist() == [usable] * 30
    assert any("none is left to train on" in text for text in inspection.found.stops) == (usable < 3)
    write_recipe(inspection, tmp_path / "shop.yaml")
    data = load_recipe(tmp_path / "shop.yaml", data_root=tmp_path).data
    if usable < 3:
        assert "TO BE MENDED FIRST: no user has three events" in inspection.recipe
        with pytest.raises(DataError, match="the train split is empty"):
            prepare(data, tmp_path / "out")
    else:
        assert prepare(data, tmp_path / "out").summary["test"]["users"] == 30


def test_decimal_commas_are_told_in_every_table(tmp_path):
    """In the log alone they were; of the users such numbers were "nearly unique"."""
    rng = np.random.default_rng(4)
    log = log_of(1).rename(columns={"revenue": "Umsatz_EUR"})

    def commas(count):
        return [f"{number:.2f}".replace(".", ",") for number in rng.uniform(1, 999, count)]

    catalog = catalog_of(log)
    catalog["Preis"] = commas(len(catalog))
    users = pd.DataFrame({"user_id": range(60), "region": [f"R{n % 4}" for n in range(60)], "income": commas(60)})
    log["Umsatz_EUR"] = commas(len(log))
    for name, frame in (("events", log), ("catalog", catalog), ("users", users)):
        frame.to_csv(tmp_path / f"{name}.csv", index=False, sep=";")
    inspection = inspect_folder(tmp_path)
    told = [*inspection.layout.remarks, *inspection.found.warnings]
    for file, name in (("events.csv", "Umsatz_EUR"), ("catalog.csv", "Preis")):
        assert any(text.startswith(f"`{name}` of {file} has decimal commas (such as '") for text in told), told
    assert any("`income` of users.csv is left out" in text and "decimal commas" in text for text in told)
    assert "has decimal commas" in inspection.recipe.replace("\n#", "") and "Umsatz_EUR}" not in inspection.recipe
