import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from gr4ad.serving import Recommender, ServerConfig, create_app
from gr4ad.serving.http_server import RecommendServer

URL = "/v1/recommend"


class GatedRecommender(Recommender):
    """Waits before each batch while `gate` is closed, and fails on a history that holds `ad_13`."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.gate = threading.Event()
        self.gate.set()
        self.begun = 0

    def rank(self, queries):
        if any(item in self.tokenizer.index.rows for item in queries[0].user.items):
            self.begun += 1
            assert self.gate.wait(10)
        if any("ad_13" in query.user.items for query in queries):
            raise ArithmeticError("thirteen")
        return super().rank(queries)


@pytest.fixture(scope="module")
def recommender(tiny_artifact) -> GatedRecommender:
    return GatedRecommender.from_pretrained(tiny_artifact)


@contextmanager
def served(recommender, **options):
    """A real server on a free loopback port; yields it and a client of it."""
    recommender.gate.set()
    recommender.begun = 0
    config = ServerConfig(port=0, **{"deadline_ms": 20000.0, **options})
    server = RecommendServer(create_app(recommender, config), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.port is not None or not thread.is_alive())
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}", timeout=20, trust_env=False) as client:
            yield server, client
    finally:
        recommender.gate.set()
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="module")
def shared(recommender):
    with served(recommender, max_history=20, max_listed=30, max_beam_width=64) as (_, client):
        yield client


def wait_until(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.005)


def metric(client, name: str) -> float:
    found = re.search(rf"^{re.escape(name)} (\S+)$", client.get("/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def in_background(*calls):
    pool = ThreadPoolExecutor(len(calls))
    futures = [pool.submit(call) for call in calls]
    pool.shutdown(wait=False)
    return futures


def test_a_request_gets_what_the_recommender_gives(shared, recommender):
    body = {
        "history": ["ad_1", "new", "ad_7"],
        "values": [1, 0, 3.5],
        "top_k": 5,
        "beam_widths": [4, 8, 32],
        "exclude_history": True,
    }
    answer = shared.post(URL, json=body).raise_for_status().json()
    options = {"top_k": 5, "beam_widths": [4, 8, 32], "exclude_history": True}
    [expected] = recommender.recommend([["ad_1", "new", "ad_7"]], values=[[1, 0, 3.5]], **options)
    for got, ad in zip(answer["recommendations"], expected, strict=True):
        assert got == {
            "item_id": ad.item_id, "sid": ad.sid, "attributes": ad.attributes, "value_unit": "cents",
            "score": pytest.approx(ad.score, abs=1e-4), "value": pytest.approx(ad.value, abs=1e-4),
        }  # fmt: skip
    assert answer["beam_widths"] == [4, 8, 32]
    assert answer["model"] == recommender.name
    assert 0 < answer["latency_ms"] < 20000


def test_times_and_a_limit_per_account_reach_the_recommender(account_artifact):
    recommender = GatedRecommender.from_pretrained(account_artifact)
    plain = {"history": ["ad_1", "ad_7"], "top_k": 16}
    timed = {**plain, "times": [0, 3.5]}
    bodies = [plain, timed, {**timed, "max_per_account": 1}, {**timed, "times": [-90, 3]}]
    with served(recommender) as (_, client):
        answers = client.post(URL, json={"requests": bodies}).raise_for_status().json()["responses"]
    for body, answer in zip(bodies, answers, strict=True):
        times = [body["times"]] if "times" in body else None
        limit = body.get("max_per_account")
        [expected] = recommender.recommend([body["history"]], top_k=16, times=times, max_per_account=limit)
        got = answer["recommendations"]
        assert [ad["item_id"] for ad in got] == [ad.item_id for ad in expected]
        assert [ad["score"] for ad in got] == pytest.approx([ad.score for ad in expected], abs=1e-4)
    accounts = [ad["attributes"]["account_id"] for ad in answers[2]["recommendations"]]
    named = [account for account in accounts if account is not None]
    assert len(set(named)) == len(named) and len(accounts) == len(answers[1]["recommendations"]) == 16
    best = {round(answer["recommendations"][0]["score"], 3) for answer in answers}
    assert len(best) == 3  # a limit leaves the best, other times do not


def test_fifty_concurrent_requests_equal_direct_calls(shared, recommender):
    histories = [[f"ad_{(7 * n + k) % 12 + 20}" for k in range(1 + n % 5)] for n in range(50)]
    expected = [recommender.recommend([history], top_k=3 + n % 2)[0] for n, history in enumerate(histories)]
    calls, users = metric(shared, "gr4ad_batch_size_count"), metric(shared, "gr4ad_batch_size_sum")

    async def main():
        async with httpx.AsyncClient(base_url=shared.base_url, timeout=20, trust_env=False) as client:
            bodies = [{"history": history, "top_k": 3 + n % 2} for n, history in enumerate(histories)]
            return await asyncio.gather(*(client.post(URL, json=body) for body in bodies))

    for response, ranked in zip(asyncio.run(main()), expected, strict=True):
        got = response.raise_for_status().json()["recommendations"]
        assert [ad["item_id"] for ad in got] == [ad.item_id for ad in ranked]
        assert [ad["score"] for ad in got] == pytest.approx([ad.score for ad in ranked], abs=1e-4)
    assert metric(shared, "gr4ad_batch_size_sum") - users == 50
    assert metric(shared, "gr4ad_batch_size_count") - calls < 50  # some shared a batch


def test_a_body_of_several_requests_answers_each_by_itself(shared, recommender):
    histories = [["ad_1"], ["new"], ["ad_13"], ["ad_2", "ad_3"]]
    response = shared.post(URL, json={"requests": [{"history": history} for history in histories]})
    assert response.status_code == 200
    first, unknown, broken, last = response.json()["responses"]
    assert (unknown["status"], broken["status"]) == (422, 500)
    assert unknown["error"]["field"] == "history" and "'new'" in unknown["error"]["detail"]
    assert "thirteen" not in broken["error"]["detail"]  # what failed inside is for the log
    for got, history in ((first, histories[0]), (last, histories[3])):
        [expected] = recommender.recommend([history])
        assert [ad["item_id"] for ad in got["recommendations"]] == [ad.item_id for ad in expected]


@pytest.mark.parametrize(
    ("body", "field", "reason"),
    [
        ({"history": []}, "history", "History 0 is empty"),
        ({"history": ["new"]}, "history", "names no item of the catalog; its first id is 'new'.*120 items"),
        ({"history": ["\ud800"]}, "history.0", "valid string"),
        ({}, "history", "missing: add it"),
        ({"history": "ad_1"}, "history", "valid list. Received: 'ad_1'"),
        ({"history": ["ad_1"] * 21}, "history", "at most 20 items"),
        ({"history": ["x" * 1001]}, "history.0", "at most 1000 characters"),
        ({"history": ["ad_1"], "block_items": ["x" * 1001]}, "block_items.0", "at most 1000 characters"),
        ({"history": ["ad_1"], "allow_items": ["ad_2"] * 31}, "allow_items", "at most 30 items"),
        ({"history": ["ad_1"], "allow_items": "ad_2"}, "allow_items", 'Write a list: \\["ad_2"\\]'),
        ({"history": ["ad_1"], "beam_widths": 8}, "beam_widths", "Write a list: \\[8, ...\\]"),
        ({"history": [3]}, "history.0", 'valid string. Received: 3. Ids and names are text: write "3"'),
        ({"history": ["ad_1"], "topk": 3}, "topk", "not a field.*top_k"),
        ({"history": ["ad_1"], "\ud800": 3}, None, "valid string"),
        ({"history": ["ad_1"], "top_k": 0}, "top_k", "greater than or equal to 1. Received: 0"),
        ({"history": ["ad_1"], "top_k": 65}, "top_k", "less than or equal to 64. Received: 65"),
        ({"history": ["ad_1"], "top_k": 17}, "top_k", r"1\.\.16, the last beam width. Received: 17"),
        ({"history": ["ad_1"], "beam_widths": [8, 8]}, "beam_widths", "at least 3 items"),
        ({"history": ["ad_1"], "beam_widths": [8, 8, 65]}, "beam_widths.2", "less than or equal to 64. Received: 65"),
        (
            {"history": ["ad_1"], "values": [1, 2]},
            None,
            "`values` needs one entry for each of the 1 history items, not 2",
        ),
        ({"history": ["ad_1"], "values": [-1]}, "values.0", "greater than or equal to 0. Received: -1"),
        ({"history": ["ad_1"], "values": [float("nan")]}, "values.0", "finite number"),
        (
            {"history": ["ad_1"], "times": [1, 2]},
            None,
            "`times` needs one entry for each of the 1 history items, not 2",
        ),
        ({"history": ["ad_1"], "times": [float("inf")]}, "times.0", "finite number"),
        ({"history": ["ad_1"], "times": ["now"]}, "times.0", "valid number"),
        ({"history": ["ad_1"], "times": [1]}, "times", "trained without `times` of histories. Leave it out"),
        ({"history": ["ad_1"], "max_per_account": 0}, "max_per_account", "greater than or equal to 1. Received: 0"),
        ({"history": ["ad_1"], "max_per_account": 65}, "max_per_account", "less than or equal to 64. Received: 65"),
        ({"history": ["ad_1"], "max_per_account": 2}, "max_per_account", "needs the column `account_id`.*has: title"),
        ({"history": ["ad_1"], "events": ["click"]}, "events", "trained without `events` of histories. Leave it out"),
        ({"history": ["ad_1"], "user_features": {"age": "3"}}, "user_features", "names 'age'.*knows none"),
        ({"requests": []}, "requests", "at least 1 item"),
        ({"requests": [{"history": ["ad_1"]}, {"history": 1}]}, "requests.1.history", "valid list"),
        ({"requests": [{"history": ["ad_1"]}], "top_k": 3}, "top_k", "not a field"),
        ([1], None, "Send a JSON object"),
    ],
)
def test_a_field_at_fault_is_named(shared, body, field, reason):
    response = shared.post(URL, content=json.dumps(body), headers={"content-type": "application/json"})
    answer = response.json()
    assert (response.status_code, answer["field"]) == (422, field), answer
    assert re.search(reason, answer["detail"]), answer


def test_a_body_that_is_not_json(shared):
    response = shared.post(URL, content=b'{"history": [', headers={"content-type": "application/json"})
    assert response.status_code == 400
    assert "not JSON" in response.json()["detail"]


def test_a_failure_of_the_model_is_a_500_of_one_request(shared):
    assert shared.post(URL, json={"history": ["ad_13"]}).status_code == 500
    assert shared.post(URL, json={"history": ["ad_14"]}).status_code == 200


def test_a_large_body_is_refused_announced_or_streamed(recommender):
    with served(recommender, max_body_bytes=10_000) as (_, client):
        big = json.dumps({"history": ["ad_1"] * 10_000}).encode()
        pieces = (big[place : place + 1000] for place in range(0, len(big), 1000))
        for content in (big, pieces):
            response = client.post(URL, content=content, headers={"content-type": "application/json"})
            assert response.status_code == 413
            assert "10000 bytes" in response.json()["detail"]
        small = iter([b'{"history": ', b'["ad_1"]}'])
        assert client.post(URL, content=small, headers={"content-type": "application/json"}).status_code == 200


def test_a_full_queue_refuses_and_a_client_that_leaves_makes_room(recommender):
    with served(recommender, max_queue=1, max_wait_ms=0.0, deadline_ms=20000.0) as (server, client):
        batcher = server.service.engine.batcher
        recommender.gate.clear()
        [first] = in_background(lambda: client.post(URL, json={"history": ["ad_1"]}))
        wait_until(lambda: recommender.begun == 1)
        body = json.dumps({"history": ["ad_2"]}).encode()
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            head = f"POST {URL} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            head += f"content-length: {len(body)}\r\n\r\n"
            leaving.sendall(head.encode() + body)
            wait_until(lambda: batcher.depth == 1)
            refused = client.post(URL, json={"history": ["ad_3"]})
            assert refused.status_code == 429
            assert int(refused.headers["retry-after"]) >= 1
            assert "at most 1 may wait" in refused.json()["detail"]
            assert client.get("/healthz").status_code == 200  # the event loop is free
            assert metric(client, "gr4ad_queue_depth") == 1
        wait_until(lambda: batcher.depth == 0)
        [second] = in_background(lambda: client.post(URL, json={"history": ["ad_3"]}))
        wait_until(lambda: batcher.depth == 1)
        recommender.gate.set()
        assert first.result().status_code == second.result().status_code == 200
        assert recommender.begun == 2
        assert metric(client, 'gr4ad_requests_total{status="499"}') == 1


def test_a_deadline_that_passes_in_the_queue(recommender):
    with served(recommender, deadline_ms=50.0, max_wait_ms=0.0) as (_, client):
        recommender.gate.clear()
        [first] = in_background(lambda: client.post(URL, json={"history": ["ad_1"]}))
        wait_until(lambda: recommender.begun == 1)
        late = client.post(URL, json={"history": ["ad_2"]})
        assert late.status_code == 504
        assert "50 ms passed" in late.json()["detail"]
        recommender.gate.set()
        assert first.result().status_code == 200


def test_draining_refuses_new_requests_and_finishes_old_ones(recommender):
    with served(recommender) as (server, client):
        assert client.get("/readyz").status_code == 200
        recommender.gate.clear()
        [first] = in_background(lambda: client.post(URL, json={"history": ["ad_1"]}))
        wait_until(lambda: recommender.begun == 1)
        server.service.engine.batcher.drain()
        assert client.get("/readyz").status_code == 503
        refused = client.post(URL, json={"history": ["ad_2"]})
        assert refused.status_code == 503
        assert "another replica" in refused.json()["detail"]
        server.handle_exit(signal.SIGTERM, None)
        time.sleep(0.3)
        assert not first.done()
        recommender.gate.set()
        assert first.result().status_code == 200


def test_metrics_count_requests_batches_and_beams(recommender):
    with served(recommender, max_wait_ms=0.0) as (_, client):
        client.post(URL, json={"history": ["ad_1"]})
        client.post(URL, json={"history": ["ad_1"], "beam_widths": [2, 3, 5], "top_k": 1})
        client.post(URL, json={"history": ["new"]})
        assert metric(client, 'gr4ad_requests_total{status="200"}') == 2
        assert metric(client, 'gr4ad_requests_total{status="422"}') == 1
        assert metric(client, "gr4ad_request_latency_seconds_count") == 3
        assert metric(client, "gr4ad_batch_size_sum") == 2
        assert metric(client, "gr4ad_beam_rows_total") == (8 + 16 + 16) + (2 + 3 + 5)
        assert metric(client, "gr4ad_queue_depth") == 0


def test_openapi_tells_the_limits_and_the_page_needs_nothing_else(shared):
    schemas = shared.get("/openapi.json").json()["components"]["schemas"]
    properties = schemas["RecommendRequest"]["properties"]
    assert properties["history"]["maxItems"] == 20
    assert properties["top_k"]["anyOf"][0] == {"type": "integer", "minimum": 1, "maximum": 64}
    assert properties["beam_widths"]["anyOf"][0]["minItems"] == 3
    assert schemas["RecommendRequest"]["additionalProperties"] is False
    page = shared.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "textContent" in page.text
    assert not re.search(r"innerHTML|https?://|src=", page.text)


@pytest.mark.parametrize(
    "options",
    [
        {"port": 70000},
        {"top_k": 0},
        {"max_batch": 0},
        {"max_wait_ms": -1.0},
        {"deadline_ms": 1.0},
        {"max_body_bytes": 0},
    ],
)
def test_options_out_of_range_are_named(options):
    [name] = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        ServerConfig(**options)


@pytest.mark.skipif(os.name != "posix", reason="sends SIGTERM")
def test_serve_reports_its_port_and_ends_cleanly_on_sigterm(tiny_artifact, tmp_path):
    port_file = tmp_path / "port"
    code = (
        "import sys; from gr4ad.serving import *; "
        "serve(Recommender.from_pretrained(sys.argv[1]), ServerConfig(port=0, port_file=sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tiny_artifact), str(port_file)])
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, 60)
        port = int(port_file.read_text())
        response = httpx.post(f"http://127.0.0.1:{port}{URL}", json={"history": ["ad_1"]}, timeout=20, trust_env=False)
        assert len(response.raise_for_status().json()["recommendations"]) == 10
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_the_log_says_where_it_serves(recommender, caplog):
    caplog.set_level("INFO")
    with served(recommender, max_listed=30) as (server, _):
        line = f"at http://127.0.0.1:{server.port}: POST /v1/recommend"
        wait_until(lambda: line in caplog.text)
    assert "not the defaults: max_listed 30, deadline_ms 20000.0, port 0." in caplog.text
