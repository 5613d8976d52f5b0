import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from result_checks import FOLDER, check_form

sys.path.insert(0, str(FOLDER))  # benchmarks are scripts: they import each other as siblings


@pytest.fixture(scope="session")
def bench(tmp_path_factory) -> Callable[..., dict]:
    """Runs a script at its smoke size in a process of its own; returns its result, whose form is checked."""

    def run(script: str, *words: object, expect: int = 0) -> dict:
        out = tmp_path_factory.mktemp(script) / f"{script}.json"
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{script}.py"), "--smoke", "--out", str(out), *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == expect, done.stderr[-3000:]
        content = json.loads(out.read_text(encoding="utf-8"))
        check_form(content, script)
        return content

    return run


@pytest.fixture(scope="session")
def recipe_run(bench, tmp_path_factory) -> tuple[Path, dict]:
    """Two seeds of the smoke recipe: folder of the first (the second lies beside), and the result of `recipe.py`."""
    work = tmp_path_factory.mktemp("recipe") / "run"
    return work, bench("recipe", "demo", "--work", work, "--seeds", 0, 1)
