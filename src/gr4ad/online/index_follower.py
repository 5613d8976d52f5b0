"""The published index changes as the trainer meets them: followed in their order, and new ads appended to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from gr4ad.serving import PublishedModel
from gr4ad.tokenization import SIDIndex

from .catalog_changes import CatalogChanges
from .log_streams import readable
from .record_stream import Record

logger = logging.getLogger(__name__)


class IndexFollower:
    """Follows the index changes of a published model as servers do, and appends those of catalog records.

    Args:
        published: Whose changes. catalog: Makes changes of records.
    """

    def __init__(self, published: PublishedModel, catalog: CatalogChanges):
        self.published, self.catalog = published, catalog

    def followed(self, index: SIDIndex, number: int, last: int | None = None) -> SIDIndex:
        """An index with the changes after `number`, up to `last`; the very index it was given if none fits."""
        for place, change in self.published.changes_after(number):
            if last is not None and place > last:
                break
            after = index.snapshot()
            try:
                self.catalog.check_codes(change)
                change.apply_to(after)
            except ValueError as error:
                logger.error("Index change %d does not fit the index and is left out: %s", place, error)
                continue
            index = after
        return index

    def append(
        self, records: Sequence[Record], index: SIDIndex, number: int, refuse: Callable[[str, ValueError], None]
    ) -> int:
        """Appends the changes of catalog records, but for those that stand already: appended before this process was
        killed, or by another one.

        Args:
            index, number: An index that includes the changes up to `number`.
            refuse: Is told the stream, `catalog`, and why one of its records makes no change.

        Returns:
            How many records were refused.
        """
        index, refused = self.followed(index, number), 0
        for record in records:
            try:
                change = self.catalog.change(readable(record), index)
                after = index.snapshot()
                change.apply_to(after)
            except ValueError as error:  # also what the index says of a change that does not fit it
                refused += 1
                refuse("catalog", error)
                continue
            if after.version != index.version:
                self.published.append_change(change)
                index = after
        return refused


__all__ = ["IndexFollower"]
