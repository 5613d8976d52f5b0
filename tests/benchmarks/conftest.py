import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
import torch
from result_checks import FOLDER, check_form

sys.path.insert(0, str(FOLDER))  # benchmarks are scripts: they import each other as siblings
OWN_PROCESS = {"online", "serving_load", "soak", "speed", "streaming", "vllm_beams"}
"""They give up cores of their process, or measure what it holds, or start engines in it."""


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Callable[..., dict]:
    """Runs a script at its smoke size; returns its result, whose form is checked."""

    def run(script: str, *words: object) -> dict:
        out = tmp_path_factory.mktemp(script) / f"{script}.json"
        command = ["--smoke", "--out", str(out), *map(str, words)]
        with mock.patch.dict(os.environ, {"OMP_NUM_THREADS": "1"}):
            if script in OWN_PROCESS:
                file = str(FOLDER / f"{script}.py")
                done = subprocess.run([sys.executable, file, *command], capture_output=True, text=True)
                assert done.returncode == 0, done.stderr[-3000:]
            else:
                threads = torch.get_num_threads()
                importlib.import_module(script).main(command)
                torch.set_num_threads(threads)
        content = json.loads(out.read_text(encoding="utf-8"))
        check_form(content, script)
        return content

    return run


@pytest.fixture(scope="session")
def recipe_run(bench, tmp_path_factory) -> tuple[Path, dict]:
    """Two seeds of the smoke recipe: folder of the first (the second lies beside), and the result of `recipe.py`."""
    work = tmp_path_factory.mktemp("recipe") / "run"
    return work, bench("recipe", "demo", "--work", work, "--seeds", 0, 1)
