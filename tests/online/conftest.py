import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from datasets import disable_progress_bars
from online_runs import engagements, preference_lists, write_records
from transformers.utils.logging import disable_progress_bar

from gr4ad.online import OnlineConfig
from gr4ad.trainers.continual import ContinualConfig

disable_progress_bar()
disable_progress_bars()


@pytest.fixture
def build_config(tiny_artifact, logs, tmp_path):
    """A loop's settings: 10 steps that end when the logs do, a publication every 3."""

    def build(name: str = "run", **changes) -> OnlineConfig:
        given = {
            "out": str(tmp_path / name / "state"),
            "root": str(tmp_path / name / "live"),
            "model": str(tiny_artifact),
            **{stream: str(logs / stream) for stream in ("vsl", "rl", "catalog")},
            "vsl_batch_size": 4,
            "rl_batch_size": 2,
            "catalog_batch_size": 2,
            "publish_steps": 3,
            "save_steps": 4,
            "guard_users": 8,
            "guard_window": 20,
            "max_ndcg_loss": 1.0,
            "idle_seconds": 0.01,
            "max_wait_seconds": 0.0,
            "poll_seconds": 0.01,
        }
        return OnlineConfig(**{**given, **changes})

    return build


@contextmanager
def running_redis(folder: Path, port: int = 0) -> Iterator[int]:
    """A Redis server on loopback that keeps what it holds in a folder; its port."""
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    words = ["--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir", folder]
    server = subprocess.Popen(["redis-server", *map(str, words)], stdout=subprocess.DEVNULL)
    try:
        for _ in range(400):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait(20)


@pytest.fixture(scope="session")
def start_redis():
    if shutil.which("redis-server") is None:
        pytest.skip("no redis-server here: apt-get install redis-server")
    return running_redis


@pytest.fixture(scope="session")
def learning() -> ContinualConfig:
    return ContinualConfig(learning_rate=1e-2, warmup_steps=2)


@pytest.fixture(scope="session")
def logs(tmp_path_factory) -> Path:
    """Folders `vsl` (2 files, 40 engagements), `rl` (15 lists) and `catalog` (6 records: 4 ads with codes or
    embeddings, one of them twice, and one that is no record)."""
    folder = tmp_path_factory.mktemp("logs")
    write_records(folder / "vsl/000.jsonl", engagements(25, 0))
    write_records(folder / "vsl/001.jsonl", engagements(15, 1))
    write_records(folder / "rl/000.jsonl", preference_lists(15, 2))
    rng = np.random.default_rng(3)
    new = [
        {"item_id": f"new_{n}", "embedding": rng.normal(size=16).tolist(), "business_key": f"{n}"} for n in range(3)
    ]
    new.append({"item_id": "new_3", "codes": [1, 2, 3], "attributes": {"title": "New 3"}})
    write_records(folder / "catalog/000.jsonl", [*new, new[0], {"item_id": 7}])
    return folder
