# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Co-occurrence learning: an encoder tuned so that ads engaged with together lie close (arXiv 2602.22732, eq. 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from scipy import sparse
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.util import all_gather, all_gather_with_grad
from torch.nn import functional as F

from gr4ad.tokenization.ad_embedding import AdEmbedder

from ..bfloat16 import fast_bfloat16
from ..finite_training import FiniteTrainingMixin
from ..training_lines import told_in_lines
from ..whole_checkpoints import last_checkpoint


@dataclass
class EncoderTuningConfig:
    """Settings of [`tune_encoder`]; 0 epochs leave the encoder as it is."""

    epochs: int = field(default=0, metadata={"help": "Positives drawn for each ad; 0 leaves the encoder as it is."})
    batch_size: int = field(default=128, metadata={"help": "Pairs a step and device; each ad is negative to others."})
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate of AdamW, then linear decay."})
    temperature: float = field(default=0.05, metadata={"help": "tau > 0 of eq. 1."})
    max_length: int = field(default=64, metadata={"help": "Tokens of an ad that are read while tuning."})
    unit_columns: list[str] = field(
        default_factory=lambda: ["item_id"],
        metadata={
            "help": "Catalog columns (creative, product, advertiser) that together make the unit whose co-occurrence "
            "counts; ads of one unit share their neighbours."
        },
    )
    swing_alpha: float = field(default=1.0, metadata={"help": "alpha >= 0 of the Swing similarity."})
    swing_single_users: bool = field(
        default=True, metadata={"help": "Also count what one user alone engaged with: for sparse logs."}
    )
    swing_top_k: int = field(default=50, metadata={"help": "Neighbours of a unit that count as positives."})
    lora_rank: int = field(default=0, metadata={"help": "Rank of LoRA adapters, merged at the end; 0 = tune all."})
    bf16: bool | None = field(
        default=None, metadata={"help": "bfloat16 autocast. Default: where the hardware multiplies it."}
    )

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be > 0. Received: {self.temperature}.")
        if self.batch_size < 2:
            raise ValueError(f"`batch_size` must be >= 2 (in-batch negatives). Received: {self.batch_size}.")


class CooccurrenceLoss(torch.nn.Module):
    """Eq. 1 over a batch: each ad against all others of the batch, of all devices.

    L(i) = -log(sum_{j in P_i} exp(z_i z_j / tau) / sum_{k != i} exp(z_i z_k / tau)), mean over ads with a positive in
    the batch. Ads of the same content as i (resized copies of one creative) are neither positives nor negatives: the
    encoder cannot tell them apart.

    Args:
        model: Encoder whose output holds `sentence_embedding` (n, d).
        positives: CSR (units, units), non-zero where two units co-occur; a unit is its own positive.
        unit_of_ad, content_of_ad (int64, (ads,)): Unit and distinct content of each ad.
        temperature: tau.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        positives: sparse.csr_array,
        unit_of_ad: np.ndarray,
        content_of_ad: np.ndarray,
        temperature: float,
    ):
        super().__init__()
        self.model = model
        self.positives = positives
        self.unit_of_ad = unit_of_ad
        self.content_of_ad = content_of_ad
        self.temperature = temperature

    def forward(self, features: list[dict[str, torch.Tensor]], labels: torch.Tensor) -> torch.Tensor:
        """Loss of one batch: `features` holds the inputs of n ads, `labels` (int64, (n,)) their rows."""
        local = F.normalize(self.model(features[0])["sentence_embedding"].float(), dim=-1)
        if not torch.distributed.is_initialized():
            return self.from_embeddings(local, labels, local, labels)
        return self.from_embeddings(local, labels, all_gather_with_grad(local), all_gather(labels))

    def from_embeddings(
        self, anchors: torch.Tensor, anchor_ads: torch.Tensor, others: torch.Tensor, other_ads: torch.Tensor
    ) -> torch.Tensor:
        """Scalar loss of unit vectors `anchors` (n, d) of ads `anchor_ads` (n,) against `others` (m, d), which hold
        the anchors too."""
        rows, columns = anchor_ads.cpu().numpy(), other_ads.cpu().numpy()
        same = torch.from_numpy(self.content_of_ad[rows][:, None] == self.content_of_ad[columns]).to(anchors.device)
        units, other_units = self.unit_of_ad[rows], self.unit_of_ad[columns]
        cooccur = (self.positives[units][:, other_units].toarray() > 0) | (units[:, None] == other_units)
        positive = torch.from_numpy(cooccur).to(anchors.device) & ~same
        logits = anchors @ others.T / self.temperature
        lowest = torch.finfo(logits.dtype).min
        all_others = logits.masked_fill(same, lowest).logsumexp(-1)
        numerator = logits.masked_fill(~positive, lowest).logsumexp(-1)
        has_positive = positive.any(-1)
        return ((all_others - numerator) * has_positive).sum() / has_positive.sum().clamp(min=1)


@dataclass
class CooccurrenceCollator(SentenceTransformerDataCollator):
    """The encoder's inputs of a batch's anchors, then positives, with the prefix `ads_`, and `label` (int64, (2 B,)):
    their ad rows."""

    encoder_inputs: Callable[[list[int]], tuple[list[Any], dict[str, Any]]] | None = None

    def __call__(self, rows: list[dict]) -> dict[str, Any]:
        assert self.encoder_inputs is not None
        ads = [row["anchor_ad"] for row in rows] + [row["positive_ad"] for row in rows]
        contents, settings = self.encoder_inputs(ads)
        inputs = self.preprocess_fn(contents, **settings)
        return {**{f"ads_{name}": value for name, value in inputs.items()}, "label": torch.tensor(ads)}


class CooccurrenceTrainer(FiniteTrainingMixin, SentenceTransformerTrainer):
    """sentence-transformers' trainer on the batches of [`CooccurrenceCollator`]."""

    def validate_column_names(self, dataset: Dataset, dataset_name: str | None = None) -> None:
        """The rows hold ad numbers, not texts: the names that sentence-transformers reserves do not matter."""


def draw_pairs(
    similarity: sparse.csr_array, unit_of_ad: np.ndarray, has_content: np.ndarray, count: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ads of anchors and positives, int64 (pairs,): for each ad whose unit has a neighbour with ads, `count` times a
    neighbouring unit in proportion to similarity and one ad of it evenly; in random order.

    Args:
        similarity: CSR (units, units) >= 0. unit_of_ad (int64, (ads,)). has_content (bool, (ads,)): Ads without are
            left out.
    """
    rng = np.random.default_rng(seed)
    usable = np.flatnonzero(has_content)
    by_unit = usable[np.argsort(unit_of_ad[usable], kind="stable")]
    num_ads = np.bincount(unit_of_ad[usable], minlength=similarity.shape[0])
    first_ad = np.cumsum(num_ads) - num_ads
    weights = similarity.data.astype(np.float64) * (num_ads[similarity.indices] > 0)
    reached = np.r_[0.0, np.cumsum(weights)]
    low, high = reached[similarity.indptr[:-1]][unit_of_ad], reached[similarity.indptr[1:]][unit_of_ad]
    anchors = np.repeat(np.flatnonzero((high > low) & has_content), count)
    point = low[anchors] + rng.random(len(anchors)) * (high - low)[anchors]
    entry = np.minimum(np.searchsorted(reached, point, side="right") - 1, len(weights) - 1)
    unit = similarity.indices[entry]
    positives = by_unit[first_ad[unit] + rng.integers(0, np.maximum(num_ads[unit], 1))]
    order = rng.permutation(len(anchors))
    return anchors[order], positives[order]


def tune_encoder(
    embedder: AdEmbedder,
    catalog: Dataset,
    similarity: sparse.csr_array,
    unit_of_ad: np.ndarray,
    config: EncoderTuningConfig,
    *,
    output_dir: str | Path,
    seed: int = 0,
) -> list[dict]:
    """Tunes an embedder's encoder in place.

    Args:
        embedder: Of any text encoder, language model or vision-language model. catalog: N ads.
        similarity: CSR (units, units) of the training log, see [`swing_similarity`].
        unit_of_ad (int64, (N,)): The unit of each ad.
        output_dir: Where checkpoints go; a run that was killed resumes from the last one.

    Returns the log history of the run. Raises ValueError if no ad has a neighbour: there is nothing to learn from.
    """
    encoder = embedder.encoder
    contents = embedder.reader.read(catalog)
    has_content = np.array([bool(content) for content in contents])
    anchors, positives = draw_pairs(similarity, unit_of_ad, has_content, config.epochs, seed)
    if not len(anchors):
        raise ValueError("No two ads co-occur in the training log: co-occurrence cannot be learned. Set epochs to 0.")
    fingerprints = np.empty(len(contents), dtype=object)
    fingerprints[:] = ["\0".join(content.fingerprint()) for content in contents]
    _, content_of_ad = np.unique(fingerprints, return_inverse=True)
    length = encoder.max_seq_length
    if length is not None:
        encoder.max_seq_length = min(length, config.max_length)
    if config.lora_rank:
        from peft import LoraConfig

        encoder.add_adapter(
            LoraConfig(r=config.lora_rank, lora_alpha=2 * config.lora_rank, target_modules="all-linear")
        )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output_dir),
        num_train_epochs=1,  # the pairs of every epoch are drawn beforehand, each time anew
        per_device_train_batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        warmup_steps=0.05,
        weight_decay=0.01,
        save_strategy="steps",
        save_steps=50,
        save_total_limit=1,
        logging_steps=10,
        report_to="none",
        bf16=fast_bfloat16() if config.bf16 is None else config.bf16,
        use_cpu=not torch.cuda.is_available(),  # without a GPU, bf16 is accepted only with this said
        seed=seed,
        dataloader_drop_last=len(anchors) > config.batch_size,
    )
    trainer = CooccurrenceTrainer(
        model=encoder,
        args=arguments,
        train_dataset=Dataset.from_dict({"anchor_ad": anchors, "positive_ad": positives}),
        loss=CooccurrenceLoss(encoder, similarity, unit_of_ad, content_of_ad.ravel(), config.temperature),
        data_collator=CooccurrenceCollator(
            preprocess_fn=encoder.preprocess,
            encoder_inputs=lambda ads: embedder.encoder_inputs([(ad, contents[ad]) for ad in ads]),
        ),
    )
    with told_in_lines(trainer):
        trainer.train(resume_from_checkpoint=last_checkpoint(output_dir))
    # Under bfloat16 accelerate leaves autocast around `forward`: the encoder would embed unlike the one that is saved.
    trainer.accelerator.unwrap_model(encoder, keep_fp32_wrapper=False)
    if config.lora_rank:
        merge_adapter(encoder)
    encoder.max_seq_length = length
    return trainer.state.log_history


def merge_adapter(encoder: SentenceTransformer) -> None:
    """Adds the LoRA weights to the layers they adapt and takes the adapter layers out, so that the encoder saves and
    loads without peft."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    model = encoder.transformers_model
    assert model is not None
    for name, layer in list(model.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layer.get_base_layer())
    model._hf_peft_config_loaded = False
    for parameter in model.parameters():
        parameter.requires_grad_(True)


__all__ = [
    "CooccurrenceCollator",
    "CooccurrenceLoss",
    "CooccurrenceTrainer",
    "EncoderTuningConfig",
    "draw_pairs",
    "tune_encoder",
]
