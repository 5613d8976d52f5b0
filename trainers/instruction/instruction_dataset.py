# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Questions and answers about ads, from the fields of a catalog (arXiv 2602.22732, unified ad embedding)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Image, List, Value, concatenate_datasets
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from gr4ad.tokenization.ad_prompts import MAX_PIXELS, AdReader, ChatText, ad_name

ROWS = 10_000


def build_instruction_dataset(
    catalog: Dataset,
    text_columns: Sequence[str],
    target_columns: Sequence[str],
    *,
    processing_class: PreTrainedTokenizerBase | ProcessorMixin,
    prompts: str | Path = "default",
    form_column: str | None = None,
    default_form: str = "product",
    image_column: str | None = None,
    image_root: str | Path | None = None,
    max_images: int = 8,
    max_pixels: int = MAX_PIXELS,
    max_length: int | None = None,
    id_column: str = "item_id",
) -> tuple[Dataset, dict[str, int]]:
    """Pairs of a question about an ad and its answer, in TRL's conversational prompt-completion format.

    The question is the template `FORM.jinja` of the ad's form, with its `text_columns` and images; the answer is
    `FORM.target.jinja` with its `target_columns`. A column named in both is shown in the answer only: a question that
    holds the answer teaches copying.

    Args:
        catalog: Rows of ads. text_columns, target_columns: Its columns.
        processing_class: Of the model that will be trained; its special tokens are removed from the ads' texts.
        prompts: "default" or a folder of your own templates, with the `.target.jinja` files.
        form_column, default_form, image_column, image_root, max_images, id_column: As [`AdEmbedder`] has them.
        max_pixels: Of an image. Every image is opened once here to see that it can be read.
        max_length: Tokens of a question's text at most, without images and chat template.

    Returns:
        The dataset, with the columns `prompt` and `completion` (lists of one message each, with `role` and `content`)
        and, with an `image_column`, `images` (list, decoded to RGB when a row is read; empty for an ad without); and
        the counts `ads`, `examples`, `without_target` (left out: nothing to answer), `without_content` (left out:
        nothing to ask about), `without_image`.

    Raises:
        ValueError: For a column that the catalog does not have, an unknown form, an image that cannot be read, a
            template that fails, or if no ad is left.
    """
    if not target_columns:
        raise ValueError("`target_columns` is empty: name the catalog columns that the answers are made of.")
    reader = AdReader(
        text_columns,
        prompts=prompts,
        form_column=form_column,
        default_form=default_form,
        image_column=image_column,
        image_root=image_root,
        max_images=max_images,
        id_column=id_column,
        target_columns=target_columns,
    )
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    question_text, answer_text = ChatText(tokenizer, max_length), ChatText(tokenizer)
    message = List({"role": Value("string"), "content": Value("string")})
    features = {"prompt": message, "completion": message}
    if image_column is not None:
        features["images"] = List(Image(mode="RGB"))
    counts = Counter(ads=len(catalog), examples=0, without_target=0, without_content=0, without_image=0)
    parts = []
    for start in range(0, len(catalog), ROWS):  # one part's rows as Python objects, the rest as arrow
        rows: dict[str, list[Any]] = {name: [] for name in features}
        for row, content in enumerate(reader.read(catalog, start, start + ROWS), start):
            target = answer_text(content.target).strip()
            if not content or not target:
                counts["without_content" if not content else "without_target"] += 1
                continue
            for image in content.images:
                image.open(ad_name(row, content.item), max_pixels=max_pixels, decode=False)
            counts["examples"] += 1
            rows["prompt"].append([{"role": "user", "content": question_text(content.text)}])
            rows["completion"].append([{"role": "assistant", "content": target}])
            if image_column is not None:
                counts["without_image"] += not content.images
                rows["images"].append([{"path": image.path, "bytes": image.data} for image in content.images])
        parts.append(Dataset.from_dict(rows, features=Features(features)))
    if not counts["examples"]:
        raise ValueError(
            f"No ad has both content and a target: {counts['without_target']} of {len(catalog)} lack a target. Name "
            f"other `target_columns` than {list(target_columns)}, or edit the .target.jinja templates."
        )
    return concatenate_datasets(parts), dict(counts)


__all__ = ["build_instruction_dataset"]
