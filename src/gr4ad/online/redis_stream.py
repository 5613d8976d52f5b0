"""A Redis stream as a stream."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit, urlunsplit

from .record_stream import LostRecordsError, Offset, Record, Unreadable, json_record

FIELD = "record"
"""Field of an entry that holds its JSON: `XADD key * record '{...}'`."""
START = "0-0"
TIMEOUT = 10.0  # seconds to connect, and to wait for an answer


class RedisStream:
    """Entries of a Redis stream in the order of their ids, read by XREAD from a stored id on, without consumer groups:
    what was read is known where it was used, and nowhere else.

    Trim the stream by age or length as long as it was read (`metrics.jsonl` says how far); entries that were trimmed
    before are noticed by their number, and refused.

    Args:
        url: `redis://[USER:PASSWORD@]HOST:PORT/DB/KEY`.

    Raises:
        ValueError: If the URL names no database and key. ImportError: If the package `redis` is missing.
    """

    def __init__(self, url: str):
        try:
            import redis
        except ImportError as error:
            raise ImportError(
                "A Redis stream needs the package `redis`: pip install 'gr4ad[redis]'.", name="redis"
            ) from error
        parts = urlsplit(url)
        database, _, key = parts.path.strip("/").partition("/")
        if not key or not database.isdigit():
            raise ValueError(
                f"A Redis stream is named redis://HOST:PORT/DB/KEY. Received: {hidden_password(url)!r}. Add the "
                "number of the database and the stream's key."
            )
        self.unreachable = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
        self.key = key
        self.name = hidden_password(url)
        self.client: Any = redis.Redis.from_url(
            urlunsplit(parts._replace(path=f"/{database}")), socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT
        )

    def read(self, after: Offset | None, limit: int) -> tuple[list[Record], Offset | None]:
        """As `RecordStream.read`. Raises ConnectionError where the server cannot be reached."""
        try:
            return self._read(after, limit)
        except self.unreachable as error:
            raise ConnectionError(f"{self.name} cannot be reached: {error}") from error

    def _read(self, after: Offset | None, limit: int) -> tuple[list[Record], Offset | None]:
        removed, last = self._state()
        place: Offset = {"id": START, "read": removed} if after is None else dict(after)
        if removed > place["read"]:
            raise LostRecordsError(
                f"{self.name}: {removed} entries were removed, but only {place['read']} had been read. The stream "
                "must be trimmed after it was read, not before. To go on without them, start from a new state."
            )
        if before(last, place["id"]):
            raise LostRecordsError(
                f"{self.name}: the last id is {last}, before {place['id']}, which was read. The stream was deleted or "
                "restored from an older copy. Start from a new state."
            )
        if limit < 1:
            return [], after
        answer = self.client.xread({self.key: place["id"]}, count=limit) or []
        entries = answer[0][1] if answer else []
        if not entries:
            return [], after
        records: list[Record] = []
        for number, fields in entries:
            text = fields.get(FIELD.encode())
            records.append(
                Unreadable(f"entry {number.decode()} has no field `{FIELD}`") if text is None else json_record(text)
            )
        return records, {"id": entries[-1][0].decode(), "read": place["read"] + len(entries)}

    def _state(self) -> tuple[int, str]:
        """How many entries were removed so far, and the last id that was given."""
        if not self.client.exists(self.key):
            return 0, START
        info = self.client.xinfo_stream(self.key)
        return info["entries-added"] - info["length"], info["last-generated-id"].decode()


def before(one: str, other: str) -> bool:
    """Whether a stream id comes before another."""
    return tuple(map(int, one.split("-"))) < tuple(map(int, other.split("-")))


def hidden_password(url: str) -> str:
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place))
