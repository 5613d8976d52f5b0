# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""Co-occurrence: which ads are engaged with together, as positives for the encoder and as item vectors."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .encoder_tuning import CooccurrenceLoss, EncoderTuningConfig, tune_encoder
    from .item_sequences import ItemSequenceCollator, ItemSequenceConfig, main_components, train_item_vectors
    from .neighbour_recall import cooccurrence_recall
    from .swing import swing_similarity

NAMES = {
    "encoder_tuning": "CooccurrenceLoss EncoderTuningConfig tune_encoder",
    "item_sequences": "ItemSequenceCollator ItemSequenceConfig main_components train_item_vectors",
    "neighbour_recall": "cooccurrence_recall",
    "swing": "swing_similarity",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
