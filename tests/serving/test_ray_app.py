"""Two replicas on this host behind Ray Serve's proxy."""

import secrets
import shutil
import socket

import httpx
import pytest
from loopback import URL, wait_until

from gr4ad.serving import PublishedModel, Recommender

ray = pytest.importorskip("ray", reason="needs ray: pip install 'gr4ad[ray]'")
serve = pytest.importorskip("ray.serve")

from gr4ad.serving.ray_app import REPLICA_HEADER, SESSION_HEADER, RayOptions, build  # noqa: E402

pytestmark = pytest.mark.slow
ITEMS = [f"ad_{number}" for number in range(40)]


@pytest.fixture(scope="module")
def client(tiny_artifact, tmp_path_factory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("GR4AD_ADMIN_TOKEN", raising=False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        token = tmp_path_factory.mktemp("ray") / "token"  # of the cluster; Ray would write one into the home folder
        token.write_text(secrets.token_hex(32))
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
        try:
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            server = {"cache_seconds": 600.0, "deadline_ms": 20000.0}
            serve.run(
                build(RayOptions(model=str(tiny_artifact), num_cpus=0.1, health_check_period_s=1, server=server))
            )
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
                yield client
        finally:
            serve.shutdown()
            ray.shutdown()


def ask(client, user: str, **body) -> httpx.Response:
    return client.post(URL, json={"top_k": 5, **body}, headers={SESSION_HEADER: user})


def test_a_user_stays_at_one_replica_and_hits_its_cache(client):
    homes = {}
    for turn in range(3):
        for number in range(20):
            answer = ask(client, f"user_{number}", history=[ITEMS[number]]).raise_for_status()
            homes.setdefault(number, set()).add(answer.headers[REPLICA_HEADER])
            assert answer.json()["cached"] == (turn > 0)
    assert all(len(seen) == 1 for seen in homes.values())
    assert len(set.union(*homes.values())) == 2  # both have users
    anyone = {client.get("/readyz").headers[REPLICA_HEADER] for _ in range(40)}
    assert len(anyone) == 2  # without the header, either


def test_answers_are_those_of_the_recommender(client, tiny_artifact):
    recommender = Recommender.from_pretrained(tiny_artifact)
    for number in range(10):
        history = ITEMS[number : number + 3]
        [expected] = recommender.recommend([history], top_k=5)
        got = ask(client, f"other_{number}", history=history).raise_for_status().json()["recommendations"]
        assert [ad["item_id"] for ad in got] == [ad.item_id for ad in expected]
        assert [ad["score"] for ad in got] == pytest.approx([ad.score for ad in expected], abs=1e-4)
    refused = ask(client, "other", history=["nobody"])
    assert refused.status_code == 422 and "'nobody'" in refused.json()["detail"]


def replicas() -> list[str]:
    names = ray.util.list_named_actors(all_namespaces=True)
    return [actor["name"] for actor in names if "SERVE_REPLICA" in actor["name"] and "Recommender" in actor["name"]]


def test_a_killed_replica_loses_no_requests_for_long(client):
    home = ask(client, "user_0", history=ITEMS[:1]).headers[REPLICA_HEADER]
    before = replicas()
    assert len(before) == 2
    [name] = [name for name in before if home in name]
    ray.kill(ray.get_actor(name, namespace="serve"))

    def answered() -> bool:
        answer = ask(client, "user_0", history=ITEMS[:1])
        return answer.status_code == 200 and answer.headers[REPLICA_HEADER] != home

    wait_until(answered, 60)
    wait_until(lambda: len(set(replicas()) - {name}) == 2, 120)  # Ray starts another
    for number in range(20):
        assert ask(client, f"user_{number}", history=[ITEMS[number]]).status_code == 200


def test_changes_that_would_reach_one_replica_only_are_refused(tiny_artifact, tmp_path, monkeypatch):
    monkeypatch.setenv("GR4AD_ADMIN_TOKEN", "a token of some length")
    with pytest.raises(ValueError, match="must be a published model where 2 replicas"):
        build(RayOptions(model=str(tiny_artifact)))
    build(RayOptions(model=str(tiny_artifact), num_replicas=1))
    copy = lambda folder: shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True)  # noqa: E731
    PublishedModel(tmp_path / "live").publish(copy, changes=0)
    build(RayOptions(model=str(tmp_path / "live")))
