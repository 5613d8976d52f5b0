"""Each public format, from files made by hand after its documentation: counts, and rows decoded by hand."""

import bz2
import datetime
import gzip

import pytest
from preset_files import FILES

from gr4ad.data import DataConfig, DataError, prepare
from gr4ad.data.presets import PRESETS
from gr4ad.data.reading import column_names, read_source


def at(*parts):
    return datetime.datetime(*parts)


def read(folder, preset, role, **settings):
    for name, text in FILES[preset].items():
        (folder / name).write_text(text)
    return read_source(DataConfig(root=str(folder), preset=preset, **settings), role)


COUNTS = {
    "recbole": {"catalog": 3, "events": 4},
    "mind": {"catalog": 4, "events": 12},
    "open_bandit": {"catalog": 3, "events": 4},
    "kuairand": {"catalog": 2, "events": 6, "users": 2},
    "ipinyou": {"catalog": 2, "events": 5},
    "taobao_ads": {"catalog": 3, "events": 4, "users": 2},
    "rees46": {"catalog": 2, "events": 4},
    "amazon_reviews": {"catalog": 2, "events": 3},
}

CATALOG_ROWS = {
    "recbole": {
        0: {
            "item_id": "10", "movie_title": ["Toy", '"Story"'], "movie_title_text": 'Toy "Story"',
            "release_year": "1995", "genre": ["Animation", "Comedy"], "genre_text": "Animation Comedy",
            "vector": [0.5, -1.0],
        },
    },
    "mind": {
        0: {"item_id": "N1", "category": "sports", "subcategory": "soccer", "title": 'The "big" game',
            "abstract": "Who won"},
        1: {"item_id": "N2", "category": "news", "subcategory": "world", "title": "A title", "abstract": None},
    },
    "open_bandit": {0: {"item_id": "0", "item_feature_0": "-0.4991", "item_feature_1": "0a1b"}},
    "ipinyou": {0: {"item_id": "7781", "account_id": "1458", "size": "300x250", "landing_page": "landing"}},
    "taobao_ads": {
        1: {"item_id": "3", "cate_id": "6406", "campaign_id": "83237", "account_id": "1", "brand": None,
            "price": 199.5},
    },
    "rees46": {
        1: {"item_id": "17", "category_id": "22", "category_code": None, "brand": None, "price": 12.5},
    },
    "amazon_reviews": {
        0: {"item_id": "B00P", "title": "Cream", "main_category": "All Beauty", "store": "Howard",
            "features": "soft light", "description": "", "categories": ["Beauty", "Skin"], "price": 12.5},
    },
}  # fmt: skip

SEGMENT = "81ce123c-03a5648a-7bc94a2d-c39b0c7d"
EVENT_ROWS = {
    "recbole": {
        0: {"user_id": "007", "item_id": "10", "rating": 5.0, "timestamp": 978300760},
        2: {"user_id": "007", "item_id": "30", "rating": 3.5, "timestamp": 978301968},
        3: {"user_id": "8", "item_id": "20", "rating": 4.0, "timestamp": 978300275},
    },
    "mind": {
        # What U7 had clicked before stands before its earliest row, which is the third of the file.
        0: {"user_id": "U7", "item_id": "N1", "timestamp": at(2019, 11, 14, 23, 59, 57), "request_id": None,
            "event": "click"},
        1: {"user_id": "U7", "item_id": "N2", "timestamp": at(2019, 11, 14, 23, 59, 58), "request_id": None,
            "event": "click"},
        3: {"user_id": "U7", "item_id": "N4", "timestamp": at(2019, 11, 15, 8, 30, 5), "request_id": "1",
            "event": "impression"},
        4: {"user_id": "U7", "item_id": "N4", "timestamp": at(2019, 11, 15, 8, 30, 5), "request_id": "1",
            "event": "click"},
        8: {"user_id": "U8", "item_id": "N3", "timestamp": at(2019, 11, 15, 12), "request_id": "2",
            "event": "impression"},
    },
    "open_bandit": {
        0: {"user_id": SEGMENT, "item_id": "1", "timestamp": at(2019, 11, 24, 0, 0, 0, 4101), "slot": "2",
            "propensity": "0.0125", "row": "0", "event": "impression"},
        2: {"user_id": SEGMENT, "item_id": "0", "timestamp": at(2019, 11, 24, 0, 0, 0, 4101), "slot": "1",
            "propensity": "0.0125", "row": "1", "event": "click"},
        3: {"user_id": "cef3390e-03a5648a-7bc94a2d-x", "item_id": "2", "timestamp": at(2019, 11, 25, 9, 0, 1),
            "slot": "3", "propensity": "0.0120", "row": "2", "event": "impression"},
    },
    "kuairand": {
        0: {"user_id": "17387", "item_id": "441", "timestamp": at(2022, 4, 20, 20, 16, 41, 301000), "tab": "1",
            "event": "impression"},
        2: {"user_id": "17387", "item_id": "441", "timestamp": at(2022, 4, 20, 20, 16, 41, 301000), "tab": "1",
            "event": "conversion"},
        5: {"user_id": "9", "item_id": "441", "timestamp": at(2022, 4, 22, 6, 46, 40), "tab": "2",
            "event": "click"},
    },
    "ipinyou": {
        # 00:01:30.828 in Beijing is 16:01:30.828 of the day before in UTC.
        0: {"user_id": "Vhk7", "item_id": "7781", "timestamp": at(2013, 6, 5, 16, 1, 30, 828000), "event": "click",
            "value": 51, "request_id": "bid828", "region": "216", "ad_exchange": "1"},
        1: {"user_id": "Vhk7", "item_id": "7781", "timestamp": at(2013, 6, 5, 17, 1, 30, 999000),
            "event": "conversion", "value": 51, "request_id": "bid999", "region": "216", "ad_exchange": "1"},
        3: {"user_id": None, "item_id": "7781", "timestamp": at(2013, 6, 5, 16, 1, 5), "event": "impression",
            "value": 60, "request_id": "bid000", "region": "216", "ad_exchange": "1"},
    },
    "taobao_ads": {
        0: {"user_id": "581738", "item_id": "1", "timestamp": at(2017, 5, 7, 6, 14, 4), "pid": "430548_1007",
            "event": "impression"},
        1: {"user_id": "449818", "item_id": "3", "timestamp": at(2017, 5, 13, 1, 26, 18), "pid": "430548_1007",
            "event": "impression"},
        2: {"user_id": "449818", "item_id": "3", "timestamp": at(2017, 5, 13, 1, 26, 18), "pid": "430548_1007",
            "event": "click"},
    },
    "rees46": {
        0: {"user_id": "541", "item_id": "0044", "timestamp": at(2019, 11, 1), "event": "conversion", "value": 480.0,
            "session": "s2"},
        2: {"user_id": "541", "item_id": "0044", "timestamp": at(2019, 10, 1), "event": "impression", "value": 0.0,
            "session": "s1"},
        3: {"user_id": "541", "item_id": "0044", "timestamp": at(2019, 10, 1, 0, 0, 10), "event": "click",
            "value": 0.0, "session": "s1"},
    },
    "amazon_reviews": {
        0: {"user_id": "AGKH", "item_id": "B00P", "timestamp": at(2020, 5, 5, 14, 8, 48, 923000), "rating": 5.0,
            "verified_purchase": True},
        1: {"user_id": "AGKH", "item_id": "B00Q", "timestamp": at(2020, 5, 5, 14, 10), "rating": 1.0,
            "verified_purchase": False},
        2: {"user_id": "AAAA", "item_id": "B00P", "timestamp": at(2014, 1, 2, 18, 35, 28), "rating": 4.0,
            "verified_purchase": True},
    },
}  # fmt: skip


def test_every_preset_is_tested():
    assert set(PRESETS) == set(FILES) == set(COUNTS) == set(EVENT_ROWS)


@pytest.mark.parametrize("preset", PRESETS)
def test_counts_and_decoded_rows(tmp_path, preset):
    raw = {role: read(tmp_path, preset, role) for role in COUNTS[preset]}
    assert set(DataConfig(root=str(tmp_path), preset=preset).sources()) == set(raw)
    assert {role: table.table.num_rows for role, table in raw.items()} == COUNTS[preset]
    for rows, role in ((EVENT_ROWS, "events"), (CATALOG_ROWS, "catalog")):
        decoded = raw[role].table.to_pylist()
        for row, wanted in rows.get(preset, {}).items():
            assert decoded[row] == wanted
    config = DataConfig(root=str(tmp_path), preset=preset)
    for role, table in raw.items():
        assert column_names(config, role) == table.table.column_names


def test_what_is_made_of_a_log_is_said(tmp_path):
    said = {name: read(tmp_path / name, name, "events").notes for name in ("mind", "open_bandit", "rees46")
            if (tmp_path / name).mkdir() is None}  # fmt: skip
    assert "2 clicks from before the log stand one second apart" in said["mind"][0]
    assert "the log has no users: 2 segments" in said["open_bandit"][0]
    assert said["rees46"] == ["1 rows of `remove_from_cart` are left out"]


def test_users_and_behaviors_of_taobao(tmp_path):
    users = read(tmp_path, "taobao_ads", "users").table.to_pylist()
    assert users[0]["user_id"] == "581738" and users[0]["new_user_class_level"] == "3"
    assert users[1]["new_user_class_level"] is None
    elsewhere = read(tmp_path, "taobao_ads", "cross_domain", cross_domain="behavior_log.csv").table.to_pylist()
    assert elsewhere == [
        {"user_id": "581738", "item_id": "pv-6250-91286", "timestamp": at(2017, 5, 2, 16, 13, 45)},
        {"user_id": "581738", "item_id": "buy-6250-91286", "timestamp": at(2017, 5, 2, 16, 13, 46)},
    ]


def test_categories_of_kuairand_are_a_list(tmp_path):
    videos = read(tmp_path, "kuairand", "catalog").table.to_pylist()
    assert [video["tag"] for video in videos] == [["12", "65"], None]
    assert [video["account_id"] for video in videos] == ["5", "6"]


def test_packed_files_are_read_alike(tmp_path):
    plain = read(tmp_path, "ipinyou", "events").table
    for path in list(tmp_path.glob("*.txt")):
        (tmp_path / f"{path.name}.bz2").write_bytes(bz2.compress(path.read_bytes()))
        path.unlink()
    config = DataConfig(root=str(tmp_path), preset="ipinyou")
    assert read_source(config, "events").table.equals(plain)
    folder = tmp_path / "amazon"
    folder.mkdir()
    plain = read(folder, "amazon_reviews", "events").table
    for path in list(folder.glob("*.jsonl")):
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read_source(DataConfig(root=str(folder), preset="amazon_reviews"), "events").table.equals(plain)


def test_a_recbole_catalog_may_come_from_the_events(tmp_path):
    raw = read(tmp_path, "recbole", "catalog", catalog="*.inter")
    assert raw.table.to_pylist() == [{"item_id": "10"}, {"item_id": "20"}, {"item_id": "30"}]
    assert "distinct items" in raw.notes[0]


@pytest.mark.parametrize(
    ("preset", "file", "old", "new", "message"),
    [
        ("mind", "behaviors.tsv", "N4-1", "N4", "column `impressions`, row 0 .0-based.: received 'N4'"),
        ("mind", "behaviors.tsv", "12:00:00 PM", "noon", "column `time`, row 1 .0-based.: received '11/15/2019 noon'"),
        ("mind", "behaviors.tsv", "1\tU7\t", "U7\t", "cannot be read as tsv .*Expected 5 columns, got 4"),
        ("open_bandit", "all.csv", ",1,2,0,", ",1,2,x,", "column `click`, row 0 .0-based.: received 'x', allowed: 0"),
        ("kuairand", "log_standard_4_22_to_5_08_pure.csv", "1650610000000", "soon", "column `time_ms`, row 2"),
        ("ipinyou", "clk.20130606.txt", "\t2\t", "\t9\t", "column `log_type` .the third., row 0"),
        ("ipinyou", "imp.20130606.txt", "20130606000105000", "2013", "column `timestamp` .the second., row 3"),
        ("taobao_ads", "raw_sample.csv", "time_stamp", "time", "no column `time_stamp`, which the preset needs"),
        ("rees46", "2019-Oct.csv", ",cart,", ",basket,", "column `event_type`, row 3 .0-based.: received 'basket'"),
        ("recbole", "shop.inter", "timestamp:float", "timestamp", "column `timestamp` says no type"),
        ("recbole", "shop.inter", "978302109", "soon", "column `timestamp`, row 1 .0-based.: received 'soon'"),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused_by_file_column_and_row(tmp_path, preset, file, old, new, message):
    read(tmp_path, preset, "events")
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message) as caught:
        read_source(DataConfig(root=str(tmp_path), preset=preset), "events")
    assert "\n" not in str(caught.value)


def test_an_unknown_preset_and_missing_files(tmp_path):
    with pytest.raises(DataError, match="`preset` should be one of recbole, mind, .*Received: 'movielens'"):
        DataConfig(preset="movielens")
    with pytest.raises(DataError, match=r"\*\.item: no file matches .the catalog table."):
        read_source(DataConfig(root=str(tmp_path), preset="recbole"), "catalog")


def test_a_recipe_may_choose_other_files_and_settings(tmp_path):
    config = DataConfig(
        root=str(tmp_path), preset="mind", events="train/behaviors.tsv", value_unit="reads", drop=["missing"]
    )
    assert config.sources() == {"catalog": "news.tsv", "events": "train/behaviors.tsv"}
    assert (config.value_unit, config.drop, config.history_events) == ("reads", ["missing"], ["click"])


def test_a_recbole_log_is_prepared(tmp_path):
    read(tmp_path, "recbole", "events")
    lines = [f"u{user}\t{item}\t1\t{1000 * user + item}" for user in range(5) for item in (10, 20, 30)]
    head = (tmp_path / "shop.inter").read_text().splitlines()[0]
    (tmp_path / "shop.inter").write_text("\n".join([head, *lines]) + "\n")
    data = prepare(DataConfig(root=str(tmp_path), preset="recbole"), tmp_path / "out")
    assert data.summary["users"] == 5 and data.test[0]["items"] == ["10", "20"]
    assert data.test[0]["target_items"] == ["30"] and data.catalog[1]["genre"] == ["Adventure"]
