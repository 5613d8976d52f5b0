# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""Value-aware supervised learning."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .history_stream import HistoryStream
    from .model_start import start_item_embeddings, start_item_head, start_model, start_prefix_vectors
    from .vsl_collator import VSLCollator
    from .vsl_config import VSLConfig
    from .vsl_fields import VSLFields
    from .vsl_rows import tokenize_histories
    from .vsl_trainer import NonFiniteTrainingError, VSLTrainer

NAMES = {
    "history_stream": "HistoryStream",
    "model_start": "start_item_head start_item_embeddings start_model start_prefix_vectors",
    "vsl_collator": "VSLCollator",
    "vsl_config": "VSLConfig",
    "vsl_fields": "VSLFields",
    "vsl_rows": "tokenize_histories",
    "vsl_trainer": "NonFiniteTrainingError VSLTrainer",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
