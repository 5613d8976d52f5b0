"""Training that never ends, one step at a time, on records as they come."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .continual_config import ContinualConfig as ContinualConfig
    from .continual_trainer import ContinualTrainer as ContinualTrainer
    from .log_records import LogRecords as LogRecords
    from .log_records import RecordError as RecordError
    from .progressive_validation import ProgressiveValidation as ProgressiveValidation
    from .progressive_validation import Verdict as Verdict

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "continual_config": ["ContinualConfig"],
        "continual_trainer": ["ContinualTrainer"],
        "log_records": ["LogRecords", "RecordError"],
        "progressive_validation": ["ProgressiveValidation", "Verdict"],
    },
)
