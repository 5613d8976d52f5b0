# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""Training and evaluation: one folder a method."""

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .reward import RewardConfig, RewardModel, RewardModelConfig, RewardTrainer
    from .rspo import RSPOConfig, RSPOTrainer, rspo_loss
    from .vsl import VSLConfig, VSLTrainer

NAMES = {
    "reward": "RewardConfig RewardModel RewardModelConfig RewardTrainer",
    "rspo": "RSPOConfig RSPOTrainer rspo_loss",
    "vsl": "VSLConfig VSLTrainer",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
