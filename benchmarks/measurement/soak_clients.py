"""Clients of `soak.py`: what they send to a server, and what they hold its answers against."""

import asyncio
import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

TOKEN = "a token of the soak test"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
URL = "/v1/recommend"
OURS = (URL, "/v1/index", "/v1/reload")
WORKERS = 4  # that change ads, each its own
LATE = 1.0  # seconds after its answered removal in which an ad may still be on its way


@dataclass
class Ledger:
    """What the clients know of the server, and what they have seen.

    codes: SID of each ad that may be added. known: ids that were ever sent. removed: when the removal of an ad was
    answered; an ad leaves it before it is added again. names: model of each version of the weights. scores: (version,
    item) -> least and largest score of one history. seen: counts by kind. wrong: what must not be, by kind, with an
    example.
    """

    codes: dict[str, list[int]]
    known: set[str]
    removed: dict[str, float] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    scores: dict[tuple[int, str], tuple[float, float]] = field(default_factory=dict)
    seen: Counter = field(default_factory=Counter)
    wrong: Counter = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    latencies: list[tuple[float, float]] = field(default_factory=list)  # (seconds since the start, seconds)
    changes: list[float] = field(default_factory=list)  # seconds since the start
    oldest_removed: float = 0.0  # seconds between the answered removal of an ad and the latest answer that held it
    pause: float = 0.0  # longest seconds in which the clients themselves did nothing: part of what they measure
    begun: float = field(default_factory=time.monotonic)

    def fault(self, kind: str, example: str) -> None:
        self.wrong[kind] += 1
        self.examples.setdefault(kind, example[:300])

    def check_ads(self, ads: list[str], sent: float) -> None:
        now = time.monotonic()
        for ad in ads:
            if ad not in self.known:
                self.fault("unknown ads", ad)
            elif ad in self.removed:
                age = now - self.removed[ad]
                self.oldest_removed = max(self.oldest_removed, age)
                if sent > self.removed[ad]:
                    self.fault("removed ads in later requests", f"{ad}, removed {age:.3f} s before")
                if age > LATE:
                    self.fault("removed ads after 1 s", f"{ad}, removed {age:.3f} s before")

    def check_version(self, answer: dict, probe: bool) -> None:
        version, model = answer["model_version"], answer["model"]
        # The answer of a reload may come after the first one with its weights.
        if self.names.setdefault(version, model) != model:
            self.fault("mixed versions", f"version {version} is {self.names[version]}, not {model}")
        if probe:
            for ad in answer["recommendations"]:
                key, score = (version, ad["item_id"]), ad["score"]
                low, high = self.scores.get(key, (score, score))
                self.scores[key] = low, high = min(low, score), max(high, score)
                # An ad that is added gets a new vector; those that stay are scored by the same weights.
                if not ad["item_id"].startswith("soak_") and high - low > 1e-3:
                    self.fault("mixed versions", f"{key} scored {low} and {high}")


async def ask(client: httpx.AsyncClient, ledger: Ledger, body: dict, probe: bool) -> None:
    sent = time.monotonic()
    try:
        response = await client.post(URL, json=body)
    except httpx.HTTPError as error:
        ledger.fault("failed valid requests", repr(error))
        return
    ledger.seen["valid requests"] += 1
    if response.status_code == 429 and int(response.headers.get("retry-after", 0)) >= 1:
        ledger.seen["429 with Retry-After"] += 1
        return
    if response.status_code != 200:
        ledger.fault("failed valid requests", f"{response.status_code} {response.text}")
        return
    ledger.latencies.append((sent - ledger.begun, time.monotonic() - sent))
    answer = response.json()
    ledger.seen["cached answers"] += answer["cached"]
    ledger.check_ads([ad["item_id"] for ad in answer["recommendations"]], sent)
    ledger.check_version(answer, probe)


async def infer(client: httpx.AsyncClient, ledger: Ledger, history: list[str]) -> None:
    """One valid request of the Open Inference Protocol; its name may be that of the model before."""
    name = max(ledger.names.items())[1]
    tensor = {"name": "history", "datatype": "BYTES", "shape": [1, len(history)], "data": history}
    sent = time.monotonic()
    response = await client.post(f"/v2/models/{name}/infer", json={"inputs": [tensor]})
    ledger.seen["valid inferences"] += 1
    if response.status_code == 200:
        ads = response.json()["outputs"][0]["data"]
        ledger.check_ads([ad for ad in ads if ad], sent)
    elif response.status_code != 404:
        ledger.fault("failed valid requests", f"{response.status_code} {response.text}")


async def ask_all(
    client: httpx.AsyncClient, ledger: Ledger, items: list[str], rate: float, widest: int, until: float, native: bool
) -> None:
    """Valid requests as a Poisson process: they are sent whether or not those before were answered. Some of them to a
    `native` server by Open Inference."""
    rng = random.Random(0)
    levels = len(next(iter(ledger.codes.values())))
    wide = {"top_k": widest, "beam_widths": [widest] * levels, "exclude_history": False}
    probe = {"history": items[:3], **wide}
    users = [rng.sample(items, rng.randint(1, 8)) for _ in range(50)]  # a few, so that some come again soon
    due, tasks = time.monotonic(), set()
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        kind, user = rng.random(), rng.choice(users)
        if kind < 0.1:
            work = ask(client, ledger, probe, True)
        elif kind < 0.3:
            work = ask(client, ledger, {"history": user, **wide}, False)
        elif kind < 0.4 and native:
            work = infer(client, ledger, user)
        else:
            work = ask(client, ledger, {"history": user, "top_k": 5}, False)
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        due += rng.expovariate(rate)
    await asyncio.gather(*tasks)


async def change_ads(client: httpx.AsyncClient, ledger: Ledger, number: int, period: float, until: float) -> None:
    """Adds, removes and replaces ads of its own, one every `period` seconds."""
    rng = random.Random(number)
    mine = sorted(ledger.codes)[number::WORKERS]
    active = {ad for ad in mine if not ad.startswith("soak_")}
    due = time.monotonic() + period * number / WORKERS
    while due < until:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        due += period
        ad = rng.choice(mine)
        if ad not in active:
            ledger.known.add(ad)
            ledger.removed.pop(ad, None)
            change = {"op": "add", "item_ids": [ad], "codes": [ledger.codes[ad]]}
        elif rng.random() < 0.2:
            change = {"op": "replace", "item_ids": [ad], "priority": [rng.random()]}
        else:
            change = {"op": "remove", "item_ids": [ad]}
        response = await client.post("/v1/index", json=change, headers=ADMIN)
        if response.status_code != 200:
            ledger.fault("failed changes", f"{change} {response.status_code} {response.text}")
            continue
        ledger.changes.append(time.monotonic() - ledger.begun)
        if change["op"] == "add":
            active.add(ad)
        elif change["op"] == "remove":
            active.discard(ad)
            ledger.removed[ad] = time.monotonic()


async def reload_all(
    client: httpx.AsyncClient, ledger: Ledger, models: list[Path], broken: list[Path], period: float, until: float
) -> None:
    """Other weights every `period` seconds, and half a period later damaged ones, which must be refused."""
    number = 0
    while time.monotonic() + period < until:
        await asyncio.sleep(period / 2)
        before = (await client.get("/v1/model")).json()
        bad = broken[number % len(broken)]
        refused = await client.post("/v1/reload", json={"model": str(bad)}, headers=ADMIN)
        after = (await client.get("/v1/model")).json()
        kept = all(before[key] == after[key] for key in ("model", "model_version"))
        if refused.status_code != 409 or not kept:
            ledger.fault("damaged weights taken", f"{bad.name}: {refused.status_code} {refused.text}")
        ledger.seen["damaged weights refused"] += 1
        await asyncio.sleep(period / 2)
        number += 1
        response = await client.post("/v1/reload", json={"model": str(models[number % len(models)])}, headers=ADMIN)
        if response.status_code != 200:
            ledger.fault("failed reloads", response.text)
            continue
        ledger.seen["reloads"] += 1
        answer = response.json()
        if ledger.names.setdefault(answer["model_version"], answer["model"]) != answer["model"]:
            ledger.fault("mixed versions", f"{answer} but {ledger.names}")


def bad_requests(items: list[str]) -> list[tuple[str, bytes, dict, int]]:
    """Path, body, headers and the status each must get."""
    known = items[0]

    def body(**fields) -> bytes:
        return json.dumps(fields).encode()

    return [
        (URL, b'{"history": [', {}, 400),
        (URL, b'{"history": ["\xff"]}', {}, 400),
        (URL, b"[" * 10_000, {}, 400),
        (URL, body(history=[]), {}, 422),
        (URL, body(history=["nobody knows"]), {}, 422),
        (URL, body(history=[known], top_k=10**9), {}, 422),
        (URL, body(history=[known], beam_widths=[1]), {}, 422),
        (URL, body(history=[known], values=[1.0, 2.0]), {}, 422),
        (URL, body(history=[known], unknown=1), {}, 422),
        (URL, body(history=["x" * 1000] * 3000), {}, 413),
        ("/v1/index", body(op="remove", item_ids=[known]), {}, 401),
        ("/v1/index", body(op="remove", item_ids=["nobody knows"]), ADMIN, 422),
        ("/v1/index", body(op="add", item_ids=["new"], codes=[[10**6] * 3]), ADMIN, 422),
        ("/v1/reload", body(), {}, 401),
        ("/v1/reload", body(model="/nowhere"), ADMIN, 409),
        ("/v2/models/nobody/infer", body(inputs=[{"name": "history"}]), {}, 422),
        ("/v3", b"{}", {}, 404),
    ]


async def annoy(
    client: httpx.AsyncClient, ledger: Ledger, items: list[str], period: float, until: float, native: bool
) -> None:
    """Bad requests in turn, and between them clients that leave: before their body is whole, or before the answer.
    Paths that are not ours vLLM's server refuses in its own words."""
    rng, number = random.Random(0), 0
    requests = [bad for bad in bad_requests(items) if native or bad[0] in OURS]
    whole = json.dumps({"history": items[:3]}).encode()
    while time.monotonic() + period < until:
        await asyncio.sleep(period)
        path, content, headers, status = requests[number % len(requests)]
        response = await client.post(path, content=content, headers={"content-type": "application/json", **headers})
        ledger.seen["bad requests"] += 1
        explained = response.headers["content-type"] == "application/json"
        explained = explained and len(response.json().get("detail", "")) > 20
        if response.status_code != status or not explained:
            ledger.fault(
                "bad requests not refused as they should be",
                f"{content[:60]!r} {response.status_code} {response.text}",
            )
        _, writer = await asyncio.open_connection(client.base_url.host, client.base_url.port)
        length = len(whole) if number % 2 else len(whole) + 100  # the second leaves in the middle of its body
        writer.write(
            f"POST {URL} HTTP/1.1\r\nhost: soak\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
            .encode() + whole
        )  # fmt: skip
        await writer.drain()
        await asyncio.sleep(rng.random() * 0.02)
        writer.transport.abort()
        ledger.seen["clients that left"] += 1
        number += 1
