# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""How the ads of a catalog were embedded, as an artifact stores it: parts of the vectors, and what makes each."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from .ad_neighbours import NEIGHBOURS_FILE
from .category_vectors import CATEGORY_FILE
from .embedding_fusion import FUSION_FILE

ENCODING_FILE = "ad_encoding.json"
MEANS_FILE = "ad_encoding.safetensors"
ENCODER_FOLDER, PROMPTS_FOLDER = "encoder", "prompts"
FILES = (ENCODING_FILE, MEANS_FILE, CATEGORY_FILE, FUSION_FILE, NEIGHBOURS_FILE)
FOLDERS = (ENCODER_FOLDER, PROMPTS_FOLDER)
HERE = "./"  # before a folder that lies in the artifact
FORMAT = 1
ENCODER_PART, CATEGORY_PART = "encoder", "categories"


@dataclass
class AdEncoding:
    """What the embedding stage did, so that it can be done again for one ad.

    The content vector of an ad is its parts side by side, each of length 1: the encoder's embedding, the vectors of
    every file of precomputed ones, and that of its categories.

    Attributes:
        parts: Name -> width, in this order: `encoder`, the files by their stems, `categories`.
        encoder: Name of the encoder: packaged, hub id or folder; `./encoder` where it lies in the artifact.
        encoder_check: What tells its weights from others, see `AdEmbedder.encoder_settings`.
        text_columns, prompts, form_column, image_column, image_root, max_images, pooling, dtype, max_length: As of
            `AdEmbedder`.
        category_columns: Columns of categories. columns: Type of each column of the catalog, by name.
    """

    parts: dict[str, int]
    encoder: str | None = None
    encoder_check: dict[str, Any] = field(default_factory=dict)
    text_columns: list[str] = field(default_factory=list)
    prompts: str | None = None
    form_column: str | None = None
    image_column: str | None = None
    image_root: str | None = None
    max_images: int = 8
    pooling: str = "auto"
    dtype: str = "auto"
    max_length: int | None = None
    category_columns: list[str] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)

    @property
    def dimension(self) -> int:
        """Width of a content vector."""
        return sum(self.parts.values())

    @property
    def files(self) -> list[str]:
        """The parts that come from files of precomputed vectors: what a record has to bring itself."""
        return [name for name in self.parts if name not in (ENCODER_PART, CATEGORY_PART)]

    def reads(self) -> list[str]:
        """The columns that embedding reads, each once."""
        one = [name for name in (self.form_column, self.image_column) if name]
        return list(dict.fromkeys([*self.text_columns, *one, *self.category_columns]))

    def save(self, folder: Path, means: Mapping[str, np.ndarray]) -> None:
        """Writes the settings and the mean vector of each part, which an ad without that part gets."""
        for name, write in (
            (MEANS_FILE, lambda path: save_file(dict(means), path)),
            (ENCODING_FILE, lambda path: path.write_text(self.to_json(), encoding="utf-8")),
        ):
            temporary = folder / f"{name}.tmp"
            write(temporary)
            os.replace(temporary, folder / name)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def load(cls, folder: Path) -> tuple[AdEncoding, dict[str, np.ndarray]]:
        """Settings and means of a folder. Raises ValueError if they are damaged, or of a later release."""
        path = folder / ENCODING_FILE
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
            if given.pop("format") != FORMAT:
                raise ValueError("it is of another release; take that release of gr4ad, or embed the ads again")
            unknown = sorted(given.keys() - {one.name for one in fields(cls)})
            if unknown:
                raise ValueError(f"unknown field {unknown[0]!r}")
            means = load_file(folder / MEANS_FILE)
            return cls(**given), means
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            raise ValueError(
                f"{path}: not readable ({error!s:.200}). Take an undamaged copy of the artifact, or build it again."
            ) from error


def copy_encoding(source: Path, target: Path, *, encoder: bool = True, link: bool = False) -> None:
    """Copies what embeds new ads from one folder into another, which has none of it: settings, fusion, category
    vectors, prompts, and an encoder that is a folder.

    Args:
        encoder: False leaves the encoder where it is.
        link: Folders by hard links where the file system can; their files are never written into.
    """
    copy = linked if link else shutil.copyfile
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    folders = {name: source / name for name in FOLDERS if (source / name).is_dir()}
    path = target / ENCODING_FILE
    if encoder and path.is_file():
        settings = json.loads(path.read_text(encoding="utf-8"))
        name = settings.get("encoder")
        if name and not name.startswith(HERE) and Path(name).is_dir():
            folders[ENCODER_FOLDER] = Path(name)
            settings["encoder"] = f"{HERE}{ENCODER_FOLDER}"
            path.write_text(json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for part, folder in folders.items():
        shutil.copytree(folder, target / part, copy_function=copy, dirs_exist_ok=True)


def linked(source: str | Path, target: str | Path) -> str:
    """A hard link, or a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
    return str(target)


def joined_parts(parts: Mapping[str, np.ndarray], means: Mapping[str, np.ndarray]) -> np.ndarray:
    """The parts of ads (float32, (N, d_i) each) side by side; a row of zeros is an ad without that part, and gets the
    part's mean where there is one (categories have none: no category is a statement too)."""
    filled = []
    for name, rows in parts.items():
        mean = means.get(name)
        missing = ~np.any(rows, axis=1)
        filled.append(np.where(missing.reshape(-1, 1), mean, rows) if mean is not None and missing.any() else rows)
    return np.concatenate(filled, axis=1) if len(filled) > 1 else filled[0]


__all__ = ["AdEncoding", "copy_encoding", "joined_parts"]
