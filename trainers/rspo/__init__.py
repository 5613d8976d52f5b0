"""List-wise alignment: RSPO, and the preference losses to hold it against."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .list_grades import unified_weights as unified_weights
    from .list_grades import value_grades as value_grades
    from .list_sources import beam_lists as beam_lists
    from .list_sources import impression_lists as impression_lists
    from .preference_fields import PreferenceFields as PreferenceFields
    from .preference_fields import RSPOFields as RSPOFields
    from .preference_lists import RSPOCollator as RSPOCollator
    from .preference_lists import check_lists as check_lists
    from .preference_losses import PreferenceLossFunction as PreferenceLossFunction
    from .preference_losses import dpo_loss as dpo_loss
    from .preference_losses import grpo_loss as grpo_loss
    from .preference_losses import rspo_loss as rspo_loss
    from .preference_losses import sdpo_loss as sdpo_loss
    from .rspo_config import RSPOConfig as RSPOConfig
    from .rspo_trainer import RSPOTrainer as RSPOTrainer

__getattr__, __all__ = lazy_names(
    __name__,
    {
        "list_grades": ["unified_weights", "value_grades"],
        "list_sources": ["beam_lists", "impression_lists"],
        "preference_fields": ["PreferenceFields", "RSPOFields"],
        "preference_lists": ["RSPOCollator", "check_lists"],
        "preference_losses": ["PreferenceLossFunction", "dpo_loss", "grpo_loss", "rspo_loss", "sdpo_loss"],
        "rspo_config": ["RSPOConfig"],
        "rspo_trainer": ["RSPOTrainer"],
    },
)
