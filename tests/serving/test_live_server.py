"""Ads and weights of a running server: over HTTP, and from a published folder."""

import asyncio
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from loopback import URL, served, wait_until

from gr4ad.serving import IndexChange, PublishedModel, Recommender
from gr4ad.serving.live_model import LiveModel

TOKEN = "a token of some length"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
WIDE = {"history": ["ad_1", "ad_7"], "top_k": 128, "beam_widths": [128] * 3}


@pytest.fixture
def token(monkeypatch):
    monkeypatch.setenv("GR4AD_ADMIN_TOKEN", TOKEN)


def ids(client, **more) -> list[str]:
    answer = client.post(URL, json={**WIDE, **more}).raise_for_status().json()
    return [ad["item_id"] for ad in answer["recommendations"]]


def test_without_the_token_nothing_can_be_changed(tiny_artifact, monkeypatch):
    change = {"op": "remove", "item_ids": ["ad_9"]}
    monkeypatch.delenv("GR4AD_ADMIN_TOKEN", raising=False)
    with served(LiveModel(tiny_artifact)) as (_, client):
        for path in ("/v1/index", "/v1/reload"):
            refused = client.post(path, json=change, headers=ADMIN)
            assert refused.status_code == 403 and "GR4AD_ADMIN_TOKEN" in refused.json()["detail"]
    monkeypatch.setenv("GR4AD_ADMIN_TOKEN", TOKEN)
    with served(LiveModel(tiny_artifact)) as (_, client):
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}):
            for path in ("/v1/index", "/v1/reload"):
                refused = client.post(path, json=change, headers=headers)
                assert refused.status_code == 401 and refused.headers["www-authenticate"] == "Bearer"
        assert "ad_9" in ids(client)
        assert client.get("/v1/model").json()["ads"] == 120
    monkeypatch.setenv("GR4AD_ADMIN_TOKEN", "short")
    with pytest.raises(ValueError, match="at least 16 characters. Received: 5"), served(LiveModel(tiny_artifact)):
        pass


def test_ads_are_added_replaced_and_removed_over_http(tiny_artifact, token):
    live = LiveModel(tiny_artifact)
    codes = list(live.recommender.tokenizer.index.sid_of("ad_3"))
    with served(live) as (_, client):
        added = client.post(
            "/v1/index",
            headers=ADMIN,
            json={"op": "add", "item_ids": ["fresh"], "codes": [codes], "attributes": {"title": ["Fresh"]}},
        )
        assert added.raise_for_status().json() == {
            "model": live.recommender.name, "model_version": 1, "index_changes": 1, "ads": 121,
        }  # fmt: skip
        answer = client.post(URL, json=WIDE).json()
        assert answer["index_changes"] == 1
        fresh = next(ad for ad in answer["recommendations"] if ad["item_id"] == "fresh")
        assert fresh["attributes"] == {"title": "Fresh"}
        client.post("/v1/index", headers=ADMIN, json={"op": "remove", "item_ids": ["ad_9"]}).raise_for_status()
        found = ids(client)
        assert "fresh" in found and "ad_9" not in found
        for change, reason in (
            ({"op": "remove", "item_ids": ["nobody"]}, "'nobody' is not in the index"),
            ({"op": "add", "item_ids": ["other"]}, "needs a `business_key`"),
            ({"op": "add", "item_ids": ["other"], "codes": [[0, 999, 0]]}, "whose codes are 0.."),
            ({"op": "swap", "item_ids": ["ad_1"]}, "'add', 'replace' or 'remove'"),
            ({"op": "remove", "item_ids": []}, "at least 1 item"),
        ):
            refused = client.post("/v1/index", headers=ADMIN, json=change)
            assert refused.status_code == 422 and reason in refused.json()["detail"], refused.text
        assert client.get("/v1/model").json()["index_changes"] == 2


def test_weights_are_exchanged_and_bad_ones_refused(tiny_artifact, token, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(tiny_artifact, other)
    with served(LiveModel(tiny_artifact)) as (_, client):
        assert client.post("/v1/reload", headers=ADMIN).raise_for_status().json()["model_version"] == 2
        answer = client.post("/v1/reload", headers=ADMIN, json={"model": str(other)}).raise_for_status().json()
        assert (answer["model"], answer["model_version"]) == ("other", 3)
        (other / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
        for place in (other, tmp_path / "nowhere"):
            refused = client.post("/v1/reload", headers=ADMIN, json={"model": str(place)})
            assert refused.status_code == 409 and "cannot be served" in refused.json()["detail"]
        answer = client.post(URL, json=WIDE).raise_for_status().json()
        assert (answer["model"], answer["model_version"]) == ("other", 3)


def test_a_server_follows_what_is_published(tiny_artifact, tmp_path, caplog):
    published = PublishedModel(tmp_path / "live")
    copy = lambda folder: shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True)  # noqa: E731
    published.publish(copy, changes=0)
    with served(LiveModel(published.root), watch_seconds=0.05) as (_, client):
        assert client.get("/v1/model").json()["model_version"] == 1
        published.append_change(IndexChange("remove", ["ad_9"]))
        wait_until(lambda: "ad_9" not in ids(client))
        published.publish(copy, changes=0)  # trained before the change, which is made again
        wait_until(lambda: client.get("/v1/model").json()["model_version"] == 2)
        assert "ad_9" not in ids(client)
        broken = published.publish(copy, changes=1)
        wait_until(lambda: client.get("/v1/model").json()["model_version"] == 3)
        (published.root / "CURRENT").write_text("77\n")
        wait_until(lambda: "gr4ad_reload_failures_total 0.0" not in client.get("/metrics").text)
        assert client.post(URL, json=WIDE).json()["model_version"] == broken
        assert "version 77" in caplog.text.lower()


def test_no_request_fails_or_mixes_versions_while_weights_and_ads_change(tiny_artifact, token):
    live = LiveModel(tiny_artifact)
    codes = list(live.recommender.tokenizer.index.sid_of("ad_3"))

    async def main(base_url):
        async with httpx.AsyncClient(base_url=base_url, timeout=20, trust_env=False) as client:
            stop = asyncio.Event()

            async def change():
                for number in range(30):
                    name = f"fresh_{number}"
                    for body in (
                        {"op": "add", "item_ids": [name], "codes": [codes]},
                        {"op": "remove", "item_ids": [name]},
                    ):
                        (await client.post("/v1/index", json=body, headers=ADMIN)).raise_for_status()
                    if number % 10 == 9:
                        (await client.post("/v1/reload", headers=ADMIN)).raise_for_status()
                    # Whoever asks now must not get what was removed before.
                    answer = (await client.post(URL, json=WIDE)).raise_for_status().json()
                    assert name not in {ad["item_id"] for ad in answer["recommendations"]}
                stop.set()

            async def ask():
                answers = []
                while not stop.is_set():
                    response = await client.post(URL, json=WIDE)
                    answers.append(response.raise_for_status().json())
                return answers

            results = await asyncio.gather(change(), *(ask() for _ in range(4)))
            return [answer for part in results[1:] for answer in part]

    with served(live) as (_, client):
        answers = asyncio.run(main(client.base_url))
    assert {answer["model_version"] for answer in answers} == {1, 2, 3, 4}
    assert len(answers) >= 20
    scores = {}
    for answer in answers:
        for ad in answer["recommendations"]:
            if not ad["item_id"].startswith("fresh"):
                scores.setdefault(ad["item_id"], []).append(ad["score"])
    assert all(max(part) - min(part) < 1e-3 for part in scores.values())  # the same weights each time


def test_beams_narrow_when_requests_queue_and_recover(tiny_artifact):
    recommender = Recommender.from_pretrained(tiny_artifact)
    with served(recommender, slo_ms=1000.0, max_wait_ms=1.0, max_queue=512, max_batch=4) as (server, client):
        policy = server.service.engine.policy
        assert policy.latency.ready  # learned before the first request
        policy.patience = 0.05
        # Ten full batches: the burst takes a hundred, whatever the machine.
        policy.slo = 10 * policy.latency.seconds(4, 4 * sum(policy.base_widths), 8)
        body = {"requests": [{"history": ["ad_1", "ad_7"], "top_k": 3}] * 400}
        responses = client.post(URL, json=body).raise_for_status().json()["responses"]
        assert all("recommendations" in answer for answer in responses)
        narrow = min(sum(answer["beam_widths"]) for answer in responses)
        assert narrow == sum(policy.scaled(0.25))
        assert all(answer["beam_widths"][-1] >= 3 and len(answer["recommendations"]) == 3 for answer in responses)
        assert "gr4ad_beam_scale 0.25" in client.get("/metrics").text
        named = client.post(URL, json={"history": ["ad_1"], "beam_widths": [8, 16, 16]}).raise_for_status().json()
        assert named["beam_widths"] == [8, 16, 16]

        def recovered() -> bool:
            answer = client.post(URL, json={"history": ["ad_1"], "top_k": 3}).raise_for_status().json()
            return sum(answer["beam_widths"]) > narrow

        wait_until(recovered)


def test_a_request_that_cannot_keep_its_deadline_is_refused_at_once(tiny_artifact):
    with served(Recommender.from_pretrained(tiny_artifact), slo_ms=100.0, max_queue=512) as (_, client):
        body = {"history": ["ad_1"], "deadline_ms": 0.001}
        refused = client.post(URL, json=body)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "this may wait 0 ms" in refused.json()["detail"]
        assert client.post(URL, json={**body, "deadline_ms": 10_000}).status_code == 200
        assert client.post(URL, json={**body, "deadline_ms": 0}).status_code == 422


def test_an_ad_removed_while_a_batch_runs_is_not_served(tiny_artifact, token):
    begun, gate = threading.Event(), threading.Event()

    class Gated(Recommender):
        def rank(self, queries):
            ranked = super().rank(queries)
            begun.set()
            assert gate.wait(10)
            return ranked

    recommender = Gated.from_pretrained(tiny_artifact)
    with served(recommender) as (_, client), ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(lambda: client.post(URL, json=WIDE).raise_for_status().json())
        assert begun.wait(10)
        client.post("/v1/index", headers=ADMIN, json={"op": "remove", "item_ids": ["ad_9"]}).raise_for_status()
        gate.set()
        found = [ad["item_id"] for ad in waiting.result(10)["recommendations"]]
    assert "ad_9" not in found and len(found) == 119
