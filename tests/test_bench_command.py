import json
import threading

import pytest

from gr4ad.cli import main
from gr4ad.serving import Recommender, ServerConfig, create_app
from gr4ad.serving.http_server import RecommendServer


def test_bench_serve_writes_figures_and_a_plot(tiny_artifact, tmp_path, capsys):
    requests = tmp_path / "requests.jsonl"
    requests.write_text('{"history": ["ad_1"], "top_k": 3}\n{"history": ["ad_5", "ad_7"]}\n')
    config = ServerConfig(port=0)
    server = RecommendServer(create_app(Recommender.from_pretrained(tiny_artifact), config), config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while server.port is None:
            assert thread.is_alive()
        out, figure = tmp_path / "load.json", tmp_path / "load.svg"
        command = ["bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--requests", str(requests), "--rate",
                   "5", "--day-peak", "20", "--seconds", "2", "--slo-ms", "5000", "--out", str(out), "--figure",
                   str(figure)]  # fmt: skip
        assert main(command) == 0
    finally:
        server.should_exit = True
        thread.join(20)
    figures = json.loads(out.read_text())["figures"]
    assert figures["answered"] == figures["within_slo"] == 1 and figures["requests"] > 5
    assert figures["beam_rows"] == 8 + 16 + 16
    assert "<svg" in figure.read_text() and "goodput" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "reason"),
    [("", "holds no request"), ("{}\n[1]\n", "line 2: must be an object"), ("{\n", "line 1: not JSON")],
)
def test_requests_that_cannot_be_sent_are_named(tmp_path, capsys, text, reason):
    requests = tmp_path / "requests.jsonl"
    requests.write_text(text)
    assert main(["bench", "serve", "--url", "http://x", "--requests", str(requests), "--rate", "1"]) == 2
    assert reason in capsys.readouterr().err
