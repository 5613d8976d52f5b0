"""Work in processes of its own, for what it takes of memory. Imports nothing that would count."""

import json
import subprocess
import sys
from collections.abc import Callable
from inspect import getfile
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
FOLDER = Path(__file__).resolve().parents[1]
CALL = """
import importlib, json, sys
module, name, arguments = json.loads(sys.argv[1])
print(json.dumps(vars(importlib.import_module(module))[name](*arguments)))
"""


def in_own_process(work: Callable[..., Result], *arguments: Any) -> Result:
    """`work(*arguments)` in a new Python, which imports the module of `work` alone.

    Args:
        work: A function of a script or module of this folder, not of a closure; what it returns is JSON.
        arguments: JSON values.

    Raises:
        RuntimeError: It failed; says what it printed.
    """
    module = ".".join(Path(getfile(work)).resolve().relative_to(FOLDER).with_suffix("").parts)
    call = json.dumps([module, work.__name__, arguments])
    done = subprocess.run([sys.executable, "-c", CALL, call], cwd=FOLDER, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{work.__name__} of {module} failed: {done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peak_gb() -> float:
    """Peak resident memory of this process. Not getrusage: its figure starts at that of the process that forked."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.split("VmHWM:")[1].split()[0]) / 1e6
