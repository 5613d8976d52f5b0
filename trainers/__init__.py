"""Training and evaluation: one folder a method."""

from .reward import RewardConfig, RewardModel, RewardModelConfig, RewardTrainer
from .rspo import RSPOConfig, RSPOTrainer, rspo_loss
from .vsl import VSLConfig, VSLTrainer

__all__ = [
    "RSPOConfig",
    "RSPOTrainer",
    "RewardConfig",
    "RewardModel",
    "RewardModelConfig",
    "RewardTrainer",
    "VSLConfig",
    "VSLTrainer",
    "rspo_loss",
]
