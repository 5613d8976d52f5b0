# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The one path from the record of an ad to its semantic ID, by what the artifact stores of how its ads were made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .ad_content import AdContents
from .ad_encoding import FILES, FOLDERS, AdEncoding
from .ad_neighbours import NEIGHBOURS_FILE, AdNeighbours
from .ad_records import AdRecordError, joined_keys, plain, whole_text
from .embedding_fusion import FUSION_FILE, EmbeddingFusion
from .mgmr_quantizer import CODEBOOKS_FILE, MGMRQuantizer
from .sid_index import SIDIndex
from .tokenization_ua_sid import UASIDTokenizer

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
        self.folder, self.tokenizer = Path(folder), tokenizer
        self.contents = AdContents(folder, device)

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

    @property
    def quantizer(self) -> MGMRQuantizer:
        """Raises ValueError if the artifact has no codebooks."""

        def make() -> MGMRQuantizer:
            path = self.tokenizer.codebooks_file
            if path is None:
                raise ValueError(f"{self.folder}: lacks {CODEBOOKS_FILE}, which give new ads codes. Send `codes`.")
            return MGMRQuantizer.load(path, self.tokenizer.codebook_sizes)

        return self.contents.once("quantizer", make)

    @property
    def fusion(self) -> EmbeddingFusion | None:
        path = self.folder / FUSION_FILE
        return self.contents.once("fusion", lambda: EmbeddingFusion.load(path) if path.is_file() else None)

    @property
    def width(self) -> int | None:
        """Of a content vector, as fusion and codebooks take it."""
        if self.fusion is not None:
            return len(self.fusion.content_mean)
        return self.quantizer.codebooks[0].shape[1] if self.quantizer.codebooks else None

    @property
    def neighbours(self) -> AdNeighbours | None:
        path = self.folder / NEIGHBOURS_FILE
        return self.contents.once("neighbours", lambda: AdNeighbours.load(path) if path.is_file() else None)

    @property
    def encoding(self) -> AdEncoding | None:
        """How the ads were embedded; None for an artifact that does not say it."""
        return self.contents.encoding

    def missing(self) -> str | None:
        """Why ads cannot be embedded from their attributes here; None if they can."""
        return self.contents.missing()

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
        content = self.contents.read(rows, self.width, bad)
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
        for name, text in (("item_id", item), ("business_key", record.get("business_key"))):
            try:
                if isinstance(text, str):
                    whole_text(text, name)
            except ValueError as error:
                raise wrong(name, str(error)) from None
        columns = self.contents.columns(record, place)
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
            "given": self.contents.given(record.get("embedding"), wrong),
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


__all__ = ["AdEncoder", "EmbeddedAds"]
