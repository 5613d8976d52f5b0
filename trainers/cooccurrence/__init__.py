"""Co-occurrence: which ads are engaged with together, as positives for the encoder and as item vectors."""

from .cooccurrence_recall import cooccurrence_recall
from .encoder_tuning import CooccurrenceLoss, EncoderTuningConfig, tune_encoder
from .item_sequences import ItemSequenceCollator, ItemSequenceConfig, main_components, train_item_vectors
from .swing import swing_similarity

__all__ = [
    "CooccurrenceLoss",
    "EncoderTuningConfig",
    "ItemSequenceCollator",
    "ItemSequenceConfig",
    "cooccurrence_recall",
    "main_components",
    "swing_similarity",
    "train_item_vectors",
    "tune_encoder",
]
