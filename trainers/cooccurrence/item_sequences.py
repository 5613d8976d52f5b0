# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Item vectors from user logs: what is engaged with in sequence lies close together.

A next-item language model over item ids (transformers' GPT-2 with tied embeddings and full cross-entropy, which is
SASRec with a modern loss) is trained on the training log alone; its item embeddings are the collaborative part of an
ad's embedding.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments

from ..bfloat16 import fast_bfloat16
from ..finite_training import FiniteTrainingMixin
from ..principal_components import main_components
from ..training_lines import told_in_lines
from ..whole_checkpoints import last_checkpoint


@dataclass
class ItemSequenceConfig:
    """Settings of [`train_item_vectors`]; 0 epochs means no collaborative vectors."""

    epochs: int = field(default=0, metadata={"help": "Passes over the training log; 0 leaves this part out."})
    dimension: int = field(default=64, metadata={"help": "Width of the item vectors."})
    num_layers: int = field(default=2, metadata={"help": "Transformer layers."})
    num_heads: int = field(default=2, metadata={"help": "Attention heads; must divide the dimension."})
    max_items: int = field(default=50, metadata={"help": "Most recent items of a history that are used."})
    content_std: float = field(
        default=0.05, metadata={"help": "Scale of the content components the vectors start from."}
    )
    dropout: float = field(default=0.3, metadata={"help": "Dropout in [0, 1)."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW, then cosine decay."})
    batch_size: int = field(default=128, metadata={"help": "Users a step."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast. Default: where the hardware multiplies it."}
    )

    def __post_init__(self) -> None:
        if self.dimension % self.num_heads:
            raise ValueError(f"`num_heads` must divide `dimension`. Received: {self.num_heads} and {self.dimension}.")


class ItemSequenceCollator:
    """Pads `items` (item rows) on the right to the longest of the batch.

    Returns `input_ids` (int64, (B, S)): item row + 1, 0 = padding; `attention_mask` (int64, (B, S)); `labels` (int64,
    (B, S)): the input ids, -100 on padding (GPT-2 shifts them itself).
    """

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        input_ids = torch.nn.utils.rnn.pad_sequence(
            [torch.as_tensor(row["items"], dtype=torch.int64) + 1 for row in rows], batch_first=True
        )
        return {
            "input_ids": input_ids,
            "attention_mask": (input_ids > 0).long(),
            "labels": input_ids.masked_fill(input_ids == 0, -100),
        }


class ItemSequenceTrainer(FiniteTrainingMixin, Trainer):
    """transformers' trainer, stopped where its loss is lost."""


def train_item_vectors(
    sequences: list[np.ndarray],
    content: np.ndarray,
    config: ItemSequenceConfig,
    *,
    output_dir: str | Path,
    seed: int = 0,
) -> tuple[np.ndarray, list[dict]]:
    """Trains item vectors on training sequences.

    Args:
        sequences: One int array of item rows (0..num_items-1) a user, oldest first; the training log only.
        content (float32, (num_items, d)): Content embeddings; the item vectors start from their main components, so
            that what is rarely seen stays near what it resembles.
        output_dir: Where checkpoints go; a run that was killed resumes from the last one.

    Returns:
        Vectors (float32, (num_items, dimension)), 0 where never seen in `sequences`; and the log history of the run.

    Raises:
        ValueError: If no user has two items: there is no next item to learn from.
    """
    rows = [items[-config.max_items - 1 :] for items in sequences if len(items) >= 2]
    if not rows:
        raise ValueError(
            "`sequences` holds no user with two or more items: co-occurrence cannot be learned. Set epochs to 0."
        )
    dataset = Dataset.from_dict({"items": [r.tolist() for r in rows], "length": [len(r) for r in rows]})
    torch.manual_seed(seed)
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(content) + 1,
            n_positions=config.max_items + 1,
            n_embd=config.dimension,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            embd_pdrop=config.dropout,
            resid_pdrop=config.dropout,
            attn_pdrop=0.0,  # dropout inside attention takes the slow kernel on CPU, and adds nothing here
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    model.loss_type = "ForCausalLM"  # as transformers would guess, but with a warning
    components = main_components(content, config.dimension)
    with torch.no_grad():
        table = model.transformer.wte.weight
        table[1:, : components.shape[1]] = torch.from_numpy(config.content_std * components).to(table)
    arguments = TrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=config.epochs,
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=50,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        save_strategy="epoch",
        save_total_limit=1,
        logging_steps=50,
        report_to="none",
        remove_unused_columns=False,
        bf16=fast_bfloat16() if config.bf16 is None else config.bf16,
        use_cpu=not torch.cuda.is_available(),  # without a GPU, bf16 is accepted only with this said
        seed=seed,
        dataloader_num_workers=0,
    )
    trainer = ItemSequenceTrainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=ItemSequenceCollator()
    )
    with told_in_lines(trainer):
        trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
    vectors = model.transformer.wte.weight.detach().float().cpu().numpy()[1:].copy()
    seen = np.zeros(len(content), dtype=bool)
    seen[np.concatenate(rows)] = True
    vectors[~seen] = 0.0
    return vectors, trainer.state.log_history


__all__ = ["ItemSequenceCollator", "ItemSequenceConfig", "main_components", "train_item_vectors"]
