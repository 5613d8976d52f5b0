import asyncio
import shutil
import socket
import subprocess

import pytest
from loopback import URL, served, wait_until

from gr4ad.serving import IndexChange
from gr4ad.serving.live_model import LiveModel
from gr4ad.serving.result_cache import MemoryCache, RedisCache, cache_key

BODY = {"history": ["ad_1", "ad_7"], "top_k": 5}


@pytest.fixture(scope="module")
def redis_url(tmp_path_factory):
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server (Debian: apt-get install redis-server)")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: answers(port))
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def test_keys_differ_where_their_parts_do():
    keys = {cache_key("a", "b"), cache_key("ab", ""), cache_key("", "ab"), cache_key("a", "b", "")}
    assert len(keys) == 4 and all(len(key) == 64 for key in keys)
    assert cache_key("\ud800") != cache_key("?")


def test_answers_in_memory_expire_and_are_bounded():
    async def main():
        cache = MemoryCache(0.05, 100)
        await cache.put("a", b"x" * 60)
        assert await cache.get("a") == b"x" * 60
        await cache.put("b", b"y" * 60)  # the older one leaves
        await cache.put("c", b"z" * 101)  # more than the whole cache holds
        assert [await cache.get(key) for key in "abc"] == [None, b"y" * 60, None]
        await asyncio.sleep(0.1)
        assert await cache.get("b") is None

    asyncio.run(main())


def test_a_redis_that_is_away_is_an_empty_cache(caplog):
    async def main():
        cache = RedisCache("redis://127.0.0.1:1/0", 60)
        await cache.put("a", b"x")
        assert await cache.get("a") is None and await cache.get("a") is None
        await cache.close()

    asyncio.run(main())
    assert caplog.text.count("cannot be reached") == 1
    with pytest.raises(ValueError, match="`cache_url` must be a Redis URL"):
        RedisCache("http://127.0.0.1", 60)


@pytest.mark.parametrize("kind", ["memory", "redis"])
def test_the_same_request_is_answered_once_until_its_ads_or_the_weights_change(tiny_artifact, kind, request):
    url = request.getfixturevalue("redis_url") if kind == "redis" else None
    live = LiveModel(tiny_artifact)
    with served(live, cache_seconds=60.0, cache_url=url) as (_, client):
        first = client.post(URL, json=BODY).raise_for_status().json()
        again = client.post(URL, json=BODY).json()
        assert (first["cached"], again["cached"]) == (False, True)
        assert again["recommendations"] == first["recommendations"]
        assert not client.post(URL, json={**BODY, "top_k": 6}).json()["cached"]
        assert 'gr4ad_cache_lookups_total{result="hit"} 1.0' in client.get("/metrics").text
        best = first["recommendations"][0]["item_id"]
        others = [name for name in live.recommender.tokenizer.index.item_ids.tolist()
                  if name not in {ad["item_id"] for ad in first["recommendations"]}]  # fmt: skip
        live.change(IndexChange("remove", [others[0]]))
        assert client.post(URL, json=BODY).json()["cached"]  # all its ads are served as before
        live.change(IndexChange("remove", [best]))
        changed = client.post(URL, json=BODY).json()
        assert not changed["cached"] and best not in {ad["item_id"] for ad in changed["recommendations"]}
        live.change(IndexChange("replace", [changed["recommendations"][0]["item_id"]], attributes={"title": ["New"]}))
        renamed = client.post(URL, json=BODY).json()
        assert not renamed["cached"] and renamed["recommendations"][0]["attributes"] == {"title": "New"}
        live.reload()
        assert not client.post(URL, json=BODY).json()["cached"]
