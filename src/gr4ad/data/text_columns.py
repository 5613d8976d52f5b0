"""Columns of text as what they stand for: numbers, lists, moments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, shown

SEQUENCE_TEXT = "_text"
"""Beside a `token_seq` column `x` of a RecBole file stands `x_text`, its tokens as one text."""


@dataclass
class NumberFacts:
    """What the cells of a column of text, or of a part of it, are: all whole numbers; the first that is no number, by
    its row (0-based, of the file) and text, or None."""

    whole: bool = True
    bad: tuple[int, str] | None = None

    @classmethod
    def of(cls, column: pa.ChunkedArray, first_row: int = 0) -> NumberFacts:
        """Of a column of text that begins at `first_row` of its file."""
        trimmed = without_blanks(column)
        for kind in (pa.int64(), pa.float64()):
            try:
                trimmed.cast(kind)
                return cls(kind == pa.int64())
            except pa.ArrowInvalid:
                continue
        row = next(row for row, text in enumerate(trimmed.to_pylist()) if text is not None and not _is_number(text))
        return cls(False, (first_row + row, column[row].as_py()))

    def __add__(self, later: NumberFacts) -> NumberFacts:
        return NumberFacts(self.whole and later.whole, self.bad or later.bad)

    def check(self, name: str, file: str) -> None:
        """Raises DataError for a cell that is no number, by its row."""
        if self.bad is not None:
            raise DataError(
                f"{file}: column `{name}`, row {self.bad[0]} (0-based): received {shown(self.bad[1])}, allowed: a "
                "number such as 12.5, or nothing. Fix the file, or read the column as text (take it out of "
                "`number_columns`)."
            )


def numbers_of(column: pa.ChunkedArray, name: str, file: str, facts: NumberFacts | None = None) -> pa.ChunkedArray:
    """A column of text as numbers: whole if all are, else floating; null where blank.

    Args:
        facts: of the whole column, where this is a part of it.

    Raises:
        DataError: a cell that is no number, by its row.
    """
    if facts is not None:
        return without_blanks(column).cast(pa.int64() if facts.whole else pa.float64())
    trimmed = without_blanks(column)
    for kind in (pa.int64(), pa.float64()):
        try:
            return trimmed.cast(kind)
        except pa.ArrowInvalid:
            continue
    NumberFacts.of(column).check(name, file)
    raise AssertionError("a column of numbers that is none")


def without_blanks(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text without spaces around its cells, null where nothing is left."""
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(trimmed, ""), pa.scalar(None, trimmed.type), trimmed)


def moments_of(column: pa.ChunkedArray, name: str, file: str, pattern: str) -> pa.ChunkedArray:
    """A column of text as moments (microseconds, no zone), null where blank.

    Args:
        pattern: of `strptime`, e.g. %m/%d/%Y %I:%M:%S %p; ISO: any ISO 8601 form, those with a zone taken to UTC.

    Raises:
        DataError: a cell of another form, by its row.
    """
    import pandas as pd

    text = without_blanks(column)
    cells = text.to_pandas()
    parsed = pd.to_datetime(cells, errors="coerce", format="ISO8601" if pattern == "ISO" else pattern, utc=True)
    bad = parsed.isna() & cells.notna()
    if bad.any():
        row = int(bad.to_numpy().argmax())
        example = "2019-11-24 09:30:00" if pattern == "ISO" else pattern
        raise DataError(
            f"{file}: column `{name}`, row {row} (0-based): received {shown(cells.iloc[row])}, allowed: a time of the "
            f"form {example} ({int(bad.sum())} such rows). Fix the file."
        )
    micro = pa.array(parsed.dt.tz_localize(None).astype("datetime64[us]"), pa.timestamp("us"), from_pandas=True)
    return pa.chunked_array([micro])


def typed_columns(table: pa.Table, file: str, facts: Mapping[str, NumberFacts] | None = None) -> pa.Table:
    """A table whose names are `name:type` as RecBole writes them, under the names alone.

    `token` is text, `float` a number, `token_seq` a list of text (split at spaces) with `name_text` beside it,
    `float_seq` a list of numbers.

    Args:
        facts: of `float` columns of the whole file, where this is a part of it.

    Raises:
        DataError: a name without one of these types, a cell that is no number where one is meant.
    """
    columns: dict[str, pa.ChunkedArray] = {}
    for raw in table.column_names:
        name, _, kind = raw.rpartition(":")
        column = table[raw]
        if kind == "float":
            columns[name] = numbers_of(column, name, file, (facts or {}).get(name))
        elif kind == "token":
            columns[name] = column
        elif kind in ("token_seq", "float_seq"):
            text = without_blanks(column)
            parts = pc.utf8_split_whitespace(text)
            if kind == "token_seq":
                columns[name] = parts
                columns.setdefault(name + SEQUENCE_TEXT, text)
            else:
                numbers = numbers_of(pa.chunked_array(pc.list_flatten(parts)), name, file).cast(pa.float64())
                lengths = pc.fill_null(pc.list_value_length(parts), 0).to_numpy()
                columns[name] = _lists(numbers, lengths)
        else:
            raise DataError(
                f"{file}: column `{raw}` says no type. Allowed: name:token, name:token_seq, name:float or "
                "name:float_seq, as RecBole's atomic files have. Write it so, or give the file the suffix .tsv."
            )
    return pa.table(list(columns.values()), names=list(columns))


def _lists(values: pa.ChunkedArray, lengths: np.ndarray) -> pa.ChunkedArray:
    offsets = pa.array(np.r_[0, np.cumsum(lengths)], pa.int32())
    return pa.chunked_array([pa.ListArray.from_arrays(offsets, values.combine_chunks())])


def _is_number(text: str) -> bool:
    try:
        pa.array([text]).cast(pa.float64())
    except pa.ArrowInvalid:
        return False
    return True
