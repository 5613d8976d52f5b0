"""Stages that turn ads into semantic IDs: embed, tokenize."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import EmbedConfig, TokenizeConfig

SEQUENCE_COLUMNS = frozenset({"user_id", "items", "events", "values", "times", "target_items", "target_values"})


class SIDCollapseError(ValueError):
    """A codebook of which too little is in use: SIDs built on it would not tell ads apart."""


def embed_ads(config: EmbedConfig, cooccurrence: dict, *, data_dir: Path, out_dir: Path, seed: int) -> dict:
    """Embeds the catalog: writes `content` (float32, (N, d)) and, with co-occurrence epochs > 0, `collaborative` to
    `embeddings.safetensors`, rows in catalog order. Only the training log is read."""
    from gr4ad.pipeline.recipe import build_section
    from gr4ad.tokenization.ad_embedding import AdEmbedder
    from gr4ad.trainers.cooccurrence import ItemSequenceConfig, train_item_vectors

    sequence_config = build_section("recipe", "cooccurrence", ItemSequenceConfig, cooccurrence)
    data = load_prepared(data_dir)
    content, without_text = AdEmbedder(
        config.encoder, config.text_columns, batch_size=config.encoder_batch_size
    ).embed(data.catalog)
    tensors = {"content": content}
    log: list[dict] = []
    if sequence_config.epochs:
        rows = {item: row for row, item in enumerate(data.catalog["item_id"])}
        sequences = [np.array([rows[item] for item in items], dtype=np.int64) for items in data.train["items"]]
        tensors["collaborative"], log = train_item_vectors(
            sequences, content, sequence_config, output_dir=out_dir / "checkpoints", seed=seed
        )
        shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)
    temporary = out_dir / "embeddings.tmp"
    save_file(tensors, temporary)
    os.replace(temporary, out_dir / "embeddings.safetensors")
    return {"ads": len(content), "ads_without_text": without_text, "log": log}


def business_keys(data: PreparedData, columns: list[str]) -> list[str]:
    """The joined business fields of each ad. Raises ValueError for a column that the catalog does not have."""
    missing = [name for name in columns if name not in data.catalog.column_names]
    if missing:
        raise ValueError(
            f"`business_fields` names {missing[0]!r}, which the catalog does not have. "
            f"It has: {', '.join(data.catalog.column_names)}."
        )
    return ["|".join(map(str, row)) for row in zip(*(data.catalog[name] for name in columns), strict=True)]


def build_tokenizer(config: TokenizeConfig, *, data_dir: Path, embed_dir: Path, out_dir: Path, seed: int) -> dict:
    """Fits the quantizer, writes the tokenizer folder `tokenizer/`, `item_embeddings.safetensors` (the vectors that
    were quantized) and `quality.json`.

    Raises:
        SIDCollapseError: If less of a quantized codebook is in use than `min_used`.
    """
    from gr4ad.tokenization import MGMRQuantizer, SIDIndex, UASIDTokenizer, fit_value_buckets, sid_quality
    from gr4ad.tokenization.ad_embedding import combine_embeddings

    data = load_prepared(data_dir)
    tensors = load_file(embed_dir / "embeddings.safetensors")
    embeddings = combine_embeddings(
        tensors["content"], tensors.get("collaborative"), collaborative_weight=config.collaborative_weight
    )
    quantizer = MGMRQuantizer(
        config.codebook_sizes,
        distinct_last=config.distinct_last,
        iterations=config.kmeans_iterations,
        balanced_iterations=config.balanced_iterations,
        seed=seed,
    )
    codes = quantizer.fit(embeddings, business_keys(data, config.business_fields))
    quality = sid_quality(codes, quantizer.codebook_sizes)
    for level, size in enumerate(quantizer.levels):
        used = quality[f"used_{level + 1}"]
        if not size.hashed and used < config.min_used:
            raise SIDCollapseError(
                f"Level {level + 1} uses {used:.1%} of its {size.size} codes, less than `min_used` = "
                f"{config.min_used:.0%}. "
                "Use a smaller codebook, more `balanced_iterations`, or embeddings that tell ads apart."
            )

    events = Counter(item for items in data.train["items"] for item in items)
    item_ids = data.catalog["item_id"]
    item_counts = np.array([events[item] for item in item_ids], dtype=np.float64)
    shares = item_counts / item_counts.sum()
    _, sid_of_item, sid_sizes = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    quality["interactions_in_shared_sids"] = float(shares[sid_sizes[sid_of_item.ravel()] > 1].sum())

    values = np.array([value for row in data.train["values"] for value in row])
    edges, means = fit_value_buckets(values, config.num_value_buckets) if config.num_value_buckets else ([], [])
    features = {
        name: sorted({str(value) for value in data.train[name] if value is not None})
        for name in data.train.column_names
        if name not in SEQUENCE_COLUMNS
    }
    names = sorted({event for row in data.train["events"] for event in row})
    columns = {name: data.catalog[name] for name in config.display_columns if name in data.catalog.column_names}
    SIDIndex(item_ids, codes, item_counts, columns).save(out_dir / "items.parquet")
    quantizer.save(out_dir / "codebooks.safetensors")
    tokenizer = UASIDTokenizer(
        str(out_dir / "items.parquet"),
        str(out_dir / "codebooks.safetensors"),
        codebook_sizes=config.codebook_sizes,
        business_fields=config.business_fields,
        event_names=names if len(names) > 1 else [],
        user_features=features,
        value_bucket_edges=edges,
        value_bucket_means=means,
        value_unit=data.summary["value_unit"],
    )
    tokenizer.save_pretrained(out_dir / "tokenizer")
    save_file({"item_embeddings": embeddings}, out_dir / "item_embeddings.safetensors")
    code_counts = [np.bincount(codes[:, t], minlength=size).tolist() for t, size in enumerate(tokenizer.level_sizes)]
    write_json(out_dir / "quality.json", {"quality": quality, "code_counts": code_counts})
    return {"quality": quality}


__all__ = ["SIDCollapseError", "build_tokenizer", "embed_ads"]
