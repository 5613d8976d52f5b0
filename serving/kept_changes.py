# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The net result of the changes that a server made to its ads, to be made again in weights that are loaded later."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .index_change import IndexChange


@dataclass
class KeptAd:
    """added: what its last `add` gave; None if it came with the weights. replaced: what was replaced since. removed:
    whether it was removed last."""

    added: dict[str, Any] | None = None
    replaced: dict[str, Any] = field(default_factory=dict)
    removed: bool = False


class KeptChanges:
    """What changes have made of each ad they named: memory and the time to make them again grow with the ads that
    were ever changed, not with the changes.

    Changes must have been applied, one after the other, before they are kept.
    """

    def __init__(self) -> None:
        self._ads: dict[str, KeptAd] = {}

    def __len__(self) -> int:
        return len(self._ads)

    def new_ads(self, changed: Sequence[Sequence[str]]) -> int:
        """How many of the ads that changes name are not among those kept."""
        return len({item for items in changed for item in items} - self._ads.keys())

    def keep(self, change: IndexChange) -> None:
        for place, item in enumerate(change.item_ids):
            ad = self._ads.setdefault(item, KeptAd())
            given = {
                name: values[place]
                for name, values in (("codes", change.codes), ("priority", change.priority), ("peers", change.peers))
                if values is not None
            }
            attributes = {name: values[place] for name, values in (change.attributes or {}).items()}
            if change.op == "remove":
                ad.removed = True
            elif change.op == "add":
                # Sets all that can be set, whatever there was.
                self._ads[item] = KeptAd(added={**given, "attributes": attributes})
            elif not ad.removed:  # to replace a removed ad leaves it
                ad.replaced |= given
                if attributes:
                    ad.replaced["attributes"] = {**ad.replaced.get("attributes", {}), **attributes}

    def changes(self) -> list[IndexChange]:
        """Changes after which every ad is as it is after those that were kept."""
        changes = []
        for item, ad in self._ads.items():
            if ad.added is not None:
                changes.append(change_of("add", item, ad.added))
            if ad.replaced:
                changes.append(change_of("replace", item, ad.replaced))
            if ad.removed:
                changes.append(IndexChange("remove", [item]))
        return changes


def change_of(op: str, item: str, given: dict[str, Any]) -> IndexChange:
    values: dict[str, Any] = {name: [given[name]] for name in ("codes", "priority", "peers") if name in given}
    attributes = {name: [value] for name, value in given.get("attributes", {}).items()}
    return IndexChange(op, [item], **values, attributes=attributes or None)
