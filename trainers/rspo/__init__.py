"""List-wise alignment: RSPO, and the preference losses to hold it against."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .preference_fields import PreferenceFields as PreferenceFields
    from .preference_fields import RSPOFields as RSPOFields
    from .preference_lists import RSPOCollator as RSPOCollator
    from .preference_losses import dpo_loss as dpo_loss
    from .preference_losses import grpo_loss as grpo_loss
    from .preference_losses import sdpo_loss as sdpo_loss
    from .rspo_config import RSPOConfig as RSPOConfig
    from .rspo_loss import rspo_loss as rspo_loss
    from .rspo_loss import value_grades as value_grades
    from .rspo_trainer import RSPOTrainer as RSPOTrainer
    from .unified_weights import unified_weights as unified_weights

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "preference_fields": ["PreferenceFields", "RSPOFields"],
        "preference_lists": ["RSPOCollator"],
        "preference_losses": ["dpo_loss", "grpo_loss", "sdpo_loss"],
        "rspo_config": ["RSPOConfig"],
        "rspo_loss": ["rspo_loss", "value_grades"],
        "rspo_trainer": ["RSPOTrainer"],
        "unified_weights": ["unified_weights"],
    },
)
