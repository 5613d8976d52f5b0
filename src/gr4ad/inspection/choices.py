"""A setting with the reason for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Choice:
    """A line of a recipe: section, field, value, and why; `reason` may be "" where the value says it."""

    section: str
    field: str
    value: Any
    reason: str = ""


def value_of(choices: list[Choice], section: str, field: str, default: Any = None) -> Any:
    """The value that was chosen, or the default."""
    return next((c.value for c in choices if (c.section, c.field) == (section, field)), default)
