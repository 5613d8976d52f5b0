"""Training and evaluation: one folder a method."""

from typing import TYPE_CHECKING

from .lazy_names import lazy_names

if TYPE_CHECKING:
    from .reward import RewardConfig as RewardConfig
    from .reward import RewardModel as RewardModel
    from .reward import RewardModelConfig as RewardModelConfig
    from .reward import RewardTrainer as RewardTrainer
    from .rspo import RSPOConfig as RSPOConfig
    from .rspo import RSPOTrainer as RSPOTrainer
    from .rspo import rspo_loss as rspo_loss
    from .vsl import VSLConfig as VSLConfig
    from .vsl import VSLTrainer as VSLTrainer

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "reward": ["RewardConfig", "RewardModel", "RewardModelConfig", "RewardTrainer"],
        "rspo": ["RSPOConfig", "RSPOTrainer", "rspo_loss"],
        "vsl": ["VSLConfig", "VSLTrainer"],
    },
)
