# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The only place that names TRL's private bases; pyproject pins TRL to the minor release they were checked against."""

from trl.trainer.base_config import _BaseConfig as TRLConfigBase
from trl.trainer.base_trainer import _BaseTrainer as TRLTrainerBase

__all__ = ["TRLConfigBase", "TRLTrainerBase"]
