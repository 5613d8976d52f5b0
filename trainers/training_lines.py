# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What a training says of itself while it runs: a bar on a terminal, and a short line for each log and validation."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.trainer_callback import PrinterCallback, ProgressCallback

logger = logging.getLogger(__name__)

SHOWN = ("ndcg@10", "revenue@10")


class TrainingLines(ProgressCallback):
    """In the place of the Trainer's lines, which hold some forty figures each. `trainer.state.log_history` has them
    all; a stage keeps it in `log.json`.

    Args:
        bar: Draw the bar of steps.
    """

    def __init__(self, bar: bool = True):
        super().__init__()
        self.bar = bar

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.bar:
            super().on_train_begin(args, state, control, **more)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.bar:
            super().on_step_end(args, state, control, **more)

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.bar:
            super().on_train_end(args, state, control, **more)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **more: Any) -> None:
        line = line_of(logs or {}, args.metric_for_best_model)
        if line and state.is_world_process_zero:
            logger.info("step %d of %d: %s", state.global_step, state.max_steps, line)


def line_of(logs: dict[str, Any], metric: str | None) -> str:
    """The figures of a log that a reader follows: the loss, or those of a validation, the one that chooses first. ""
    for what the Trainer says at the end, of its own speed."""
    if "loss" in logs:
        return f"loss {logs['loss']:.4g}"
    names = dict.fromkeys([(metric or "").removeprefix("eval_"), *SHOWN])
    parts = [f"{name} {logs[f'eval_{name}']:.4g}" for name in names if f"eval_{name}" in logs]
    users = f" ({logs['eval_users']:.0f} users)" if "eval_users" in logs else ""
    return f"validation {', '.join(parts)}{users}" if parts else ""


@contextmanager
def told_in_lines(trainer: Any) -> Iterator[None]:
    """Lets a trainer say what it does in `TrainingLines`, with a bar below them where stderr is a terminal."""
    for callback in (ProgressCallback, PrinterCallback):
        trainer.remove_callback(callback)
    bar = sys.stderr.isatty() and not trainer.args.disable_tqdm
    trainer.add_callback(TrainingLines(bar=bar))
    with logging_redirect_tqdm() if bar else nullcontext():
        yield


__all__ = ["TrainingLines", "told_in_lines"]
