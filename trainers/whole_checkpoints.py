# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that are there whole or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import get_last_checkpoint, rotate_checkpoints

from .trainer_mixin import TrainerMixin

TORCH_WRITER = re.compile("PytorchStreamWriter|inline_container")
UNFINISHED = ".unfinished"  # a folder that neither resuming nor the rotation of checkpoints looks into


def last_checkpoint(folder: str | Path) -> str | None:
    """Folder of the newest whole checkpoint, or None."""
    return get_last_checkpoint(str(folder)) if os.path.isdir(folder) else None


class WholeCheckpointMixin(TrainerMixin):
    """Gives a Trainer checkpoints that are written beside their place and then renamed: killed while it saves, or on a
    full disk, a run keeps its last checkpoint and `get_last_checkpoint` finds that one."""

    saving = False
    postponed_push: Callable[[], None] | None = None

    def save_beside_model(self, folder: Path) -> None:
        """What else a checkpoint is to hold; called in the main process."""

    def _get_output_dir(self, trial: Any) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, UNFINISHED) if self.saving else folder

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self.saving:  # the upload reads the folder in the background: not before it has its name
            self.postponed_push = lambda: self._push_from_checkpoint(checkpoint_folder.replace(f"{UNFINISHED}/", ""))
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """As transformers', but whole or not at all.

        Raises:
            OSError: If it cannot be written: names the folder, the space it takes and the last good checkpoint.
        """
        run_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        unfinished, best = run_dir / UNFINISHED, self.state.best_model_checkpoint
        with self.explained_failures(run_dir, name):
            if self.args.should_save:
                shutil.rmtree(unfinished, ignore_errors=True)
            self.accelerator.wait_for_everyone()
            self.saving = True
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self.saving = False
            if self.state.best_global_step:
                placed = run_dir / f"checkpoint-{self.state.best_global_step}"
                new = self.state.best_global_step == self.state.global_step
                self.state.best_model_checkpoint = str(placed) if new or placed.is_dir() else best
            if self.args.should_save:
                self.save_beside_model(unfinished / name)
                self.state.save_to_json(str(unfinished / name / TRAINER_STATE_NAME))
            self.accelerator.wait_for_everyone()  # every process has written its part
            if self.args.should_save:
                write_through(unfinished / name)
                put_in_place(unfinished / name, run_dir / name)
            self.accelerator.wait_for_everyone()
        if self.postponed_push is not None:
            self.postponed_push()
            self.postponed_push = None
        if self.args.should_save:
            rotate_checkpoints(
                output_dir=str(run_dir),
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    @contextmanager
    def explained_failures(self, run_dir: Path, name: str) -> Iterator[None]:
        try:
            yield
        except (OSError, SafetensorError, RuntimeError) as error:
            # torch.save reports a full disk as a RuntimeError of its writer, and safetensors as its own error.
            if isinstance(error, RuntimeError) and not TORCH_WRITER.search(str(error)):
                raise
            shutil.rmtree(run_dir / UNFINISHED, ignore_errors=True)
            last = last_checkpoint(run_dir)
            kept = f"The last good checkpoint is {last}" if last else "There is no earlier checkpoint"
            free = shutil.disk_usage(run_dir).free if run_dir.is_dir() else 0
            raise OSError(
                f"{run_dir / name} could not be written and was removed: {' '.join(str(error).split())[:300]}. It "
                f"takes about {self.checkpoint_bytes() / 1e6:.1f} MB; {free / 1e6:.1f} MB are free. {kept}: free some "
                "space, or set `save_total_limit`, and resume."
            ) from error

    def checkpoint_bytes(self) -> int:
        """Bytes that model and optimizer take, without the tokenizer."""
        assert self.model is not None
        tensors = [*self.model.parameters(), *self.model.buffers()]
        for values in self.optimizer.state.values() if self.optimizer is not None else ():
            tensors.extend(value for value in values.values() if isinstance(value, torch.Tensor))
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def write_through(folder: Path) -> None:
    """Makes a folder's files outlast a crash of the machine, not only of the process."""
    for path in [*folder.rglob("*"), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def put_in_place(folder: Path, place: Path) -> None:
    """Renames a folder to `place`, in the stead of what an earlier run left there."""
    if place.is_dir():
        place.rename(folder.with_name(f"{folder.name}.old"))
    folder.rename(place)
    shutil.rmtree(folder.parent, ignore_errors=True)


__all__ = ["WholeCheckpointMixin", "last_checkpoint"]
