import copy
import json
import shutil
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from loopback import URL
from loopback import served as served_over_http

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.modeling_gr4ad.ranking_weights_gr4ad import DEFAULT_BEAM_WIDTH
from gr4ad.serving import Recommender, UnknownItemError
from gr4ad.tokenization import UASIDTokenizer

HISTORIES = [["ad_1"], ["ad_5", "ad_9", "ad_77"], [f"ad_{n}" for n in range(30, 45)], ["ad_3", "ad_3"]]


@pytest.fixture(scope="module")
def recommender(tiny_artifact) -> Recommender:
    return Recommender.from_pretrained(tiny_artifact)


def test_recommendations_are_items_with_their_own_sid_and_title(recommender):
    index = recommender.tokenizer.index
    for ranked in recommender.recommend(HISTORIES, top_k=12):
        assert len({ad.item_id for ad in ranked}) == len(ranked) == 12
        assert [ad.score for ad in ranked] == sorted((ad.score for ad in ranked), reverse=True)
        for ad in ranked:
            assert ad.attributes == {"title": f"Title <b>{ad.item_id}</b>"}
            codes = index.sid_of(ad.item_id)
            assert ad.sid == "".join(f"<{level}_{code}>" for level, code in zip("abc", codes, strict=True))
            means = recommender.tokenizer.value_bucket_means
            counted, row = recommender.model.item_values, index.rows[ad.item_id] + 1
            own = float(counted.means[row])
            assert ad.value is not None and min(*means, own) <= ad.value <= max(*means, own)


def test_excluded_history_never_returns_and_the_rest_keeps_its_order(recommender):
    everything = [128] * 3
    free = recommender.recommend(HISTORIES, top_k=128, beam_widths=everything)
    cut = recommender.recommend(HISTORIES, top_k=128, beam_widths=everything, exclude_history=True)
    for history, full, rest in zip(HISTORIES, free, cut, strict=True):
        assert len(full) == 120
        assert [ad.item_id for ad in rest] == [ad.item_id for ad in full if ad.item_id not in history]


def test_unknown_ids_are_skipped_or_named(recommender):
    [known] = recommender.recommend([["ad_5", "ad_9"]])
    [mixed] = recommender.recommend([["new", "ad_5", "newer", "ad_9"]])
    assert [ad.item_id for ad in mixed] == [ad.item_id for ad in known]
    with pytest.raises(UnknownItemError, match="History 1 names no item.*'new'"):
        recommender.recommend([["ad_1"], ["new"]])
    with pytest.raises(UnknownItemError, match="History 0 is empty"):
        recommender.recommend([[]])


def test_values_of_skipped_items_are_skipped_with_them(recommender):
    [known] = recommender.recommend([["ad_5", "ad_9"]], values=[[0.0, 4.0]])
    [mixed] = recommender.recommend([["new", "ad_5", "ad_9"]], values=[[2.0, 0.0, 4.0]])
    [other] = recommender.recommend([["ad_5", "ad_9"]], values=[[4.0, 0.0]])
    assert [ad.score for ad in mixed] == pytest.approx([ad.score for ad in known])
    assert [ad.score for ad in other] != pytest.approx([ad.score for ad in known], abs=1e-3)


def test_times_and_cross_domain_reach_the_model(account_artifact):
    recommender = Recommender.from_pretrained(account_artifact)
    elsewhere = [["a", "b", "c", "d", "e"], []]
    given = {"times": [[7, 100, 103], [5, 5]], "cross_domain": elsewhere}
    [first, second] = recommender.recommend([["ad_5", "new", "ad_9"], ["ad_1", "ad_2"]], **given)
    tokenizer = recommender.tokenizer
    batch = tokenizer.encode_histories(
        [["ad_5", "ad_9"], ["ad_1", "ad_2"]],
        times=[[7, 103], [5, 5]],  # the gap is to the item before that is known
        cross_domain=[["b", "c", "d", "e"], []],
        return_tensors="pt",
    )
    assert batch["time_ids"].tolist() == [[0, 7], [0, 1]]
    weights = RankingWeights(beam_widths=(8, 16, 16), item_weight=0.5, neighbour_weight=0.3)  # as it is served
    beams = recommender.model.recommend(**batch, weights=weights, trie=recommender.trie, top_k=10)
    for ranked, scores in zip((first, second), beams.scores.tolist(), strict=True):
        assert [ad.score for ad in ranked] == pytest.approx(scores, abs=1e-5)
    for changed in ({"times": [[7, 0, 8], [5, 5]]}, {"cross_domain": [["x", "b"], []]}, {"times": None}):
        [other, _] = recommender.recommend([["ad_5", "new", "ad_9"], ["ad_1", "ad_2"]], **{**given, **changed})
        assert [ad.score for ad in other] != pytest.approx([ad.score for ad in first], abs=1e-3)


def test_features_the_model_lacks_are_ignored_and_lengths_checked(recommender):
    [plain] = recommender.recommend([["ad_5", "ad_9"]])
    [given] = recommender.recommend([["ad_5", "ad_9"]], times=[[1, 2]], cross_domain=[["x"]])
    assert given == plain
    for name in ("events", "values", "times"):
        with pytest.raises(ValueError, match=f"Row 0: `{name}` must be as long as `items`, 2. Received: 1 entries"):
            recommender.recommend([["ad_5", "ad_9"]], **{name: [["click" if name == "events" else 1]]})


def test_model_and_tokenizer_of_two_artifacts_are_refused(recommender, tiny_artifact):
    other = UASIDTokenizer.from_pretrained(tiny_artifact, value_bucket_edges=[], value_bucket_means=[])
    with pytest.raises(ValueError, match="`num_value_buckets` of the model is .*Load both from one folder") as caught:
        Recommender(recommender.model, other, recommender.weights)
    assert "\n" not in str(caught.value)


def test_a_batch_equals_one_by_one(recommender):
    for history, ranked in zip(HISTORIES, recommender.recommend(HISTORIES), strict=True):
        [alone] = recommender.recommend([history])
        assert [ad.item_id for ad in alone] == [ad.item_id for ad in ranked]
        assert [ad.score for ad in alone] == pytest.approx([ad.score for ad in ranked], abs=1e-4)
        assert [ad.value for ad in alone] == pytest.approx([ad.value for ad in ranked], abs=1e-4)


def test_bad_top_k_and_missing_folder_are_named(recommender, tmp_path):
    with pytest.raises(ValueError, match=r"`top_k` must be in 1\.\.16.*Received: 17"):
        recommender.recommend([["ad_1"]], top_k=17)
    with pytest.raises(ValueError, match="not a GR4AD artifact"):
        Recommender.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    "kept", [{}, {"beam_widths": [4, 4, 12]}, {"item_weight": 0.5}, {"beam_widths": None, "score_history": None}]
)
def test_what_generation_config_does_not_say_has_its_default(tiny_artifact, tmp_path, kept):
    shutil.copytree(tiny_artifact, tmp_path, dirs_exist_ok=True)
    (tmp_path / "generation_config.json").write_text(json.dumps(kept))
    recommender = Recommender.from_pretrained(tmp_path)
    widths = kept.get("beam_widths") or [DEFAULT_BEAM_WIDTH] * 3
    assert recommender.beam_widths == widths and not recommender.weights.exclude_history
    told = Recommender.from_pretrained(tiny_artifact)
    told.weights = RankingWeights(beam_widths=tuple(widths), item_weight=kept.get("item_weight", 0.0))
    expected = told.recommend(HISTORIES, top_k=12)
    assert recommender.recommend(HISTORIES, top_k=12) == expected
    with served_over_http(recommender) as (_, client):
        answer = client.post(URL, json={"history": HISTORIES[0], "top_k": 12}).raise_for_status().json()
    assert answer["beam_widths"] == widths
    assert [ad["item_id"] for ad in answer["recommendations"]] == [ad.item_id for ad in expected[0]]


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_weights_that_are_no_numbers_are_refused_by_name(tiny_artifact, tmp_path, wrong, dtype):
    broken = Recommender.from_pretrained(tiny_artifact)
    with torch.no_grad():
        broken.model.sid_heads[1].weight[2, 3] = wrong
    for part in (broken.model, broken.tokenizer, broken.weights):
        part.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"`sid_heads\.1\.weight` holds 1 weights that are NaN or infinite") as caught:
        Recommender.from_pretrained(tmp_path, dtype=dtype)
    assert "\n" not in str(caught.value)


def test_the_recommender_does_not_import_the_server():
    server = ("fastapi", "uvicorn", "prometheus_client")
    code = f"import sys, gr4ad.serving; sys.exit(any(name in sys.modules for name in {server}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    code = f"import sys; from gr4ad import Recommender; sys.exit(any(name in sys.modules for name in {server}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("module", ["server_config", "vllm_backend.options", "vllm_backend.launch", "beam_policy"])
def test_options_and_policy_import_neither_torch_nor_the_server(module):
    heavy = ("torch", "fastapi", "uvicorn", "prometheus_client", "vllm")
    code = f"import sys, gr4ad.serving.{module}; sys.exit([name for name in {heavy} if name in sys.modules] or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


EVERYTHING = {"top_k": 200, "beam_widths": [8, 64, 200]}  # as wide as the tree of valid SIDs: every ad comes back


@pytest.fixture
def changing(tiny_artifact) -> Recommender:
    """A recommender of its own, which ranks by the item head alone."""
    recommender = Recommender.from_pretrained(tiny_artifact)
    recommender.weights = replace(recommender.weights, item_weight=1.0)
    return recommender


def served(recommender: Recommender, history=("ad_1",)) -> list[str]:
    return [ad.item_id for ad in recommender.recommend([list(history)], **EVERYTHING)[0]]


def nearest_mean(recommender: Recommender, sid: list[int]) -> tuple[np.ndarray, float]:
    """Mean vector and bias of the active ads that share the longest prefix, one by one."""
    index = recommender.tokenizer.index
    table, bias = (x.detach().numpy() for x in (recommender.model.item_table, recommender.model.item_head.bias))
    active = [item for item in index.item_ids if index.active[index.rows[item]]]
    for shared in range(len(sid), -1, -1):
        rows = [index.rows[item] + 1 for item in active if list(index.sid_of(item))[:shared] == sid[:shared]]
        if rows:
            return table[rows].mean(0), bias[rows].mean()
    raise AssertionError("no ad is active")


def test_a_new_ad_is_served_at_once_and_a_removed_one_no_more(changing):
    index = changing.tokenizer.index
    torch.nn.init.normal_(changing.model.item_head.bias, generator=torch.Generator().manual_seed(0))
    before = served(changing)
    assert sorted(before) == sorted(index.item_ids)
    best = before[0]
    sid = list(index.sid_of(best))
    vector, bias = nearest_mean(changing, sid)
    changing.add_ads(["new"], [sid], priority=[3.0], attributes={"title": ["New!"]})
    [ranked] = changing.recommend([["ad_1"]], **EVERYTHING)
    assert sorted(ad.item_id for ad in ranked) == sorted([*before, "new"])
    [new] = [ad for ad in ranked if ad.item_id == "new"]
    assert new.attributes == {"title": "New!"} and new.sid == ranked[0].sid
    np.testing.assert_allclose(changing.model.item_table[-1].detach(), vector, atol=1e-6)
    assert changing.model.item_head.bias[-1].item() == pytest.approx(bias, abs=1e-6)
    assert index.items_of(sid) == [best]  # alone on its SID, so the new ad starts as its twin: at the top
    assert {ranked[0].item_id, ranked[1].item_id} == {"new", best}
    assert ranked[0].score == pytest.approx(ranked[1].score, abs=1e-5)

    changing.remove_ads(["new", "ad_7"])
    assert sorted(served(changing)) == sorted(set(before) - {"ad_7"})
    for history in (["new"], ["ad_7", "ad_1"], ["ad_1", "new"]):  # what was removed is still read in a history
        assert sorted(served(changing, history)) == sorted(set(before) - {"ad_7"})
    excluded = changing.recommend([["new", "ad_1"]], exclude_history=True, **EVERYTHING)[0]
    assert {"new", "ad_1"}.isdisjoint(ad.item_id for ad in excluded)


def test_new_ads_start_from_their_nearest_active_ads(changing):
    torch.nn.init.normal_(changing.model.item_head.bias, generator=torch.Generator().manual_seed(0))
    codes = np.random.default_rng(3).integers(0, 8, (40, 3))
    changing.remove_ads([f"ad_{n}" for n in range(0, 120, 2)])
    gone = changing.tokenizer.index.codes[0, 0]
    active = changing.tokenizer.index.active
    first_codes = changing.tokenizer.index.codes[:, 0]
    changing.remove_ads([f"ad_{n}" for n in np.flatnonzero((first_codes == gone) & active)])
    codes[0, 0] = gone  # shares no code with any active ad: starts from all of them
    expected = [nearest_mean(changing, sid) for sid in codes.tolist()]
    learned = changing.model.item_table[1].detach().clone()
    changing.add_ads([f"new_{n}" for n in range(40)], codes)
    changing.add_ads(["ad_0"], codes[:1])
    model, index = changing.model, changing.tokenizer.index
    assert model.config.num_items == len(model.item_table) == len(model.item_head.bias) == len(index) + 1 == 161
    np.testing.assert_allclose(model.item_table[-40:].detach(), np.stack([v for v, _ in expected]), atol=1e-5)
    np.testing.assert_allclose(model.item_head.bias[-40:].detach(), [b for _, b in expected], atol=1e-5)
    assert torch.equal(model.item_table[1], learned)  # one that comes back keeps what was learned of it
    assert len(served(changing)) == index.num_active


def test_a_replaced_ad_is_found_under_its_new_sid(changing):
    sid = changing.tokenizer.index.sid_of("ad_3")
    changing.replace_ads(["ad_9"], [sid], attributes={"title": ["moved"]})
    [moved] = [ad for ad in changing.recommend([["ad_1"]], **EVERYTHING)[0] if ad.item_id == "ad_9"]
    assert moved.sid == "".join(f"<{level}_{code}>" for level, code in zip("abc", sid, strict=True))
    assert moved.attributes == {"title": "moved"}


def test_refused_changes_of_ads_change_nothing(changing):
    before, trie, index = served(changing), changing.trie, changing.tokenizer.index
    everyone = list(index.item_ids)
    for act, message in [
        (
            lambda: changing.add_ads(["new"], [[0, 8, 0]]),
            r"`codes\[0\]` has code 8 at level 2, whose codes are 0\.\.7",
        ),
        (lambda: changing.add_ads(["n", "m"], [[0, 0, 0], [0, 0, -1]]), r"`codes\[1\]` has code -1 at level 3"),
        (lambda: changing.add_ads(["new"], [[0, 0]]), r"`codes` must have shape \(1, 3\)"),
        (lambda: changing.add_ads(["new"], [[0, 0, 0]], attributes={"colour": ["red"]}), "no column 'colour'"),
        (lambda: changing.add_ads(["ad_1"], [[0, 0, 0]]), "'ad_1' is in the index already"),
        (lambda: changing.replace_ads(["ad_1"], [[9, 0, 0]]), "has code 9 at level 1"),
        (lambda: changing.replace_ads(["new"], [[0, 0, 0]]), "'new' is not in the index"),
        (lambda: changing.remove_ads(["new"]), "'new' is not in the index"),
        (lambda: changing.remove_ads(everyone), "has no active item"),
    ]:
        with pytest.raises(ValueError, match=message):
            act()
        assert changing.trie is trie and changing.tokenizer.index is index and index.version == 0
        assert changing.model.config.num_items == 121
    assert served(changing) == before


def test_a_grown_model_is_saved_and_loaded_whole(changing, tmp_path):
    changing.add_ads(["new", "newer"], [[0, 1, 2], [7, 7, 7]], attributes={"title": ["N", "M"]})
    changing.remove_ads(["ad_5"])
    for part in (changing.model, changing.tokenizer, changing.weights):
        part.save_pretrained(tmp_path)
    again = Recommender.from_pretrained(tmp_path)
    assert again.model.config.num_items == 123 and again.tokenizer.index.version == 2
    assert torch.equal(again.model.item_table, changing.model.item_table)
    assert torch.equal(again.model.item_head.bias, changing.model.item_head.bias)
    # Sorted: an ad whose only neighbour lent it its vector ties with it, up to float error.
    assert sorted(served(again, ["new", "ad_5"])) == sorted(served(changing, ["new", "ad_5"]))
    again.add_ads(["newest"], [[0, 1, 2]])
    assert {"new", "newest"} <= set(served(again)) and "ad_5" not in served(again)


class Watched(Recommender):
    """Checks what a request could find at the moment a trie is published."""

    def __setattr__(self, name, value):
        if name == "trie" and "trie" in vars(self):
            assert len(self.account_groups) == len(self.tokenizer.index) == self.model.config.num_items - 1
        super().__setattr__(name, value)


@pytest.fixture
def accounts(account_artifact) -> Recommender:
    recommender = Watched.from_pretrained(account_artifact)
    recommender.weights = replace(recommender.weights, item_weight=1.0)
    return recommender


def limited(ranked, limit: int) -> list[str]:
    """Items of a full ranking that are left when each account may have so many."""
    seen, kept = Counter(), []
    for ad in ranked:
        account = ad.attributes["account_id"]
        seen[account] += 1
        if account is None or seen[account] <= limit:
            kept.append(ad.item_id)
    return kept


@pytest.mark.parametrize("limit", [1, 3, 20])
def test_a_list_holds_the_best_ads_of_each_account(accounts, limit):
    free = accounts.recommend(HISTORIES, **EVERYTHING)
    for full, ranked in zip(free, accounts.recommend(HISTORIES, **EVERYTHING, max_per_account=limit), strict=True):
        assert len(full) == 120
        assert [ad.item_id for ad in ranked] == limited(full, limit)
        assert sum(ad.attributes["account_id"] is None for ad in ranked) == 20  # no account: no limit
    short = accounts.recommend(HISTORIES, **{**EVERYTHING, "top_k": 5}, max_per_account=limit)
    assert [[ad.item_id for ad in ranked] for ranked in short] == [limited(full, limit)[:5] for full in free]


def test_accounts_follow_ads_that_come_change_and_go(accounts):
    def ranked(**options):
        return accounts.recommend([["ad_1"]], **EVERYTHING, **options)[0]

    def check():
        groups, index = accounts.account_groups.tolist(), accounts.tokenizer.index
        names = index.columns["account_id"]
        assert [group < 0 for group in groups] == [name is None for name in names]
        assert len(set(zip(groups, names, strict=True))) == len(set(groups)) == len(set(names))
        assert [ad.item_id for ad in ranked(max_per_account=2)] == limited(ranked(), 2)

    check()
    codes = accounts.tokenizer.index.codes
    accounts.add_ads(["new", "newer", "free"], codes[1:4], attributes={"account_id": ["account_1", "fresh", None]})
    check()
    accounts.replace_ads(["new", "ad_6"], attributes={"account_id": ["fresh", "account_1"]})
    assert accounts.account_groups[[120, 6]].tolist() == accounts.account_groups[[121, 1]].tolist()
    check()
    accounts.remove_ads(["newer", "ad_9"])
    check()
    before = accounts.account_groups
    with pytest.raises(ValueError, match="'account_id' .* received numbers, .* holds strings. Give all ads one"):
        accounts.add_ads(["wrong"], codes[:1], attributes={"account_id": [7]})
    assert accounts.account_groups is before and "wrong" not in accounts.tokenizer.index.rows
    assert accounts.model.config.num_items == 124
    check()


def test_a_limit_that_cannot_be_kept_is_refused(accounts, recommender):
    with pytest.raises(ValueError, match="`max_per_account` must be at least 1. Received: 0. Leave it out"):
        accounts.recommend([["ad_1"]], max_per_account=0)
    with pytest.raises(ValueError, match="needs the column `account_id`.*lacks. It has: title. Build the tokenizer"):
        recommender.recommend([["ad_1"]], max_per_account=2)


def test_requests_run_while_ads_come_and_go(changing):
    """Every answer is of the ads at some moment: it never misses one that was always there, nor fails on a row that
    the tables lack."""
    always = set(changing.tokenizer.index.item_ids)
    stop, failures, answers = threading.Event(), [], []

    def ask():
        try:
            while not stop.is_set():
                newest = changing.tokenizer.index.item_ids[-1]
                answers.append(served(changing, ["ad_1", newest]))
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(30):
        changing.add_ads([f"new_{number}"], [[number % 8, 3, 3]])
        if number % 3 == 0:
            changing.remove_ads([f"new_{number}"])
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures and answers and all(always <= set(answer) for answer in answers)
    assert changing.model.config.num_items == 151 and changing.tokenizer.index.version == 40
    assert len(served(changing)) == 140


def test_item_tables_grow_without_disturbing_a_request_that_holds_the_older(changing):
    model = changing.model
    older = model.item_table
    batch = changing.tokenizer.encode_histories([["ad_1"], ["ad_2"]], return_tensors="pt")
    with torch.no_grad():
        context = model.model.encode(**batch)
        trunk = model.model.trunk(context)
        before = model.item_head.log_probs(trunk, older, context)
        model.extend_item_tables(torch.ones(2, 16), torch.tensor([0.5, -0.5]))
        assert torch.equal(model.item_head.log_probs(trunk, older, context), before)
        now = model.item_head.log_probs(trunk, model.item_table, context)
    assert now.shape == (2, 123) and model.item_head.bias[-2:].tolist() == [0.5, -0.5]
    torch.testing.assert_close(now.exp().sum(1), torch.ones(2), atol=0.05, rtol=0)  # less the row of the unknown item
    for vectors, biases in [(torch.ones(2, 15), None), (torch.ones(16), None), (torch.ones(2, 16), torch.ones(3))]:
        with pytest.raises(ValueError, match=r"`vectors` must have shape \(n, 16\) and `biases` \(n,\). Received"):
            model.extend_item_tables(vectors, biases)
    assert model.config.num_items == len(model.item_table) == 123


def test_ads_are_added_to_a_model_without_item_tables(changing):
    config = copy.deepcopy(changing.model.config)
    config.item_head, config.item_values, config.num_items = False, False, 0
    bare = GR4ADForRecommendation(config)
    with pytest.raises(ValueError, match="This model has no item tables"):
        bare.extend_item_tables(torch.ones(2, 16))
    recommender = Recommender(bare, changing.tokenizer, replace(changing.weights, item_weight=0.0))
    recommender.add_ads(["new"], [[1, 2, 3]])
    assert len(served(recommender, ["new"])) == 121 and "new" in served(recommender)


def test_tables_that_are_older_than_the_index_catch_up(changing):
    """An index that grew elsewhere: the rows that the model never had get their vectors with the next change."""
    changing.tokenizer.index.add(["elsewhere"], [changing.tokenizer.index.sid_of("ad_4")])
    changing.add_ads(["new"], [changing.tokenizer.index.sid_of("ad_6")])
    table, rows = changing.model.item_table, changing.tokenizer.index.rows
    torch.testing.assert_close(table[rows["elsewhere"] + 1], table[rows["ad_4"] + 1])
    torch.testing.assert_close(table[rows["new"] + 1], table[rows["ad_6"] + 1])


def test_users_with_their_own_widths_lengths_and_exclusions_share_a_batch(recommender):
    widths = [[2, 4, 8], [8, 16, 32], [32, 32, 32], [1, 1, 3]]
    lengths, exclude = [8, 5, 32, 1], [True, False, True, False]
    together = recommender.recommend(HISTORIES, top_k=lengths, beam_widths=widths, exclude_history=exclude)
    for history, line, length, out, got in zip(HISTORIES, widths, lengths, exclude, together, strict=True):
        [alone] = recommender.recommend([history], top_k=length, beam_widths=line, exclude_history=out)
        assert [ad.item_id for ad in got] == [ad.item_id for ad in alone]
        assert [ad.score for ad in got] == pytest.approx([ad.score for ad in alone], abs=1e-4)
        assert not out or not {ad.item_id for ad in got} & set(history)
    with pytest.raises(ValueError, match=r"`top_k` must be in 1..3 .*Received: 4"):
        recommender.recommend(HISTORIES, top_k=[8, 5, 32, 4], beam_widths=widths)
    with pytest.raises(ValueError, match="`top_k` needs one value, or one for each of the 4 users. Received: 2"):
        recommender.recommend(HISTORIES, top_k=[8, 5])
