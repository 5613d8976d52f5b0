import json
import threading
import time

import httpx
import pytest
from vllm_processes import TOKEN, free_port, metric, started

from gr4ad.serving import Recommender

pytestmark = pytest.mark.needs_vllm

URL = "/v1/recommend"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
BASE = [32, 96, 96]
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def native(wide_artifact) -> Recommender:
    return Recommender.from_pretrained(wide_artifact)


def ask(client, **body) -> dict:
    response = client.post(URL, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def test_plain_vllm_serve_answers_as_the_native_engine(served, native):
    histories = [["ad_1", "ad_2"], ["ad_77"], [f"ad_{n}" for n in range(20)]]
    widths = [[4, 8, 8], [16, 16, 16], [8, 64, 64]]
    requests = [
        {"history": history, "beam_widths": line, "top_k": 5, "exclude_history": True}
        for history, line in zip(histories, widths, strict=True)
    ]
    expected = native.recommend(histories, beam_widths=widths, top_k=5, exclude_history=True)
    for answer, ads in zip(ask(served, requests=requests)["responses"], expected, strict=True):
        ranked = answer["recommendations"]
        assert [ad["item_id"] for ad in ranked] == [ad.item_id for ad in ads]
        assert [ad["score"] for ad in ranked] == pytest.approx([ad.score for ad in ads], abs=TOLERANCE)
        assert ranked[0]["attributes"] == ads[0].attributes and ranked[0]["value_unit"] == "cents"
    assert [answer["beam_widths"] for answer in ask(served, requests=requests)["responses"]] == widths
    assert ask(served, history=["ad_1"])["model"] == "wide_artifact"


@pytest.mark.parametrize(
    ("content", "status", "field", "part"),
    [
        (b"{", 400, None, "The body is not JSON"),
        (b"\xff\xfe", 400, None, "not JSON"),
        (b"[" * 10_000, 400, None, "nested too deeply"),
        (b"[]", 422, None, "Send a JSON object"),
        (b'{"history": []}', 422, "history", "empty"),
        (b'{"history": ["never_seen"]}', 422, "history", "names no item of the catalog"),
        (b'{"history": ["ad_1"], "top_k": 0}', 422, "top_k", "greater than or equal to 1"),
        (b'{"history": ["ad_1"], "top_k": 9, "beam_widths": [4, 4, 4]}', 422, "top_k", "1..4"),
        (b'{"history": ["ad_1"], "beam_widths": [4, 4]}', 422, "beam_widths", "at least 3"),
        (b'{"history": ["ad_1"], "beam_widths": [4, 4, 513]}', 422, "beam_widths.2", "less than or equal to 512"),
        (b'{"history": ["ad_1"], "events": ["click"]}', 422, "events", "trained without `events`"),
        (b'{"history": ["ad_1"], "values": [1, 2]}', 422, None, "one entry for each of the 1 history items"),
        (b'{"history": ["ad_1"], "colour": 1}', 422, "colour", "is not a field of this request"),
        (b'{"history": ["' + b"x" * (1 << 20) + b'"]}', 413, None, "larger than 1048576 bytes"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_gets_its_reason(served, content, status, field, part):
    response = served.post(URL, content=content)
    assert response.status_code == status
    assert response.json()["field"] == field and part in response.json()["detail"]


def test_one_bad_request_of_a_body_leaves_the_others_untouched(served):
    first, second = ask(served, requests=[{"history": ["ad_1"]}, {"history": ["nobody"]}])["responses"]
    assert len(first["recommendations"]) == 10
    assert second["status"] == 422 and second["error"]["field"] == "history"


def test_beams_narrow_under_load_and_recover(served):
    def last_width() -> int:
        return ask(served, history=["ad_1", "ad_2"])["beam_widths"][-1]

    for _ in range(10):  # until the policy knows what a batch costs
        last_width()
    burst = {"requests": [{"history": [f"ad_{n % 120}"]} for n in range(480)]}
    threads_answers: list[dict] = []

    def send() -> None:
        with httpx.Client(base_url=served.base_url, timeout=120, trust_env=False) as client:
            threads_answers.append(ask(client, **burst))

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    used = [answer["beam_widths"] for answers in threads_answers for answer in answers["responses"]]
    assert len(used) == 960
    narrowest = min(used, key=sum)
    assert narrowest[0] < BASE[0] and narrowest[-1] < BASE[-1], "the step of load was not felt"
    end = time.monotonic() + 60
    widths = last_width()
    while widths < BASE[-1] and time.monotonic() < end:
        time.sleep(0.3)
        widths = last_width()
    assert widths >= BASE[-1]
    shown = last_width()
    assert metric(served, r'gr4ad_beam_width\{level="3"\}') == shown
    assert metric(served, "gr4ad_beam_rows_total") >= sum(map(sum, used))
    assert metric(served, r'gr4ad_requests_total\{status="200"\}') >= 14
    assert metric(served, r"vllm:num_requests_running\{.*\}") == 0


def test_more_requests_than_fit_are_refused_at_once(served):
    response = served.post(URL, json={"requests": [{"history": ["ad_1"]}] * 1001})
    assert response.status_code == 422 and "at most 1000" in response.json()["detail"]


def test_a_client_that_leaves_takes_its_requests_out_of_the_engine(served):
    answered = metric(served, r'vllm:request_success_total\{.*finished_reason="stop".*\}')
    gone = metric(served, r'gr4ad_requests_total\{status="499"\}')
    body = {"requests": [{"history": ["ad_1"], "beam_widths": [512, 512, 512]}] * 900}
    with pytest.raises(httpx.ReadTimeout):
        response = httpx.post(
            f"{served.base_url}{URL}", json=body, timeout=httpx.Timeout(30, read=0.05), trust_env=False
        )
        pytest.fail(f"answered at once: {response.status_code} {response.text[:300]}")
    end = time.monotonic() + 60
    while metric(served, r"vllm:num_requests_(?:running|waiting)\{.*\}") or not (
        metric(served, r'gr4ad_requests_total\{status="499"\}') > gone
    ):
        assert time.monotonic() < end, "the engine still works for a client that has left"
        time.sleep(0.1)
    assert metric(served, r'gr4ad_requests_total\{status="499"\}') == gone + 1
    assert metric(served, r'vllm:request_success_total\{.*finished_reason="stop".*\}') < answered + 900
    assert ask(served, history=["ad_1"])["recommendations"]


def test_weights_and_ads_change_under_load_and_no_answer_mixes_two_versions(
    served, native, wide_artifact, tiny_artifact
):
    history, options = ["ad_1", "ad_2", "ad_3"], {"beam_widths": [8, 64, 64], "top_k": 5}
    other = Recommender.from_pretrained(tiny_artifact)
    versions = {
        recommender.name: [ad.item_id for ad in recommender.recommend([history], **options)[0]]
        for recommender in (native, other)
    }
    assert versions[native.name] != versions[other.name]
    stop, seen, failures = threading.Event(), set(), []

    def load() -> None:
        with httpx.Client(base_url=served.base_url, timeout=60, trust_env=False) as client:
            while not stop.is_set():
                response = client.post(URL, json={"history": history, **options})
                answer = response.json()
                if response.status_code != 200:
                    failures.append(response.text)
                elif [ad["item_id"] for ad in answer["recommendations"]] != versions[answer["model"]]:
                    failures.append(f"{answer['model']}: {answer['recommendations']}")
                else:
                    seen.add(answer["model"])

    threads = [threading.Thread(target=load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for folder in (tiny_artifact, wide_artifact, tiny_artifact):
        answer = served.post("/v1/reload", json={"model": str(folder)}, headers=ADMIN)
        assert answer.status_code == 200 and answer.json()["model"] == folder.name
        time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(60)
    assert not failures
    assert seen == set(versions)
    removed = versions[other.name][0]
    before = served.get("/v1/model").json()
    after = served.post("/v1/index", json={"op": "remove", "item_ids": [removed]}, headers=ADMIN).json()
    changes = before["index_changes"] + 1
    assert after == {**before, "index_changes": changes, "ads": before["ads"] - 1} == served.get("/v1/model").json()
    assert removed not in [ad["item_id"] for ad in ask(served, history=history, **options)["recommendations"]]
    assert served.post("/v1/reload", json={"model": str(wide_artifact)}, headers=ADMIN).status_code == 200


@pytest.mark.parametrize(
    ("path", "content", "headers", "status", "part"),
    [
        ("/v1/index", b'{"op": "remove", "item_ids": ["ad_1"]}', {}, 401, "authorization: Bearer TOKEN"),
        ("/v1/reload", b"{}", {"authorization": "Bearer another token of this length"}, 401, "authorization"),
        ("/v1/index", b"{", ADMIN, 400, "The body is not JSON"),
        ("/v1/index", b'{"op": "forget", "item_ids": ["ad_1"]}', ADMIN, 422, "`op`"),
        ("/v1/index", b'{"op": "remove", "item_ids": ["nobody"]}', ADMIN, 422, "nobody"),
        ("/v1/index", b'{"op": "add", "item_ids": ["x"], "codes": [[999, 0, 0]]}', ADMIN, 422, "999"),
        ("/v1/reload", b'{"model": "/nowhere"}', ADMIN, 409, "/nowhere"),
        ("/v1/index", b" " * ((1 << 20) + 1), ADMIN, 413, "larger than 1048576 bytes"),
    ],
)
def test_refused_changes_leave_everything_as_it_was(served, path, content, headers, status, part):
    before = served.get("/v1/model").json()
    response = served.post(path, content=content, headers={"content-type": "application/json", **headers})
    assert response.status_code == status and part in response.json()["detail"]
    assert served.get("/v1/model").json() == before


def test_the_route_stands_in_the_openapi_document(served):
    document = served.get("/openapi.json").json()
    route = document["paths"][URL]["post"]
    assert set(route["responses"]) >= {"200", "413", "422", "429", "504"}
    assert "RecommendRequest" in json.dumps(route["requestBody"])
    fields = document["components"]["schemas"]["RecommendRequest"]["properties"]
    assert fields["history"]["maxItems"] == 1000 and "cross_domain" in fields
    assert {"/v2/models/{name}/infer", "/v1/index", "/v1/reload", "/readyz"} <= set(document["paths"])


@pytest.mark.slow
def test_gr4ad_serve_starts_two_replicas_on_vllm(wide_artifact, tmp_path):
    import sys
    from pathlib import Path

    port = free_port()
    command = [
        str(Path(sys.executable).with_name("gr4ad")), "serve", "--backend", "vllm", "--model", str(wide_artifact),
        "--port", str(port), "--slo-ms", "500", "--vllm-args", "--data-parallel-size 2",
    ]  # fmt: skip
    with started(command, port, tmp_path / "server.log") as client:
        answers = ask(client, requests=[{"history": [f"ad_{n}"], "top_k": 3} for n in range(40)])["responses"]
        assert all(len(answer["recommendations"]) == 3 for answer in answers)
        served_by = [
            metric(client, rf'vllm:request_success_total\{{engine="{n}",finished_reason="stop".*\}}') for n in (0, 1)
        ]
        assert min(served_by) > 0
