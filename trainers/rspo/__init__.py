# ruff: noqa: F401  # the names are there for type checkers; `lazy_names` imports them
"""List-wise alignment: RSPO, and the preference losses to hold it against."""

from typing import TYPE_CHECKING

from ..lazy_names import lazy_names

if TYPE_CHECKING:
    from .list_grades import unified_weights, value_grades
    from .list_sources import beam_lists
    from .preference_fields import PreferenceFields, PreferenceLossFunction, RSPOFields
    from .preference_lists import RSPOCollator, check_lists
    from .preference_losses import dpo_loss, grpo_loss, rspo_loss, sdpo_loss
    from .rspo_config import RSPOConfig
    from .rspo_trainer import RSPOTrainer

NAMES = {
    "list_grades": "unified_weights value_grades",
    "list_sources": "beam_lists",
    "preference_fields": "PreferenceFields PreferenceLossFunction RSPOFields",
    "preference_lists": "RSPOCollator check_lists",
    "preference_losses": "dpo_loss grpo_loss rspo_loss sdpo_loss",
    "rspo_config": "RSPOConfig",
    "rspo_trainer": "RSPOTrainer",
}
__getattr__, __all__ = lazy_names(__name__, NAMES)
