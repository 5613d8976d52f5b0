"""Bodies generated from the server's own OpenAPI, valid and invalid, and bodies no schema describes: a real server
answers each with a documented status, never 5xx, and says in JSON what was wrong."""

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from loopback import URL, served
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import ignored_auth, positive_data_acceptance

from gr4ad.serving.live_model import LiveModel
from gr4ad.tokenization.user_history import LARGEST_AMOUNT

TOKEN = "a token of some length"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
POSTS = ["/v1/recommend", "/v1/index", "/v1/reload", "/v2/models/{name}/infer"]
NAMED = ["/v2/models/{name}", "/v2/models/{name}/ready"]
PLAIN = ["/v1/model", "/v2", "/v2/health/live", "/v2/health/ready", "/healthz", "/readyz", "/metrics"]
# A schema cannot say which ids are known or that lists have equal lengths, so a body it allows may get a 422; the
# token is tested by itself.
EXCLUDED = [positive_data_acceptance, ignored_auth]
bounded = settings(
    max_examples=20, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="module")
def client(tiny_artifact):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GR4AD_ADMIN_TOKEN", TOKEN)
        with served(LiveModel(tiny_artifact), max_history=20, max_beam_width=32, max_queue=8) as (_, client):
            yield client


@pytest.fixture(scope="module")
def api(client):
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


def check_explained(response) -> None:
    """Below 500, and an error is JSON that says why."""
    assert response.status_code < 500, response.text
    if response.status_code >= 400:
        assert len(json.loads(response.content)["detail"]) > 20


def exchange(operation, mode: GenerationMode) -> None:
    @bounded
    @given(operation.as_strategy(generation_mode=mode))
    def check(case):
        response = case.call(headers=ADMIN)
        check_explained(response)
        case.validate_response(response, excluded_checks=EXCLUDED)

    check()


def test_every_operation_is_listed(api):
    operations = {(operation.ok().method.upper(), operation.ok().path) for operation in api.get_all_operations()}
    assert operations == {("POST", path) for path in POSTS} | {("GET", path) for path in NAMED + PLAIN}


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
@pytest.mark.parametrize("path", POSTS)
def test_any_generated_body_is_answered_as_documented(api, path, mode):
    exchange(api[path]["POST"], mode)


@pytest.mark.parametrize("path", NAMED + PLAIN)
def test_what_can_be_read_is_as_documented(api, path):
    exchange(api[path]["GET"], GenerationMode.POSITIVE)


ITEMS = [f"ad_{number}" for number in range(60)]
users = st.lists(st.sampled_from(ITEMS), min_size=1, max_size=20).flatmap(
    lambda history: st.fixed_dictionaries(
        {"history": st.just(history)},
        optional={
            "values": st.lists(st.floats(0, LARGEST_AMOUNT), min_size=len(history), max_size=len(history)),
            "beam_widths": st.tuples(*[st.integers(16, 32)] * 3),
            "top_k": st.integers(1, 16),
            "exclude_history": st.booleans(),
            "block_items": st.lists(st.sampled_from(ITEMS), max_size=40),
            "deadline_ms": st.floats(10_000, allow_infinity=False),
            "user_features": st.just({}),
        },
    )
)


@bounded
@given(body=users | st.fixed_dictionaries({"requests": st.lists(users, min_size=1, max_size=8)}))
def test_any_request_of_known_ads_is_answered(client, body):
    answer = client.post(URL, json=body).raise_for_status().json()
    for request, part in zip(body.get("requests", [body]), answer.get("responses", [answer]), strict=True):
        assert 1 <= len(part["recommendations"]) <= request.get("top_k", 10), part
        scores = [ad["score"] for ad in part["recommendations"]]
        assert scores == sorted(scores, reverse=True)


SURROGATE = '"\\ud800"'
BODIES = {
    "nothing": b"",
    "no JSON": b"{history: [",
    "not UTF-8": b'{"history": ["\xff\xfe"]}',
    "NUL": b'{"history": ["\\u0000"], "item_ids": ["\\u0000"], "model": "\\u0000", "id": "\\u0000"}',
    "deep": b"[" * 100_000,
    "deep closed": b'{"history": ' + b"[" * 900 + b"]" * 900 + b"}",
    "null": b"[null]",
    "number": b"17",
    "long number": b'{"history": ["ad_1"], "top_k": ' + b"9" * 5000 + b"}",
    "big number": b'{"history": ["ad_1"], "top_k": 1e400, "op": "replace", "item_ids": ["ad_1"], "priority": [1e400]}',
    "NaN": b'{"history": ["ad_1"], "values": [NaN], "op": "replace", "item_ids": ["ad_1"], "priority": [NaN]}',
    "half a pair": (
        f'{{"history": [{SURROGATE}], "op": "add", "item_ids": [{SURROGATE}], "codes": [[0, 0, 0]], '
        f'"model": {SURROGATE}, "attributes": {{"title": [{SURROGATE}]}}}}'
    ).encode(),
    "half a pair as a name": f"{{{SURROGATE}: 1}}".encode(),
    "half a pair as an attribute": (
        f'{{"op": "replace", "item_ids": ["ad_1"], "attributes": {{{SURROGATE}: ["a"]}}}}'
    ).encode(),
    "half a pair in a tensor": (
        f'{{"inputs": [{{"name": "history", "datatype": "BYTES", "shape": [1, 1], "data": [{SURROGATE}]}}]}}'
    ).encode(),
    "half a pair as a tensor": (
        f'{{"inputs": [{{"name": {SURROGATE}, "datatype": "BYTES", "shape": [1, 1], "data": ["ad_1"]}}]}}'
    ).encode(),
    "odd tensors": json.dumps(
        {
            "inputs": [
                {"name": "history", "datatype": "BYTES", "shape": [10**30, -1], "data": [{"a": [1]}]},
                {"name": "top_k", "datatype": "INT64", "shape": [-1], "data": [[[]]]},
            ]
        }
    ).encode(),
    "long path": json.dumps({"model": "a/" * 2000}).encode(),
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_bodies_beyond_any_schema_are_refused(client, body):
    for path in POSTS:
        path = path.replace("{name}", client.get("/v1/model").json()["model"])
        for content_type in ("application/json", "text/plain", "", "application/json; charset=utf-16"):
            response = client.post(path, content=body, headers={**ADMIN, "content-type": content_type})
            check_explained(response)
            assert response.status_code in (400, 409, 422) or (path == "/v1/reload" and body == b""), response.text


@pytest.mark.parametrize("path", ["/v1/index", "/v1/reload"])
def test_without_the_token_no_body_is_even_read(client, api, path):
    before = client.get("/v1/model").json()

    @bounded
    @given(api[path]["POST"].as_strategy(), st.sampled_from([None, "", "Bearer", "Bearer wrong", TOKEN, "Bearer é"]))
    def check(case, authorization):
        headers = {} if authorization is None else {"authorization": authorization.encode()}
        response = client.post(path, json=case.body if isinstance(case.body, dict) else None, headers=headers)
        check_explained(response)
        assert response.status_code == 401

    check()
    assert client.get("/v1/model").json() == before


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/v3", 404), ("GET", URL, 405), ("PUT", "/v1/index", 405)]
)
def test_what_is_not_served_says_so(client, method, path, status):
    response = client.request(method, path)
    assert response.status_code == status
    check_explained(response)


def test_a_failure_of_the_server_is_json(client, monkeypatch):
    def fail(*arguments):
        raise ArithmeticError("thirteen")

    monkeypatch.setattr(LiveModel, "change", fail)
    response = client.post("/v1/index", json={"op": "remove", "item_ids": ["ad_1"]}, headers=ADMIN)
    assert response.status_code == 500
    assert "its log says why" in response.json()["detail"] and "thirteen" not in response.text
