"""One server on vLLM that follows a published model, keeps answers and speaks Open Inference as the native one."""

import gzip
import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import STORED
from vllm_processes import TOKEN, metric

from gr4ad.serving import IndexChange, Recommender
from gr4ad.tokenization import UserHistory

pytestmark = pytest.mark.needs_vllm

URL = "/v1/recommend"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
TOLERANCE = 1e-4
FEATURES = ("events", "values", "times", "cross_domain")


@pytest.fixture(scope="module")
def kept() -> dict:
    with gzip.open(STORED / "rankings.json.gz", "rt", encoding="utf-8") as file:
        return json.load(file)


def body_of(row: dict, **options) -> dict:
    features = {name: row[name] for name in FEATURES}
    return {
        "history": row["items"],
        **features,
        "user_features": {"age": row["age"], "region": row["region"]},
        **options,
    }


def ask(client, **body) -> dict:
    response = client.post(URL, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer: dict) -> list[str]:
    return [ad["item_id"] for ad in answer["recommendations"]]


def wait_until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.05)


def test_stored_rankings_of_all_features(followed, kept):
    bodies = [body_of(row, top_k=kept["top_k"]) for row in kept["users"]]
    answers = ask(followed, requests=bodies[:150])["responses"] + ask(followed, requests=bodies[150:])["responses"]
    for answer, expected in zip(answers, kept["rankings"], strict=True):
        assert ids(answer) == [ad[0] for ad in expected]
        for place, name in ((1, "score"), (2, "value")):
            got = [ad[name] for ad in answer["recommendations"]]
            assert got == pytest.approx([ad[place] for ad in expected], abs=TOLERANCE)


def test_users_with_and_without_features_share_a_step(followed, kept):
    native = Recommender.from_pretrained(STORED)
    bodies = []
    for place, row in enumerate(kept["users"][:16]):
        body = body_of(row, top_k=5)
        bodies.append({name: given for name, given in body.items() if name not in FEATURES or bit_of(name, place)})
    for body, answer in zip(bodies, ask(followed, requests=bodies)["responses"], strict=True):
        features = {name: body[name] for name in FEATURES if name in body}
        user = UserHistory(body["history"], **features, user_features=body["user_features"])
        [expected] = native.recommend([user], top_k=5)
        assert ids(answer) == [ad.item_id for ad in expected]
        scores = [ad["score"] for ad in answer["recommendations"]]
        assert scores == pytest.approx([ad.score for ad in expected], abs=TOLERANCE)


def bit_of(name: str, place: int) -> bool:
    return bool(place >> FEATURES.index(name) & 1)


def test_open_inference_says_what_v1_recommend_says(followed, kept):
    rows = [row for row in kept["users"] if len(row["items"]) == 5][:3]
    served = followed.get("/v1/model").json()
    about = followed.get(f"/v2/models/{served['model']}").raise_for_status().json()
    assert {"history", "top_k", *FEATURES, "user_feature.age"} <= {given["name"] for given in about["inputs"]}
    most = max(len(row["cross_domain"]) for row in rows)
    inputs = [
        {"name": "history", "datatype": "BYTES", "shape": [3, 5], "data": [row["items"] for row in rows]},
        {"name": "events", "datatype": "BYTES", "shape": [3, 5], "data": [row["events"] for row in rows]},
        {"name": "values", "datatype": "FP64", "shape": [3, 5], "data": [row["values"] for row in rows]},
        {"name": "times", "datatype": "FP64", "shape": [3, 5], "data": [row["times"] for row in rows]},
        {"name": "cross_domain", "datatype": "BYTES", "shape": [3, most],
         "data": [row["cross_domain"] + [""] * (most - len(row["cross_domain"])) for row in rows]},
        {"name": "user_feature.age", "datatype": "BYTES", "shape": [3], "data": [row["age"] or "" for row in rows]},
        {"name": "user_feature.region", "datatype": "BYTES", "shape": [3],
         "data": [row["region"] or "" for row in rows]},
        {"name": "top_k", "datatype": "INT32", "shape": [1], "data": [4]},
    ]  # fmt: skip
    url = f"/v2/models/{served['model']}/infer"
    outputs = followed.post(url, json={"inputs": inputs}).raise_for_status().json()["outputs"]
    answers = ask(followed, requests=[body_of(row, top_k=4) for row in rows])["responses"]
    assert outputs[0]["data"] == [ad["item_id"] for answer in answers for ad in answer["recommendations"]]
    scores = [ad["score"] for answer in answers for ad in answer["recommendations"]]
    assert outputs[1]["data"] == pytest.approx(scores, abs=TOLERANCE)
    refused = followed.post(url, json={"inputs": [inputs[0], {**inputs[1], "name": "colour"}]})
    assert refused.status_code == 422 and "'colour' is unknown" in refused.json()["detail"]
    assert followed.get("/v2/health/ready").json() == {"ready": True}
    assert followed.get("/readyz").text == "ready\n" and followed.get("/").text.startswith("<!")


def test_what_does_not_fit_is_refused_with_a_time_to_come_back(followed, kept):
    wide = {"requests": [body_of(row, beam_widths=[512, 512, 512]) for row in kept["users"][:200]]}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: followed.post(URL, json=wide, timeout=120))
        wait_until(lambda: first.done() or metric(followed, r"vllm:num_requests_(?:running|waiting)\{.*\}") > 156)
        refused = followed.post(URL, json={"requests": [{"history": ["ad_1"]}] * 100})
        answers = first.result().raise_for_status().json()["responses"]
    assert all("recommendations" in answer for answer in answers)
    assert refused.status_code == 429 and int(refused.headers["retry-after"]) >= 1
    assert "at most 256 may be" in refused.json()["detail"]
    # By now the scheduler knows what a step costs.
    late = followed.post(URL, json={"history": ["ad_1"], "deadline_ms": 0.001})
    assert late.status_code == 429 and int(late.headers["retry-after"]) >= 1, late.text


def test_the_cache_forgets_what_changes_and_what_is_published_is_followed(followed, published, kept):
    body = body_of(kept["users"][1], top_k=5)
    first, again = ask(followed, **body), ask(followed, **body)
    assert again["cached"] and ids(again) == ids(first)
    assert not ask(followed, **{**body, "top_k": 6})["cached"]
    assert metric(followed, r'gr4ad_cache_lookups_total\{result="hit"\}') >= 1

    best = ids(first)[0]
    change = followed.post("/v1/index", json={"op": "remove", "item_ids": [best]}, headers=ADMIN)
    assert change.raise_for_status().json()["index_changes"] == 1 == published.last_change
    after = ask(followed, **body)
    assert not after["cached"] and best not in ids(after) and ask(followed, **body)["cached"]

    published.append_change(IndexChange("remove", [ids(after)[0]]))
    wait_until(lambda: followed.get("/v1/model").json()["index_changes"] == 2)
    wait_until(lambda: metric(followed, "gr4ad_index_changes") == 2)
    later = ask(followed, **body)
    assert not later["cached"] and ids(after)[0] not in ids(later)

    number = published.publish(lambda folder: shutil.copytree(STORED, folder, dirs_exist_ok=True), changes=0)
    wait_until(lambda: metric(followed, "gr4ad_model_version") == number)
    newer = ask(followed, **body)
    assert not newer["cached"] and newer["model_version"] == number and ids(newer) == ids(later)
    assert newer["model"] == published.root.name

    (published.root / "CURRENT").write_text("77\n")
    wait_until(lambda: metric(followed, "gr4ad_reload_failures_total") >= 1)
    assert ask(followed, **body)["model_version"] == number
    refused = followed.post("/v1/reload", json={"model": str(STORED)}, headers=ADMIN)
    assert refused.status_code == 409 and "publish the version there" in refused.json()["detail"]
