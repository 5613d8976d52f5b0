import asyncio
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.serving.beam_policy import Load
from gr4ad.serving.microbatch import LOOKAHEAD, DeadlineError, DrainingError, MicroBatcher, QueueFullError


class Engine:
    """Doubles numbers; remembers batches; fails on a batch with a negative number; waits while `gate` is closed."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.loads: list[Load] = []
        self.gate = threading.Event()
        self.gate.set()
        self.threads: set[int] = set()

    def __call__(self, queries, plan):
        self.batches.append(list(queries))
        self.loads.append(plan)
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        if min(queries) < 0:
            raise ArithmeticError(f"negative: {min(queries)}")
        return [2 * query for query in queries]


def batcher_of(engine, **options) -> MicroBatcher[int, Load, int]:
    options = {"max_batch": 4, "max_wait": 0.01, "max_queue": 100, **options}
    return MicroBatcher(engine, lambda queries, load: load, lambda query: query % 2, **options)


def run(scenario, **options):
    """Runs `scenario(batcher, engine)` on a started batcher, closes it, and returns the engine and the result."""
    engine = Engine()

    async def main():
        batcher = batcher_of(engine, **options)
        batcher.start()
        try:
            return await asyncio.wait_for(scenario(batcher, engine), 20)
        finally:
            engine.gate.set()
            await batcher.close()

    return engine, asyncio.run(main())


async def running(engine, batches: int) -> None:
    while len(engine.batches) < batches:
        await asyncio.sleep(0.001)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(-3, 40), max_size=40), st.integers(1, 7))
def test_every_query_gets_its_own_answer(queries, max_batch):
    async def scenario(batcher, engine):
        return await asyncio.gather(*batcher.submit(queries, timeouts=[10] * len(queries)), return_exceptions=True)

    engine, answers = run(scenario, max_batch=max_batch, max_wait=0.0)
    for query, answer in zip(queries, answers, strict=True):
        if query < 0:
            assert isinstance(answer, ArithmeticError) and str(answer) == f"negative: {query}"
        else:
            assert answer == 2 * query
    assert all(len(batch) <= max_batch and len({query % 2 for query in batch}) == 1 for batch in engine.batches)
    assert len(engine.threads) <= 1 and threading.get_ident() not in engine.threads


def test_requests_that_a_busy_loop_has_begun_to_read_join_the_first():
    async def scenario(batcher, engine):
        async def request(query: int, reading: float, turns: int) -> int:
            time.sleep(reading)  # parsing keeps the loop busy
            for _ in range(turns):
                await asyncio.sleep(0)
            return await batcher.submit([query], timeouts=[10])[0]

        later = (request(query, 0.01, 3) for query in (2, 4))
        return await asyncio.gather(request(0, 0.0, 0), *later)

    engine, answers = run(scenario, max_wait=0.01)
    assert answers == [0, 4, 8] and engine.batches == [[0, 2, 4]]


def test_queries_of_a_group_share_batches_in_order_of_arrival():
    async def scenario(batcher, engine):
        await asyncio.gather(*batcher.submit([0, 1, 2, 3, 4, 6, 8], timeouts=[10] * 7))

    engine, _ = run(scenario)
    assert engine.batches == [[0, 2, 4, 6], [1, 3], [8]]  # the full batch at once, then the oldest head


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=60), st.integers(1, 5))
def test_queries_of_like_size_share_a_batch_and_none_waits_long_for_it(sizes, max_batch):
    queries = [2 * (1000 * place + size) for place, size in enumerate(sizes)]  # of one group, and distinct

    def size_of(query):
        return query // 2 % 1000

    async def scenario(batcher, engine):
        engine.gate.clear()
        first = batcher.submit([0], timeouts=[10])
        await running(engine, 1)  # it holds the worker: the others wait together
        others = batcher.submit(queries, timeouts=[10] * len(queries))
        oldest = batcher.load().oldest_wait
        engine.gate.set()
        return oldest, await asyncio.gather(*first, *others)

    engine, (oldest, answers) = run(scenario, max_batch=max_batch, max_wait=0.0, size=size_of)
    assert answers == [2 * query for query in [0, *queries]] and oldest >= 0
    batches = engine.batches[1:]
    assert all(len(batch) == max_batch for batch in batches[:-1])
    for number, batch in enumerate(batches):
        assert all(number - queries.index(query) // max_batch < LOOKAHEAD for query in batch)
    window = queries[: LOOKAHEAD * max_batch]
    if len(window) == LOOKAHEAD * max_batch:
        alike = sorted(window, key=size_of)
        chunks = [alike[start : start + max_batch] for start in range(0, len(alike), max_batch)]
        assert sorted(batches[:LOOKAHEAD]) == sorted(chunks) and queries[0] in batches[0]


def test_a_query_waits_for_company_but_not_longer():
    async def scenario(batcher, engine):
        begun = time.perf_counter()
        first = batcher.submit([0], timeouts=[10])
        await asyncio.sleep(0.02)
        second = batcher.submit([2], timeouts=[10])
        await asyncio.gather(*first, *second)
        return time.perf_counter() - begun

    engine, seconds = run(scenario, max_wait=0.2)
    assert engine.batches == [[0, 2]]
    assert 0.2 <= seconds < 2


def test_the_event_loop_stays_free_while_a_batch_runs():
    async def scenario(batcher, engine):
        engine.gate.clear()
        [future] = batcher.submit([1], timeouts=[10])
        await running(engine, 1)
        ticks = 0
        while ticks < 20:
            await asyncio.sleep(0.001)
            ticks += 1
        assert not future.done()
        engine.gate.set()
        return await future

    assert run(scenario)[1] == 2


def test_a_full_queue_takes_all_or_none():
    async def scenario(batcher, engine):
        engine.gate.clear()
        batcher.submit([1], timeouts=[10])
        await running(engine, 1)
        kept = batcher.submit([3, 5], timeouts=[10] * 2)
        with pytest.raises(QueueFullError, match="2 requests wait already, and 2 more do not fit: at most 3"):
            batcher.submit([7, 9], timeouts=[10] * 2)
        kept += batcher.submit([11], timeouts=[10])
        assert batcher.depth == 3
        engine.gate.set()
        answers = await asyncio.gather(*kept)
        assert batcher.depth == 0
        return answers

    assert run(scenario, max_queue=3, max_wait=0.0)[1] == [6, 10, 22]


def test_deadlines_and_cancelled_queries_leave_the_queue_unanswered():
    async def scenario(batcher, engine):
        engine.gate.clear()
        first = batcher.submit([1], timeouts=[0.03])
        await running(engine, 1)
        late, gone, kept = batcher.submit([3], timeouts=[0.03]) + batcher.submit([5, 7], timeouts=[10] * 2)
        gone.cancel()
        with pytest.raises(DeadlineError, match="30 ms"):
            await late
        await asyncio.sleep(0)
        assert batcher.depth == 1
        engine.gate.set()
        return await asyncio.gather(*first, kept)

    engine, answers = run(scenario, max_wait=0.0)
    assert answers == [2, 14]  # the first had begun before its deadline
    assert engine.batches == [[1], [7]]


def test_one_failure_does_not_touch_the_rest_of_its_batch():
    async def scenario(batcher, engine):
        return await asyncio.gather(*batcher.submit([2, -2, 4], timeouts=[10] * 3), return_exceptions=True)

    engine, (first, bad, last) = run(scenario)
    assert (first, last) == (4, 8)
    assert isinstance(bad, ArithmeticError)
    assert engine.batches == [[2, -2, 4], [2], [-2], [4]]


def test_draining_answers_what_waits_and_takes_nothing_new():
    engine = Engine()

    async def main():
        batcher = batcher_of(engine, max_wait=5.0)
        with pytest.raises(DrainingError):
            batcher.submit([1], timeouts=[10])
        batcher.start()
        futures = batcher.submit([1, 3, 4], timeouts=[10] * 3)
        begun = time.perf_counter()
        batcher.drain()
        with pytest.raises(DrainingError):
            batcher.submit([5], timeouts=[10])
        await batcher.close()
        return [future.result() for future in futures], time.perf_counter() - begun

    answers, seconds = asyncio.run(main())
    assert answers == [2, 6, 8]
    assert seconds < 2


def test_a_batch_is_planned_from_the_load_when_it_starts():
    async def scenario(batcher, engine):
        engine.gate.clear()
        first = batcher.submit([1], timeouts=[10])
        await running(engine, 1)
        rest = batcher.submit([3, 5, 7, 9, 11], timeouts=[10] * 5)
        await asyncio.sleep(0.05)
        assert (batcher.load().waiting, batcher.load().oldest_wait >= 0.05) == (5, True)
        engine.gate.set()
        await asyncio.gather(*first, *rest)
        assert batcher.load().oldest_wait == 0

    engine, _ = run(scenario, max_wait=0.0)
    assert [load.waiting for load in engine.loads] == [1, 5, 1]
    assert engine.loads[0].oldest_wait < 0.05 <= engine.loads[1].oldest_wait
    assert engine.loads[0].now < engine.loads[1].now


def test_a_batch_weighs_no_more_than_it_may_but_a_single_query_runs():
    async def scenario(batcher, engine):
        await asyncio.gather(*batcher.submit([2, 4, 30, 6, 2, 2, 2], timeouts=[10] * 7))

    engine, _ = run(scenario, weight=lambda query: query, max_weight=8)
    assert engine.batches == [[2, 4], [30], [6, 2], [2, 2]]
