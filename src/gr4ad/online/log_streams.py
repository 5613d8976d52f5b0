"""The streams that a run of online learning reads, each a folder or a Redis stream."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from .folder_stream import FolderStream
from .record_stream import LostRecordsError, Offset, Record, RecordStream
from .redis_stream import RedisStream

logger = logging.getLogger(__name__)


def open_stream(source: str) -> RecordStream:
    """The stream of a folder, or of `redis://HOST:PORT/DB/KEY` (`rediss://`, `unix://` alike). Raises ValueError if a
    URL names no key, ImportError if the package `redis` is missing."""
    return RedisStream(source) if "://" in source else FolderStream(source)


class LogStreams:
    """Streams by name, which are waited for where they cannot be reached: a store that restarts must not end the
    learning.

    Args:
        sources: Name -> folder or URL, see `open_stream`. poll_seconds: Between two tries to reach one.
        stopping: Whether the run is to end, and so to wait no longer.
    """

    def __init__(self, sources: Mapping[str, str], poll_seconds: float, stopping: Callable[[], bool]):
        self.streams = {name: open_stream(source) for name, source in sources.items()}
        self.poll_seconds, self.stopping = poll_seconds, stopping

    def __contains__(self, name: object) -> bool:
        return name in self.streams

    def read(self, name: str, after: Offset | None, limit: int) -> tuple[list[Record], Offset | None]:
        """As `RecordStream.read`. Raises ConnectionError only where the run is to end."""
        told = False
        while True:
            try:
                return self.streams[name].read(after, limit)
            except ConnectionError as error:
                if self.stopping():
                    raise
                if not told:
                    logger.warning("%s Waiting for it.", error)
                told = True
                time.sleep(self.poll_seconds)

    def read_again(self, name: str, after: Offset | None, count: int, until: Offset | None) -> list[Record]:
        """The `count` records between two places that were found there before. Raises ValueError if the stream is not
        among those of this run, LostRecordsError if other records are there now."""
        if name not in self:
            raise ValueError(f"The journal takes records from `{name}`, which is not given. Name the stream again.")
        records, offset = self.read(name, after, count)
        if len(records) != count or offset != until:
            raise LostRecordsError(
                f"{self.streams[name].name}: {count} records up to {until} were to be used again, and {len(records)} "
                f"up to {offset} were found. Restore the stream."
            )
        return records
