"""Streams of records that are read from a stored place on: what online learning learns from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

Offset = dict[str, Any]
"""A place in a stream, JSON: all before it was read. What it holds is the stream's own."""


@dataclass(frozen=True)
class Unreadable:
    """In the place of a record that cannot be read as one; counted, and left out."""

    reason: str


Record = dict[str, Any] | Unreadable
MAX_NESTING = 32
"""Lists and objects within each other in a record, at most: a deeper one would break whoever reads or writes it."""


class LostRecordsError(ValueError):
    """Records after the stored place are gone, or new ones stand before it: some would never be read."""


class RecordStream(Protocol):
    """Records in one order that never changes; reading does not consume them.

    Whoever reads stores the offset together with what it made of the records, and so reads each exactly once.
    """

    name: str

    def read(self, after: Offset | None, limit: int) -> tuple[list[Record], Offset | None]:
        """At most `limit` records after a place, `None` = the beginning, and the place after them. Does not wait:
        without new records it returns none and the place it was given.

        Raises:
            LostRecordsError: If records after the place are gone. ConnectionError: If they cannot be reached now.
        """


def json_record(line: bytes | str) -> Record:
    """One JSON object, or why it is none."""
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return Unreadable(f"not JSON ({error}): {line[:100]!r}")
    if is_nested_beyond(record, MAX_NESTING):
        return Unreadable(f"nested more than {MAX_NESTING} deep: {line[:100]!r}")
    return record if isinstance(record, dict) else Unreadable(f"not a JSON object: {line[:100]!r}")


def is_nested_beyond(value: Any, most: int) -> bool:
    """Whether lists and objects stand more than `most` deep in each other."""
    level = [value]
    for _ in range(most + 1):
        level = [part for part in level if isinstance(part, list | dict)]
        if not level:
            return False
        level = list(chain.from_iterable(part.values() if isinstance(part, dict) else part for part in level))
    return True
