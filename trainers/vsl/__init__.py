"""Value-aware supervised learning."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .history_stream import HistoryStream as HistoryStream
    from .model_start import start_item_head as start_item_head
    from .model_start import start_item_vectors as start_item_vectors
    from .model_start import start_model as start_model
    from .vsl_collator import VSLCollator as VSLCollator
    from .vsl_config import VSLConfig as VSLConfig
    from .vsl_fields import VSLFields as VSLFields
    from .vsl_rows import tokenize_histories as tokenize_histories
    from .vsl_trainer import NonFiniteTrainingError as NonFiniteTrainingError
    from .vsl_trainer import VSLTrainer as VSLTrainer

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "history_stream": ["HistoryStream"],
        "model_start": ["start_item_head", "start_item_vectors", "start_model"],
        "vsl_collator": ["VSLCollator"],
        "vsl_config": ["VSLConfig"],
        "vsl_fields": ["VSLFields"],
        "vsl_rows": ["tokenize_histories"],
        "vsl_trainer": ["NonFiniteTrainingError", "VSLTrainer"],
    },
)
