"""Records of the catalog stream as changes of the index, and the published changes as the trainer follows them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gr4ad.serving import IndexChange, PublishedModel
from gr4ad.tokenization import MGMRQuantizer, SIDIndex, UASIDTokenizer
from gr4ad.tokenization.embedding_fusion import FUSION_FILE, EmbeddingFusion
from gr4ad.trainers.continual import RecordError

from .record_stream import Record, Unreadable

logger = logging.getLogger(__name__)

FIELDS = frozenset({"item_id", "codes", "embedding", "business_key", "priority", "attributes", "remove"})


class CatalogChanges:
    """Turns catalog records into index changes, and follows those that are published, of whomever.

    | field | type | meaning |
    |---|---|---|
    | `item_id` | str | the ad |
    | `codes` | list of T ints | its SID, if it was encoded already |
    | `embedding` | list of floats | else its embedding, by the encoder that the artifact was built with |
    | `business_key` | str, *optional* | what a hashed last level hashes |
    | `priority` | float, *optional* | its rank among ads of one SID |
    | `attributes` | object, *optional* | its values of the item table's further columns |
    | `remove` | bool, *optional* | True: the ad is served no more; nothing else is needed |

    Without `business_key` the artifact's `business_fields` are taken from `item_id` and `attributes`. An ad that is
    served already keeps its SID as long as the quantized levels of its embedding stay, and is left
    alone if nothing changes.

    Args:
        tokenizer: Its codebooks encode embeddings. folder: Of the artifact, whose embedding fusion is used if it has
            one.
    """

    def __init__(self, tokenizer: UASIDTokenizer, folder: str | Path):
        self.tokenizer = tokenizer
        self.quantizer: MGMRQuantizer | None = None
        if tokenizer.codebooks_file is not None:
            self.quantizer = MGMRQuantizer.load(tokenizer.codebooks_file, tokenizer.codebook_sizes)
        fusion = Path(folder) / FUSION_FILE
        self.fusion = EmbeddingFusion.load(fusion) if fusion.is_file() else None

    def change(self, record: Mapping[str, Any], index: SIDIndex) -> IndexChange:
        """The change that brings an ad into an index, or changes or removes it. Raises RecordError, naming the field
        at fault."""
        item = record.get("item_id")
        if not isinstance(item, str):
            raise RecordError(f"`item_id` must be a string. Received: {item!r:.100}.")
        unknown = sorted(set(record) - FIELDS)
        if unknown:
            raise RecordError(f"`{unknown[0]}` is no field of a catalog record. Put columns into `attributes`.")
        priority, attributes = record.get("priority"), record.get("attributes")
        if attributes is not None and not isinstance(attributes, Mapping):
            raise RecordError(f"`attributes` must be an object. Received: {attributes!r:.100}.")
        try:
            if record.get("remove"):
                return IndexChange("remove", [item])
            change = IndexChange(
                "add",
                [item],
                [self._codes(record, item, index)],
                None if priority is None else [priority],
                None if attributes is None else {name: [value] for name, value in attributes.items()},
            )
            self.check_codes(change)
            return change
        except ValueError as error:
            raise RecordError(f"{item!r:.100}: {error}") from error

    def check_codes(self, change: IndexChange) -> None:
        """Raises ValueError for a change, of whoever, with a code beyond its codebook."""
        sizes = self.tokenizer.level_sizes
        for codes in change.codes or ():
            if len(codes) != len(sizes) or any(code >= size for code, size in zip(codes, sizes, strict=True)):
                raise ValueError(f"`codes` must be {len(sizes)} codes below {sizes}. Received: {codes!r:.100}.")

    def followed(self, published: PublishedModel, index: SIDIndex, number: int, last: int | None = None) -> SIDIndex:
        """An index with the changes after `number`, up to `last`; the very index it was given if there are none."""
        for place, change in published.changes_after(number):
            if last is not None and place > last:
                break
            after = index.snapshot()
            try:
                self.check_codes(change)
                change.apply_to(after)
            except ValueError as error:
                logger.error("Index change %d does not fit the index and is left out: %s", place, error)
                continue
            index = after
        return index

    def append(
        self,
        published: PublishedModel,
        records: Sequence[Record],
        index: SIDIndex,
        refuse: Callable[[ValueError], None],
    ) -> int:
        """Appends the changes that records make of an index which all changes are in, but for those that stand
        already: appended before this process was killed, or by another one. Returns how many records were refused,
        and says why to `refuse`."""
        refused = 0
        for record in records:
            try:
                change = self.change(readable(record), index)
                after = index.snapshot()
                change.apply_to(after)
            except ValueError as error:  # also what the index says of a change that does not fit it
                refused += 1
                refuse(error)
                continue
            if after.version != index.version:
                published.append_change(change)
                index = after
        return refused

    def _codes(self, record: Mapping[str, Any], item: str, index: SIDIndex) -> list[int]:
        codes, embedding, quantizer = record.get("codes"), record.get("embedding"), self.quantizer
        if (codes is None) == (embedding is None):
            raise RecordError("A catalog record needs either `codes` or `embedding`. Received: both or none.")
        if codes is not None:
            return codes
        if quantizer is None:
            raise RecordError("`embedding` needs codebooks, which this artifact lacks. Send `codes`.")
        try:
            vectors = np.array([embedding], dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise RecordError(f"`embedding` must be a list of floats ({error}).") from error
        if vectors.ndim != 2 or not np.isfinite(vectors).all():
            raise RecordError(f"`embedding` must be finite floats in one list. Received: {embedding!r:.100}.")
        keys = [self._business_key(record, item)] if quantizer.uses_business_keys else None
        if self.fusion is not None:
            vectors = self.fusion.transform(vectors)
        others = index.active.copy()
        served = item in index.rows and bool(index.active[index.rows[item]])
        if served:
            others[index.rows[item]] = False
        codes = quantizer.encode(vectors, keys, taken=index.codes[others])[0].tolist()
        if served:
            present = index.codes[index.rows[item]].tolist()
            quantized = len(codes) - int(quantizer.distinct_last or quantizer.uses_business_keys)
            if present[:quantized] == codes[:quantized]:
                return present
        return codes

    def _business_key(self, record: Mapping[str, Any], item: str) -> str:
        key, fields = record.get("business_key"), self.tokenizer.business_fields
        if key is None:
            given = {"item_id": item, **(record.get("attributes") or {})}
            lacking = [name for name in fields if name not in given]
            if lacking or not fields:
                or_fields = f", or {lacking[0]!r} among `attributes`" if lacking else ""
                raise RecordError(f"The last level is hashed and needs a `business_key`{or_fields}. Received: none.")
            key = "|".join(str(given[name]) for name in fields)
        if not isinstance(key, str):
            raise RecordError(f"`business_key` must be a string. Received: {key!r:.100}.")
        return key


def readable(record: Record) -> dict[str, Any]:
    """A record that is one. Raises RecordError if it could not be read."""
    if isinstance(record, Unreadable):
        raise RecordError(record.reason)
    return record
