"""Co-occurrence: which ads are engaged with together, as positives for the encoder and as item vectors."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .encoder_tuning import CooccurrenceLoss as CooccurrenceLoss
    from .encoder_tuning import EncoderTuningConfig as EncoderTuningConfig
    from .encoder_tuning import tune_encoder as tune_encoder
    from .item_sequences import ItemSequenceCollator as ItemSequenceCollator
    from .item_sequences import ItemSequenceConfig as ItemSequenceConfig
    from .item_sequences import main_components as main_components
    from .item_sequences import train_item_vectors as train_item_vectors
    from .neighbour_recall import cooccurrence_recall as cooccurrence_recall
    from .swing import swing_similarity as swing_similarity

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "neighbour_recall": ["cooccurrence_recall"],
        "encoder_tuning": ["CooccurrenceLoss", "EncoderTuningConfig", "tune_encoder"],
        "item_sequences": ["ItemSequenceCollator", "ItemSequenceConfig", "main_components", "train_item_vectors"],
        "swing": ["swing_similarity"],
    },
)
