# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The only place that names TRL's inner parts; pyproject pins TRL to the minor release they were checked against."""

from trl.trainer.base_config import _BaseConfig as TRLConfigBase
from trl.trainer.base_trainer import _BaseTrainer as TRLTrainerBase
from trl.trainer.callbacks import SyncRefModelCallback
from trl.trainer.utils import disable_dropout_in_model

__all__ = ["SyncRefModelCallback", "TRLConfigBase", "TRLTrainerBase", "disable_dropout_in_model"]
