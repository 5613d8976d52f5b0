"""Block lists, allow lists, limits and seen ads: what a request may not be given, on its way to the search."""

import datetime
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from loopback import URL, served

from gr4ad.cli import main
from gr4ad.serving import IndexChange, Recommender, UnknownItemError
from gr4ad.serving.request_types import Answer, RecommendQuery
from gr4ad.tokenization import SIDIndex, UserHistory
from gr4ad.tokenization.user_history import MAX_ID_LENGTH

HISTORIES = [["ad_1", "ad_7"], ["ad_5"], [f"ad_{n}" for n in range(30, 45)]]
EVERYTHING = [128] * 3


@pytest.fixture(scope="module")
def recommender(tiny_artifact) -> Recommender:
    return Recommender.from_pretrained(tiny_artifact)


@pytest.fixture(scope="module")
def accounts(account_artifact) -> Recommender:
    return Recommender.from_pretrained(account_artifact)


def ids(ads) -> list[str]:
    return [ad.item_id for ad in ads]


@pytest.mark.parametrize("widths", [None, [1, 1, 10], [10, 20, 20], [8, 64, 128]])
@pytest.mark.parametrize("seen", [90, 110, 117])
def test_a_user_who_has_seen_nearly_all_gets_a_full_list(recommender, seen, widths):
    """90 of 120 seen once left one ad of ten."""
    rng = np.random.default_rng(seen)
    histories = [[f"ad_{n}" for n in rng.permutation(120)[:seen]] for _ in range(3)]
    for history, ads in zip(
        histories, recommender.recommend(histories, exclude_history=True, beam_widths=widths), strict=True
    ):
        assert len(set(ids(ads))) == len(ads) == min(10, 120 - seen) and not set(ids(ads)) & set(history)
        assert [ad.score for ad in ads] == sorted((ad.score for ad in ads), reverse=True)


@pytest.mark.parametrize("limit", [1, 2])
def test_a_limit_per_account_leaves_no_list_short(accounts, limit):
    """28 ads fit where 8 accounts may have one each and 20 ads have none, 36 where they may have two."""
    for ads in accounts.recommend(HISTORIES, top_k=16, max_per_account=limit):
        named = [ad.attributes["account_id"] for ad in ads if ad.attributes["account_id"] is not None]
        assert len(ads) == 16 and max(map(named.count, named)) <= limit
    narrow = accounts.recommend(HISTORIES, top_k=36, beam_widths=[1, 2, 36], max_per_account=limit)
    assert [len(ads) for ads in narrow] == [20 + 8 * limit] * 3


def test_lists_leave_what_is_left_in_its_order_and_by_its_scores(accounts):
    free = accounts.recommend(HISTORIES, top_k=128, beam_widths=EVERYTHING)
    blocked = [["ad_2", "ad_3", "unheard of"], None, [f"ad_{n}" for n in range(100)]]
    allowed = [None, [f"ad_{n}" for n in range(0, 120, 7)], [f"ad_{n}" for n in range(60, 110)]]
    options = {"top_k": 128, "beam_widths": EVERYTHING, "exclude_history": [False, True, True]}
    ranked = accounts.recommend(HISTORIES, block_items=blocked, allow_items=allowed, **options)
    for row, (full, ads) in enumerate(zip(free, ranked, strict=True)):
        out = {*(blocked[row] or []), *(HISTORIES[row] if options["exclude_history"][row] else [])}
        expected = [ad for ad in full if ad.item_id not in out and ad.item_id in (allowed[row] or ids(full))]
        assert ids(ads) == ids(expected)
        assert [ad.score for ad in ads] == pytest.approx([ad.score for ad in expected], abs=1e-4)
    for one_for_all in (("ad_2", "ad_9"), np.array(["ad_2", "ad_9"]), {"ad_2", "ad_9"}):
        for ads in accounts.recommend(HISTORIES, allow_items=one_for_all):
            assert sorted(ids(ads)) == ["ad_2", "ad_9"]
    assert accounts.recommend(HISTORIES, allow_items=[]) == [[], [], []]
    assert accounts.recommend(HISTORIES, block_items=[]) == accounts.recommend(HISTORIES)


def test_removed_ads_stay_away_and_new_ones_can_be_listed(tiny_artifact):
    changing = Recommender.from_pretrained(tiny_artifact)
    changing.remove_ads(["ad_2"])
    changing.add_ads(["brand_new"], changing.tokenizer.index.codes[:1])
    [ads] = changing.recommend([["ad_1"]], allow_items=["ad_2", "ad_3", "brand_new"])
    assert sorted(ids(ads)) == ["ad_3", "brand_new"]
    [ads] = changing.recommend([["ad_1"]], block_items=["brand_new"], top_k=128, beam_widths=EVERYTHING)
    assert len(ads) == 119 and not {"ad_2", "brand_new"} & set(ids(ads))


def test_unknown_ids_are_listed_in_the_answer(recommender, tiny_artifact):
    body = {
        "history": ["gone", "ad_1", "lost", "gone"], "allow_items": ["ad_3", "later"], "block_items": ["ad_4"],
    }  # fmt: skip
    with served(Recommender.from_pretrained(tiny_artifact), cache_seconds=60.0) as (_, client):
        answer = client.post(URL, json=body).raise_for_status().json()
        assert answer["unknown_items"] == {"history": ["gone", "lost"], "allow_items": ["later"]}
        assert [ad["item_id"] for ad in answer["recommendations"]] == ["ad_3"]
        again = client.post(URL, json=body).json()
        assert again["cached"] and again["unknown_items"] == answer["unknown_items"]
        assert client.post(URL, json={"history": ["ad_1"]}).json()["unknown_items"] == {}
        refused = client.post(URL, json={"history": ["gone"]})
        assert refused.status_code == 422 and "its first id is 'gone'" in refused.json()["detail"]
        plain = {"history": ["ad_1"], "top_k": 2}
        kinds = [plain, {**plain, "allow_items": ["ad_3"]}, {**plain, "allow_items": ["ad_4"]},
                 {**plain, "block_items": ["ad_3"]}, {**plain, "allow_items": []}]  # fmt: skip
        answers = [client.post(URL, json=kind).raise_for_status().json() for kind in kinds]
        assert not any(answer["cached"] for answer in answers), "each is another question"
        assert [len(answer["recommendations"]) for answer in answers] == [2, 1, 1, 2, 0]
        assert client.post(URL, json=kinds[1]).json()["cached"]
    query = RecommendQuery(UserHistory(["ad_1"]), allow_items=("new",), block_items=())
    assert recommender.unknown_items(query) == {"allow_items": ["new"]}


def test_dates_in_an_item_table_of_ones_own_are_kept_and_printed(tiny_artifact, tmp_path, capsys):
    shutil.copytree(tiny_artifact, tmp_path / "dated")
    index = SIDIndex.load(tmp_path / "dated/items.parquet")
    index.columns["since"] = [datetime.date(2024, 1, 2)] * len(index)
    index.save(tmp_path / "dated/items.parquet")
    with served(Recommender.from_pretrained(tmp_path / "dated"), cache_seconds=60) as (_, client):
        first, again = (client.post(URL, json={"history": ["ad_1"]}).raise_for_status().json() for _ in range(2))
    assert again["cached"] and again["recommendations"] == first["recommendations"]
    assert first["recommendations"][0]["attributes"]["since"] == "2024-01-02"
    assert recommend_json(tmp_path / "dated", capsys, "--history", "ad_1")[0]


def test_queries_and_answers_cross_processes_whole():
    query = RecommendQuery(UserHistory(["a"]), 3, (1, 2, 3), True, 2, 5.0, allow_items=(), block_items=("b", "c"))
    there = RecommendQuery.from_fields(json.loads(json.dumps(query.to_fields())))
    assert there.to_fields() == query.to_fields()
    assert (there.allow_items, there.block_items, there.beam_widths) == ((), ("b", "c"), (1, 2, 3))
    answer = Answer([], (1, 2, 3), "m", "", 1, 0, unknown={"history": ["x"]})
    assert Answer.from_fields(json.loads(json.dumps(answer.to_fields()))) == answer


def test_ids_are_as_long_everywhere(tiny_artifact):
    longest, beyond = "x" * MAX_ID_LENGTH, "x" * (MAX_ID_LENGTH + 1)
    model = Recommender.from_pretrained(tiny_artifact)
    codes = model.tokenizer.index.codes[:1]
    IndexChange("add", [longest], codes=codes.tolist()).apply(model)
    with served(model) as (_, client):
        answer = client.post(URL, json={"history": [longest], "allow_items": [longest, "ad_0"]}).raise_for_status()
        assert {ad["item_id"] for ad in answer.json()["recommendations"]} == {longest, "ad_0"}
        assert "at most 1000 characters" in client.post(URL, json={"history": [beyond]}).json()["detail"]
    with pytest.raises(ValueError, match=r"1\.\.1000 characters"):
        IndexChange("add", [beyond], codes=codes.tolist())
    for make in (lambda: SIDIndex([beyond], codes), lambda: model.add_ads([beyond], codes)):
        with pytest.raises(ValueError, match="`item_ids` must have at most 1000 characters. Received one of 1001"):
            make()


@pytest.mark.parametrize(
    ("given", "options", "reason"),
    [
        (["ad_1", "ad_2"], {}, r"Histories must be lists of item ids, one a user.*write \[\['ad_1', ...\]\]"),
        ("ad_1", {}, r"Received: 'ad_1'. For one user write \[\['ad_1'\]\]"),
        ([1, 2], {}, r"Received: a flat list, 1, .*write \[\['1', ...\]\]"),
        ([[1, 2]], {}, r"`items\[0\]` must be text. Received: 1 \(int\). Write it as the catalog does, e.g. '1'"),
        ([np.array([1, 2])], {}, r"History 0 holds integers, \[1, 2\]; item ids are text.*e.g. \['1'\]"),
        ([["ad_1"]], {"beam_widths": 16}, r"`beam_widths` must be a list.*Received: 16. Write e.g. \[16, 16, 16\]"),
        ([["ad_1"]], {"beam_widths": [4, 4.5, 4]}, r"`beam_widths` needs 3 widths >= 1.*Received: \[4, 4.5, 4\]"),
        ([["ad_1"]], {"beam_widths": []}, r"`beam_widths` must be a list of widths.*Received: \[\]"),
        ([["ad_1"]], {"block_items": "ad_2"}, r"`block_items` needs one list.*Received: 'ad_2'. Write e.g. \['ad_1'"),
        ([["ad_1"]], {"allow_items": [2]}, r"`allow_items` must hold ids as text. Received: 2 \(int\). Write '2'"),
        ([["ad_1"]], {"allow_items": [["ad_2"], None]}, "or a list or None for each of the 1. Received"),
        ([["ad_1"]], {"allow_items": 2}, r"`allow_items` needs one list.*Received: 2. Write e.g. \['ad_1'"),
        (5, {}, r"Histories must be lists.*Received: 5. For one user write \[\['5'\]\]"),
        (None, {}, "Histories must be lists of item ids, one a user. Received: None"),
        ([["ad_1"]], {"top_k": 2.5}, r"`top_k` must be a whole number. Received: 2.5 \(float\)"),
        ([["ad_1"]], {"top_k": np.array(2)}, "`top_k` must be a whole number"),
        ([["ad_1"]], {"top_k": np.array([2, 3])}, "`top_k` needs one value, or one for each of the 1 users"),
        ([["ad_1"]], {"max_per_account": "2"}, r"`max_per_account` must be a whole number. Received: '2' \(str\)"),
        ([["ad_1"]], {"max_per_account": [1]}, r"`max_per_account` must be a whole number. Received: \[1\]"),
        ([["ad_1"]], {"max_per_account": True}, "`max_per_account` must be a whole number. Received: True"),
        ([["ad_1"]], {"exclude_history": "no"}, "`exclude_history` must be True or False. Received: 'no'"),
    ],
)
def test_what_is_written_wrong_is_said_with_what_to_write(recommender, given, options, reason):
    with pytest.raises(ValueError, match=reason) as error:
        recommender.recommend(given, **options)
    assert "\n" not in str(error.value)


def test_histories_of_a_data_frame_are_those_of_lists(recommender):
    frame = pd.DataFrame({"items": HISTORIES}, index=[7, 3, 9])
    arrays = [np.array(history, dtype=object) for history in HISTORIES]
    expected = recommender.recommend(HISTORIES)
    for given in (frame["items"], arrays, tuple(map(tuple, HISTORIES))):
        assert recommender.recommend(given) == expected
    assert recommender.recommend(iter(HISTORIES)) == expected
    with pytest.raises(UnknownItemError, match="History 0 is empty"):
        recommender.recommend([[]])


@pytest.mark.parametrize("of", [np.array, pd.Series])
def test_options_in_arrays_are_those_in_lists(recommender, of):
    options = {"top_k": [3, 4, 5], "exclude_history": [True, False, True]}
    expected = recommender.recommend(HISTORIES, beam_widths=[[4, 8, 8]] * 3, **options)
    arrays = {name: of(values) for name, values in options.items()}
    assert recommender.recommend(HISTORIES, beam_widths=np.array([[4, 8, 8]] * 3), **arrays) == expected


def recommend_json(artifact, capsys, *words) -> tuple[list[str], str]:
    assert main(["recommend", "--model", str(artifact), "--json", *words]) == 0
    printed = capsys.readouterr()
    return [ad["item_id"] for ad in json.loads(printed.out)], printed.err


def test_ids_with_commas_can_be_given_to_the_command(tiny_artifact, tmp_path, capsys):
    model = Recommender.from_pretrained(tiny_artifact)
    names = ["shoe, red", "[odd", 'say "hi"']
    model.add_ads(names, model.tokenizer.index.codes[:3])
    for part in (model.model, model.tokenizer, model.weights):
        part.save_pretrained(tmp_path)
    got, _ = recommend_json(tmp_path, capsys, "--history", json.dumps(names), "--allow-items", json.dumps(names))
    assert sorted(got) == sorted(names)
    got, said = recommend_json(
        tmp_path, capsys, "--history", "ad_1, ad_2,gone", "--allow-items", "ad_3,ad_4,later", "--block-items", "ad_4"
    )
    assert got == ["ad_3"]
    assert "not in the catalog, skipped: gone" in said and "skipped in allow_items: later" in said
    got, _ = recommend_json(tmp_path, capsys, "--history", "ad_1", "--exclude-history", "--top-k", "16")
    assert len(got) == 16 and "ad_1" not in got


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--history", "[ad_1]"], "`--history` begins like a JSON list, but is none"),
        (["--history", "[1]"], '`--history` must hold ids as text. Received: 1. Write "1"'),
        (["--history", "ad_1", "--beam-widths", "8;8;8"], "`--beam-widths` must be whole numbers separated by commas"),
        (["--history", "ad_1", "--beam-widths", "8"], "`beam_widths` needs 3 widths"),
        (["--history", "ad_1", "--max-per-account", "2"], "`max_per_account` = 2 needs the column `account_id`"),
    ],
)
def test_the_command_says_what_to_write(tiny_artifact, capsys, words, reason):
    assert main(["recommend", "--model", str(tiny_artifact), *words]) == 2
    assert reason in capsys.readouterr().err
