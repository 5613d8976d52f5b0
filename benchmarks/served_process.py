"""A real `gr4ad serve` on a core of its own, and the requests that test users would send it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gr4ad import UASIDTokenizer
from gr4ad.data import PreparedData

START_SECONDS = 180


def artifact_with(source: Path, folder: Path, **generation: Any) -> Path:
    """A copy of an artifact whose `generation_config.json` says otherwise."""
    shutil.copytree(
        source, folder, ignore=shutil.ignore_patterns("stages", "*.html", "*.parquet.tmp"), dirs_exist_ok=True
    )
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **generation}), encoding="utf-8")
    return folder


def cores() -> tuple[set[int], set[int]]:
    """Cores of the server and of the client: apart where there are two."""
    own = sorted(os.sched_getaffinity(0))
    return ({own[0]}, set(own[1:]) or {own[0]})


@contextmanager
def serving(model: Path, log: Path, **options: Any) -> Iterator[str]:
    """Starts a server with one thread on the first core and yields its URL; it must end cleanly."""
    port_file = log.with_suffix(".port")
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "gr4ad.cli", "serve", "--model", str(model), "--port", "0",
               "--port_file", str(port_file)]  # fmt: skip
    for name, value in options.items():
        command += [f"--{name}", str(value)]
    server_cores, _ = cores()
    with open(log, "w", encoding="utf-8") as stream:
        process = subprocess.Popen(
            command,
            stdout=stream,
            stderr=stream,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, server_cores),
        )
        try:
            end = time.monotonic() + START_SECONDS
            while not port_file.exists():
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"The server did not start: {log.read_text(encoding='utf-8')[-2000:]}")
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port_file.read_text(encoding='utf-8').strip()}"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, log.read_text(encoding="utf-8")[-2000:]
        finally:
            process.kill()
            process.wait()


def request_bodies(data: PreparedData, tokenizer: UASIDTokenizer, config: Any, top_k: int) -> list[dict[str, Any]]:
    """The body that each test user's request has, with all that the model reads of a history."""
    test = data.test
    wanted = {
        "events": bool(tokenizer.event_names),
        "values": bool(config.context_values),
        "times": bool(config.num_time_buckets),
    }
    columns = {name: test[name] for name, reads in wanted.items() if reads and name in test.column_names}
    features = {name: test[name] for name in tokenizer.user_features if name in test.column_names}
    bodies = []
    for row, items in enumerate(test["items"]):
        keep = slice(-config.max_context_items, None)
        body: dict[str, Any] = {"history": list(items[keep]), "top_k": top_k}
        body |= {name: list(values[row][keep]) for name, values in columns.items()}
        if features:
            body["user_features"] = {name: values[row] for name, values in features.items()}
        bodies.append(body)
    return bodies
