"""A loop that is killed at any call, `gr4ad online` that is killed, and a server beside it."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import torch
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from online_runs import engagements, finished, outcome, write_records

from gr4ad.online import OnlineLoop
from gr4ad.serving import PublishedModel


@pytest.fixture
def unbroken(build_config, learning):
    config = build_config("unbroken")
    finished(config, learning)
    return outcome(config)


def run_and_kill(config, learning, place: int | None) -> int:
    """Runs a loop in a process of its own that is killed (SIGKILL) as it begins its call `place` that touches a disk
    or the weights; returns how many such calls it came to, or -1 if it was killed."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        with os.fdopen(read) as pipe:
            calls = pipe.read()
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL), f"ended with {status}"
        return -1 if status else int(calls)
    calls = 0

    def deadly(plain):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == place:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **kwargs)

        return wrapped

    owners = [(Path, "rename"), (Path, "mkdir"), (Path, "unlink"), (Path, "write_text"), (os, "replace"), (os, "link")]
    owners += [(os, "fsync"), (shutil, "rmtree"), (shutil, "copytree"), (torch.optim.AdamW, "step")]
    for owner, name in owners:
        setattr(owner, name, deadly(getattr(owner, name)))
    try:
        finished(config, learning)
        os.write(write, str(calls).encode())
    except BaseException:
        os._exit(1)
    os._exit(0)


def test_killed_anywhere_and_again_it_comes_to_the_same_bits(build_config, learning, unbroken, tmp_path):
    total = run_and_kill(build_config("counted"), learning, None)
    assert total > 100 and outcome(build_config("counted")) == unbroken

    @settings(
        max_examples=3, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )  # fmt: skip
    @given(st.lists(st.integers(1, total), min_size=1, max_size=2))
    @example([41, 106])
    def check(places):
        config = build_config("killed")
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        for place in places:
            run_and_kill(config, learning, place)
        run_and_kill(config, learning, None)
        assert outcome(config) == unbroken

    check()


@pytest.mark.slow
def test_killed_at_every_ninth_call_it_comes_to_the_same_bits(build_config, learning, unbroken, tmp_path):
    place, ended = -8, -1
    config = build_config("killed")
    while ended < 0:
        place += 9  # of some 400, most of them the write-through of a file
        shutil.rmtree(tmp_path / "killed", ignore_errors=True)
        ended = run_and_kill(config, learning, place)
        run_and_kill(config, learning, None)
        assert outcome(config) == unbroken, place


# --- the command, and a server that follows
# ---------------------------------------------------------------------------------------------------


def command(*words) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "gr4ad.cli", *map(str, words)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def flags(config) -> list:
    return [word for name, value in vars(config).items() if value is not None for word in (f"--{name}", value)]


def wait_for(what, processes=(), seconds: float = 120):
    """What `what` returns, once it is true. No test depends on how long it takes."""
    end = time.monotonic() + seconds
    while not (found := what()):
        for process in processes:
            assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


@pytest.mark.slow
def test_the_command_killed_in_the_middle_comes_to_the_same_bits(build_config, learning, unbroken):
    config = build_config("command")
    words = ["online", *flags(config), "--learning_rate", learning.learning_rate, "--warmup_steps", 2]
    seen = Path(config.out) / "metrics.jsonl"
    for number in range(2):
        process = command(*words)
        done = 4 * number + 2
        wait_for(lambda done=done: len(lines(seen)) >= done, [process])
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    process = command(*words)
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 0, errors[-3000:]
    assert "Resumed" in errors
    assert outcome(config) == unbroken
    assert lines(seen)[-1]["used"] == {"vsl": 40, "rl": 15, "catalog": 5}


@pytest.mark.slow
def test_a_server_that_follows_gets_ads_and_weights_and_both_may_be_killed(build_config, learning, tmp_path):
    logs = tmp_path / "logs"
    write_records(logs / "vsl/000.jsonl", engagements(12, 0))
    sources = {name: str(logs / name) for name in ("vsl", "rl", "catalog")}
    config = build_config("live", **sources, idle_seconds=0.0, poll_seconds=0.05)
    words = ["online", *flags(config), "--learning_rate", learning.learning_rate, "--warmup_steps", 2]
    seen, port_file, root = Path(config.out) / "metrics.jsonl", tmp_path / "port", PublishedModel(config.root)

    def start_server() -> subprocess.Popen:
        port_file.unlink(missing_ok=True)
        serving = command(
            "serve", "--model", config.root, "--port", 0, "--port_file", port_file, "--watch_seconds", 0.1
        )
        wait_for(port_file.is_file, [serving])
        return serving

    def served(history: list[str]) -> set[str]:
        """Ads that are recommended; none where the server knows no ad of the history."""
        body = json.dumps({"history": history, "top_k": 128, "beam_widths": [128, 128, 128]}).encode()
        request = Request(f"http://127.0.0.1:{port_file.read_text().strip()}/v1/recommend", body)
        request.add_header("Content-Type", "application/json")
        try:
            with urlopen(request, timeout=30) as response:
                return {ad["item_id"] for ad in json.load(response)["recommendations"]}
        except URLError as error:
            assert getattr(error, "code", None) == 422
            return set()

    trainer = command(*words)
    running = [trainer]
    try:
        wait_for(lambda: len(lines(seen)) >= 3, [trainer])
        server = start_server()
        running.append(server)
        write_records(logs / "catalog/000.jsonl", [{"item_id": "first", "codes": [1, 2, 3]}])
        wait_for(lambda: "first" in served(["ad_1"]), running)
        for process in running:
            process.send_signal(signal.SIGKILL)
            process.wait(20)
        write_records(logs / "catalog/001.jsonl", [{"item_id": "second", "codes": [1, 2, 4]}])
        write_records(logs / "vsl/001.jsonl", engagements(12, 1))
        running = [command(*words), start_server()]
        wait_for(lambda: {"first", "second"} <= served(["first"]), running)
        wait_for(lambda: lines(seen)[-1]["used"]["vsl"] == 24, running)
        wait_for(lambda: root.about(root.current()[0])["step"] == 6, running)
        running[0].send_signal(signal.SIGTERM)
        assert running[0].wait(60) == 0, running[0].stderr.read()[-3000:]
        assert {"first", "second"} <= served(["second"])
    finally:
        for process in running:
            process.kill()
            process.wait(20)
    with OnlineLoop(config, learning) as loop:
        assert loop.state.used == {"vsl": 24, "rl": 0, "catalog": 2} and loop.state.steps == 6
        assert loop.replayed == [] and root.last_change == 2
