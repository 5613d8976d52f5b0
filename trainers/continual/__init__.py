# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""Training that never ends, one step at a time, on records as they come."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .continual_config import ContinualConfig
    from .continual_trainer import ContinualTrainer
    from .log_records import LogRecords, RecordError
    from .progressive_validation import ProgressiveValidation, Verdict

NAMES = {
    "continual_config": "ContinualConfig",
    "continual_trainer": "ContinualTrainer",
    "log_records": "LogRecords RecordError",
    "progressive_validation": "ProgressiveValidation Verdict",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
