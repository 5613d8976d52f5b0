"""Stages that embed ads: tune the encoder on co-occurrence, embed the catalog, learn item vectors from the log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file

from gr4ad.data import PreparedData, load_prepared
from gr4ad.pipeline.settings import EmbedConfig
from gr4ad.tokenization.ad_encoding import (
    CATEGORY_PART,
    ENCODER_FOLDER,
    ENCODER_PART,
    HERE,
    PROMPTS_FOLDER,
    AdEncoding,
    joined_parts,
)
from gr4ad.tokenization.ad_records import catalog_types
from gr4ad.tokenization.category_vectors import CATEGORY_FILE

if TYPE_CHECKING:
    from gr4ad.tokenization.ad_embedding import AdEmbedder


def ad_embedder(config: EmbedConfig, encoder: str | Path | None = None) -> AdEmbedder:
    """The embedder of a recipe; `encoder`, if given, takes the place of the recipe's. Raises ValueError where
    precomputed vectors take the place of an encoder."""
    from gr4ad.tokenization.ad_embedding import AdEmbedder

    name = encoder or config.encoder_name
    if name is None:
        raise ValueError(
            f"`encoder` is needed here, but `vectors` ({', '.join(config.vectors)}) take its place. Name an `encoder` "
            "too, and its embedding is a part beside them; or leave the section `tune` out."
        )
    return AdEmbedder(
        str(name),
        config.text_columns,
        batch_size=config.encoder_batch_size,
        pooling=config.pooling,
        dtype=config.dtype,
        max_length=config.max_length,
        prompts=config.prompts,
        form_column=config.form_column,
        image_column=config.image_column,
        image_root=config.image_root,
        max_images=config.max_images,
    )


def tune_ad_encoder(
    config: EmbedConfig, tuning: dict[str, Any], *, data_dir: Path, out_dir: Path, seed: int
) -> dict[str, Any]:
    """Tunes the encoder on which ads are engaged with together in the training log (eq. 1); writes it to `encoder/`.
    Raises ValueError for a bad setting, or a log in which no two ads co-occur."""
    from gr4ad.trainers.cooccurrence import EncoderTuningConfig, swing_similarity, tune_encoder

    settings = EncoderTuningConfig(**tuning)
    data = load_prepared(data_dir, held_out=("validation", "test"))
    unit_of_ad = units_of_ads(data, settings.unit_columns)
    sequences = training_sequences(data)
    similarity = swing_similarity(
        np.repeat(np.arange(len(sequences)), [len(items) for items in sequences]),
        unit_of_ad[np.concatenate(sequences)],
        int(unit_of_ad.max()) + 1,
        alpha=settings.swing_alpha,
        single_users=settings.swing_single_users,
        top_k=settings.swing_top_k,
        seed=seed,
    )
    embedder = ad_embedder(config)
    log = tune_encoder(
        embedder, data.catalog, similarity, unit_of_ad, settings, output_dir=out_dir / "checkpoints", seed=seed
    )
    shutil.rmtree(out_dir / ENCODER_FOLDER, ignore_errors=True)
    embedder.encoder.save_pretrained(str(out_dir / "encoder.tmp"), create_model_card=False)
    os.replace(out_dir / "encoder.tmp", out_dir / ENCODER_FOLDER)
    shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)
    with_neighbours = float((np.diff(similarity.indptr) > 0)[unit_of_ad].mean())
    return {"ads_with_neighbours": with_neighbours, "similar_pairs": int(similarity.nnz), "log": log}


def embed_ads(
    config: EmbedConfig,
    cooccurrence: dict[str, Any],
    *,
    data_dir: Path,
    out_dir: Path,
    seed: int,
    tuned_dir: Path | None = None,
) -> dict[str, Any]:
    """Embeds the catalog: writes `content` (float32, (N, d)) and, with co-occurrence epochs > 0, `collaborative` to
    `embeddings.safetensors`, rows in catalog order. Only the training log is read. `tuned_dir` is a folder of
    `tune_ad_encoder`, whose encoder takes the place of the recipe's."""
    from gr4ad.trainers.cooccurrence import ItemSequenceConfig, train_item_vectors

    sequence_config = ItemSequenceConfig(**cooccurrence)
    data = load_prepared(data_dir, held_out=("validation", "test"))
    encoder = None if tuned_dir is None else tuned_dir / ENCODER_FOLDER
    content, counts = embed_content(config, data, out_dir, seed, encoder)
    tensors = {"content": content}
    log: list[dict[str, Any]] = []
    if sequence_config.epochs:
        tensors["collaborative"], log = train_item_vectors(
            training_sequences(data), content, sequence_config, output_dir=out_dir / "checkpoints", seed=seed
        )
        shutil.rmtree(out_dir / "checkpoints", ignore_errors=True)
    temporary = out_dir / "embeddings.tmp"
    save_file(tensors, temporary)
    os.replace(temporary, out_dir / "embeddings.safetensors")
    shutil.rmtree(out_dir / "content", ignore_errors=True)
    return {**counts, "log": log}


def embed_content(
    config: EmbedConfig, data: PreparedData, out_dir: Path, seed: int, tuned: Path | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """Content vectors of the catalog (float32, (N, d)): the parts that [`AdEncoding`] names, which is written to
    `out_dir` so that new ads are embedded alike; and counts of ads.

    Raises:
        ValueError: If there is nothing to embed, or a file of vectors does not fit the catalog.
    """
    from gr4ad.tokenization.embedding_shards import EmbeddingShards

    parts: dict[str, np.ndarray] = {}
    means: dict[str, np.ndarray] = {}
    encoding = AdEncoding(parts={}, columns=catalog_types(data.catalog.features.arrow_schema))
    counts: dict[str, Any] = {"ads": len(data.catalog)}
    if tuned is not None or config.encoder_name is not None:
        embedder = ad_embedder(config, tuned)
        counts = embedder.embed_to(
            data.catalog, out_dir / "content", shard_size=config.shard_size, overwrite=False, progress=True
        )
        shards = EmbeddingShards(out_dir / "content")
        parts[ENCODER_PART], means[ENCODER_PART] = np.asarray(shards), shards.mean
        encoding.encoder = str(tuned or config.encoder_name)
        if Path(encoding.encoder).is_dir():
            encoding.encoder = str(Path(encoding.encoder).resolve())
        encoding.encoder_check = embedder.encoder_settings()
        encoding.prompts = kept_prompts(config, out_dir)
        encoding.text_columns = list(config.text_columns)
        for name in ("form_column", "image_column", "image_root", "max_images", "pooling", "dtype", "max_length"):
            setattr(encoding, name, getattr(config, name))
    if config.vectors:
        counts["vectors"] = {}
        for name, (rows, found) in read_vector_parts(config, data).items():
            parts[name], counts["vectors"][name] = rows, found
            means[name] = rows[rows.any(1)].mean(0)
    if config.category_columns:
        parts[CATEGORY_PART] = embed_categories(config, data, out_dir / CATEGORY_FILE, seed)
        encoding.category_columns = list(config.category_columns)
    encoding.parts = {name: rows.shape[1] for name, rows in parts.items()}
    encoding.save(out_dir, means)
    return joined_parts(parts, means), counts


def kept_prompts(config: EmbedConfig, out_dir: Path) -> str | None:
    """What the artifact names as its templates; a folder of one's own is copied into `out_dir`."""
    shutil.rmtree(out_dir / PROMPTS_FOLDER, ignore_errors=True)
    if config.prompts is None or config.prompts == "default":
        return config.prompts
    shutil.copytree(config.prompts, out_dir / PROMPTS_FOLDER)
    return f"{HERE}{PROMPTS_FOLDER}"


def read_vector_parts(config: EmbedConfig, data: PreparedData) -> dict[str, tuple[np.ndarray, dict[str, int]]]:
    """File's stem -> its vectors by catalog row (float32, (N, d), zeros where an ad has none), and counts.

    Raises:
        ValueError: As [`read_vectors`]; if no ad has a vector; or if a file has no ids, and `id_column` was not said
            to hold the numbers of its rows.
    """
    from gr4ad.tokenization.vector_files import id_text, read_vectors

    [column] = data.catalog_columns("id_column", [config.id_column])
    keys = [None if value is None else id_text(value, f"`id_column` {config.id_column}") for value in column]
    found = {}
    for path in map(Path, config.vectors):
        file = read_vectors(path, config.id_column)
        if file.by_row and config.id_column == "item_id":
            raise ValueError(
                f"{path}: has no ids, and the catalog may have lost or moved rows since. Write the ids beside it, to "
                f"{path.stem}.ids.txt, one a line; or name the catalog column with each ad's row number (from 0) "
                "in `id_column`."
            )
        found[path.stem] = file.matched(keys)
    return found


def embed_categories(config: EmbedConfig, data: PreparedData, path: Path, seed: int) -> np.ndarray:
    """Vectors (float32, (N, d)) of the catalog's categories; what embeds new ads' goes to `path`. Raises ValueError
    for a column that the catalog does not have, or too few distinct categories."""
    from gr4ad.tokenization.category_vectors import CategoryVectors, labels_of

    labels = labels_of(data.catalog_columns("category_columns", config.category_columns))
    vectors = CategoryVectors.fit(labels, dimension=config.category_dimension, seed=seed)
    vectors.save(path)
    return vectors.transform(labels)


def training_sequences(data: PreparedData) -> list[np.ndarray]:
    """Catalog rows (int64) of each user's training items, oldest first."""
    rows = {item: row for row, item in enumerate(data.catalog["item_id"])}
    return [np.array([rows[item] for item in items], dtype=np.int64) for items in data.train["items"]]


def units_of_ads(data: PreparedData, columns: list[str]) -> np.ndarray:
    """Number (int64, (N,)) of the distinct values of `columns` that each ad has. Raises ValueError for a column that
    the catalog does not have."""
    if not columns:
        raise ValueError(f"`unit_columns` names nothing. The catalog has: {', '.join(data.catalog.column_names)}.")
    numbers: dict[tuple[Any, ...], int] = {}
    rows = zip(*data.catalog_columns("unit_columns", columns), strict=True)
    return np.array([numbers.setdefault(row, len(numbers)) for row in rows], dtype=np.int64)
