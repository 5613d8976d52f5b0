"""Public data sets that are read by name: `preset: mind` in a recipe.

docs/data_formats.md says what each of their columns means.
"""

from .amazon_reviews import AMAZON_REVIEWS
from .ipinyou import IPINYOU
from .kuairand import KUAIRAND
from .mind import MIND
from .open_bandit import OPEN_BANDIT
from .preset import Decoding, Preset
from .recbole import RECBOLE
from .rees46 import REES46
from .taobao_ads import TAOBAO_ADS

PRESETS: dict[str, Preset] = {
    "recbole": RECBOLE,
    "mind": MIND,
    "open_bandit": OPEN_BANDIT,
    "kuairand": KUAIRAND,
    "ipinyou": IPINYOU,
    "taobao_ads": TAOBAO_ADS,
    "rees46": REES46,
    "amazon_reviews": AMAZON_REVIEWS,
}
"""Name, as in the recipe, -> how it is read."""
PRESET_NAMES = ("recbole", "mind", "open_bandit", "kuairand", "ipinyou", "taobao_ads", "rees46", "amazon_reviews")
"""The names of `PRESETS`, as a constant that help texts read without importing anything."""
assert tuple(PRESETS) == PRESET_NAMES

__all__ = ["PRESETS", "PRESET_NAMES", "Decoding", "Preset"]
