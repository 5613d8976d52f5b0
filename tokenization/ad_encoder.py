# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The one path from the record of an ad to its semantic ID, by what the artifact stores of how its ads were made."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from .ad_encoding import (
    CATEGORY_PART,
    ENCODER_PART,
    ENCODING_FILE,
    FILES,
    FOLDERS,
    HERE,
    AdEncoding,
    joined_parts,
)
from .ad_neighbours import NEIGHBOURS_FILE, AdNeighbours
from .ad_records import OTHER, OWN_FIELDS, AdRecordError, arrow_type, joined_keys, plain, typed_row
from .category_vectors import CATEGORY_FILE, CategoryVectors, labels_of
from .embedding_fusion import FUSION_FILE, EmbeddingFusion, unit_rows
from .mgmr_quantizer import CODEBOOKS_FILE, MGMRQuantizer
from .sid_index import SIDIndex
from .tokenization_ua_sid import UASIDTokenizer

if TYPE_CHECKING:
    from datasets import Dataset

    from .ad_embedding import AdEmbedder

Refuse = Callable[[AdRecordError], None]
PEERS = 5  # ads that a new one's item vector starts from


@dataclass
class EmbeddedAds:
    """Ads whose vectors are known and whose codes are not: these depend on the ads that an index holds by then.

    Attributes:
        item_ids: n distinct ids. vectors (float32, (n, d)): What the quantizer encodes.
        keys: Business keys; None where the last level is not hashed. priority: Rank among ads of one SID; None = 0.
        columns: Values of the catalog's columns, n each; None where a record has none.
        places: Of the records among those that were given.
    """

    item_ids: list[str]
    vectors: np.ndarray
    keys: list[str] | None
    priority: list[float] | None
    columns: dict[str, list[Any]]
    places: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.item_ids)

    def take(self, places: Sequence[int]) -> EmbeddedAds:
        """Some of them, in the given order."""

        def some(values: Any) -> Any:
            return None if values is None else [values[place] for place in places]

        columns = {name: some(values) for name, values in self.columns.items()}
        return EmbeddedAds(
            some(self.item_ids),
            self.vectors[list(places)],
            some(self.keys),
            some(self.priority),
            columns,
            some(self.places),
        )


class AdEncoder:
    """From records to semantic IDs, exactly as the stages made those of the catalog: text and images, precomputed
    vectors, categories, their fusion, the codebooks as they are, the hash of the business fields, and distinct last
    codes.

    A rebuilt tokenizer that keeps these codebooks gives a new ad the same codes. What is read from the artifact is
    read when it is first needed; the encoder takes the longest.

    A record is a row of the catalog: `item_id` and columns. Beside these it may have

    | field | meaning |
    |---|---|
    | `embedding` | a precomputed vector in the place of what would be computed: that of the one file of `vectors`, of the encoder, or of the whole content, told apart by its length; or an object of part -> vector |
    | `business_key` | what a hashed last level hashes, in the place of the business fields |
    | `priority` | rank among ads of one SID; default 0 |

    Args:
        folder: Of the artifact or of a tokenizer.
        tokenizer: Its codebooks and business fields are used.
        device: Where the encoder computes, as torch names it; default: the fastest there is.

    ```python
    >>> encoder = AdEncoder.load("out/shop")
    >>> ads = encoder.embed([{"item_id": "ad_7", "title": "Red shoes", "brand": "Acme"}])
    >>> encoder.codes(ads, encoder.tokenizer.index)  # int64 (1, T)
    ```
    """  # noqa: E501

    def __init__(self, folder: str | Path, tokenizer: UASIDTokenizer, *, device: str | None = None):
        self.folder, self.tokenizer, self.device = Path(folder), tokenizer, device
        self._loading = threading.RLock()
        self._loaded: dict[str, Any] = {}

    @classmethod
    def load(
        cls,
        name_or_path: str | Path,
        tokenizer: UASIDTokenizer | None = None,
        *,
        device: str | None = None,
        **hub_kwargs: Any,
    ) -> AdEncoder:
        """The encoder of an artifact's folder or hub id.

        Raises:
            ValueError: If the folder is no artifact.
        """
        if tokenizer is None:
            try:
                tokenizer = UASIDTokenizer.from_pretrained(name_or_path, **hub_kwargs)
            except OSError as error:
                raise ValueError(f"{name_or_path}: not a GR4AD artifact ({str(error).splitlines()[0]}).") from error
        folder = Path(name_or_path)
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            patterns = [*FILES, CODEBOOKS_FILE, *(f"{name}/*" for name in FOLDERS)]
            known = {name: hub_kwargs[name] for name in ("revision", "token", "cache_dir") if name in hub_kwargs}
            folder = Path(snapshot_download(str(name_or_path), allow_patterns=patterns, **known))
        return cls(folder, tokenizer, device=device)

    # --- what is read when it is needed

    def _once(self, name: str, make: Callable[[], Any]) -> Any:
        with self._loading:
            if name not in self._loaded:
                self._loaded[name] = make()
            return self._loaded[name]

    @property
    def quantizer(self) -> MGMRQuantizer:
        """Raises ValueError if the artifact has no codebooks."""

        def make() -> MGMRQuantizer:
            path = self.tokenizer.codebooks_file
            if path is None:
                raise ValueError(f"{self.folder}: lacks {CODEBOOKS_FILE}, which give new ads codes. Send `codes`.")
            return MGMRQuantizer.load(path, self.tokenizer.codebook_sizes)

        return self._once("quantizer", make)

    @property
    def fusion(self) -> EmbeddingFusion | None:
        path = self.folder / FUSION_FILE
        return self._once("fusion", lambda: EmbeddingFusion.load(path) if path.is_file() else None)

    @property
    def encoding(self) -> AdEncoding | None:
        """How the ads were embedded; None for an artifact that does not say it."""
        found = self._encoding()
        return None if found is None else found[0]

    def _encoding(self) -> tuple[AdEncoding, dict[str, np.ndarray]] | None:
        known = (self.folder / ENCODING_FILE).is_file()
        return self._once("encoding", lambda: AdEncoding.load(self.folder) if known else None)

    @property
    def neighbours(self) -> AdNeighbours | None:
        path = self.folder / NEIGHBOURS_FILE
        return self._once("neighbours", lambda: AdNeighbours.load(path) if path.is_file() else None)

    @property
    def categories(self) -> CategoryVectors:
        return self._once("categories", lambda: CategoryVectors.load(self.folder / CATEGORY_FILE))

    @property
    def embedder(self) -> AdEmbedder:
        """The ads' encoder. Raises ValueError if it cannot be loaded, or is not the one that the codebooks were made
        with."""
        return self._once("embedder", self._load_embedder)

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

    # --- records

    def embed(self, records: Sequence[Mapping[str, Any]], *, refuse: Refuse | None = None) -> EmbeddedAds:
        """The vectors of ads, from their records.

        Args:
            records: One mapping an ad. refuse: Gets what is wrong with a record, which is then left out; default: the
                first bad record is raised.

        Raises:
            AdRecordError: If a record has no `item_id`, the same as another, or a value of another type than the
                catalog's column; lacks what the embedding or the business key needs; names the field.
            ValueError: If the artifact cannot embed ads; says what it lacks.
        """

        def bad(error: AdRecordError) -> None:
            if refuse is None:
                raise error
            refuse(error)

        rows: list[dict[str, Any]] = []
        seen: set[str] = set()
        for place, record in enumerate(records):
            try:
                row = self._row(record, place)
                if row["item_id"] in seen:
                    raise AdRecordError(
                        f"`item_id` {row['item_id']!r:.100} stands twice. Give each ad once.",
                        place=place, item=row["item_id"], field="item_id",
                    )  # fmt: skip
            except AdRecordError as error:
                bad(error)
                continue
            seen.add(row["item_id"])
            rows.append(row)
        content = self._content(rows, bad)
        good = [number for number, vector in enumerate(content) if vector is not None]
        rows = [rows[number] for number in good]
        width = self.encoding.dimension if self.encoding is not None else 0
        joined = np.stack([vector for vector in content if vector is not None]) if rows else np.zeros((0, width))
        vectors = joined.astype(np.float32)
        if self.fusion is not None and len(rows):
            vectors = self.fusion.transform(vectors)
        empty = (vectors == 0).all(axis=1)
        for number in np.flatnonzero(empty).tolist():
            bad(
                AdRecordError(
                    "Its embedding is that of the mean ad, which has no direction: it says nothing of its own.",
                    place=rows[number]["place"], item=rows[number]["item_id"], field="embedding",
                )
            )  # fmt: skip
        rows = [row for row, nothing in zip(rows, empty, strict=True) if not nothing]
        vectors = vectors[~empty]
        hashed = self.quantizer.uses_business_keys
        types = {} if self.encoding is None else self.encoding.columns
        names = list(dict.fromkeys([*types, *(name for row in rows for name in row["columns"])]))
        ranks = [row["priority"] for row in rows]
        return EmbeddedAds(
            [row["item_id"] for row in rows],
            vectors,
            [row["key"] for row in rows] if hashed else None,
            [0.0 if rank is None else rank for rank in ranks] if any(rank is not None for rank in ranks) else None,
            {name: [row["columns"].get(name) for row in rows] for name in names if name != "item_id"},
            [row["place"] for row in rows],
        )

    def _row(self, record: Mapping[str, Any], place: int) -> dict[str, Any]:
        """A checked record: id, columns of their types, embeddings by part, business key and priority."""
        if not isinstance(record, Mapping):
            raise AdRecordError(f"An ad must be a mapping of columns. Received: {record!r:.100}.", place=place)
        item = plain(record.get("item_id"))

        def wrong(name: str, message: str) -> AdRecordError:
            return AdRecordError(message, place=place, item=item, field=name)

        if not isinstance(item, str) or not item:
            raise wrong(
                "item_id",
                f"`item_id` must be a string. Received: {item!r:.100}. Write ids as text, as the catalog has them.",
            )
        encoding = self.encoding
        if encoding is None:  # only what the item table shows can be kept, as it is
            columns = {name: plain(value) for name, value in record.items() if name not in OWN_FIELDS}
        else:
            pictures = encoding.image_column if encoding.columns.get(encoding.image_column or "") == OTHER else None
            columns = typed_row({name: record[name] for name in record if name != pictures}, encoding.columns, place)
            if pictures is not None:  # paths, in the place of the pictures that the catalog held
                columns[pictures] = plain(record.get(pictures))
        priority = plain(record.get("priority"))
        if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int | float)):
            raise wrong("priority", f"`priority` must be one finite number an ad. Received: {priority!r:.100}.")
        try:
            rank = None if priority is None else float(priority)
        except OverflowError:
            rank = float("inf")
        if rank is not None and not np.isfinite(rank):
            raise wrong("priority", f"`priority` must be one finite number an ad. Received: {priority!r:.100}.")
        return {
            "place": place,
            "item_id": item,
            "columns": columns,
            "priority": rank,
            "given": self._given(record.get("embedding"), wrong),
            "key": self._key(record, item, columns, wrong) if self.quantizer.uses_business_keys else None,
        }

    def _key(
        self, record: Mapping[str, Any], item: str, columns: Mapping[str, Any], wrong: Callable[..., AdRecordError]
    ) -> str:
        key, names = record.get("business_key"), self.tokenizer.business_fields
        if key is not None:
            if not isinstance(key, str):
                raise wrong("business_key", f"`business_key` must be a string. Received: {key!r:.100}.")
            return key
        given = {**columns, "item_id": item}
        lacking = [name for name in names if name not in given]
        if lacking or not names:
            or_fields = f", or {lacking[0]!r} among `attributes`" if lacking else ""
            raise wrong(
                lacking[0] if lacking else "business_key",
                f"The last level is hashed and needs a `business_key`{or_fields}. Received: none.",
            )
        return joined_keys([[given[name]] for name in names])[0]

    def _given(self, embedding: Any, wrong: Callable[..., AdRecordError]) -> dict[str, np.ndarray] | np.ndarray | None:
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
            if len(vector) == parts[name] != encoding.dimension:
                return {name: unit_rows(vector[None])[0]}
        if len(vector) == encoding.dimension:
            return vector
        lengths = ", ".join(f"{parts[name]} ({name})" for name in candidates if parts[name] != encoding.dimension)
        raise wrong(
            "embedding",
            f"`embedding` must be of {encoding.dimension} numbers (the whole content)"
            f"{f' or {lengths}' if lengths else ''}. Received: {len(vector)}.",
        )

    # --- vectors

    def _content(
        self, rows: Sequence[dict[str, Any]], bad: Callable[[AdRecordError], None]
    ) -> list[np.ndarray | None]:
        """The content vector of each row; None where there is nothing to make it of, which is told to `bad`."""
        content: list[np.ndarray | None] = [None] * len(rows)
        open_rows = []
        for number, row in enumerate(rows):
            if isinstance(row["given"], np.ndarray):
                content[number] = row["given"]
            elif self.encoding is None:
                bad(AdRecordError(f"{self.missing()}", place=row["place"], item=row["item_id"], field="embedding"))
            else:
                open_rows.append(number)
        dimension = self.fusion.content_mean.shape[0] if self.fusion is not None else None
        width = dimension or (self.quantizer.codebooks[0].shape[1] if self.quantizer.codebooks else None)
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

    # --- codes

    def codes(self, ads: EmbeddedAds, index: SIDIndex) -> np.ndarray:
        """Semantic IDs of ads in an index, int64 (n, T): the nearest centroid of each level, without the cap that
        balances a catalog, and distinct last codes as far as there are free ones.

        An ad that the index serves keeps its SID as long as the quantized levels of its vector stay, so that its
        first choice of a last code is not taken from it by itself.

        Raises:
            ValueError: If a vector holds only zeros, or there are no codebooks.
        """
        quantizer = self.quantizer
        if not len(ads):
            return np.zeros((0, len(quantizer.levels)), dtype=np.int64)
        rows = np.array([index.rows.get(item, -1) for item in ads.item_ids], dtype=np.int64)
        served = (rows >= 0) & index.active[np.maximum(rows, 0)] if len(index) else np.zeros(len(rows), dtype=bool)
        others = index.active.copy()
        kept = np.zeros(len(ads), dtype=bool)
        codes = np.zeros((len(ads), len(quantizer.levels)), dtype=np.int64)
        if served.any():
            places = np.flatnonzero(served)
            wanted = quantizer.encode(ads.vectors[places], [ads.keys[p] for p in places] if ads.keys else None)
            present = index.codes[rows[places]]
            quantized = present.shape[1] - int(quantizer.distinct_last or quantizer.uses_business_keys)
            same = (wanted[:, :quantized] == present[:, :quantized]).all(1)
            kept[places[same]], codes[places[same]] = True, present[same]
            others[rows[places[~same]]] = False
        fresh = np.flatnonzero(~kept)
        if len(fresh):
            keys = None if ads.keys is None else [ads.keys[place] for place in fresh]
            codes[fresh] = quantizer.encode(ads.vectors[fresh], keys, taken=index.codes[others])
        return codes

    def peers(self, ads: EmbeddedAds, index: SIDIndex) -> list[list[str]] | None:
        """The 5 active ads of the catalog nearest to each by its vector, nearest first: what its item vector starts
        from, see [`~gr4ad.tokenization.peer_vectors.peer_vectors`]. None for an artifact without these vectors."""
        if self.neighbours is None or not len(ads):
            return None
        active = np.flatnonzero(index.active[: len(self.neighbours.vectors)])
        own = {index.rows[item] for item in ads.item_ids if item in index.rows}
        found = self.neighbours.nearest(ads.vectors, active, PEERS + (1 if own else 0))
        ids = index.item_ids
        return [
            [ids[row] for row in line.tolist() if ids[row] != item][:PEERS]
            for item, line in zip(ads.item_ids, found, strict=True)
        ]


def floats(vector: Any, wrong: Callable[..., AdRecordError]) -> np.ndarray:
    """A list of finite numbers as float32 (d,)."""
    try:
        numbers = np.array(vector, dtype=np.float32)
    except (TypeError, ValueError, OverflowError) as error:
        raise wrong("embedding", f"`embedding` must be a list of floats ({error}).") from error
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise wrong("embedding", f"`embedding` must be finite floats in one list. Received: {vector!r:.100}.")
    return numbers


__all__ = ["AdEncoder", "EmbeddedAds"]
