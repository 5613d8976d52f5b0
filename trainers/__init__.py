"""Training and evaluation: one folder a method."""

from .rspo import RSPOConfig, RSPOTrainer, rspo_loss
from .vsl import VSLConfig, VSLTrainer

__all__ = ["RSPOConfig", "RSPOTrainer", "VSLConfig", "VSLTrainer", "rspo_loss"]
