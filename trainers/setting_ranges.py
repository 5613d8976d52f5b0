# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ranges of numeric settings, without torch: a command line checks them before it imports it."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

RANGES: dict[str, Callable[[float], bool]] = {
    "must be > 0 and finite": lambda value: 0 < value < inf,
    "must be above 0 and finite": lambda value: 0 < value < inf,
    "must be >= 0 and finite": lambda value: 0 <= value < inf,
    "must be 0 (never) or more": lambda value: value >= 0,
    "must be >= 1": lambda value: value >= 1,
    "must be in (0, 1)": lambda value: 0 < value < 1,
    "must be in [0, 1)": lambda value: 0 <= value < 1,
    "is a share in [0, 1)": lambda value: 0 <= value < 1,
    "must be in (0, 1]": lambda value: 0 < value <= 1,
    "is a share in [0, 1]": lambda value: 0 <= value <= 1,
}


def check_range(settings: object, allowed: str, *names: str, remedy: str = "") -> None:
    """Raises ValueError for the first of these fields of `settings` that is out of the range; None is in it."""
    for name in names:
        value = getattr(settings, name)
        if value is not None and not RANGES[allowed](value):
            raise ValueError(f"`{name}` {allowed}. Received: {value}.{remedy}")


__all__ = ["check_range"]
