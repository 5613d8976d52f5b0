"""The GR4AD model: configuration, network, trie and beam search. Needs torch and transformers only."""

from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from .beam_search_gr4ad import BeamSearchOutput
from .configuration_gr4ad import HISTORY_INPUTS, NUM_SPECIAL_TOKENS, GR4ADConfig, HistoryInputs
from .item_lists_gr4ad import ItemRanking
from .modeling_gr4ad import GR4ADForRecommendation, GR4ADModel, GR4ADModelOutput, GR4ADRecommendationOutput
from .ranking_weights_gr4ad import DEFAULT_BEAM_WIDTH, RankingWeights
from .soft_targets_gr4ad import Teacher
from .trie_gr4ad import SIDTrie
from .trie_restriction_gr4ad import TrieRestriction
from .vsl_loss_gr4ad import VSLLossWeights

AutoConfig.register("gr4ad", GR4ADConfig, exist_ok=True)
AutoModel.register(GR4ADConfig, GR4ADModel, exist_ok=True)
AutoModelForSeq2SeqLM.register(GR4ADConfig, GR4ADForRecommendation, exist_ok=True)

GR4ADConfig.register_for_auto_class("AutoConfig")
GR4ADModel.register_for_auto_class("AutoModel")
GR4ADForRecommendation.register_for_auto_class("AutoModelForSeq2SeqLM")

__all__ = [
    "DEFAULT_BEAM_WIDTH",
    "HISTORY_INPUTS",
    "NUM_SPECIAL_TOKENS",
    "BeamSearchOutput",
    "GR4ADConfig",
    "GR4ADForRecommendation",
    "GR4ADModel",
    "GR4ADModelOutput",
    "GR4ADRecommendationOutput",
    "HistoryInputs",
    "ItemRanking",
    "RankingWeights",
    "SIDTrie",
    "Teacher",
    "TrieRestriction",
    "VSLLossWeights",
]
