"""The reward model: what impressions are worth."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .exposure_lists import ExposureCollator as ExposureCollator
    from .exposure_lists import check_exposures as check_exposures
    from .exposure_metrics import reward_metrics as reward_metrics
    from .proposed_lists import candidate_lists as candidate_lists
    from .reward_config import RewardConfig as RewardConfig
    from .reward_fields import RewardFields as RewardFields
    from .reward_model import RewardModel as RewardModel
    from .reward_model import RewardModelConfig as RewardModelConfig
    from .reward_model import RewardOutput as RewardOutput
    from .reward_trainer import RewardTrainer as RewardTrainer
    from .reward_trainer import predict_exposures as predict_exposures

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "proposed_lists": ["candidate_lists"],
        "exposure_lists": ["ExposureCollator", "check_exposures"],
        "reward_config": ["RewardConfig"],
        "reward_fields": ["RewardFields"],
        "exposure_metrics": ["reward_metrics"],
        "reward_model": ["RewardModel", "RewardModelConfig", "RewardOutput"],
        "reward_trainer": ["RewardTrainer", "predict_exposures"],
    },
)
