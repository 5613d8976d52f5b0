"""A recipe as YAML, with the reason beside each setting."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import yaml

from gr4ad.inspection.choices import Choice

WIDTH = 118
COLUMN = 44


def recipe_text(name: str, choices: Sequence[Choice], header: Sequence[str]) -> str:
    """The text of a recipe.

    Args:
        name: What the artifact is called. choices: In order; those of a section stand together.
        header: Lines of the comment at the top.
    """
    lines = [line for text in header for line in comment(text, "")]
    lines += [f"name: {yaml_value(name)}", "seed: 0"]
    for section in dict.fromkeys(choice.section for choice in choices):
        lines += ["", f"{section}:"]
        for choice in choices:
            if choice.section == section:
                lines += setting_lines(choice)
    return "\n".join(lines) + "\n"


def setting_lines(choice: Choice) -> list[str]:
    """A setting and its reason: behind it where there is room, else above it."""
    line = f"  {choice.field}: {yaml_value(choice.value)}"
    if not choice.reason:
        return [line]
    beside = f"{line.ljust(COLUMN)}  # {' '.join(choice.reason.split())}"
    return [beside] if len(beside) <= WIDTH else [*comment(choice.reason, "  "), line]


def comment(text: str, indent: str) -> list[str]:
    """A text as lines of a YAML comment."""
    return textwrap.wrap(" ".join(text.split()), WIDTH, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")


def yaml_value(value: Any) -> str:
    """A value on one line, as YAML reads it back."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")
