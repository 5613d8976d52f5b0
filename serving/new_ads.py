# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Ads that come as records, without codes: they become an [`IndexChange`] once the index they go into is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gr4ad.tokenization import SIDIndex
from gr4ad.tokenization.ad_encoder import AdEncoder, EmbeddedAds
from gr4ad.tokenization.ad_records import AdRecordError, shown

from .index_change import MAX_ADS, IndexChange


@dataclass(frozen=True)
class AdRecords:
    """Records of ads to add, see [`AdEncoder`]; of ads that are served already, what is to be served instead.

    Raises:
        ValueError: If there are none, or more than 10,000.
    """

    records: Sequence[Mapping[str, Any]]

    def __post_init__(self) -> None:
        if not 1 <= len(self.records) <= MAX_ADS:
            raise ValueError(
                f"A change must hold 1..{MAX_ADS} ads. Received: {len(self.records)}. Split a larger one into several."
            )

    def embedded(self, encoder: AdEncoder) -> NewAds:
        """Raises ValueError: as `AdEncoder.embed`, for the first record that is no ad."""
        return NewAds(encoder, encoder.embed(self.records))


@dataclass(frozen=True)
class NewAds:
    """Embedded ads, with the encoder that knows their codes."""

    encoder: AdEncoder
    ads: EmbeddedAds

    def only(self, place: int) -> NewAds:
        """One of them."""
        return NewAds(self.encoder, self.ads.take([place]))

    def resolved(self, index: SIDIndex) -> IndexChange:
        """The change that adds them to an index. Raises ValueError: as [`IndexChange`] and `AdEncoder.codes`."""
        codes = self.encoder.codes(self.ads, index).tolist()
        columns = {name: [shown(value) for value in values] for name, values in self.ads.columns.items()}
        if self.encoder.encoding is not None:  # else the index says which of them it lacks
            columns = {name: values for name, values in columns.items() if name in index.columns}
        peers = self.encoder.peers(self.ads, index)
        return IndexChange("add", list(self.ads.item_ids), codes, self.ads.priority, columns or None, peers)


def embed_leniently(
    encoder: AdEncoder, records: Sequence[Mapping[str, Any]]
) -> tuple[list[NewAds], list[AdRecordError]]:
    """Records in changes of at most 10,000 ads, and what is wrong with those that are left out. An ad that comes twice
    counts once, as its first record says, within each 10,000."""
    changes: list[NewAds] = []
    refused: list[AdRecordError] = []
    for start in range(0, len(records), MAX_ADS):
        ads = encoder.embed(records[start : start + MAX_ADS], refuse=partial(moved, start, refused))
        ads.places = [start + place for place in ads.places]
        if len(ads):
            changes.append(NewAds(encoder, ads))
    return changes, refused


def moved(start: int, refused: list[AdRecordError], error: AdRecordError) -> None:
    """Keeps an error with its record's place among all."""
    error.place += start
    refused.append(error)
