"""What a preset is: how the files of a public data set become tables with our column names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from ..checking import DataError
from ..file_formats import TextLayout
from ..roles import FileRole

Decode = Callable[["Decoding"], pa.Table]


@dataclass
class Decoding:
    """A table of a public data set on its way to ours.

    Attributes:
        table: its columns under the names of the file; those of delimited text are text.
        role: which table it is.
        file: the name that errors show.
        notes: sentences about what was made of it; filled by the preset.
    """

    table: pa.Table
    role: FileRole
    file: str
    notes: list[str] = field(default_factory=list)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column. Raises DataError, naming those there, if the file lacks it."""
        if name not in self.table.column_names:
            raise DataError(
                f"{self.file}: no column `{name}`, which the preset needs. Columns there are: "
                f"{', '.join(self.table.column_names)}. Give the file as it was published, or leave `preset` out and "
                "map its columns."
            )
        return self.table[name]

    def flags(self, name: str) -> pa.ChunkedArray:
        """A column of 0 and 1 as booleans. Raises DataError for anything else, by its row."""
        column = self.column(name)
        text = column.cast(pa.string())
        flags = pc.if_else(pc.is_in(text, pa.array(["1", "1.0", "true", "True"])), True, None)
        flags = pc.if_else(pc.is_in(text, pa.array(["0", "0.0", "false", "False"])), False, flags)
        if flags.null_count:
            row = int(pc.index(pc.is_null(flags), True).as_py())
            raise DataError(
                f"{self.file}: column `{name}`, row {row} (0-based): received {column[row].as_py()!r}, allowed: 0 or "
                f"1 ({flags.null_count} such rows). Fix the file."
            )
        return flags


@dataclass(frozen=True)
class Preset:
    """How a public data set is read.

    Attributes:
        about: What it is, in a few words.
        sources: Role -> file or pattern of files, relative to `root`, as it was published.
        decode: Role -> the function that makes our table of theirs; of a role that it lacks the table is taken as is.
        layouts: Role -> how its files are laid out, where their first line does not say it.
        theirs: Role -> our column name to the file's, for errors.
        settings: Fields of `DataConfig` that it sets where the recipe does not.
    """

    about: str
    sources: Mapping[FileRole, str]
    decode: Mapping[FileRole, Decode]
    layouts: Mapping[FileRole, TextLayout] = field(default_factory=dict)
    theirs: Mapping[FileRole, Mapping[str, str]] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


def exposures_and_responses(
    columns: Mapping[str, pa.ChunkedArray], responses: Mapping[str, pa.ChunkedArray]
) -> pa.Table:
    """The log of a table in which a row is an exposure with labels: an impression of each row, and an event for each
    label that is set, at the same moment, all of a row together.

    Args:
        columns: (n,) by our names, without `event`.
        responses: name of the event -> booleans (n,).
    """
    table = pa.table(dict(columns))
    row = pa.array(range(table.num_rows), pa.int64())
    parts = [table.append_column("event", pa.repeat("impression", table.num_rows)).append_column("#", row)]
    for event, label in responses.items():
        chosen = table.append_column("#", row).filter(label)
        parts.append(chosen.add_column(table.num_columns, "event", pa.repeat(event, chosen.num_rows)))
    whole = pa.concat_tables(parts)
    order = pc.sort_indices(whole, [("#", "ascending")])
    return whole.take(order).drop_columns(["#"])


def first_of_each(table: pa.Table, key: str) -> pa.Table:
    """The first row of each value of `key`, in the order of the table; rows without one are left out."""
    row = pa.array(range(table.num_rows), pa.int64())
    groups = table.select([key]).append_column("#", row).group_by(key).aggregate([("#", "min")])
    rows = groups.filter(pc.is_valid(groups[key]))["#_min"].combine_chunks()
    return table.take(rows.take(pc.sort_indices(rows)))
