"""The stage that turns embeddings into semantic IDs and the tokenizer."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import TokenizeConfig
from gr4ad.tokenization.category_vectors import CATEGORY_FILE
from gr4ad.tokenization.sid_quality import SIDCollapseError, check_collapse, interaction_exposure

ACCOUNT_COLUMN = "account_id"  # of the catalog; always kept, so that a list can be limited to so many ads of one
SEQUENCE_COLUMNS = frozenset({"user_id", "items", "events", "values", "times", "target_items", "target_values"})


def business_keys(data: PreparedData, columns: list[str]) -> list[str]:
    """The joined business fields of each ad. Raises ValueError for a column that the catalog does not have."""
    missing = [name for name in columns if name not in data.catalog.column_names]
    if missing:
        raise ValueError(
            f"`business_fields` names {missing[0]!r}, which the catalog does not have. "
            f"It has: {', '.join(data.catalog.column_names)}."
        )
    return ["|".join(map(str, row)) for row in zip(*(data.catalog[name] for name in columns), strict=True)]


def check_times(data: PreparedData, num_time_buckets: int) -> None:
    """Raises ValueError if time buckets are asked of a log that has no times."""
    clock = data.summary.get("clock")  # None where an earlier version prepared the data
    if num_time_buckets and clock != "timestamp":
        raise ValueError(
            f"`num_time_buckets` = {num_time_buckets} needs the time of each event, but the clock of the prepared "
            f"data is {clock!r}. Map a column of times to `timestamp` in `event_columns` and prepare the data again, "
            "or set `num_time_buckets` to 0."
        )


def read_embeddings(path: Path, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Content embeddings (float32, (N, d_1)) and collaborative ones (float32, (N, d_2)) or None, by catalog row.

    Raises:
        ValueError: If the file is missing or damaged, has no `content`, or its rows are not the catalog's in number or
            not finite; names the first bad ad.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path}: not readable embeddings ({error}). Run `gr4ad embed` again.") from error
    if "content" not in tensors:
        raise ValueError(f"{path}: has no tensor `content`. It has: {', '.join(tensors) or 'nothing'}.")
    for name in ("content", "collaborative"):
        vectors = tensors.get(name)
        if vectors is None:
            continue
        if vectors.ndim != 2 or len(vectors) != len(item_ids):
            raise ValueError(
                f"{path}: `{name}` has shape {vectors.shape}, the catalog {len(item_ids)} ads: embed this catalog."
            )
        bad = ~np.isfinite(vectors).all(1)
        if bad.any():
            raise ValueError(
                f"{path}: `{name}` of ad {item_ids[int(bad.argmax())]!r} (row {int(bad.argmax())}) is not finite "
                f"({int(bad.sum())} such ads). Embed them again."
            )
    return tensors["content"].astype(np.float32), tensors.get("collaborative")


def with_neighbours(collaborative: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """Collaborative vectors (float32, (N, d)) in which an ad without a log has that of its neighbours in content,
    which the fusion found (`fused`, of one length), at the mean length of the others."""
    known = np.any(collaborative != 0, axis=1)
    mean = collaborative[known].mean(0)
    length = np.linalg.norm(collaborative[known] - mean, axis=1).mean()
    directions = fused / np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)
    return np.where(known[:, None], collaborative, mean + length * directions).astype(np.float32)


def build_tokenizer(config: TokenizeConfig, *, data_dir: Path, embed_dir: Path, out_dir: Path, seed: int) -> dict:
    """Fits the quantizer, writes the tokenizer folder `tokenizer/`, `item_embeddings.safetensors` (the vectors that
    were quantized) and `quality.json`. The item vectors that the tokenizer carries are the collaborative ones, which a
    model would else have to learn from the log, or where there are none the quantized.

    Raises:
        SIDCollapseError: If less of a quantized codebook is in use than `min_used`.
        ValueError: If embeddings or settings do not fit the data.
    """
    from gr4ad.tokenization import MGMRQuantizer, SIDIndex, UASIDTokenizer, fit_value_buckets, sid_quality
    from gr4ad.tokenization.embedding_fusion import FUSION_FILE, EmbeddingFusion

    data = load_prepared(data_dir)
    check_times(data, config.num_time_buckets)
    content, collaborative = read_embeddings(embed_dir / "embeddings.safetensors", data.catalog["item_id"])
    fusion = EmbeddingFusion.fit(content, collaborative, collaborative_weight=config.collaborative_weight, seed=seed)
    embeddings = fusion.transform(content, collaborative)
    quantizer = MGMRQuantizer(
        config.codebook_sizes,
        distinct_last=config.distinct_last,
        iterations=config.kmeans_iterations,
        balanced_iterations=config.balanced_iterations,
        seed=seed,
        device=config.kmeans_device,
    )
    codes = quantizer.fit(embeddings, business_keys(data, config.business_fields))
    quality = sid_quality(codes, quantizer.codebook_sizes)
    check_collapse(quality, quantizer.levels, config.min_used)

    events = Counter(item for items in data.train["items"] for item in items)
    item_ids = data.catalog["item_id"]
    item_counts = np.array([events[item] for item in item_ids], dtype=np.float64)
    quality["interactions_in_shared_sids"] = interaction_exposure(codes, item_counts)

    values = np.array([value for row in data.train["values"] for value in row])
    edges, means = fit_value_buckets(values, config.num_value_buckets) if config.num_value_buckets else ([], [])
    features = {
        name: sorted({str(value) for value in data.train[name] if value is not None})
        for name in data.train.column_names
        if name not in SEQUENCE_COLUMNS
    }
    names = sorted({event for row in data.train["events"] for event in row})
    kept = dict.fromkeys([*config.display_columns, ACCOUNT_COLUMN])  # in order, each once
    columns = {name: data.catalog[name] for name in kept if name in data.catalog.column_names}
    SIDIndex(item_ids, codes, item_counts, columns).save(out_dir / "items.parquet")
    quantizer.save(out_dir / "codebooks.safetensors")
    vectors = {"item_embeddings": embeddings}
    if collaborative is not None and fusion.collaborative_mean is not None:
        vectors["collaborative"] = with_neighbours(collaborative, embeddings[:, content.shape[1] :])
    save_file(vectors, out_dir / "item_embeddings.safetensors")
    start = vectors.get("collaborative", embeddings)
    save_file({"item_vectors": start}, out_dir / "item_vectors.safetensors")
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
        num_time_buckets=config.num_time_buckets,
        item_vectors_file=str(out_dir / "item_vectors.safetensors"),
    )
    tokenizer.save_pretrained(out_dir / "tokenizer")
    fusion.save(out_dir / "tokenizer" / FUSION_FILE)
    if (embed_dir / CATEGORY_FILE).is_file():
        shutil.copyfile(embed_dir / CATEGORY_FILE, out_dir / "tokenizer" / CATEGORY_FILE)
    code_counts = [np.bincount(codes[:, t], minlength=size).tolist() for t, size in enumerate(tokenizer.level_sizes)]
    write_json(out_dir / "quality.json", {"quality": quality, "code_counts": code_counts})
    return {"quality": quality}


__all__ = ["SIDCollapseError", "build_tokenizer"]
