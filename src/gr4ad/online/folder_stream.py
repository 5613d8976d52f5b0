"""A folder of parquet and JSON-lines files as a stream."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from .record_stream import LostRecordsError, Offset, Record, Unreadable, json_record

KINDS = (".parquet", ".jsonl")
MAX_FILE_BYTES = 1 << 30
"""A file is read whole: larger ones are refused."""


class FolderStream:
    """Files of a folder in the order of their names; of each, its rows in theirs.

    A writer gives every file a name that sorts after all before it (`2026-11-25T13-05-00.jsonl`), writes it under a
    name that ends in `.tmp` or begins with a dot, and renames it when it is complete; then it never changes it. Files
    that were read may be removed. A complete file whose name sorts before what was read is refused: it would never
    be.

    Args:
        folder: May be missing until the first file comes.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.name = str(folder)
        self._cached: tuple[str, list[Record]] | None = None

    def files(self) -> list[str]:
        """Names of the complete files, in order."""
        if not self.folder.is_dir():
            return []
        paths = (path for path in self.folder.iterdir() if path.suffix in KINDS and not path.name.startswith("."))
        return sorted(path.name for path in paths)

    def read(self, after: Offset | None, limit: int) -> tuple[list[Record], Offset | None]:
        """As `RecordStream.read`."""
        files = self.files()
        place: Offset = {"file": "", "row": 0, "rows": 0, "earlier": 0} if after is None else dict(after)
        earlier = sum(name < place["file"] for name in files)
        if earlier > place["earlier"]:
            raise LostRecordsError(
                f"{self.folder}: {earlier} complete files sort before {place['file']!r}, which was read last; "
                f"there were {place['earlier']}. Give new files names that sort after all others."
            )
        if place["row"] < place["rows"] and place["file"] not in files:
            raise LostRecordsError(
                f"{self.folder}: {place['file']!r} is gone after {place['row']} of its {place['rows']} records. "
                "Put it back."
            )
        place["earlier"] = earlier
        records: list[Record] = []
        for earlier, name in enumerate(files):
            begun = name == place["file"]
            first = place["row"] if begun else 0
            if name < place["file"] or (begun and first == place["rows"]):
                continue
            if len(records) == limit:
                break
            rows = self._rows(name)
            if begun and len(rows) != place["rows"]:
                raise LostRecordsError(
                    f"{self.folder / name} has {len(rows)} records, and had {place['rows']}: a complete file must not "
                    "change."
                )
            taken = rows[first : first + limit - len(records)]
            records += taken
            place = {"file": name, "row": first + len(taken), "rows": len(rows), "earlier": earlier}
        return records, place if place["file"] else None

    def _rows(self, name: str) -> list[Record]:
        if self._cached is None or self._cached[0] != name:
            path = self.folder / name
            size = path.stat().st_size
            if size > MAX_FILE_BYTES:
                raise ValueError(
                    f"{path} has {size} bytes; a file of a stream may have {MAX_FILE_BYTES}. Write smaller files."
                )
            self._cached = name, parquet_rows(path) if path.suffix == ".parquet" else json_rows(path)
        return self._cached[1]


def parquet_rows(path: Path) -> list[Record]:
    """Raises ValueError if the file is damaged: the number of its records is not known then."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: not a readable parquet file ({error}). Write it again, or remove it.") from error
    try:
        return table.to_pylist()
    except (ValueError, OverflowError):  # of a value that Python cannot hold; the other records do not pay for it
        return [parquet_row(table.slice(row, 1)) for row in range(len(table))]


def parquet_row(table: pa.Table) -> Record:
    """The record in a table of one row."""
    try:
        return table.to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return Unreadable(f"it holds a value that cannot be read ({error})")


def json_rows(path: Path) -> list[Record]:
    lines = path.read_bytes().split(b"\n")
    return [json_record(line) for line in lines if line.strip()]
