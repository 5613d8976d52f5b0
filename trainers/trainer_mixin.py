# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The base of what is mixed into trainers: for type checkers transformers' Trainer, nothing at run time."""

from typing import TYPE_CHECKING

from transformers import Trainer

if TYPE_CHECKING:
    TrainerMixin = Trainer
else:
    TrainerMixin = object

__all__ = ["TrainerMixin"]
