"""The stage that turns embeddings into semantic IDs and the tokenizer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.runner import write_json
from gr4ad.pipeline.settings import TokenizeConfig
from gr4ad.tokenization.ad_encoding import copy_encoding
from gr4ad.tokenization.ad_neighbours import NEIGHBOURS_FILE, AdNeighbours
from gr4ad.tokenization.ad_records import joined_keys, shown
from gr4ad.tokenization.sid_quality import check_collapse, interaction_exposure

ACCOUNT_COLUMN = "account_id"  # of the catalog; always kept, so that a list can hold a limited number of ads of one
ITEM_VECTORS_FILE = "item_vectors.safetensors"


def business_keys(data: PreparedData, columns: list[str]) -> list[str]:
    """The joined business fields of each ad. Raises ValueError for a column that the catalog does not have."""
    return joined_keys(data.catalog_columns("business_fields", columns))


def fit_event_names(data: PreparedData, config: TokenizeConfig) -> dict[str, Any]:
    """The kinds of events of training histories, none if all are of one kind; and what the log calls them."""
    found = sorted({event for row in data.train["events"] for event in row})
    names = found if len(found) > 1 else []
    logged = data.summary.get("event_names", {})  # none where an earlier version prepared the data
    aliases = {theirs: ours for theirs, ours in logged.items() if ours in names and theirs not in names}
    return {"event_names": names, "event_aliases": aliases}


def fit_values(data: PreparedData, config: TokenizeConfig) -> dict[str, Any]:
    """Equal-frequency buckets of the values of training histories."""
    from gr4ad.tokenization import fit_value_buckets

    arguments = {"value_unit": data.summary["value_unit"]}
    if config.num_value_buckets:
        values = np.array([value for row in data.train["values"] for value in row])
        edges, means = fit_value_buckets(values, config.num_value_buckets)
        arguments |= {"value_bucket_edges": edges, "value_bucket_means": means}
    return arguments


def check_times(data: PreparedData, config: TokenizeConfig) -> dict[str, Any]:
    """Raises ValueError if time buckets are asked of a log that has no times."""
    clock = data.summary.get("clock")  # None where an earlier version prepared the data
    if config.num_time_buckets and clock != "timestamp":
        raise ValueError(
            f"`num_time_buckets` = {config.num_time_buckets} needs the time of each event, but the clock of the "
            f"prepared data is {clock!r}. Map a column of times to `timestamp` in `event_columns` and prepare the "
            "data again, or set `num_time_buckets` to 0."
        )
    return {"num_time_buckets": config.num_time_buckets}


def check_cross_domain(data: PreparedData, config: TokenizeConfig) -> dict[str, Any]:
    """Raises ValueError if cross-domain rows are asked of data that do not say what users did elsewhere, and when."""
    missing = {"cross_domain", "cross_domain_times"} - set(data.train.column_names)
    if config.num_cross_domain_items and missing:
        raise ValueError(
            f"`num_cross_domain_items` = {config.num_cross_domain_items} needs what users did elsewhere and when, but "
            "the prepared data have none. Name a file in `cross_domain` and prepare the data again, or set "
            "`num_cross_domain_items` to 0."
        )
    return {"num_cross_domain_items": config.num_cross_domain_items}


def fit_user_features(data: PreparedData) -> dict[str, Any]:
    """The categories of each user feature among training users; of those that are numbers, the edges of their bins."""
    from gr4ad.tokenization import fit_feature_bins

    bins = data.summary.get("user_features", {})
    features: dict[str, list[str]] = {}
    edges: dict[str, list[float]] = {}
    for name in data.user_features:
        known = [str(value) for value in data.train[name] if value is not None]
        if bins.get(name):
            edges[name], features[name] = fit_feature_bins(np.array(known, dtype=np.float64), bins[name])
        else:
            features[name] = sorted(set(known))
    return {"user_features": features, "user_feature_edges": edges}


FITTED: dict[str, Callable[[PreparedData, TokenizeConfig], dict[str, Any]]] = {
    "events": fit_event_names,
    "values": fit_values,
    "times": check_times,
    "cross_domain": check_cross_domain,
}
"""What the tokenizer has to know of each column of a history: its arguments, from the training rows alone."""


def history_arguments(data: PreparedData, config: TokenizeConfig) -> dict[str, Any]:
    """Arguments of the tokenizer that follow from the columns of histories and the user features. Raises ValueError if
    a setting asks for something that the data do not have."""
    arguments = fit_user_features(data)
    for fit in FITTED.values():
        arguments |= fit(data, config)
    return arguments


def read_embeddings(path: Path, item_ids: Sequence[str]) -> tuple[np.ndarray, np.ndarray | None]:
    """Content embeddings (float32, (N, d_1)) and collaborative ones (float32, (N, d_2)) or None, by catalog row.
    Raises ValueError if the file is missing or damaged, has no `content`, or its rows are not the catalog's in number
    or not finite; names the first bad ad."""
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


def check_ads_differ(content: np.ndarray, collaborative: np.ndarray | None, item_ids: Sequence[str]) -> None:
    """Raises ValueError, with the reason, where no semantic ID could tell the ads of a catalog apart."""
    if len(item_ids) == 1:
        raise ValueError(
            f"The catalog has one ad, {item_ids[0]!r}. Semantic IDs tell ads apart, and there is nothing to rank. "
            "Give a catalog of at least as many ads as the largest of `codebook_sizes`."
        )
    spread = float(np.abs(content - content[:1]).max())
    logged = collaborative is not None and bool(collaborative.any())
    if not logged and spread <= 1e-6 * max(float(np.abs(content[0]).max()), 1e-12):
        nothing = "" if content.any() else " (only zeros)"
        raise ValueError(
            f"All {len(item_ids)} ads of the catalog have one and the same embedding{nothing}: what `embed` reads of "
            "them does not differ, so no semantic ID could tell them apart. Name columns in which the ads differ in "
            "`text_columns`, or `category_columns` or `vectors`."
        )


def with_neighbours(collaborative: np.ndarray, fused: np.ndarray) -> np.ndarray:
    """Collaborative vectors (float32, (N, d)) in which an ad without a log has that of its neighbours in content,
    which the fusion found (`fused`, of one length), at the mean length of the others."""
    known = np.any(collaborative != 0, axis=1)
    mean = collaborative[known].mean(0)
    length = np.linalg.norm(collaborative[known] - mean, axis=1).mean()
    directions = fused / np.maximum(np.linalg.norm(fused, axis=1, keepdims=True), 1e-12)
    return np.where(known[:, None], collaborative, mean + length * directions).astype(np.float32)


def build_tokenizer(
    config: TokenizeConfig, *, data_dir: Path, embeddings_dir: Path, out_dir: Path, seed: int
) -> dict[str, Any]:
    """Fits the quantizer, writes the tokenizer folder `tokenizer/`, `item_embeddings.safetensors` (the vectors that
    were quantized, and the collaborative ones) and `quality.json`. The tokenizer carries the vectors from which
    training starts the item table: collaborative ones if there are any, else those that were quantized.

    Raises:
        SIDCollapseError: If less of a quantized codebook is in use than `min_used`.
        ValueError: If embeddings or settings do not fit the data.
    """
    from gr4ad.tokenization import MGMRQuantizer, SIDIndex, UASIDTokenizer, sid_quality
    from gr4ad.tokenization.embedding_fusion import FUSION_FILE, EmbeddingFusion

    data = load_prepared(data_dir, held_out=("validation", "test"))
    arguments = history_arguments(data, config)
    item_ids = data.catalog["item_id"]
    content, collaborative = read_embeddings(embeddings_dir / "embeddings.safetensors", item_ids)
    check_ads_differ(content, collaborative, item_ids)
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
    item_counts = np.array([events[item] for item in item_ids], dtype=np.float64)
    quality["interactions_in_shared_sids"] = interaction_exposure(codes, item_counts)

    kept = dict.fromkeys([*config.display_columns, ACCOUNT_COLUMN])  # in order, each once
    columns = {name: list(map(shown, data.catalog[name])) for name in kept if name in data.catalog.column_names}
    SIDIndex(item_ids, codes, item_counts, columns).save(out_dir / "items.parquet")
    quantizer.save(out_dir / "codebooks.safetensors")
    vectors = {"item_embeddings": embeddings}
    if collaborative is not None and fusion.collaborative_mean is not None:
        vectors["collaborative"] = with_neighbours(collaborative, embeddings[:, content.shape[1] :])
    save_file(vectors, out_dir / "item_embeddings.safetensors")
    # Vectors learned from sequences are what the model would have to learn itself; content is the second best.
    start = vectors.get("collaborative", embeddings)
    save_file({"item_vectors": start}, out_dir / ITEM_VECTORS_FILE)
    tokenizer = UASIDTokenizer(
        str(out_dir / "items.parquet"),
        str(out_dir / "codebooks.safetensors"),
        item_vectors_file=str(out_dir / ITEM_VECTORS_FILE),
        codebook_sizes=config.codebook_sizes,
        business_fields=config.business_fields,
        **arguments,
    )
    tokenizer.save_pretrained(out_dir / "tokenizer")
    (out_dir / ITEM_VECTORS_FILE).unlink()  # the tokenizer's folder has it
    fusion.save(out_dir / "tokenizer" / FUSION_FILE)
    AdNeighbours.fit(embeddings).save(out_dir / "tokenizer" / NEIGHBOURS_FILE)
    copy_encoding(embeddings_dir, out_dir / "tokenizer", encoder=False)
    code_counts = [np.bincount(codes[:, t], minlength=size).tolist() for t, size in enumerate(tokenizer.level_sizes)]
    write_json(out_dir / "quality.json", {"quality": quality, "code_counts": code_counts})
    return {"quality": quality}
