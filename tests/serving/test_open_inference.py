import pytest
from loopback import served

from gr4ad.serving import Recommender
from gr4ad.serving.live_model import LiveModel

HISTORY = {"name": "history", "datatype": "BYTES", "shape": [2, 2], "data": ["ad_1", "ad_7", "ad_5", ""]}


@pytest.fixture(scope="module")
def recommender(tiny_artifact):
    return Recommender.from_pretrained(tiny_artifact)


@pytest.fixture(scope="module")
def client(recommender):
    with served(recommender, max_history=20) as (_, client):
        yield client


def test_health_and_metadata(client, recommender):
    assert client.get("/v2").json()["name"] == "gr4ad"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    about = client.get(f"/v2/models/{recommender.name}").json()
    assert [tensor["name"] for tensor in about["inputs"]] == ["history", "values", "top_k"]
    assert [tensor["name"] for tensor in about["outputs"]] == ["item_id", "score", "value"]
    assert client.get(f"/v2/models/{recommender.name}/ready").status_code == 200
    for path in ("/v2/models/other", "/v2/models/other/ready"):
        assert client.get(path).status_code == 404
    assert client.post("/v2/models/other/infer", json={"inputs": [HISTORY]}).status_code == 404


@pytest.mark.parametrize("data", [HISTORY["data"], [["ad_1", "ad_7"], ["ad_5", ""]]])
def test_tensors_hold_what_the_recommender_gives(client, recommender, data):
    inputs = [{**HISTORY, "data": data}, {"name": "top_k", "datatype": "INT32", "shape": [1], "data": [4]}]
    answer = client.post(f"/v2/models/{recommender.name}/infer", json={"id": "7", "inputs": inputs})
    answer = answer.raise_for_status().json()
    assert (answer["id"], answer["model_name"], answer["model_version"]) == ("7", recommender.name, "1")
    outputs = {tensor["name"]: tensor for tensor in answer["outputs"]}
    assert all(tensor["shape"] == [2, 4] for tensor in outputs.values())
    expected = [ad for ranked in recommender.recommend([["ad_1", "ad_7"], ["ad_5"]], top_k=4) for ad in ranked]
    assert outputs["item_id"]["data"] == [ad.item_id for ad in expected]
    assert outputs["score"]["data"] == pytest.approx([ad.score for ad in expected], abs=1e-4)
    assert outputs["value"]["data"] == pytest.approx([ad.value for ad in expected], abs=1e-4)


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ([], "at least 1 item"),
        ([{"name": "top_k", "datatype": "INT32", "shape": [1], "data": [4]}], "'history' is missing"),
        ([{**HISTORY, "name": "items"}], "'items' is unknown"),
        ([{**HISTORY, "shape": [3, 2]}], "4 entries"),
        ([{**HISTORY, "shape": [4]}], "of shape [4]"),
        ([{**HISTORY, "shape": [0, 0], "data": []}], "1..20 items"),
        ([{**HISTORY, "datatype": "INT32"}], "must be BYTES"),
        ([{**HISTORY, "datatype": "FP8"}], "'BYTES', 'INT32', 'INT64', 'FP32' or 'FP64'"),
        ([{**HISTORY, "data": [1, 2, 3, 4]}], "texts of at most 256 characters"),
        ([HISTORY, {"name": "top_k", "datatype": "INT32", "shape": [1], "data": [0]}], "one number in 1.."),
        ([{**HISTORY, "data": ["ad_1", "ad_2", "new", ""]}], "Row 1: History 0 names no item"),
    ],
)
def test_bad_tensors_are_named(client, recommender, inputs, reason):
    response = client.post(f"/v2/models/{recommender.name}/infer", json={"inputs": inputs})
    assert response.status_code == 422
    assert reason in response.json()["detail"], response.text


@pytest.mark.parametrize(("reloads", "status"), [(1, 200), (9, 503)])
def test_all_rows_are_of_one_version(tiny_artifact, reloads, status):
    class Reloading(Recommender):
        """Other weights come after its first batches."""

        left = 0

        def rank(self, queries):
            ranked = super().rank(queries)
            if Reloading.left and queries[0].beam_widths:  # a batch, not the look at new weights
                Reloading.left -= 1
                live.reload()
            return ranked

    live = LiveModel(tiny_artifact, Reloading.from_pretrained)
    Reloading.left = reloads
    with served(live, max_batch=1) as (_, client):
        answer = client.post(f"/v2/models/{live.recommender.name}/infer", json={"inputs": [HISTORY]})
    assert answer.status_code == status, answer.text
    if status == 200:
        assert answer.json()["model_version"] == "2"
    else:
        assert "The weights changed" in answer.json()["detail"]
