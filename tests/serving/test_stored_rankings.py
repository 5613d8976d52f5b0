"""Rankings of 300 users that three artifacts gave when they were saved, by an earlier state of this package: an
artifact that is on disk somewhere must rank as it did."""

import gzip
import json
from pathlib import Path

import pytest
import torch

from gr4ad.serving import Recommender
from gr4ad.tokenization import UserHistory

STORED = Path(__file__).parent.parent / "stored"
ARTIFACTS = ("demo", "all_features", "before_item_candidates")


def stored(name: str) -> dict:
    with gzip.open(STORED / name / "rankings.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if Path("/proc/cpuinfo").is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


def check_ranked(found: list, expected: list, exact: bool, tolerance: float = 1e-4) -> None:
    got = [[ad.item_id, ad.score, ad.value] for ad in found]
    if exact:
        assert got == expected
        return
    # On another processor sums round otherwise: ads whose scores are that close may have changed places.
    assert [ad[1] for ad in got] == pytest.approx([ad[1] for ad in expected], rel=tolerance)
    scores, worst = {ad[0]: ad[1:] for ad in expected}, expected[-1][1]
    for item, score, value in got:
        if item in scores:
            assert [score, value] == pytest.approx(scores[item], rel=tolerance)
        else:
            assert score == pytest.approx(worst, rel=tolerance)


@pytest.mark.parametrize("name", ARTIFACTS)
def test_an_artifact_ranks_as_when_it_was_saved(name):
    kept = stored(name)
    exact = (kept["processor"], kept["torch"]) == (processor(), torch.__version__)
    recommender = Recommender.from_pretrained(STORED / name)
    users = [UserHistory.from_row(row, recommender.tokenizer.user_features) for row in kept["users"]]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for start in range(0, len(users), kept["batch"]):
            batch = slice(start, start + kept["batch"])
            ranked = recommender.recommend(users[batch], top_k=kept["top_k"])
            for found, expected in zip(ranked, kept["rankings"][batch], strict=True):
                check_ranked(found, expected, exact)
    finally:
        torch.set_num_threads(threads)


def test_columns_say_the_same_as_histories():
    kept = stored("all_features")
    recommender = Recommender.from_pretrained(STORED / "all_features")
    rows = kept["users"][:15]
    columns = {name: [row[name] for row in rows] for name in ("events", "values", "times", "cross_domain")}
    features = {name: [row[name] for row in rows] for name in recommender.tokenizer.user_features}
    items = [row["items"] for row in rows]
    by_column = recommender.recommend(items, **columns, user_features=features, top_k=kept["top_k"])
    users = [UserHistory.from_row(row, recommender.tokenizer.user_features) for row in rows]
    assert by_column == recommender.recommend(users, top_k=kept["top_k"])
    with pytest.raises(ValueError, match="`events` stands in the histories"):
        recommender.recommend(users, events=columns["events"])


def test_users_that_lack_features_share_a_batch_with_those_that_have_them():
    kept = stored("all_features")
    recommender = Recommender.from_pretrained(STORED / "all_features")
    names = ("events", "values", "times", "cross_domain")
    users = []
    for place, row in enumerate(kept["users"][:16]):  # each feature is there or not, in every combination
        lacking = {name for bit, name in enumerate(names) if not place >> bit & 1}
        users.append(UserHistory.from_row({name: given for name, given in row.items() if name not in lacking}))
    together = recommender.recommend(users, top_k=10)
    for user, ranked in zip(users, together, strict=True):
        [alone] = recommender.recommend([user], top_k=10)
        assert [ad.item_id for ad in ranked] == [ad.item_id for ad in alone]
        assert [ad.score for ad in ranked] == pytest.approx([ad.score for ad in alone], abs=1e-4)
