import random
import re

import numpy as np
import pytest

from gr4ad.serving import Recommender, UnknownItemError, load_recommender
from gr4ad.serving.request_types import ITEM_LISTS, Answer, RecommendQuery
from gr4ad.tokenization import UserHistory

pytestmark = pytest.mark.needs_vllm

REQUESTS = 200
# Beam rows of a step sit elsewhere in their batch than alone, and products round by shape: a few 1e-6 in float32.
# The tiny model's scores are far enough apart to rank alike.
TOLERANCE = 1e-4
LLM_OPTIONS = {
    "chunked": {"enable_chunked_prefill": True, "max_num_batched_tokens": 16, "max_num_seqs": 16},
    "whole": {"enable_chunked_prefill": False, "max_num_seqs": 16},
}
OPTIONS = ("top_k", "exclude_history", "max_per_account", *ITEM_LISTS)
ENGINES: dict = {}  # of the engine process


def random_requests(seed: int, items: int = 120) -> list[dict]:
    """Requests of mixed lengths (some longer than the model reads, some with unknown ids), widths and options."""
    rng = random.Random(seed)
    requests = []
    for _ in range(REQUESTS):
        history = [f"ad_{rng.randrange(items)}" for _ in range(rng.choice([1, 2, 3, 5, 9, 14]))]
        if rng.random() < 0.2:
            history.append("never_seen")
        widths = [rng.choice([1, 4, 8, 16]), rng.choice([8, 16, 40]), rng.choice([12, 16, 64])]
        request = {"history": history, "top_k": rng.randint(1, 12)}
        options = {
            "beam_widths": widths,
            "values": [rng.choice([0.0, 1.0, 3.5]) for _ in history],
            "times": [float(1000 * place) for place in range(len(history))],
            "cross_domain": [f"video_{rng.randrange(9)}" for _ in range(rng.randint(0, 6))],
            "exclude_history": True,
            "max_per_account": 1,
            "allow_items": [f"ad_{rng.randrange(items)}" for _ in range(20)],
            "block_items": [f"ad_{rng.randrange(items)}" for _ in range(60)],
        }
        requests.append(request | {name: value for name, value in options.items() if rng.random() < 0.5})
    return requests


def alone(recommender, request: dict) -> list:
    per_user = {name: [request[name]] for name in ("values", "times", "cross_domain") if name in request}
    plain = {name: request[name] for name in ("beam_widths", *OPTIONS) if name in request}
    return recommender.recommend([request["history"]], **per_user, **plain)[0]


def query_of(request: dict) -> RecommendQuery:
    features = {name: request[name] for name in ("values", "times", "cross_domain") if name in request}
    options = {name: request[name] for name in OPTIONS if name in request}
    options |= {name: tuple(options[name]) for name in ITEM_LISTS if name in options}
    widths = tuple(request["beam_widths"]) if "beam_widths" in request else None
    return RecommendQuery(UserHistory(request["history"], **features), beam_widths=widths, **options)


def start(kind: str, artifact: str) -> None:
    if kind not in ENGINES:
        ENGINES.clear()
        ENGINES[kind] = load_recommender(artifact, backend="vllm", **LLM_OPTIONS[kind])


def answers_together(kind: str, artifact: str, requests: list[dict]) -> tuple[list[Answer], list[int]]:
    """What an engine answers to all of them at once, and how many requests its pooler saw in each step."""
    from gr4ad.serving.vllm_backend.query import POOLING_TASK, decode_answer, to_pooling_params, to_prompt

    start(kind, artifact)
    engine = ENGINES[kind]
    queries = [query_of(request) for request in requests]
    steps: list[int] = []
    pooler = (
        engine.llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker.model_runner.model.pooler
    )
    hook = pooler.register_forward_hook(lambda module, given, answers: steps.append(len(answers)))
    outputs = engine.llm.encode(
        [to_prompt(query, engine.levels, engine.max_items) for query in queries],
        [to_pooling_params(query) for query in queries],
        pooling_task=POOLING_TASK,
        use_tqdm=False,
    )
    hook.remove()
    return [decode_answer(output.outputs.data) for output in outputs], steps


def called(method: str, *args, **kwargs):
    """Calls a method of the engine that runs."""
    [engine] = ENGINES.values()
    return getattr(engine, method)(*args, **kwargs)


def called_with(method: str, args: tuple, kwargs: dict):
    return called(method, *args, **kwargs)


@pytest.fixture(scope="module")
def native(account_artifact) -> Recommender:
    return Recommender.from_pretrained(account_artifact)


@pytest.mark.parametrize("kind", LLM_OPTIONS)
def test_items_and_scores_equal_the_native_engines(engine_process, native, account_artifact, kind):
    requests = random_requests(seed=len(kind))
    answers, steps = engine_process(answers_together, kind, str(account_artifact), requests)
    leaves = {tuple(sid) for sid in native.tokenizer.index.codes.tolist()}
    assert max(steps) > 1, "requests of different widths share a step"
    assert sum(steps) > REQUESTS if kind == "chunked" else sum(steps) == REQUESTS
    for request, answer in zip(requests, answers, strict=True):
        expected = alone(native, request)
        assert [ad.item_id for ad in answer.ranked] == [ad.item_id for ad in expected]
        assert [ad.score for ad in answer.ranked] == pytest.approx([ad.score for ad in expected], abs=TOLERANCE)
        assert [ad.value for ad in answer.ranked] == pytest.approx([ad.value for ad in expected], abs=TOLERANCE)
        assert [ad.attributes for ad in answer.ranked] == [ad.attributes for ad in expected]
        assert answer.unknown.get("history", []) == ["never_seen"] * ("never_seen" in request["history"])
        assert list(answer.widths) == request.get("beam_widths", native.beam_widths)
        for ad in answer.ranked:
            assert tuple(int(part.split("_")[1]) for part in ad.sid[1:-1].split("><")) in leaves


def refused(artifact: str, query: dict) -> str:
    start("whole", artifact)
    try:
        called("recommend", **query)
    except UnknownItemError as error:
        return f"UnknownItemError: {error}"
    except ValueError as error:
        return f"ValueError: {error}"
    return "answered"


def test_a_recommender_on_vllm_answers_and_refuses_as_the_native_one(engine_process, native, account_artifact):
    engine_process(start, "whole", str(account_artifact))
    histories = [["ad_1", "ad_2"], ["ad_7"], ["ad_9", "nothing", "ad_4"]]
    options = {
        "top_k": [3, 2, 5],
        "beam_widths": [[8, 8, 8], [4, 4, 4], [8, 16, 16]],
        "values": [[1, 2], [0], [1, 2, 3]],
    }
    ranked = engine_process(called_with, "recommend", (histories,), options)
    expected = native.recommend(histories, **options)
    assert [[ad.item_id for ad in ads] for ads in ranked] == [[ad.item_id for ad in ads] for ads in expected]
    for query, reason in (
        ({"histories": [["nothing"]]}, "names no item of the catalog; its first id is 'nothing'"),
        ({"histories": [["ad_1"]], "top_k": 5, "beam_widths": [4, 4, 4]}, "`top_k` must be in 1..4"),
        ({"histories": [["ad_1"]], "max_per_account": 0}, "`max_per_account` must be at least 1. Received: 0"),
    ):
        with pytest.raises(ValueError) as error:
            native.recommend(**query)
        received = engine_process(refused, str(account_artifact), query)
        assert reason in str(error.value) and reason in received
        assert received.startswith(f"{type(error.value).__name__}: ")


def test_ads_change_in_a_running_engine(engine_process, account_artifact):
    engine_process(start, "whole", str(account_artifact))
    native = Recommender.from_pretrained(account_artifact)
    history, options = [["ad_1", "ad_2"]], {"top_k": 64, "beam_widths": [8, 64, 64]}
    best = engine_process(called_with, "recommend", (history,), options)[0][0]
    codes = np.array([native.tokenizer.index.sid_of(best.item_id)])
    engine_process(called, "remove_ads", [best.item_id])
    after = engine_process(called_with, "recommend", (history,), options)[0]
    native.remove_ads([best.item_id])
    assert [ad.item_id for ad in after] == [ad.item_id for ad in native.recommend(history, **options)[0]]
    assert best.item_id not in [ad.item_id for ad in after]
    added = {"attributes": {"title": ["New"]}}
    engine_process(called_with, "add_ads", (["brand_new"], codes), added)
    native.add_ads(["brand_new"], codes, **added)
    now = engine_process(called_with, "recommend", (history,), options)[0]
    assert [ad.item_id for ad in now] == [ad.item_id for ad in native.recommend(history, **options)[0]]
    assert next(ad for ad in now if ad.item_id == "brand_new").attributes["title"] == "New"
    with pytest.raises(Exception, match="has code 99 at level 1"):
        engine_process(called, "add_ads", ["worse"], [[99, 0, 0]])
    engine_process(called, "reload")
    again = engine_process(called_with, "recommend", (history,), options)[0]
    assert [ad.item_id for ad in again if ad.item_id != "brand_new"] == [
        ad.item_id for ad in now if ad.item_id != "brand_new"
    ], "changes made here outlast new weights"
    engine_process(called, "remove_ads", ["brand_new"])
    engine_process(called, "add_ads", [best.item_id], codes)


def test_weights_change_in_a_running_engine_and_a_damaged_artifact_does_not(
    engine_process, account_artifact, tiny_artifact, tmp_path
):
    engine_process(start, "whole", str(account_artifact))
    engine_process(called, "reload", str(account_artifact))  # an ad taken out and back has another vector
    history, options = [["ad_3"]], {"top_k": 5}
    before = engine_process(called_with, "recommend", (history,), options)
    engine_process(called, "reload", str(tiny_artifact))
    swapped = engine_process(called_with, "recommend", (history,), options)[0]
    expected = Recommender.from_pretrained(tiny_artifact).recommend(history, **options)[0]
    assert [ad.item_id for ad in swapped] == [ad.item_id for ad in expected]
    assert [ad.score for ad in swapped] == pytest.approx([ad.score for ad in expected], abs=TOLERANCE)
    engine_process(called, "reload", str(account_artifact))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(Exception, match="not a GR4AD artifact|config"):
        engine_process(called, "reload", str(tmp_path))
    assert engine_process(called_with, "recommend", (history,), options) == before


def refusal_of_weights(artifact: str) -> str:
    ENGINES.clear()
    try:
        load_recommender(artifact, backend="vllm", **LLM_OPTIONS["whole"])
    except Exception as error:
        return str(error)
    return "started"


def test_weights_that_are_no_numbers_are_refused(engine_process, account_artifact, tmp_path):
    broken = Recommender.from_pretrained(account_artifact)
    broken.model.sid_heads[1].weight.data[2, 3] = np.nan
    for part in (broken.model, broken.tokenizer, broken.weights):
        part.save_pretrained(tmp_path)
    engine_process(start, "whole", str(account_artifact))
    with pytest.raises(Exception, match=r"`sid_heads\.1\.weight` holds 1 weights that are NaN"):
        engine_process(called, "reload", str(tmp_path))
    reason = engine_process(refusal_of_weights, str(tmp_path))
    assert "`sid_heads.1.weight` holds 1 weights that are NaN" in reason


def dry_run(artifact: str) -> list[int]:
    """What vLLM does at start on a GPU, to measure memory; on a CPU only if told to."""
    import torch

    start("whole", artifact)
    worker = ENGINES["whole"].llm.llm_engine.engine_core.engine_core.model_executor.driver_worker.worker
    calls: list[int] = []
    hook = worker.model_runner.model.gr4ad.model.context_processor.register_forward_hook(
        lambda module, given, context: calls.append(len(given[0]))
    )
    outputs = worker.model_runner._dummy_pooler_run(torch.zeros((64, 1)))
    hook.remove()
    return [len(outputs), *calls]


def test_vllms_dry_run_is_a_full_step_at_the_widest_beams(engine_process, account_artifact):
    outputs, *steps = engine_process(dry_run, str(account_artifact))
    assert outputs == 16 and set(steps) == {16}


def refusal_at_start(artifact: str, options: dict) -> str:
    from vllm.engine.arg_utils import EngineArgs

    try:
        EngineArgs(model=artifact, **options).create_engine_config()
    except ValueError as error:
        return str(error)
    return "started"


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"tensor_parallel_size": 2}, "on one rank only.*--data-parallel-size"),
        ({"pipeline_parallel_size": 2}, "on one rank only"),
        ({"enable_lora": True}, "Merge the adapter into the model"),
        ({"quantization": "fp8"}, "GR4AD has none of them"),
        ({"additional_config": {"gr4ad": {"slo": 3}}}, "has no option `slo`. It has: top_k, slo_ms"),
        ({"additional_config": {"gr4ad": {"slo_ms": -1}}}, "must be above 0 milliseconds"),
        ({"additional_config": {"gr4ad": {"max_step_rows": 4}}}, "`max_step_rows` is called `max_batch_rows`"),
    ],
)
def test_what_does_not_work_is_refused_at_start(engine_process, tiny_artifact, options, reason):
    received = engine_process(refusal_at_start, str(tiny_artifact), options)
    assert re.search(reason, received), received


def broken() -> list[str]:
    from gr4ad.serving.vllm_backend.contract import broken_assumptions

    return broken_assumptions()


def broken_after_a_change() -> list[str]:
    from vllm.v1.core.sched.scheduler import Scheduler

    schedule = Scheduler.schedule
    Scheduler.schedule = lambda self: None
    try:
        return broken()
    finally:
        Scheduler.schedule = schedule


def test_vllm_is_as_this_package_relies_on_it(engine_process):
    assert engine_process(broken) == []


def test_a_change_of_vllm_is_named_with_the_file_to_look_at(engine_process):
    lines = engine_process(broken_after_a_change)
    assert any("max_num_active_reqs" in line and "serving/vllm_backend/scheduler.py" in line for line in lines)
