"""GR4AD: generative recommendation for advertising, as a Hugging Face-style package.

`import gr4ad` is light: a public name imports its room (and torch) when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from gr4ad.modeling_gr4ad import GR4ADConfig as GR4ADConfig
    from gr4ad.modeling_gr4ad import GR4ADForRecommendation as GR4ADForRecommendation
    from gr4ad.modeling_gr4ad import GR4ADModel as GR4ADModel
    from gr4ad.modeling_gr4ad import SIDTrie as SIDTrie
    from gr4ad.serving import BeamPolicy as BeamPolicy
    from gr4ad.serving import Recommender as Recommender
    from gr4ad.tokenization import MGMRQuantizer as MGMRQuantizer
    from gr4ad.tokenization import SIDIndex as SIDIndex
    from gr4ad.tokenization import UASIDTokenizer as UASIDTokenizer
    from gr4ad.trainers import RewardConfig as RewardConfig
    from gr4ad.trainers import RewardModel as RewardModel
    from gr4ad.trainers import RewardTrainer as RewardTrainer
    from gr4ad.trainers import RSPOConfig as RSPOConfig
    from gr4ad.trainers import RSPOTrainer as RSPOTrainer
    from gr4ad.trainers import VSLConfig as VSLConfig
    from gr4ad.trainers import VSLTrainer as VSLTrainer

ROOMS = {
    "GR4ADConfig": "modeling_gr4ad",
    "GR4ADForRecommendation": "modeling_gr4ad",
    "GR4ADModel": "modeling_gr4ad",
    "SIDTrie": "modeling_gr4ad",
    "MGMRQuantizer": "tokenization",
    "SIDIndex": "tokenization",
    "UASIDTokenizer": "tokenization",
    "RSPOConfig": "trainers",
    "RSPOTrainer": "trainers",
    "RewardConfig": "trainers",
    "RewardModel": "trainers",
    "RewardTrainer": "trainers",
    "VSLConfig": "trainers",
    "VSLTrainer": "trainers",
    "BeamPolicy": "serving",
    "Recommender": "serving",
}

__all__ = ["__version__", *ROOMS]


def __getattr__(name: str) -> Any:
    if name not in ROOMS:
        raise AttributeError(f"module 'gr4ad' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gr4ad.{ROOMS[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *ROOMS])
