"""The checkpoint of online learning: weights, optimizer, index, offsets and counts as one folder."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from gr4ad.serving.published_model import synced, write_through

from .record_stream import Offset

STATE_FILE = "online_state.json"
TENSOR_FILE = "online_state.safetensors"
CHECKPOINT = "checkpoint"


@dataclass
class OnlineState:
    """Where online learning stands, beside its tensors.

    Attributes:
        run: Name of this run, in what it publishes.
        number: Passes of the loop. steps: Those of them that were optimizer steps.
        offsets: Stream -> the place up to which it was used.
        used, refused: Stream -> records that were learned from, and records that nothing could be learned from.
        changes: Number of the last index change that was applied.
        published: The pass after which weights were last published.
        steps_published: `steps` at that pass.
        attempted: `steps` when the guard was last asked. alarms: How often it refused.
        validated: NDCG@10 of candidate and published weights, user by user, since then.
    """

    run: str = field(default_factory=lambda: uuid.uuid4().hex)
    number: int = 0
    steps: int = 0
    offsets: dict[str, Offset | None] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    refused: dict[str, int] = field(default_factory=dict)
    changes: int = 0
    published: int = 0
    steps_published: int = 0
    attempted: int = 0
    alarms: int = 0
    validated: list[tuple[float, float]] = field(default_factory=list)


class Checkpoints:
    """The newest checkpoint in a folder, replaced by renaming.

    ```
    folder/checkpoint-00000040/   the artifact, online_state.json, online_state.safetensors
    ```

    Args:
        folder: Of the run.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def path(self, number: int) -> Path:
        return self.folder / f"{CHECKPOINT}-{number:08d}"

    def newest(self) -> Path | None:
        """Folder of the newest whole checkpoint: only whole ones have their name."""
        found = sorted(self.folder.glob(f"{CHECKPOINT}-*"), key=lambda path: int(path.name.rpartition("-")[2]))
        return found[-1] if found else None

    def save(
        self, state: OnlineState, tensors: Mapping[str, torch.Tensor], save_artifact: Callable[[Path], None]
    ) -> Path:
        """Writes a checkpoint, then removes the ones before it. Killed at any moment, a whole one is there. Raises
        OSError if it cannot be written; the one before stays."""
        place = self.path(state.number)
        for dead in self.folder.glob(f".{CHECKPOINT}-*"):
            shutil.rmtree(dead)
        if not place.is_dir():  # else this very pass was saved before
            unfinished = self.folder / f".{place.name}"
            unfinished.mkdir(parents=True)
            try:
                save_artifact(unfinished)
                save_file(dict(tensors), unfinished / TENSOR_FILE)
                (unfinished / STATE_FILE).write_text(json.dumps(asdict(state)), encoding="utf-8")
                write_through(unfinished)
                unfinished.rename(place)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
            synced(self.folder)
        for old in self.folder.glob(f"{CHECKPOINT}-*"):
            if old != place:
                gone = old.with_name(f".{old.name}")
                old.rename(gone)  # first, so that no half checkpoint has its name
                shutil.rmtree(gone)
        return place

    @staticmethod
    def load(place: Path) -> tuple[OnlineState, dict[str, torch.Tensor]]:
        """State and tensors of a checkpoint. Raises ValueError if they are damaged."""
        try:
            given = json.loads((place / STATE_FILE).read_text(encoding="utf-8"))
            given["validated"] = [tuple(pair) for pair in given["validated"]]
            return OnlineState(**given), load_file(place / TENSOR_FILE)
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise ValueError(
                f"{place}: not a readable checkpoint ({error}). Restore the folder, or start anew in another one."
            ) from error
