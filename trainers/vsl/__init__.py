from .vsl_collator import VSLCollator, tokenize_histories
from .vsl_config import VSLConfig
from .vsl_trainer import VSLTrainer

__all__ = ["VSLCollator", "VSLConfig", "VSLTrainer", "tokenize_histories"]
