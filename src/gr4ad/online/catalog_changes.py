"""Records of the catalog stream as changes of the index, and the published changes as the trainer follows them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from gr4ad.serving import IndexChange, PublishedModel
from gr4ad.serving.new_ads import NewAds
from gr4ad.tokenization import SIDIndex, UASIDTokenizer
from gr4ad.tokenization.ad_encoder import AdEncoder
from gr4ad.tokenization.ad_records import AdRecordError, plain
from gr4ad.trainers.continual import RecordError

from .record_stream import Record, Unreadable

logger = logging.getLogger(__name__)

FIELDS = frozenset({"item_id", "codes", "embedding", "business_key", "priority", "attributes", "remove"})
BAD_RECORD = (ValueError, TypeError, OverflowError, KeyError, pa.ArrowException)
"""What a record of whatever content raises, at worst; a full disk is an OSError and none of them."""
Refuse = Callable[[Exception, Record], None]


class CatalogChanges:
    """Turns catalog records into index changes, and follows those that are published, of whomever.

    | field | type | meaning |
    |---|---|---|
    | `item_id` | str | the ad |
    | `attributes` | object | its columns of the catalog that the artifact was built on: the artifact embeds them, see [`AdEncoder`] |
    | `codes` | list of T ints, *optional* | its SID, if it was encoded already; then `attributes` are columns of the item table |
    | `embedding` | list of floats or object, *optional* | a precomputed vector in the place of what would be computed |
    | `business_key` | str, *optional* | what a hashed last level hashes; default: the artifact's business fields |
    | `priority` | float, *optional* | its rank among ads of one SID |
    | `remove` | bool, *optional* | True: the ad is served no more; nothing else is needed |

    An ad that is served already keeps its SID as long as the quantized levels of its embedding stay, and is left
    alone if nothing changes.

    Args:
        tokenizer: Its codebooks encode embeddings. folder: Of the artifact, with what embeds new ads.
    """  # noqa: E501

    def __init__(self, tokenizer: UASIDTokenizer, folder: str | Path):
        self.tokenizer = tokenizer
        self.encoder = AdEncoder(folder, tokenizer)

    def change(self, record: Mapping[str, Any], index: SIDIndex) -> IndexChange:
        """The change that brings an ad into an index, or changes or removes it. Raises RecordError, naming the field
        at fault."""
        [found] = self.read([dict(record)])
        if isinstance(found, RecordError):
            raise found
        return self.known(found, index)

    def read(self, records: Sequence[Record]) -> list[IndexChange | NewAds | RecordError]:
        """What each record asks for, or why it asks for nothing; ads without codes are embedded, in one batch."""
        found: list[IndexChange | NewAds | RecordError] = []
        waiting: dict[int, dict[str, Any]] = {}
        for place, record in enumerate(records):
            try:
                change = self._given(readable(record))
            except BAD_RECORD as error:
                found.append(record_error(record, error))
                continue
            found.append(change if isinstance(change, IndexChange) else RecordError("not embedded"))
            if not isinstance(change, IndexChange):
                waiting[place] = change
        # One ad may come twice in a batch, and the later record counts: each id once at a time.
        while waiting:
            batch: dict[str, int] = {}
            for place, row in waiting.items():
                batch.setdefault(str(row["item_id"]), place)
            places = sorted(batch.values())
            self._embed(records, {place: waiting.pop(place) for place in places}, found)
        return found

    def _embed(
        self,
        records: Sequence[Record],
        rows: Mapping[int, dict[str, Any]],
        found: list[IndexChange | NewAds | RecordError],
    ) -> None:
        places = list(rows)

        def refuse(error: AdRecordError) -> None:
            found[places[error.place]] = record_error(records[places[error.place]], error)

        try:
            ads = self.encoder.embed(list(rows.values()), refuse=refuse)
        except BAD_RECORD as error:
            if isinstance(error, ValueError) or len(rows) == 1:  # of the artifact, which can embed none
                for place in places:
                    found[place] = record_error(records[place], error)
                return
            for place, row in rows.items():
                self._embed(records, {place: row}, found)
            return
        for number, place in enumerate(ads.places):
            found[places[place]] = NewAds(self.encoder, ads.take([number]))

    def known(self, change: IndexChange | NewAds, index: SIDIndex) -> IndexChange:
        """The change with its codes. Raises RecordError."""
        try:
            resolved = change.resolved(index)
            self.check_codes(resolved)
            return resolved
        except BAD_RECORD as error:
            item = change.ads.item_ids[0] if isinstance(change, NewAds) else change.item_ids[0]
            raise RecordError(f"{item!r:.100}: {error}") from error

    def _given(self, record: dict[str, Any]) -> IndexChange | dict[str, Any]:
        """The change of a record that needs no encoder; else the record as [`AdEncoder`] takes it."""
        item = record.get("item_id")
        if not isinstance(item, str):
            raise RecordError(f"`item_id` must be a string. Received: {item!r:.100}.")
        unknown = sorted(set(record) - FIELDS)
        if unknown:
            raise RecordError(f"`{unknown[0]}` is no field of a catalog record. Put columns into `attributes`.")
        priority, attributes = record.get("priority"), record.get("attributes")
        codes, embedding = record.get("codes"), record.get("embedding")
        if attributes is not None and not isinstance(attributes, Mapping):
            raise RecordError(f"`attributes` must be an object. Received: {attributes!r:.100}.")
        remove = record.get("remove")
        if remove is not None and not isinstance(remove, bool):
            raise RecordError(f"`remove` must be true or false. Received: {remove!r:.100}.")
        if remove:
            return IndexChange("remove", [item])
        if codes is not None and embedding is not None:
            raise RecordError("A catalog record needs either `codes` or `embedding`. Received: both.")
        if codes is not None:
            values = None if attributes is None else {name: [plain(value)] for name, value in attributes.items()}
            ranks = None if priority is None else [plain(priority)]
            return IndexChange("add", [item], [plain(codes)], ranks, values)
        if embedding is None and (attributes is None or self.encoder.missing() is not None):
            why = self.encoder.missing() or "`attributes` say what is to be embedded."
            raise RecordError(
                f"A catalog record needs either `codes` or `embedding`, or attributes. Received: none. {why}"
            )
        own = {
            "item_id": item,
            "embedding": embedding,
            "business_key": record.get("business_key"),
            "priority": priority,
        }
        twice = next((name for name in own if name in (attributes or {})), None)
        if twice is not None:
            raise RecordError(f"`attributes` names {twice!r}, which has a field of its own. Use that.")
        return {**(attributes or {}), **own}

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
        refuse: Refuse,
    ) -> int:
        """Appends the changes that records make of an index which all changes are in, but for those that stand
        already: appended before this process was killed, or by another one. Returns how many records were refused,
        and says why to `refuse`."""
        refused = 0
        for record, found in zip(records, self.read(records), strict=True):
            try:
                if isinstance(found, RecordError):
                    raise found
                change = self.known(found, index)
                after = index.snapshot()
                change.apply_to(after)
            except BAD_RECORD as error:  # also what the index says of a change that does not fit it
                refused += 1
                refuse(error, record)
                continue
            if after.version != index.version:
                published.append_change(change)
                index = after
        return refused


def record_error(record: Record, error: Exception) -> RecordError:
    """Why a record is left out, with its ad where that is known."""
    item = None if isinstance(record, Unreadable) else record.get("item_id")
    return RecordError(f"{item!r:.100}: {error}" if isinstance(item, str) else str(error))


def readable(record: Record) -> dict[str, Any]:
    """A record that is one. Raises RecordError if it could not be read."""
    if isinstance(record, Unreadable):
        raise RecordError(record.reason)
    return record
