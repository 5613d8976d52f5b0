from .candidate_lists import candidate_lists
from .exposure_lists import ExposureCollator, check_exposures
from .reward_config import RewardConfig
from .reward_metrics import reward_metrics
from .reward_model import RewardModel, RewardModelConfig, RewardOutput
from .reward_trainer import RewardTrainer, predict_exposures

__all__ = [
    "ExposureCollator",
    "RewardConfig",
    "RewardModel",
    "RewardModelConfig",
    "RewardOutput",
    "RewardTrainer",
    "candidate_lists",
    "check_exposures",
    "predict_exposures",
    "reward_metrics",
]
