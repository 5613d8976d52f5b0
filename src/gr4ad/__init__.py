"""GR4AD: generative recommendation for advertising, as a Hugging Face-style package.

`import gr4ad` is light: a public name imports its package (and torch) when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gr4ad.trainers.lazy_names import lazy_names

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

__getattr__, names = lazy_names(
    __name__,
    {
        "modeling_gr4ad": "GR4ADConfig GR4ADForRecommendation GR4ADModel SIDTrie",
        "tokenization": "MGMRQuantizer SIDIndex UASIDTokenizer",
        "trainers": "RSPOConfig RSPOTrainer RewardConfig RewardModel RewardTrainer VSLConfig VSLTrainer",
        "serving": "BeamPolicy Recommender",
    },
)
__all__ = ["__version__", *names]


def __dir__() -> list[str]:
    return sorted([*globals(), *names])
