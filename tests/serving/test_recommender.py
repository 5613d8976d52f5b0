import subprocess
import sys

import pytest

from gr4ad.serving import Recommender, UnknownItemError

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
            assert ad.value is not None and min(means) <= ad.value <= max(means)


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


def test_the_recommender_does_not_import_the_server():
    server = ("fastapi", "uvicorn", "prometheus_client")
    code = f"import sys, gr4ad.serving; sys.exit(any(name in sys.modules for name in {server}))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
