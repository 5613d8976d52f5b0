"""Whether a log is held in memory or in parts on disk while it is prepared, by how much memory there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from .checking import DataError
from .config import MOST_PARTITIONS, DataConfig
from .file_formats import TableFile, known_suffix, table_file
from .reading import source_files
from .roles import FileRole

BYTES_PER_ROW = 300
"""Memory that a row of a log takes while it is prepared, about (`benchmarks/results/data_reading.json`), of which 50
are room for long ids."""
UNPACKED = 6
"""Bytes of text in a byte of a packed file, about."""


@dataclass(frozen=True)
class Held:
    """How the log is held.

    Attributes:
        partitions: parts of users on disk; 0: in memory. why: in a few words.
    """

    partitions: int
    why: str

    def told(self) -> dict[str, Any]:
        """As JSON values."""
        return {"user_partitions": self.partitions, "why": self.why}


def how_held(config: DataConfig) -> Held:
    """What `user_partitions` says, or for `auto` what the files and the free memory suggest.

    Raises:
        DataError: parts are asked for where a preset decodes the log as a whole.
    """
    asked = config.user_partitions
    if asked == 0:
        return Held(0, "`user_partitions` says so")
    if config.preset is not None:
        if asked != "auto":
            raise DataError(
                f"`user_partitions` is {asked}, but `preset: {config.preset}` decodes its log as a whole. Allowed: 0 "
                "or auto. Leave it out, or write the log as a table of our columns."
            )
        return Held(0, "a preset decodes its log as a whole")
    if asked != "auto":
        assert isinstance(asked, int)
        return Held(asked, "`user_partitions` says so")
    free = free_bytes()
    needed = BYTES_PER_ROW * max((estimated_rows(config, role) for role in ("events", "cross_domain")), default=0)
    if free is None or needed <= free / 2:
        return Held(0, "it fits into half of the free memory")
    return Held(min(MOST_PARTITIONS, ceil(needed / (free / 4))), "it does not fit into half of the free memory")


def estimated_rows(config: DataConfig, role: FileRole) -> int:
    """About how many rows the local files of a table have, 0 where they cannot be read, of which the reader tells."""
    source = config.sources().get(role)
    if source is None:
        return 0
    rows = 0
    for path in source_files(source, config.root):
        try:
            if path.is_file() and known_suffix(path):
                rows += _rows_of(table_file(path, role))
        except (DataError, OSError, ValueError):
            continue
    return rows


def _rows_of(file: TableFile) -> int:
    import pyarrow.parquet as pq

    if file.format == "parquet" and file.codec is None:
        return pq.read_metadata(file.path).num_rows
    size = file.path.stat().st_size * (1 if file.codec is None else UNPACKED)
    if file.format == "parquet":
        return size // 8
    with file.open() as stream:
        sample = stream.read(1 << 16)
    return size * max(1, sample.count(b"\n")) // max(1, len(sample))


def free_bytes() -> int | None:
    """Memory that is free for this process: of the machine, and below the limit of its control group; None where
    neither is known."""
    found = []
    try:
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                found.append(int(line.split()[1]) * 1024)
    except OSError:
        try:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
        except (AttributeError, OSError, ValueError):
            pass
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="utf-8").strip()
        if limit != "max":
            found.append(int(limit) - int((group / "memory.current").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        pass
    return max(0, min(found)) if found else None
