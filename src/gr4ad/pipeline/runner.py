"""Keeps finished stages: a stage runs again only if its settings, its inputs or an earlier stage changed."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gr4ad

logger = logging.getLogger(__name__)

DONE_FILE = "stage.json"
STARTED_FILE = "started.json"
PREPARED = "prepared"
"""Folder of the prepared data within the folder of a run's data stage."""
BEFORE = ".before"
LAUNCHER_VARIABLES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StageRecord:
    """What a finished stage leaves in its folder, as `stage.json`.

    stage: Its name. key: Hash of its settings and of the keys of the stages it read, which are `reads` ("" for one
    that left no record). settings: Section -> fields, and `seed`. seconds; summary: What the stage returned.
    """

    stage: str
    key: str
    reads: list[str]
    settings: Any
    seconds: float
    summary: dict[str, Any]

    @classmethod
    def read(cls, folder: Path) -> StageRecord | None:
        """The record of a stage's folder, also given the folder `prepared` in one; None if it has none."""
        content = read_json(folder / DONE_FILE)
        if not content and folder.name == PREPARED:
            content = read_json(folder.parent / DONE_FILE)
        return cls(**content) if set(content) == set(cls.__dataclass_fields__) else None

    def write(self, folder: Path) -> None:
        write_json(folder / DONE_FILE, plain(self))


class StageRunner:
    """Runs stages in folders `out/stages/NAME`.

    The key of a stage is a hash of its settings and of the keys of the stages it reads. A folder whose `stage.json`
    carries the key is kept as it is. A folder that was started under the key but not finished is handed to the stage
    again, so that a training can resume from its checkpoints. A finished folder of another key is set aside as
    `NAME.before` until its successor is finished; whoever goes back to its settings before that finds it again.

    Under `accelerate launch` or `torchrun` process 0 does the stages and the others wait for their `stage.json`, which
    they must see (one file system), except for stages that run `together`. A process that fails ends the launch.
    """

    def __init__(self, out_dir: str | Path):
        self.root = Path(out_dir) / "stages"
        self.rank = process_rank()
        self.records: dict[str, StageRecord] = {}

    @property
    def seconds(self) -> dict[str, float]:
        """What each stage took, in whichever run it ran."""
        return {name: record.seconds for name, record in self.records.items()}

    def folder(self, name: str) -> Path:
        return self.root / name

    def run(
        self,
        name: str,
        work: Callable[[Path], dict | None],
        *,
        settings: Any,
        after: Sequence[str] = (),
        together: bool = False,
    ) -> dict:
        """Runs `work(folder)` unless it is finished already.

        Args:
            name: Name of the stage and its folder.
            work: Does the stage's work in the folder and returns a summary (JSON values) that is kept.
            settings: JSON values or dataclasses: everything the result depends on beside earlier stages.
            after: Names of the stages it reads; they must have run.
            together: Every process runs `work`, which leaves the writing to process 0.

        Returns:
            The summary.
        """
        earlier = [self.records[stage].key for stage in after]
        key = stage_key(name, settings, earlier)
        folder = self.folder(name)
        if not self.rank:
            set_aside(folder, key)
        record = StageRecord.read(folder)
        if record is not None and record.key == key:
            if self.rank == 0:
                logger.info("%s: kept (finished in %.0f s before)", name, record.seconds)
        elif self.rank:
            if together:
                wait_for_key(folder / STARTED_FILE, key)
                work(folder)
            record = StageRecord(**wait_for_key(folder / DONE_FILE, key))
        else:
            spent = 0.0
            if folder.exists():
                spent = float(read_json(folder / STARTED_FILE).get("seconds", 0.0))
                logger.info("%s: resumed", name)
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / STARTED_FILE, {"key": key, "seconds": spent})
            logger.info("%s: started", name)
            start = time.monotonic()
            with nullcontext() if together else alone():
                summary = work(folder) or {}
            seconds = spent + time.monotonic() - start
            record = StageRecord(name, key, earlier, plain(settings), seconds, summary)
            record.write(folder)
            shutil.rmtree(folder.with_name(name + BEFORE), ignore_errors=True)
            logger.info("%s: finished in %.0f s", name, seconds)
        self.records[name] = record
        return record.summary


def set_aside(folder: Path, key: str) -> None:
    """Leaves at `folder` what was finished or started under the key, or nothing; a finished stage is not lost."""
    before = folder.with_name(folder.name + BEFORE)
    if read_json(before / DONE_FILE).get("key") == key:
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(before, folder)
    if key in (read_json(folder / name).get("key") for name in (DONE_FILE, STARTED_FILE)):
        return
    if (folder / DONE_FILE).is_file():
        shutil.rmtree(before, ignore_errors=True)
        os.replace(folder, before)
    shutil.rmtree(folder, ignore_errors=True)


def process_rank() -> int:
    """Number of this process among those that `accelerate launch` or `torchrun` started; 0 without them."""
    return int(os.environ.get("RANK", "0"))


@contextmanager
def alone() -> Iterator[None]:
    """Hides the launch from libraries, which would wait for processes that have no part in a stage."""
    hidden = {name: os.environ.pop(name) for name in LAUNCHER_VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def wait_for_key(path: Path, key: str) -> dict:
    """The JSON of a file once it carries the key. No collective waits so long: theirs give up within the hour."""
    while (content := read_json(path)).get("key") != key:
        time.sleep(POLL_SECONDS)
    return content


def stage_key(name: str, settings: Any, earlier: Sequence[str]) -> str:
    """Hash of everything a stage's result depends on, 32 hex digits; `earlier`: the keys of the stages it reads."""
    text = json.dumps([gr4ad.__version__, name, plain(settings), list(earlier)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def plain(value: Any) -> Any:
    """Dataclasses within lists and maps as maps."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def file_digest(path: str | Path) -> str:
    """sha256 of a file's bytes; a hub id or missing file is named by its text alone (the stage will say what is
    wrong)."""
    path = Path(path)
    if not path.is_file():
        return str(path)
    now = path.stat()
    return digest_of_state(path, now.st_size, now.st_mtime_ns)


@cache
def digest_of_state(path: Path, size: int, changed: int) -> str:
    """The digest of a file in a state: a run asks twice for that of a log, which may be large."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_json(path: Path) -> dict:
    """A JSON file, or {} if there is none or it is half-written (an interrupted machine)."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def write_json(path: Path, value: Any) -> None:
    """Writes JSON so that a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value, indent=1, default=float), encoding="utf-8")
    os.replace(temporary, path)
