from .history_stream import HistoryStream
from .vsl_collator import VSLCollator
from .vsl_config import VSLConfig
from .vsl_rows import tokenize_histories
from .vsl_trainer import NonFiniteTrainingError, VSLTrainer

__all__ = ["HistoryStream", "NonFiniteTrainingError", "VSLCollator", "VSLConfig", "VSLTrainer", "tokenize_histories"]
