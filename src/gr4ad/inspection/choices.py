"""A setting with the reason for it, and which settings this version of gr4ad has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gr4ad.pipeline.config_fields import fields_of
from gr4ad.pipeline.sections import SECTIONS


@dataclass(frozen=True)
class Choice:
    """A line of a recipe: section, field, value, and why; `reason` may be "" where the value says it."""

    section: str
    field: str
    value: Any
    reason: str = ""


def has_setting(section: str, field: str) -> bool:
    """Whether a section of this version's recipes has a field."""
    return field in fields_of(SECTIONS[section])


def value_of(choices: list[Choice], section: str, field: str, default: Any = None) -> Any:
    """The value that was chosen, or the default."""
    return next((c.value for c in choices if (c.section, c.field) == (section, field)), default)
