"""Processes with vLLM in them, and what their metrics say."""

import os
import re
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx

START_SECONDS = 600  # three processes import vLLM one after the other, on a machine that may be busy
TOKEN = "a token of the tests on vLLM"
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_CI_ENV": "1",  # no warm-up: the model's shapes are those of the requests anyway
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def started(command: list[str], port: int, log: Path, **environment: str):
    """A server in a process of its own; yields a client of it once it is healthy."""
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            env={**os.environ, **ENVIRONMENT, **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False) as client:
            end = time.monotonic() + START_SECONDS
            while True:
                assert process.poll() is None and time.monotonic() < end, log.read_text()[-4000:]
                try:
                    if client.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield client
        process.send_signal(signal.SIGTERM)
        process.wait(60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def metric(client: httpx.Client, name: str) -> float:
    """Sum of a metric's samples whose name and labels match."""
    return sum(float(value) for value in re.findall(rf"^{name} (\S+)$", client.get("/metrics").text, re.MULTILINE))
