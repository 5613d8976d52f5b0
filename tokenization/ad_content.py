# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Content vectors of ads from their records, made as the embedding stage made those of the catalog."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .ad_encoding import CATEGORY_PART, ENCODER_PART, ENCODING_FILE, HERE, AdEncoding, joined_parts
from .ad_records import OTHER, OWN_FIELDS, AdRecordError, arrow_type, plain, typed_row
from .category_vectors import CATEGORY_FILE, CategoryVectors, labels_of
from .embedding_fusion import measurable, unit_rows

if TYPE_CHECKING:
    from datasets import Dataset

    from .ad_embedding import AdEmbedder


class AdContents:
    """The content vectors of ads, by what a folder stores of how its own were made. A row is a checked record, see
    `AdEncoder`: `item_id`, `columns`, `given` and its `place`. What is read from the folder is read once, when it is
    first needed.

    Args:
        folder: Of an artifact or a tokenizer. device: Where the encoder computes.
    """

    def __init__(self, folder: str | Path, device: str | None = None):
        self.folder, self.device = Path(folder), device
        self._loading = threading.RLock()
        self._loaded: dict[str, Any] = {}

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What `make` made the first time."""
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = make()
            return self._loaded[name]

    @property
    def encoding(self) -> AdEncoding | None:
        """How the ads were embedded; None for an artifact that does not say it."""
        found = self._encoding()
        return None if found is None else found[0]

    def _encoding(self) -> tuple[AdEncoding, dict[str, np.ndarray]] | None:
        known = (self.folder / ENCODING_FILE).is_file()
        return self.once("encoding", lambda: AdEncoding.load(self.folder) if known else None)

    @property
    def categories(self) -> CategoryVectors:
        return self.once("categories", lambda: CategoryVectors.load(self.folder / CATEGORY_FILE))

    @property
    def embedder(self) -> AdEmbedder:
        """The ads' encoder. Raises ValueError if it cannot be loaded, or is not the one that the codebooks were made
        with."""
        return self.once("embedder", self._load_embedder)

    def _load_embedder(self) -> AdEmbedder:
        from .ad_embedding import AdEmbedder  # brings sentence-transformers

        encoding = self.encoding
        assert encoding is not None and encoding.encoder is not None

        def place(name: str) -> str:
            return str(self.folder / name.removeprefix(HERE)) if name.startswith(HERE) else name

        embedder = AdEmbedder(
            place(encoding.encoder),
            encoding.text_columns,
            device=self.device,
            pooling=encoding.pooling,
            dtype=encoding.dtype,
            max_length=encoding.max_length,
            prompts=None if encoding.prompts is None else place(encoding.prompts),
            form_column=encoding.form_column,
            image_column=encoding.image_column,
            image_root=encoding.image_root,
            max_images=encoding.max_images,
        )
        found = embedder.encoder_settings()
        for name, expected in encoding.encoder_check.items():
            if name.startswith("encoder_") and found[name] != expected:
                raise ValueError(
                    f"`encoder` {encoding.encoder!r} is not the one that the ads of {self.folder} were embedded with "
                    f"({name} is {found[name]}, was {expected}): its vectors would not fit the codebooks. Bring that "
                    "encoder back, or build the artifact again."
                )
        return embedder

    def missing(self) -> str | None:
        """Why ads cannot be embedded from their attributes here; None if they can."""
        if self.encoding is not None:
            return None
        return (
            f"{self.folder} does not say how its ads were embedded (it has no {ENCODING_FILE}: an earlier version "
            "built it, or it was put together by hand). Build it again by `gr4ad run`, or send `embedding` or `codes`."
        )

    def columns(self, record: Mapping[str, Any], place: int) -> dict[str, Any]:
        """The columns of a record, of their types. Raises AdRecordError: as [`typed_row`]."""
        encoding = self.encoding
        if encoding is None:  # only what the item table shows can be kept, as it is
            return {name: plain(value) for name, value in record.items() if name not in OWN_FIELDS}
        pictures = encoding.image_column if encoding.columns.get(encoding.image_column or "") == OTHER else None
        columns = typed_row({name: record[name] for name in record if name != pictures}, encoding.columns, place)
        if pictures is not None:  # paths, in the place of the pictures that the catalog held
            columns[pictures] = plain(record.get(pictures))
        return columns

    def given(self, embedding: Any, wrong: Callable[..., AdRecordError]) -> dict[str, np.ndarray] | np.ndarray | None:
        """Precomputed vectors of a record: by part, or one of the whole content."""
        if embedding is None:
            return None
        encoding = self.encoding
        parts = {} if encoding is None else encoding.parts
        if isinstance(embedding, Mapping):
            if encoding is None:
                raise wrong("embedding", str(self.missing()))
            allowed = [name for name in parts if name != CATEGORY_PART]
            unknown = [name for name in embedding if name not in allowed]
            if unknown:
                raise wrong(
                    "embedding",
                    f"`embedding` names {unknown[0]!r:.100}. The parts that can be given are: "
                    f"{', '.join(allowed) or 'none'}.",
                )
            found = {name: floats(vector, wrong) for name, vector in embedding.items() if vector is not None}
            for name, vector in found.items():
                if len(vector) != parts[name]:
                    raise wrong(
                        "embedding", f"`embedding` of {name} has {len(vector)} numbers, the artifact's {parts[name]}."
                    )
            return {name: unit_rows(vector[None])[0] for name, vector in found.items()}
        vector = floats(embedding, wrong)
        if encoding is None:
            return vector
        candidates = encoding.files if len(encoding.files) == 1 else []
        candidates += [ENCODER_PART] if ENCODER_PART in parts else []
        for name in candidates:
            if len(vector) == parts[name]:
                return {name: unit_rows(vector[None])[0]}
        if len(vector) == encoding.dimension:
            return vector
        lengths = ", ".join(f"{parts[name]} ({name})" for name in candidates if parts[name] != encoding.dimension)
        raise wrong(
            "embedding",
            f"`embedding` must be of {encoding.dimension} numbers (the whole content)"
            f"{f' or {lengths}' if lengths else ''}. Received: {len(vector)}.",
        )

    def read(
        self, rows: Sequence[dict[str, Any]], width: int | None, bad: Callable[[AdRecordError], None]
    ) -> list[np.ndarray | None]:
        """The content vector of each checked row, of `width` numbers; None where there is nothing to make it of, which
        is told to `bad`."""
        content: list[np.ndarray | None] = [None] * len(rows)
        open_rows = []
        for number, row in enumerate(rows):
            if isinstance(row["given"], np.ndarray):
                content[number] = row["given"]
            elif self.encoding is None:
                bad(AdRecordError(f"{self.missing()}", place=row["place"], item=row["item_id"], field="embedding"))
            else:
                open_rows.append(number)
        for number, vector in enumerate(content):
            if vector is not None and width is not None and len(vector) != width:
                content[number] = None
                bad(
                    AdRecordError(
                        f"`embedding` has {len(vector)} dimensions, the codebooks {width}: embed with the encoder the "
                        "codebooks were fitted on.",
                        place=rows[number]["place"], item=rows[number]["item_id"], field="embedding",
                    )
                )  # fmt: skip
        if not open_rows:
            return content
        parts = self._parts([rows[number] for number in open_rows], bad)
        found = self._encoding()
        assert found is not None
        joined = joined_parts({name: part for name, part in parts.items() if name != "usable"}, found[1])
        for number, vector, usable in zip(open_rows, joined, parts["usable"], strict=True):
            if usable:
                content[number] = vector
        return content

    def _parts(self, rows: Sequence[dict[str, Any]], bad: Callable[[AdRecordError], None]) -> dict[str, np.ndarray]:
        """Each part of the content of rows (float32, (n, d_i); zeros where an ad lacks it), and under `usable` which
        rows are ads."""
        encoding = self.encoding
        assert encoding is not None
        given = [row["given"] or {} for row in rows]
        usable = np.ones(len(rows), dtype=bool)
        parts: dict[str, np.ndarray] = {}

        def refuse(number: int, message: str, name: str) -> None:
            usable[number] = False
            bad(AdRecordError(message, place=rows[number]["place"], item=rows[number]["item_id"], field=name))

        for name, width in encoding.parts.items():
            part = parts[name] = np.zeros((len(rows), width), dtype=np.float32)
            for number, vectors in enumerate(given):
                if name in vectors:
                    part[number] = vectors[name]
            if name == ENCODER_PART:
                lacking = [number for number, vectors in enumerate(given) if name not in vectors]
                self._encode(rows, lacking, part, refuse)
            elif name == CATEGORY_PART:
                columns = [[row["columns"].get(column) for row in rows] for column in encoding.category_columns]
                part[:] = self.categories.transform(labels_of(columns))
        said = np.zeros(len(rows), dtype=bool)
        for part in parts.values():
            said |= part.any(1)
        for number in np.flatnonzero(usable & ~said).tolist():
            reads = ", ".join(f"`{name}`" for name in encoding.reads())
            needs = [f"a text or category in {reads}"] if reads else []
            needs += [f"an `embedding` ({', '.join(encoding.files)})"] if encoding.files else []
            refuse(
                number, f"It says nothing that can be embedded: it needs {' or '.join(needs)}.", encoding.reads()[0]
                if reads else "embedding",
            )  # fmt: skip
        return {**parts, "usable": usable}

    def _encode(
        self,
        rows: Sequence[dict[str, Any]],
        places: list[int],
        part: np.ndarray,
        refuse: Callable[[int, str, str], None],
    ) -> None:
        """Fills in the encoder's embeddings of some rows."""
        encoding = self.encoding
        assert encoding is not None
        contents = []
        embedder = self.embedder if places else None
        for number in places:
            assert embedder is not None
            try:
                [content] = embedder.reader.read(self._table([rows[number]]))
            except (ValueError, OverflowError, pa.ArrowException) as error:
                refuse(number, str(error), encoding.reads()[0])
                continue
            contents.append((number, content))
        if embedder is None or not contents:
            return
        try:
            vectors = embedder.embed_contents([content for _, content in contents])
        except ValueError:  # of an image that cannot be read; which, the others do not have to pay for
            vectors = np.zeros((len(contents), part.shape[1]), dtype=np.float32)
            for line, (number, content) in enumerate(contents):
                try:
                    vectors[line] = embedder.embed_contents([content])[0]
                except ValueError as error:
                    refuse(number, str(error), encoding.image_column or encoding.reads()[0])
        part[[number for number, _ in contents]] = vectors

    def _table(self, rows: Sequence[dict[str, Any]]) -> Dataset:
        """Rows as a catalog: every column that embedding reads, of its type; null where a record has none."""
        from datasets import Dataset  # here: a server loads it only if it embeds ads

        encoding = self.encoding
        assert encoding is not None
        columns: dict[str, Any] = {"item_id": pa.array([row["item_id"] for row in rows], pa.string())}
        for name in encoding.reads():
            if encoding.columns.get(name) == OTHER:
                columns[name] = pa.array([row["columns"].get(name) for row in rows])
                continue
            kind = arrow_type(encoding.columns.get(name, "string"))
            columns[name] = pa.array([row["columns"].get(name) for row in rows], kind)
        return Dataset(pa.table(columns))


def floats(vector: Any, wrong: Callable[..., AdRecordError]) -> np.ndarray:
    """A list of finite numbers as float32 (d,)."""
    try:
        numbers = np.array(vector, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong("embedding", f"`embedding` must be a list of floats ({error}).") from error
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise wrong("embedding", f"`embedding` must be finite floats in one list. Received: {vector!r:.100}.")
    if not measurable(numbers[None])[0]:
        raise wrong(
            "embedding",
            f"`embedding` has numbers up to {np.abs(numbers).max():.3g}, and its length is beyond what float32 holds. "
            "Scale it, e.g. to length 1.",
        )
    return numbers


__all__ = ["AdContents"]
