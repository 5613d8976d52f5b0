from .preference_lists import RSPOCollator
from .preference_losses import dpo_loss, grpo_loss, sdpo_loss
from .rspo_config import RSPOConfig
from .rspo_loss import rspo_loss, value_grades
from .rspo_trainer import RSPOTrainer
from .unified_weights import unified_weights

__all__ = [
    "RSPOCollator",
    "RSPOConfig",
    "RSPOTrainer",
    "dpo_loss",
    "grpo_loss",
    "rspo_loss",
    "sdpo_loss",
    "unified_weights",
    "value_grades",
]
