# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Packages whose names import their module, and with it torch, when they are first used (PEP 562)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module


def lazy_names(package: str, modules: Mapping[str, str]) -> tuple[Callable[[str], object], list[str]]:
    """`__getattr__` and `__all__` of a package.

    Args:
        package: Its `__name__`.
        modules: Public names, apart by spaces, by the module of the package that has them. A name must not be that of
            a module, which Python would set in its place once the module is imported.
    """
    module_of = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> object:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return load, sorted(module_of)


__all__ = ["lazy_names"]
