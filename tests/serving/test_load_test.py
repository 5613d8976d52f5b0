import asyncio

import numpy as np
import pytest
from aiohttp import web
from loopback import served

from gr4ad.serving import Recommender
from gr4ad.serving.load_test import Outcome, constant_rate, day_rate, poisson_arrivals, run_load, summarize, timeline


def test_arrivals_follow_the_rate():
    moments = poisson_arrivals(constant_rate(50), 50, 100, seed=0)
    assert len(moments) == pytest.approx(5000, rel=0.1)
    gaps = np.diff(moments)
    assert gaps.min() >= 0 and gaps.std() == pytest.approx(gaps.mean(), rel=0.1)  # exponential
    day = poisson_arrivals(day_rate(10, 90, 100), 90, 100, seed=0)
    counts, _ = np.histogram(day, bins=10, range=(0, 100))
    assert counts.argmax() in (4, 5) and counts[0] < 0.3 * counts.max() > counts[-1]
    np.testing.assert_array_equal(day, poisson_arrivals(day_rate(10, 90, 100), 90, 100, seed=0))
    with pytest.raises(ValueError, match="`peak` and `seconds` must be above 0"):
        poisson_arrivals(constant_rate(1), 0, 1, seed=0)


def test_figures_count_every_request_not_the_answered_alone():
    answer = {"beam_widths": [2, 4, 4]}
    outcomes = [Outcome(n, n / 10 + 0.05, 0.01 * (n + 1), 200, answer) for n in range(8)]
    outcomes += [Outcome(8, 0.85, 0.001, 429, None), Outcome(9, 0.95, 9.0, 0, None)]
    figures = summarize(outcomes, slo=0.05, seconds=1.0)
    assert (figures["requests"], figures["answered"], figures["refused"], figures["failed"]) == (10, 0.8, 0.1, 0.1)
    assert (figures["within_slo"], figures["goodput"], figures["throughput"]) == (0.5, 5, 8)
    assert figures["p50_ms"] == pytest.approx(45) and figures["max_ms"] == pytest.approx(80)
    assert figures["beam_rows"] == 10
    parts = timeline(outcomes, 1.0, slices=5)
    assert [part["requests"] for part in parts] == [2] * 5
    assert parts[-1]["answered"] == 0 and np.isnan(parts[-1]["p99_ms"])


def test_every_request_gets_its_own_outcome(tiny_artifact):
    bodies = [{"history": ["ad_1"], "top_k": 3}, {"history": ["new"]}]
    with served(Recommender.from_pretrained(tiny_artifact), max_queue=512) as (_, client):
        outcomes = asyncio.run(run_load(str(client.base_url).rstrip("/"), bodies, np.full(60, 0.05)))
    assert [outcome.request for outcome in outcomes] == list(range(60))
    assert {outcome.status for outcome in outcomes[::2]} == {200}
    assert {outcome.status for outcome in outcomes[1::2]} == {422}
    assert all(len(outcome.answer["recommendations"]) == 3 for outcome in outcomes[::2])


def test_latency_counts_from_the_moment_of_arrival():
    turn = asyncio.Lock()

    async def one_at_a_time(request: web.Request) -> web.Response:
        async with turn:
            await asyncio.sleep(0.02)
        return web.json_response({"beam_widths": [1]})

    async def main():
        app = web.Application()
        app.router.add_post("/v1/recommend", one_at_a_time)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        outcomes = await run_load(url, [{}], np.full(5, 0.05))
        await runner.cleanup()
        return outcomes, await run_load(url, [{}], np.array([0.0]))

    outcomes, [lost] = asyncio.run(main())
    latencies = sorted(outcome.latency for outcome in outcomes)
    assert all(latency >= 0.02 * (place + 1) for place, latency in enumerate(latencies))  # sent at once, not in turn
    assert lost.status == 0 and lost.answer is None
