"""UA-SID: ads to semantic IDs. Embedding, MGMR quantizer, tokenizer, index."""

from transformers import AutoTokenizer

from gr4ad.modeling_gr4ad import GR4ADConfig

from .mgmr_quantizer import MGMRQuantizer
from .sid_index import SIDIndex
from .sid_quality import sid_quality
from .tokenization_ua_sid import UASIDTokenizer
from .user_history import HISTORY_COLUMNS, HISTORY_FEATURES, ITEM_COLUMNS, HistoryError, HistoryFeature, UserHistory
from .value_buckets import fit_feature_bins, fit_value_buckets

AutoTokenizer.register(GR4ADConfig, slow_tokenizer_class=UASIDTokenizer, exist_ok=True)
UASIDTokenizer.register_for_auto_class("AutoTokenizer")

__all__ = [
    "HISTORY_COLUMNS",
    "HISTORY_FEATURES",
    "ITEM_COLUMNS",
    "HistoryError",
    "HistoryFeature",
    "MGMRQuantizer",
    "SIDIndex",
    "UASIDTokenizer",
    "UserHistory",
    "fit_feature_bins",
    "fit_value_buckets",
    "sid_quality",
]
