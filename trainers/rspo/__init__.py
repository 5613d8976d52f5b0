from .rspo_config import RSPOConfig
from .rspo_loss import rspo_loss, value_grades
from .rspo_trainer import RSPOCollator, RSPOTrainer

__all__ = ["RSPOCollator", "RSPOConfig", "RSPOTrainer", "rspo_loss", "value_grades"]
