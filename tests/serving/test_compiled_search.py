import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from loopback import URL, wait_until
from torch._dynamo.utils import counters

from gr4ad import Recommender
from gr4ad.serving import compiled_search
from gr4ad.serving.compiled_search import compile_search

HISTORIES = [["ad_3", "ad_7", "ad_11"], ["ad_40", "ad_2"], [f"ad_{n}" for n in range(50, 58)], ["ad_9"]]


WIDTHS = [[10, 16, 12], [12, 20, 16]]


def graphs() -> int:
    return counters["stats"]["unique_graphs"]


@pytest.fixture(scope="module")
def compiled(tiny_artifact):
    torch._dynamo.reset()
    recommender = Recommender.from_pretrained(tiny_artifact)
    compile_search(recommender, WIDTHS, 4, backend="eager")  # the graphs are torch's affair, when they are made ours
    yield recommender
    torch._dynamo.reset()


def check_alike(compiled, eager, histories, **options):
    ours, theirs = (recommender.recommend(histories, **options) for recommender in (compiled, eager))
    for found, expected in zip(ours, theirs, strict=True):
        assert [ad.item_id for ad in found] == [ad.item_id for ad in expected] and found
        assert np.allclose([ad.score for ad in found], [ad.score for ad in expected], rtol=1e-5)
        assert np.allclose([ad.value for ad in found], [ad.value for ad in expected], rtol=1e-4)


def test_compiled_search_answers_as_before_and_compiles_nothing_in_traffic(compiled, tiny_artifact, monkeypatch):
    eager = Recommender.from_pretrained(tiny_artifact)
    before = graphs()
    with monkeypatch.context() as patch:
        patch.setattr(compiled_search, "IN_TRAFFIC", "fail_on_recompile")  # all of these have a graph
        for widths in (*WIDTHS, [9, 15, 11]):
            for histories in (HISTORIES, HISTORIES[:3], HISTORIES[:1], HISTORIES[2:3]):
                check_alike(compiled, eager, histories, beam_widths=widths, top_k=2)
    for odd in (
        {"beam_widths": [[1, 2, 4], *WIDTHS, [8, 8, 8]]},
        {"beam_widths": [1, 2, 3]},
        {"exclude_history": True},
        {"block_items": [f"ad_{n}" for n in range(0, 118)]},  # short lists are searched for again
        {"allow_items": [["ad_2"], None, ["ad_5", "ad_6"], ["ad_3", "ad_4"]]},
    ):
        check_alike(compiled, eager, HISTORIES, top_k=2, **odd)  # what has no graph runs without
    check_alike(compiled, eager, [["ad_9"]], top_k=2)
    for recommender in (compiled, eager):
        recommender.remove_ads(["ad_0", "ad_1"])
        recommender.add_ads(["new"], recommender.tokenizer.index.codes[:1])
    monkeypatch.setattr(compiled_search, "IN_TRAFFIC", "fail_on_recompile")
    check_alike(compiled, eager, HISTORIES, top_k=8)
    assert graphs() == before > 0


@pytest.mark.slow
def test_gr4ad_serve_compile_answers_as_without(tiny_artifact, tmp_path):
    """As it is shipped: the command, with torch's own compiler."""
    port_file = tmp_path / "port"
    command = [
        str(Path(sys.executable).with_name("gr4ad")), "serve", "--model", str(tiny_artifact), "--compile", "True",
        "--port", "0", "--port_file", str(port_file), "--max_batch", "4", "--deadline_ms", "20000",
    ]  # fmt: skip
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: port_file.exists() or process.poll() is not None, 1800)
        url = f"http://127.0.0.1:{int(port_file.read_text())}{URL}"
        eager = Recommender.from_pretrained(tiny_artifact)
        body = {"requests": [{"history": history, "top_k": 5} for history in HISTORIES]}
        answers = httpx.post(url, json=body, timeout=60, trust_env=False).raise_for_status().json()["responses"]
        answers += [
            httpx.post(url, json=request, timeout=60, trust_env=False).raise_for_status().json()
            for request in body["requests"]
        ]
    finally:
        process.terminate()
        assert process.wait(60) == 0
    for answer, expected in zip(answers, 2 * eager.recommend(HISTORIES, top_k=5), strict=True):
        assert [ad["item_id"] for ad in answer["recommendations"]] == [ad.item_id for ad in expected]
        scores = [ad["score"] for ad in answer["recommendations"]]
        assert scores == pytest.approx([ad.score for ad in expected], rel=1e-4)


def test_other_weights_find_the_graphs(compiled, tiny_artifact):
    before = graphs()
    other = Recommender.from_pretrained(tiny_artifact)
    with torch.no_grad():
        other.model.sid_heads[0].weight.normal_()
    compile_search(other, WIDTHS, 4, backend="eager")
    assert graphs() == before
    theirs, ours = (recommender.recommend(HISTORIES, top_k=5) for recommender in (compiled, other))
    assert [ad.item_id for ad in ours[0]] != [ad.item_id for ad in theirs[0]]


def test_what_cannot_be_compiled_is_refused(tiny_artifact, monkeypatch):
    with pytest.raises(ValueError, match="int8 layers cannot be compiled"):
        compile_search(Recommender.from_pretrained(tiny_artifact, dtype="int8"), [[4, 4, 4]], 2)
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C\\+\\+ compiler on the CPU, and there is no 'no-such-compiler'"):
        compile_search(Recommender.from_pretrained(tiny_artifact), [[4, 4, 4]], 2)


def test_new_ads_leave_the_search_compiled(encoding_artifact, ad_records, monkeypatch):
    """A model that ranks without candidates has some once ads have been added, be it one."""
    torch._dynamo.reset()
    compiled, eager = (Recommender.from_pretrained(encoding_artifact) for _ in range(2))
    compile_search(compiled, [[8, 32, 64]], 2, backend="eager")
    before = graphs()
    monkeypatch.setattr(compiled_search, "IN_TRAFFIC", "fail_on_recompile")
    for numbers in ((), (60,), range(61, 75), range(75, 200)):
        for recommender in (compiled, eager):
            if numbers:
                recommender.add_ads([ad_records(number) for number in numbers])
        for histories in ([["ad_1", "ad_2"]], [["ad_3", "ad_4", "ad_5"], ["ad_6"]]):
            ours, theirs = (recommender.recommend(histories, top_k=20) for recommender in (compiled, eager))
            assert [[ad.item_id for ad in line] for line in ours] == [[ad.item_id for ad in line] for line in theirs]
    assert graphs() == before and eager.model.new_items is not None
    torch._dynamo.reset()
