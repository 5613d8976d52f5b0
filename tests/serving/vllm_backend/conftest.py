"""One offline engine and one server a session, each in processes of its own: vLLM changes the process it is imported
into (threads, environment, patches of torch). The tests of each stand in one file, and `--dist loadfile` keeps a file
on one worker."""

import json
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import pytest
from vllm_processes import ENVIRONMENT, START_SECONDS, TOKEN, free_port, started

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.serving import PublishedModel

HERE = Path(__file__).parent
STORED = HERE.parent.parent / "stored" / "all_features"


def pytest_collection_modifyitems(items):
    missing = find_spec("vllm") is None
    for item in items:
        if HERE in item.path.parents and "needs_vllm" in item.keywords and missing:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: `make test` installs its CPU build"))


@pytest.fixture(scope="session")
def engine_process():
    """A process with vLLM in it that runs functions of these modules, one at a time: `engine_process(f, *args)`."""
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT, VLLM_ENABLE_V1_MULTIPROCESSING="0")
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            yield lambda function, *args: pool.submit(function, *args).result(START_SECONDS)
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="session")
def vllm_distribution(tmp_path_factory) -> Path:
    """A folder for PYTHONPATH: the `vllm` command asks for the distribution `vllm`, and the CPU build has another
    name."""
    folder = tmp_path_factory.mktemp("vllm_distribution")
    metadata = folder / "vllm-0.32.0+cpu.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")
    return folder


@pytest.fixture(scope="session")
def wide_artifact(account_artifact, tmp_path_factory) -> Path:
    """The artifact with accounts, by default with beams wide enough to be felt."""
    folder = tmp_path_factory.mktemp("wide") / "wide_artifact"
    folder.mkdir()
    for file in Path(account_artifact).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = RankingWeights.from_pretrained(str(account_artifact))
    replace(weights, beam_widths=(32, 96, 96)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def served(wide_artifact, vllm_distribution, tmp_path_factory):
    """A client of plain `vllm serve MODEL` with the plugins."""
    port = free_port()
    options = {"slo_ms": 300, "max_queue": 1000, "deadline_ms": 60000}
    command = [
        str(Path(sys.executable).with_name("vllm")), "serve", str(wide_artifact), "--dtype", "float32",
        "--port", str(port), "--host", "127.0.0.1", "--additional-config", json.dumps({"gr4ad": options}),
    ]  # fmt: skip
    environment = {
        "VLLM_PLUGINS": "gr4ad",
        "GR4AD_ADMIN_TOKEN": TOKEN,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(vllm_distribution), os.environ.get("PYTHONPATH")])),
    }
    with started(command, port, tmp_path_factory.mktemp("log") / "server.log", **environment) as client:
        yield client


@pytest.fixture(scope="session")
def published(tmp_path_factory) -> PublishedModel:
    """A published model whose one version is the stored artifact with all features."""
    published = PublishedModel(tmp_path_factory.mktemp("published") / "live")
    published.publish(lambda folder: shutil.copytree(STORED, folder, dirs_exist_ok=True), changes=0)
    return published


@pytest.fixture(scope="session")
def followed(published, tmp_path_factory):
    """A client of `gr4ad serve --backend vllm` that follows a published model and keeps answers."""
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("gr4ad")), "serve", "--backend", "vllm", "--model", str(published.root),
        "--port", str(port), "--cache-seconds", "600", "--watch-seconds", "0.2", "--deadline-ms", "60000",
    ]  # fmt: skip
    log = tmp_path_factory.mktemp("log") / "server.log"
    with started(command, port, log, GR4AD_ADMIN_TOKEN=TOKEN) as client:
        yield client
