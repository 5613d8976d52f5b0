from .continual_config import ContinualConfig
from .continual_trainer import ContinualTrainer
from .log_records import LogRecords, RecordError
from .progressive_validation import ProgressiveValidation, Verdict

__all__ = ["ContinualConfig", "ContinualTrainer", "LogRecords", "ProgressiveValidation", "RecordError", "Verdict"]
