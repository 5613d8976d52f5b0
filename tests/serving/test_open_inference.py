import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import pytest
from loopback import URL, served

from gr4ad.serving import Recommender
from gr4ad.serving.http_schema import request_models
from gr4ad.serving.live_model import LiveModel
from gr4ad.serving.open_inference import InferenceRequest, read_queries
from gr4ad.serving.request_types import RecommendQuery, ServedModel
from gr4ad.serving.serving_options import RequestLimits

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
    assert [tensor["name"] for tensor in about["inputs"]] == [
        "history", "values", "allow_items", "block_items", "allow_all", "top_k", "max_per_account", "exclude_history",
    ]  # fmt: skip
    assert [tensor["name"] for tensor in about["outputs"]] == ["item_id", "score", "value", "unknown_item"]
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
    assert outputs.pop("unknown_item") == {"name": "unknown_item", "datatype": "BYTES", "shape": [2, 0], "data": []}
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
        ([{**HISTORY, "datatype": "FP8"}], "'BYTES', 'INT32', 'INT64', 'FP32', 'FP64' or 'BOOL'"),
        ([{**HISTORY, "data": [1, 2, 3, 4]}], "texts of at most 1000 characters. Received: 1. Write"),
        ([HISTORY, {"name": "top_k", "datatype": "INT32", "shape": [1], "data": [0]}], "one number in 1.."),
        ([{**HISTORY, "data": ["ad_1", "ad_2", "new", ""]}], "Row 1: History 0 names no item"),
    ],
)
def test_bad_tensors_are_named(client, recommender, inputs, reason):
    response = client.post(f"/v2/models/{recommender.name}/infer", json={"inputs": inputs})
    assert response.status_code == 422
    assert reason in response.json()["detail"], response.text


def tensor(name: str, datatype: str, rows: list, padding) -> dict:
    """A tensor of lists, padded to the longest; of single values where `padding` is None."""
    if padding is None:
        return {"name": name, "datatype": datatype, "shape": [len(rows)], "data": rows}
    most = max(map(len, rows))
    data = [value for row in rows for value in (*row, *[padding] * (most - len(row)))]
    return {"name": name, "datatype": datatype, "shape": [len(rows), most], "data": data}


def test_all_features_rank_as_over_v1_recommend():
    stored = Path(__file__).parent.parent / "stored" / "all_features"
    with gzip.open(stored / "rankings.json.gz", "rt", encoding="utf-8") as file:
        rows = json.load(file)["users"][:8]
    recommender = Recommender.from_pretrained(stored)
    names = ("events", "values", "times", "cross_domain")
    bodies = [
        {"history": row["items"], **{name: row[name] for name in names}, "top_k": 6,
         "user_features": {name: row[name] for name in ("age", "region")}}
        for row in rows
    ]  # fmt: skip
    inputs = [
        tensor("history", "BYTES", [row["items"] for row in rows], ""),
        tensor("events", "BYTES", [row["events"] for row in rows], ""),
        tensor("values", "FP64", [row["values"] for row in rows], 0.0),
        tensor("times", "FP64", [row["times"] for row in rows], 0.0),
        tensor("cross_domain", "BYTES", [row["cross_domain"] for row in rows], ""),
        tensor("user_feature.age", "BYTES", [row["age"] or "" for row in rows], None),
        tensor("user_feature.region", "BYTES", [row["region"] or "" for row in rows], None),
        tensor("top_k", "INT32", [6], None),
    ]
    with served(recommender) as (_, client):
        url = f"/v2/models/{recommender.name}"
        about = {given["name"]: given for given in client.get(url).json()["inputs"]}
        options = {
            "cross_domain_times",
            "allow_items",
            "block_items",
            "allow_all",
            "max_per_account",
            "exclude_history",
        }
        assert set(about) == {given["name"] for given in inputs} | options
        for given in inputs:
            assert about[given["name"]]["datatype"] == given["datatype"]
            assert len(about[given["name"]]["shape"]) == len(given["shape"])
        answers = client.post(URL, json={"requests": bodies}).raise_for_status().json()["responses"]
        got = client.post(f"{url}/infer", json={"inputs": inputs}).raise_for_status().json()
        outputs = {output["name"]: output for output in got["outputs"]}
        ranked = [ad for answer in answers for ad in answer["recommendations"]]
        assert outputs["item_id"]["shape"] == [8, 6]
        for name in ("item_id", "score", "value"):
            expected = [ad[name] for ad in ranked]
            assert outputs[name]["data"] == (expected if name == "item_id" else pytest.approx(expected, abs=1e-4))
        plain = client.post(f"{url}/infer", json={"inputs": [inputs[0], inputs[-1]]}).raise_for_status().json()
        assert plain["outputs"][1]["data"] != outputs["score"]["data"]  # they are read
        for wrong, reason in (
            ([inputs[0], tensor("events", "BYTES", [["buy"]] * 8, "")], "Input 'events' must have the shape of"),
            ([inputs[0], {**inputs[2], "datatype": "BYTES"}], "Input 'values' must be FP64 or FP32"),
            ([inputs[0], {**inputs[2], "data": [-1.0] * len(inputs[2]["data"])}], "Row 0: `values.0`"),
            ([inputs[0], {**inputs[5], "name": "user_feature.shoe"}], "Input 'user_feature.shoe' is unknown"),
            ([inputs[0], {**inputs[5], "shape": [8, 1]}], "Input 'user_feature.age' must be BYTES with users entries"),
        ):
            refused = client.post(f"{url}/infer", json={"inputs": wrong})
            assert refused.status_code == 422 and reason in refused.json()["detail"], refused.text


def test_events_may_be_named_as_the_log_names_them(tmp_path):
    """The recipe's `kauf: conversion` was forgotten, and every client had to translate."""
    stored = Path(__file__).parent.parent / "stored" / "all_features"
    folder = tmp_path / "all_features"
    shutil.copytree(stored, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    first, second = settings["event_names"][:2]
    settings["event_aliases"] = {"korb": first, "kauf": second}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    with gzip.open(stored / "rankings.json.gz", "rt", encoding="utf-8") as file:
        items = json.load(file)["users"][0]["items"][-3:]
    recommender = Recommender.from_pretrained(folder)
    ours, theirs = [first, second, first], ["korb", "kauf", first]
    [expected] = Recommender.from_pretrained(stored).recommend([items], events=[ours], top_k=4)
    assert recommender.recommend([items], events=[theirs], top_k=4) == [expected]
    with served(recommender) as (_, client):
        for names in (ours, theirs):
            answer = client.post(URL, json={"history": items, "events": names, "top_k": 4}).raise_for_status().json()
            assert [ad["item_id"] for ad in answer["recommendations"]] == [ad.item_id for ad in expected]
            assert [ad["score"] for ad in answer["recommendations"]] == pytest.approx([ad.score for ad in expected])
            inputs = [tensor("history", "BYTES", [items], ""), tensor("events", "BYTES", [names], ""),
                      tensor("top_k", "INT32", [4], None)]  # fmt: skip
            infer = f"/v2/models/{recommender.name}/infer"
            got = client.post(infer, json={"inputs": inputs}).raise_for_status().json()
            assert got["outputs"][0]["data"] == [ad.item_id for ad in expected]
        refused = client.post(URL, json={"history": items, "events": ["Kauf", first, second]})
        assert (
            refused.status_code == 422 and f"allowed are {first} (korb), {second} (kauf)" in refused.json()["detail"]
        )
        inputs[1] = tensor("events", "BYTES", [["Kauf", first, second]], "")
        assert f"{first} (korb), {second} (kauf)" in client.post(infer, json={"inputs": inputs}).text


def test_a_feature_the_model_does_not_read_is_refused_by_name(client, recommender):
    inputs = [HISTORY, tensor("times", "FP64", [[1.0, 2.0], [1.0, 2.0]], 0.0)]
    refused = client.post(f"/v2/models/{recommender.name}/infer", json={"inputs": inputs})
    assert refused.status_code == 422
    assert (
        "Input 'times' is unknown" in refused.json()["detail"] and "takes history, values, allow_items" in refused.text
    )


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


def test_lists_and_limits_restrict_as_over_v1_recommend(account_artifact):
    recommender = Recommender.from_pretrained(account_artifact)
    best = [ad.item_id for ad in recommender.recommend([["ad_1", "ad_7"]], top_k=6)[0]]
    rows = {"allow_items": [best[:5], ["ad_9", "unheard of"]], "block_items": [best[:2], []]}
    bodies = [
        {"history": history, "top_k": 4, "exclude_history": True, "max_per_account": 1,
         **{name: lists[row] for name, lists in rows.items()}}
        for row, history in enumerate((["ad_1", "ad_7"], ["ad_5"]))
    ]  # fmt: skip
    inputs = [
        HISTORY,
        *(tensor(name, "BYTES", lists, "") for name, lists in rows.items()),
        tensor("top_k", "INT32", [4], None),
        tensor("max_per_account", "INT64", [1], None),
        tensor("exclude_history", "BOOL", [True], None),
    ]
    with served(recommender) as (_, client):
        answers = client.post(URL, json={"requests": bodies}).raise_for_status().json()["responses"]
        infer = f"/v2/models/{recommender.name}/infer"
        got = client.post(infer, json={"inputs": inputs}).raise_for_status().json()
        outputs = {output["name"]: output for output in got["outputs"]}
        ranked = [[ad["item_id"] for ad in answer["recommendations"]] for answer in answers]
        most = max(map(len, ranked))
        assert outputs["item_id"]["data"] == [item for ids in ranked for item in (*ids, *[""] * (most - len(ids)))]
        assert set(ranked[0]) <= set(best[2:5]) and ranked[1] == ["ad_9"]
        assert (outputs["unknown_item"]["shape"], outputs["unknown_item"]["data"]) == ([2, 1], ["", "unheard of"])
        shared = client.post(infer, json={"inputs": [HISTORY, tensor("allow_items", "BYTES", [["ad_9"]], "")]})
        assert shared.raise_for_status().json()["outputs"][0]["data"] == ["ad_9", "ad_9"]
        nothing = {"name": "allow_items", "datatype": "BYTES", "shape": [1, 1], "data": [""]}
        empty = client.post(infer, json={"inputs": [HISTORY, nothing]}).raise_for_status().json()
        assert empty["outputs"][0] == {"name": "item_id", "datatype": "BYTES", "shape": [2, 0], "data": []}
        for wrong, reason in (
            (tensor("exclude_history", "BOOL", [1], None), "must be one of true, false. Received: [1]"),
            (tensor("max_per_account", "INT32", [0], None), "'max_per_account' must be one number in 1.."),
            (tensor("block_items", "BYTES", [["a"]] * 3, ""), "Input 'block_items' must be BYTES with users x items"),
            (tensor("block_items", "BYTES", [["a" * 1001]], ""), "texts of at most 1000 characters"),
        ):
            refused = client.post(infer, json={"inputs": [HISTORY, wrong]})
            assert refused.status_code == 422 and reason in refused.json()["detail"], refused.text


def test_a_row_of_a_batch_says_that_it_has_no_allow_list(client, recommender):
    """Rows with an allow list, with one that allows nothing, and without one, in one batch, as JSON says them."""
    histories = [["ad_1", "ad_7"], ["ad_5"], ["ad_5"], ["ad_1"]]
    allowed = [["ad_3", "ad_9"], [], None, None]
    blocked = [[], ["ad_3"], [], ["ad_3", "ad_4"]]
    inputs = [
        tensor("history", "BYTES", histories, ""),
        tensor("allow_items", "BYTES", [ids or [] for ids in allowed], ""),
        tensor("block_items", "BYTES", blocked, ""),
        {"name": "allow_all", "datatype": "BOOL", "shape": [4], "data": [ids is None for ids in allowed]},
        tensor("top_k", "INT32", [5], None),
    ]
    bodies = [
        {"history": history, "top_k": 5, "block_items": block, **({} if allow is None else {"allow_items": allow})}
        for history, allow, block in zip(histories, allowed, blocked, strict=True)
    ]
    answers = client.post(URL, json={"requests": bodies}).raise_for_status().json()["responses"]
    ranked = [[ad["item_id"] for ad in answer["recommendations"]] for answer in answers]
    assert [len(ids) for ids in ranked] == [2, 0, 5, 5]
    infer = f"/v2/models/{recommender.name}/infer"
    got = client.post(infer, json={"inputs": inputs}).raise_for_status().json()["outputs"][0]
    assert got["data"] == [item for ids in ranked for item in (*ids, *[""] * (5 - len(ids)))]
    shared = [inputs[0], tensor("allow_items", "BYTES", [["ad_9"]], ""), inputs[3], inputs[4]]
    got = client.post(infer, json={"inputs": shared}).raise_for_status().json()["outputs"][0]["data"]
    assert got[:10] == ["ad_9", "", "", "", ""] * 2 and "" not in got[10:]
    for changes, message in (
        ({"data": [1, 0, 1, 1]}, "'allow_all' must be true or false for each row. Received: 1"),
        ({"shape": [1], "data": [True]}, "Input 'allow_all' must be BOOL with users entries"),
        ({"datatype": "BYTES"}, "Input 'allow_all' must be BOOL"),
    ):
        wrong = [*inputs[:3], {**inputs[3], **changes}]
        refused = client.post(infer, json={"inputs": wrong})
        assert refused.status_code == 422 and message in refused.json()["detail"], refused.text
    refused = client.post(infer, json={"inputs": [inputs[0], inputs[3]]})
    assert refused.status_code == 422 and "'allow_all' is false for row 0, but there is no" in refused.text


def test_both_engines_get_of_a_batch_what_its_rows_say(recommender):
    """The front is one for both: vLLM's engine process reads a query from its fields."""
    limits = RequestLimits(20, 10, 100, 3, 10, 30)
    inputs = [
        tensor("history", "BYTES", [["ad_1"]] * 3, ""),
        tensor("allow_items", "BYTES", [["ad_2"], [], []], ""),
        tensor("block_items", "BYTES", [[], ["ad_3"], []], ""),
        {"name": "allow_all", "datatype": "BOOL", "shape": [3], "data": [False, False, True]},
    ]
    served = ServedModel(recommender.name, 1, 0, 120)
    queries = read_queries(InferenceRequest(inputs=inputs), served, request_models(limits)[0], limits)
    for seen in (queries, [RecommendQuery.from_fields(json.loads(json.dumps(one.to_fields()))) for one in queries]):
        assert [query.allow_items for query in seen] == [("ad_2",), (), None]
        assert [query.block_items for query in seen] == [(), ("ad_3",), ()]
    ranked = recommender.rank([dataclasses.replace(query, top_k=4) for query in queries])
    assert [len(ads) for ads in ranked] == [1, 0, 4]
