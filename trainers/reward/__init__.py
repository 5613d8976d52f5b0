# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""The reward model: what impressions are worth."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .exposure_lists import ExposureCollator, check_exposures
    from .exposure_metrics import reward_metrics
    from .proposed_lists import candidate_lists
    from .reward_config import RewardConfig
    from .reward_fields import RewardFields
    from .reward_model import RewardModel, RewardModelConfig, RewardOutput
    from .reward_trainer import RewardTrainer, predict_exposures

NAMES = {
    "exposure_lists": "ExposureCollator check_exposures",
    "exposure_metrics": "reward_metrics",
    "proposed_lists": "candidate_lists",
    "reward_config": "RewardConfig",
    "reward_fields": "RewardFields",
    "reward_model": "RewardModel RewardModelConfig RewardOutput",
    "reward_trainer": "RewardTrainer predict_exposures",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
