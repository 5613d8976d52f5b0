# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What an encoder is shown of an ad: a text by the template of the ad's form, and its images (arXiv 2602.22732,
section on the unified advertisement embedding; the wording of the templates is our own)."""

from __future__ import annotations

import hashlib
import io
import math
import re
import traceback
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from PIL.Image import Image

AD_FORMS = ("product", "livestream", "image_product", "virtual_goods", "livestream_traffic", "product_video")
PACKAGED_PROMPTS = Path(__file__).parent / "prompts"
MAX_PIXELS = 64_000_000


class AdPrompts:
    """The templates of the six ad forms: `FORM.jinja` asks, `FORM.target.jinja` says what a model must answer.

    A template sees each field that the ad has as a variable, and all of them, in the order of the columns, as the
    mapping `fields`; an absent field is an empty variable. `_fields.jinja` (macro `lines`) may be imported from any
    folder. Templates run in Jinja's sandbox.

    Args:
        source: "default" for the packaged templates, or a folder of your own: a copy of `gr4ad/tokenization/prompts`.
        targets: Read `FORM.target.jinja` too.

    Raises:
        ValueError: If the folder or a template is missing, or a template is no valid Jinja (names file and line).
    """

    def __init__(self, source: str | Path = "default", *, targets: bool = False):
        from jinja2 import ChoiceLoader, FileSystemLoader, TemplateSyntaxError
        from jinja2.sandbox import SandboxedEnvironment

        self.folder = PACKAGED_PROMPTS if source == "default" else Path(source)
        if not self.folder.is_dir():
            raise ValueError(f"`prompts` must be None, 'default' or a folder of .jinja files. Received: {source!r}.")
        names = [f"{form}.jinja" for form in AD_FORMS]
        names += [f"{form}.target.jinja" for form in AD_FORMS] if targets else []
        missing = [name for name in names if not (self.folder / name).is_file()]
        if missing:
            raise ValueError(
                f"`prompts` folder {str(self.folder)!r} lacks {', '.join(missing)}. A folder has one template a form: "
                f"copy {str(PACKAGED_PROMPTS)!r} and edit what should differ."
            )
        folders = [self.folder] + ([PACKAGED_PROMPTS] if not (self.folder / "_fields.jinja").is_file() else [])
        environment = SandboxedEnvironment(
            loader=ChoiceLoader([FileSystemLoader(folder) for folder in folders]), trim_blocks=True, lstrip_blocks=True
        )
        try:
            self._templates = {name: environment.get_template(name) for name in names}
        except TemplateSyntaxError as error:
            raise ValueError(
                f"Template {error.filename or error.name}, line {error.lineno}: {error.message}"
            ) from None

    def render(self, form: str, fields: Mapping[str, Any]) -> str:
        """The question about an ad of this form. Raises ValueError naming file and line if the template fails."""
        return self._render(f"{form}.jinja", fields)

    def render_target(self, form: str, fields: Mapping[str, Any]) -> str:
        """What a model must answer about the ad; "" if the ad says nothing about it."""
        return self._render(f"{form}.target.jinja", fields)

    def digest(self) -> str:
        """A fingerprint of the wording: of every .jinja file in the folder."""
        parts = [file.name + "\n" + file.read_text("utf-8") for file in sorted(self.folder.glob("*.jinja"))]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]

    def _render(self, name: str, fields: Mapping[str, Any]) -> str:
        try:
            text = self._templates[name].render({**fields, "fields": dict(fields)})
        except Exception as error:  # whatever an expression in a user's template can raise
            frames = [
                frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(".jinja")
            ]
            place = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else str(self.folder / name)
            raise ValueError(f"Template {place}: {type(error).__name__}: {error}") from error
        return "\n".join(line.rstrip() for line in text.strip().splitlines())


@dataclass(frozen=True)
class AdImage:
    """A picture of an ad that is not read yet: a file, or the bytes of one."""

    path: str | None
    data: bytes | None = None

    def fingerprint(self) -> str:
        """Names the picture: bytes by their hash, a file by its path and size."""
        if self.data is not None:
            return hashlib.sha256(self.data).hexdigest()
        path = Path(self.path or "")
        return f"{path}|{path.stat().st_size if path.is_file() else 'missing'}"

    def open(self, ad: str, *, max_pixels: int = MAX_PIXELS, decode: bool = True) -> Image:
        """The picture in RGB, turned as its EXIF data say; with `decode=False` only its header is checked.

        Args:
            ad: How errors name the ad. max_pixels: Largest width x height.

        Raises:
            ValueError: If it cannot be read or is too large.
            ImportError: If Pillow is missing.
        """
        try:
            from PIL import Image, ImageOps
        except ImportError as error:
            raise ImportError("Images of ads need Pillow: pip install pillow.") from error

        name = self.path or f"({len(self.data or b'')} bytes in the catalog)"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `max_pixels` is the limit here
                with Image.open(io.BytesIO(self.data) if self.data is not None else name) as image:
                    pixels = image.size[0] * image.size[1]
                    if pixels <= max_pixels:
                        return ImageOps.exif_transpose(image).convert("RGB") if decode else image
        except Image.DecompressionBombError as error:
            raise ValueError(f"{ad}: image {name} is too large to be opened ({error}).") from None
        except (OSError, SyntaxError, ValueError, TypeError) as error:  # Pillow's readers raise all of these
            raise ValueError(
                f"{ad}: image {name} cannot be read ({str(error).splitlines()[0] if str(error) else error!r}). Repair "
                "the file, or leave the image of this ad empty."
            ) from error
        raise ValueError(f"{ad}: image {name} has {pixels:,} pixels, more than `max_pixels` = {max_pixels:,}.")


@dataclass(frozen=True)
class AdContent:
    """What is known of one ad. `text` is "" if there is neither text nor image; with an image alone it is what the
    template asks."""

    item: str
    form: str
    text: str
    images: tuple[AdImage, ...]
    has_text: bool
    target: str = ""

    def __bool__(self) -> bool:
        return self.has_text or bool(self.images)

    def fingerprint(self) -> tuple[str, ...]:
        """Equal for ads that are shown alike."""
        return (self.text, *(image.fingerprint() for image in self.images)) if self else ("",)


class AdReading(TypedDict, total=False):
    """Settings of [`AdReader`] that whoever embeds ads passes on."""

    prompts: str | Path | None
    form_column: str | None
    default_form: str
    image_column: str | None
    image_root: str | Path | None
    max_images: int
    id_column: str


class AdReader:
    """Reads ads of a catalog as [`AdContent`].

    Args:
        text_columns: Catalog columns that the text is made of, in this order.
        prompts: None (`column: value` lines; empty values are left out), "default" (the packaged templates of the six
            ad forms), or a folder of your own; see [`AdPrompts`].
        form_column: Column with each ad's form, one of `AD_FORMS`. default_form: Form of an ad where the column is
            empty, and of all ads without the column.
        image_column: Column with a path, a list of paths (pictures, or frames in the order of time), or `datasets`
            images (`{"bytes", "path"}`). image_root: Folder that relative paths start from.
        max_images: Images of an ad at most, >= 1: of more, evenly spaced ones are kept, first and last among them.
        id_column: Column that names an ad in errors; row numbers do where it is missing.
        target_columns: Columns that only the target template sees: the text must not give away the answer.

    Raises:
        ValueError: For a setting out of range or a template that cannot be used.
    """

    def __init__(
        self,
        text_columns: Sequence[str],
        *,
        prompts: str | Path | None = None,
        form_column: str | None = None,
        default_form: str = "product",
        image_column: str | None = None,
        image_root: str | Path | None = None,
        max_images: int = 8,
        id_column: str = "item_id",
        target_columns: Sequence[str] | None = None,
    ):
        if default_form not in AD_FORMS:
            raise ValueError(f"`default_form` must be one of {', '.join(AD_FORMS)}. Received: {default_form!r}.")
        if max_images < 1:
            raise ValueError(f"`max_images` must be >= 1. Received: {max_images}.")
        if form_column is not None and prompts is None:
            raise ValueError(
                f"`form_column` {form_column!r} chooses a template, and `prompts` is None: give prompts='default'."
            )
        self.target_columns = list(target_columns or [])
        self.text_columns = [name for name in text_columns if name not in self.target_columns]
        self.prompts = None if prompts is None else AdPrompts(prompts, targets=target_columns is not None)
        self.form_column, self.default_form = form_column, default_form
        self.image_column, self.max_images, self.id_column = image_column, max_images, id_column
        self.image_root = Path(image_root) if image_root is not None else None

    def check(self, catalog: Dataset) -> None:
        """Raises ValueError for a column that the catalog does not have."""
        named = {
            "text_columns": self.text_columns,
            "target_columns": self.target_columns,
            "form_column": [self.form_column] if self.form_column else [],
            "image_column": [self.image_column] if self.image_column else [],
        }
        for setting, names in named.items():
            missing = [name for name in names if name not in catalog.column_names]
            if missing:
                raise ValueError(
                    f"`{setting}` names {missing[0]!r}, which the catalog does not have. It has: "
                    f"{', '.join(catalog.column_names)}."
                )

    def settings(self) -> dict[str, Any]:
        """What decides the contents, apart from the catalog: for the digest of embeddings made of them."""
        return {
            "text_columns": self.text_columns,
            "prompts": self.prompts.digest() if self.prompts else None,
            "form_column": self.form_column,
            "default_form": self.default_form,
            "image_column": self.image_column,
            "max_images": self.max_images,
        }

    def read(self, catalog: Dataset, start: int = 0, stop: int | None = None) -> list[AdContent]:
        """Ads `start` to `stop` (default all). Images are named, not read.

        Raises:
            ValueError: For an unknown form (names row, value and allowed forms), an image that is no path, or a
                template that fails.
        """
        self.check(catalog)
        stop = len(catalog) if stop is None else min(stop, len(catalog))
        # As arrow, so that `datasets` does not decode the images of the whole slice.
        table = catalog.with_format("arrow")[start:stop]

        def values(name: str | None) -> list:
            known = name is not None and name in catalog.column_names
            return table.column(name).to_pylist() if known else [None] * (stop - start)

        columns = {name: values(name) for name in dict.fromkeys(self.text_columns + self.target_columns)}
        ids, forms, images = values(self.id_column), values(self.form_column), values(self.image_column)
        contents = []
        for number in range(stop - start):
            item = str(ids[number]) if ids[number] is not None else f"row {start + number}"
            ad = ad_name(start + number, item)
            row = {name: column[number] for name, column in columns.items()}
            form = self._form(forms[number], ad)
            shown = self._images(images[number], ad)
            text, has_text = self._text(form, row, bool(shown))
            target = ""
            if self.target_columns and self.prompts:
                target = self.prompts.render_target(form, present_fields(row.items()))
            contents.append(AdContent(item, form, text, shown, has_text, target))
        return contents

    def _form(self, value: Any, ad: str) -> str:
        if value is None or not str(value).strip():
            return self.default_form
        if value not in AD_FORMS:
            raise ValueError(
                f"{ad}: `form_column` {self.form_column!r} holds {value!r}. Allowed: {', '.join(AD_FORMS)}, or empty "
                f"for {self.default_form!r}."
            )
        return value

    def _text(self, form: str, row: dict[str, Any], has_images: bool) -> tuple[str, bool]:
        if self.prompts is None:
            if len(self.text_columns) == 1:
                value = row[self.text_columns[0]]
                text = str(value).strip() if value else ""
            else:
                text = "\n".join(f"{name}: {row[name]}" for name in self.text_columns if row[name])
            return text, bool(text)
        text = self.prompts.render(form, present_fields((name, row[name]) for name in self.text_columns))
        question = self.prompts.render(form, {})
        if text == question:  # nothing of the ad is in it
            return (question if has_images else ""), False
        return text, True

    def _images(self, value: Any, ad: str) -> tuple[AdImage, ...]:
        entries = value if isinstance(value, (list, tuple)) else [value]
        images = [image for entry in entries if (image := self._image(entry, ad)) is not None]
        if len(images) > self.max_images:
            kept = np.linspace(0, len(images) - 1, self.max_images).round().astype(int)
            images = [images[place] for place in kept]
        return tuple(images)

    def _image(self, value: Any, ad: str) -> AdImage | None:
        path, data = value, None
        if isinstance(value, Mapping):
            path, data = value.get("path"), value.get("bytes")
        if data is not None:
            return AdImage(path, data)
        if path is None or (isinstance(path, str) and not path.strip()):
            return None
        if not isinstance(path, str) or "://" in path:
            raise ValueError(
                f"{ad}: `image_column` {self.image_column!r} holds {str(path)[:80]!r}. Allowed: a file's path, a list "
                "of paths, or an image of `datasets`. Download what lies behind a URL first."
            )
        return AdImage(str(self.image_root / path) if self.image_root else path)


def ad_name(row: int, item: str) -> str:
    """How errors name an ad."""
    return f"Ad {item!r} (row {row})"


def present_fields(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The fields that have a value: None, NaN, blank texts and empty lists are left out, texts are stripped."""
    fields = {}
    for name, value in pairs:
        if isinstance(value, str):
            value = value.strip()
        if isinstance(value, list):
            value = [part for part in value if part is not None and part != ""]
        if value is None or value in ("", []) or (isinstance(value, float) and math.isnan(value)):
            continue
        fields[name] = value
    return fields


class ChatText:
    """Makes texts fit to stand in a chat message: without the tokenizer's special tokens (an ad that says `<image>`
    would be taken for one with a picture more), and with `max_length` tokens at most, cut off the end."""

    def __init__(self, tokenizer: Any, max_length: int | None = None):
        self.tokenizer, self.max_length = tokenizer, max_length
        special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
        names = sorted({*special, *tokenizer.all_special_tokens} - {""}, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, names))) if names else None

    def __call__(self, text: str) -> str:
        while self._special is not None and self._special.search(text):  # removing one may form another
            text = self._special.sub(" ", text)
        if self.max_length is None:
            return text
        if not getattr(self.tokenizer, "is_fast", False):
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return text if len(ids) <= self.max_length else self.tokenizer.decode(ids[: self.max_length])
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        if len(offsets) <= self.max_length:
            return text
        # Several tokens may spell one character: it goes if they do not all stay.
        return text[: min(offsets[self.max_length - 1][1], offsets[self.max_length][0])]
