"""Real servers: `gr4ad serve` as a process, loads of requests on it, and what test users would ask."""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from json import dumps, loads
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from gr4ad import GR4ADConfig, UASIDTokenizer
from gr4ad.data import PreparedData
from gr4ad.serving.load_test import run_load

DIRECT = httpx.Client(trust_env=False, timeout=120)
OWN_CORES = sorted(os.sched_getaffinity(0))  # before this process gives any of them up
SERVER_CORES = {OWN_CORES[0]}
CLIENT_CORES = set(OWN_CORES[1:]) or SERVER_CORES
START_SECONDS = 600  # a compiled search is made before the server listens


def artifact_with(source: Path, folder: Path, **generation: Any) -> Path:
    """A copy of an artifact whose `generation_config.json` says otherwise."""
    shutil.copytree(
        source, folder, ignore=shutil.ignore_patterns("stages", "*.html", "*.parquet.tmp"), dirs_exist_ok=True
    )
    path = folder / "generation_config.json"
    path.write_text(dumps({**loads(path.read_text(encoding="utf-8")), **generation}), encoding="utf-8")
    return folder


class ServerProcess:
    """`gr4ad serve` with one thread, on a port of its own.

    Args:
        model: Folder of the artifact.
        log: File that what it prints is added to.
        flags: Of `gr4ad serve`, by name.
        environment: Further variables, e.g. the `PYTHONPATH` of another build.
        on_core: Keeps it to the first core of this process.
    """

    def __init__(
        self,
        model: Path,
        log: Path,
        flags: Mapping[str, Any],
        *,
        environment: Mapping[str, str] | None = None,
        on_core: bool = False,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url, self.log, self.on_core = f"http://127.0.0.1:{port}", log, on_core
        self.command = [sys.executable, "-m", "gr4ad.cli", "serve", "--model", str(model), "--port", str(port)]
        for name, value in flags.items():
            self.command += [f"--{name}", str(value)]
        self.environment = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
        self.start()

    def start(self) -> None:
        """Returns once it answers; a killed server is started again on its port."""
        pin = (lambda: os.sched_setaffinity(0, SERVER_CORES)) if self.on_core else None
        with open(self.log, "ab") as stream:
            self.process = subprocess.Popen(
                self.command, stdout=stream, stderr=stream, env=self.environment, preexec_fn=pin,
                start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while True:
            with suppress(httpx.HTTPError):
                DIRECT.get(f"{self.url}/v1/model").raise_for_status()
                return
            if self.process.poll() is not None or time.monotonic() > end:
                self.kill()
                raise RuntimeError(f"The server did not start: {self.tail()}")
            time.sleep(0.1)

    def tail(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def ask(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to one body of /v1/recommend. Raises RuntimeError with the server's words if it refuses."""
        response = DIRECT.post(f"{self.url}/v1/recommend", json=body)
        if response.is_error:
            raise RuntimeError(f"The server refused: {response.status_code} {response.text[:500]}")
        return response.json()

    def stop(self) -> int:
        """Ends it by SIGTERM; returns its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(120)

    def kill(self) -> None:
        """SIGKILL, also to the processes that it started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def server_on_core(
    model: Path, log: Path, flags: Mapping[str, Any], environment: Mapping[str, str] | None = None
) -> Iterator[ServerProcess]:
    """A server on the first core, which must end cleanly."""
    server = ServerProcess(model, log, flags, environment=environment, on_core=True)
    try:
        yield server
        assert server.stop() == 0, server.tail()
    finally:
        server.kill()


def requests_per_second(url: str, bodies: Sequence[dict], requests: int | None = None) -> float:
    """Answers a second when all are asked for at once. Raises SystemExit if a request failed."""
    arrivals = np.zeros(len(bodies) if requests is None else requests)
    begun = time.perf_counter()
    outcomes = asyncio.run(run_load(url, bodies, arrivals, timeout=600.0))
    seconds = time.perf_counter() - begun
    failed = [outcome.status for outcome in outcomes if outcome.status != 200]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(arrivals)} requests failed, the first with {failed[0]}.")
    return len(arrivals) / seconds


def random_bodies(
    ads: int, items: int, requests: int, beams: int, levels: int, *, top_k: int, seed: int
) -> list[dict[str, Any]]:
    """Bodies of requests with histories of `items` random ads out of `ad_0`, ..., searched with equal beams."""
    rng = np.random.default_rng(seed)
    return [
        {"history": [f"ad_{n}" for n in rng.integers(0, ads, items)], "top_k": min(top_k, beams),
         "beam_widths": [beams] * levels}
        for _ in range(requests)
    ]  # fmt: skip


def request_bodies(
    data: PreparedData, tokenizer: UASIDTokenizer, config: GR4ADConfig, top_k: int
) -> list[dict[str, Any]]:
    """The body that each test user's request has, with all that the model reads of a history."""
    reads = {"events": tokenizer.event_names, "values": config.context_values, "times": config.num_time_buckets}
    columns = ("items", *(name for name, wanted in reads.items() if wanted))
    bodies = []
    for row in data.test:
        kept = {name: row[name][-config.max_context_items :] for name in columns if name in row}
        body = {"history": kept.pop("items"), "top_k": top_k, **kept}
        if features := {name: row[name] for name in tokenizer.user_features if name in row}:
            body["user_features"] = features
        bodies.append(body)
    return bodies
