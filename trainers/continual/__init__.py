"""Training that never ends, one step at a time. The settings are importable without torch."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .continual_config import ContinualConfig as ContinualConfig
    from .continual_trainer import ContinualTrainer as ContinualTrainer
    from .log_records import LogRecords as LogRecords
    from .log_records import RecordError as RecordError
    from .progressive_validation import ProgressiveValidation as ProgressiveValidation
    from .progressive_validation import Verdict as Verdict

MODULES = {
    "ContinualConfig": "continual_config",
    "ContinualTrainer": "continual_trainer",
    "LogRecords": "log_records",
    "ProgressiveValidation": "progressive_validation",
    "RecordError": "log_records",
    "Verdict": "progressive_validation",
}

__all__ = [*MODULES]


def __getattr__(name: str) -> object:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{MODULES[name]}", __name__), name)
