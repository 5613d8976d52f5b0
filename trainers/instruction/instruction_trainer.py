# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Instruction tuning of an ad encoder by TRL's supervised fine-tuning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from datasets import Dataset
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin, TrainerCallback
from trl import SFTTrainer

from ..finite_training import FiniteTrainingMixin
from .instruction_config import InstructionConfig

if TYPE_CHECKING:
    from peft import PeftConfig


class InstructionTrainer(FiniteTrainingMixin, SFTTrainer):
    """TRL's trainer, stopped where its loss is lost."""


def build_instruction_trainer(
    model: str | PreTrainedModel,
    args: InstructionConfig,
    train_dataset: Dataset,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    *,
    eval_dataset: Dataset | None = None,
    peft_config: PeftConfig | None = None,
    callbacks: list[TrainerCallback] | None = None,
) -> InstructionTrainer:
    """A trainer of a (vision-)language model on the pairs of [`build_instruction_dataset`], with the loss on the
    answers.

    ```python
    >>> pairs, _ = build_instruction_dataset(catalog, ["title"], ["industry", "brand"], processing_class=processor)
    >>> trainer = build_instruction_trainer(model, InstructionConfig(output_dir="tuned"), pairs, processor)
    >>> trainer.train()
    >>> save_encoder(trainer, "encoder")
    >>> embeddings, _ = AdEmbedder("encoder", ["title", "brand"], prompts="default").embed(catalog)
    ```

    Args:
        model: A generative model (with its language head), or its folder or hub id.
        train_dataset, eval_dataset: `prompt`, `completion` and, for a vision-language model, `images`.
        processing_class: A processor for a vision-language model, a tokenizer otherwise; with a chat template.
        peft_config: A LoRA configuration, to train adapters only.

    Raises:
        ValueError: If columns, a chat template or an image processor are missing, or `max_length` would cut images.
    """
    missing = [name for name in ("prompt", "completion") if name not in train_dataset.column_names]
    if missing:
        raise ValueError(
            f"`train_dataset` lacks the column {missing[0]!r}: build it by `build_instruction_dataset`. It has: "
            f"{', '.join(train_dataset.column_names)}."
        )
    if not getattr(processing_class, "chat_template", None):
        raise ValueError(
            "`processing_class` has no chat template, which says how question and answer are put together. Set its "
            "`chat_template`, or take the model's instruction-tuned variant."
        )
    if "images" in train_dataset.column_names:
        if not isinstance(processing_class, ProcessorMixin):
            raise ValueError(
                "`train_dataset` has images, but `processing_class` is no processor of a vision-language model: "
                f"{type(processing_class).__name__}. Build the dataset without `image_column`, or take such a model."
            )
        if args.max_length is not None:
            raise ValueError(
                f"`max_length` must be None with images, whose tokens a cut would take. Received: {args.max_length}. "
                "Limit the texts by `max_length` of `build_instruction_dataset`."
            )
    return InstructionTrainer(
        model=model,
        args=args,
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
        processing_class=processing_class,
        peft_config=peft_config,
        callbacks=callbacks,
    )


def save_encoder(trainer: SFTTrainer, folder: str | Path) -> None:
    """Saves the tuned model and its processor so that `AdEmbedder(str(folder), ...)` loads them.

    LoRA adapters are merged into the weights of the trainer's model first, which ends its training: names of adapters
    of a generative model are not those of the bare encoder, and would be left out without a word.
    """
    model = trainer.accelerator.unwrap_model(trainer.model)
    if hasattr(model, "merge_and_unload"):
        model = model.merge_and_unload()
    if trainer.is_world_process_zero():
        model.save_pretrained(folder)
        assert isinstance(trainer.processing_class, (PreTrainedTokenizerBase, ProcessorMixin))
        trainer.processing_class.save_pretrained(folder)


__all__ = ["InstructionTrainer", "build_instruction_trainer", "save_encoder"]
