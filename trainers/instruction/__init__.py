"""Instruction tuning of ad encoders."""

from .instruction_config import InstructionConfig
from .instruction_dataset import build_instruction_dataset
from .instruction_trainer import build_instruction_trainer, save_encoder

__all__ = ["InstructionConfig", "build_instruction_dataset", "build_instruction_trainer", "save_encoder"]
