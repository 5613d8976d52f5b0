"""Ids and amounts from columns of any type that a file may have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, RowChecks, shown

MAX_ID_LENGTH = 1000
"""Characters of an item id: that of `gr4ad.tokenization.user_history`, whose import takes seconds."""
EXACT = 2**53
"""From here on, neighbouring whole numbers are one floating-point number."""
ROUNDED_TEXT = r"^-?\d\.(\d{5,}[eE]\+?\d\d|\d+[eE]\+?(1[6-9]|[2-9]\d))$"
"""A whole number that was written as a floating-point one: 7.205759406317978e+17, or 1.23457e+06."""
FLOAT_TEXT = r"^-?\d+\.0$"
"""A whole number as text files have it once an empty cell has made its column floating: 1234.0."""
PLAIN_NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
"""A number that arrow reads."""


@dataclass(frozen=True)
class IdFacts:
    """What decides on a column of ids as a whole: cells that read 1234.0, and cells that read otherwise; blank ones
    are neither."""

    floats: bool = False
    others: bool = False

    @classmethod
    def of(cls, texts: pa.Array) -> IdFacts:
        """Of distinct texts; none of a column of another type."""
        if not is_text(texts.type):
            return cls()
        given = texts.filter(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0))
        floats = pc.sum(pc.match_substring_regex(given, FLOAT_TEXT)).as_py() or 0
        return cls(floats > 0, floats < len(given))

    def __or__(self, other: IdFacts) -> IdFacts:
        return IdFacts(self.floats or other.floats, self.others or other.others)

    @property
    def whole(self) -> bool:
        """All ids are whole numbers that a writer made floating."""
        return self.floats and not self.others


def as_ids(column: pa.ChunkedArray, name: str, checks: RowChecks, *, coded: bool = False) -> pa.Array:
    """Ids as text (n,), null where missing or blank. Whole numbers lose nothing: 7 and 7.0 are both "7"; that the file
    has floating-point numbers is noted in `checks.notes`.

    Args:
        name: of the column, ours. checks: of the file; its rows are not judged here.
        coded: a column that the reader has coded (a dictionary) stays so, which saves memory and time.

    Raises:
        DataError: the column's type is neither text nor whole numbers, an item id is longer than any may be, or it
            holds numbers that floating point has rounded: different ids may have become one.
    """
    kind, named = column.type, f"{checks.file}: column {checks.named(name)}"
    if pa.types.is_dictionary(kind):
        if coded and is_text(kind.value_type):
            one = whole(column.unify_dictionaries())
            ids = pa.DictionaryArray.from_arrays(one.indices, one.dictionary.cast(pa.string()))
            ids = _without_fractions(ids, column, name, named, checks)
            return _without_blanks(ids, column, name, named, checks)
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        column = _whole_floats(column, named, checks)
        checks.notes.setdefault("whole_float_ids", []).append(checks.theirs(name))
        kind = column.type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{named} is of type {kind}. Allowed: text or whole numbers. Convert it.")
    text = whole(column.cast(pa.string()))
    if not is_text(kind):
        return text
    # Few ids stand in many rows: each is looked at once.
    found = text.dictionary_encode()
    numbers = _without_fractions(found, column, name, named, checks)
    known = _without_blanks(numbers, column, name, named, checks)
    return text if numbers is found and known.null_count == text.null_count else known.dictionary_decode()


def _without_fractions(
    ids: pa.DictionaryArray, column: pa.ChunkedArray, name: str, named: str, checks: RowChecks
) -> pa.DictionaryArray:
    """Coded ids of which all that are not blank end in `.0`, as whole numbers; other ids as they are. Raises DataError
    for numbers that floating point has rounded."""
    if not (checks.facts.get(("ids", name)) or IdFacts.of(ids.dictionary)).whole:
        return ids
    texts = pc.replace_substring_regex(ids.dictionary, r"\.0$", "")
    large = pc.greater(pc.utf8_length(texts), len(str(EXACT)) - 1)
    lossy = [
        bool(wide and text.strip() and abs(int(text)) >= EXACT)
        for text, wide in zip(texts.to_pylist(), large.to_pylist(), strict=True)
    ]
    _refuse_lossy(named, _rows_of(pa.array(lossy, pa.bool_()), ids), column, checks)
    checks.notes.setdefault("whole_float_ids", []).append(checks.theirs(name))
    return pa.DictionaryArray.from_arrays(ids.indices, texts)


def _rows_of(known: pa.Array, ids: pa.DictionaryArray) -> np.ndarray:
    """Rows of coded ids of which `known` (booleans, by entry of the dictionary) holds."""
    if not pc.any(known).as_py():
        return np.zeros(0, np.int64)
    return np.flatnonzero(pc.fill_null(known.take(ids.indices), False).to_numpy(zero_copy_only=False))


def _without_blanks(
    ids: pa.DictionaryArray, column: pa.ChunkedArray, name: str, named: str, checks: RowChecks
) -> pa.DictionaryArray:
    """Coded ids, null where blank. Raises DataError for those that floating point has rounded, and item ids that are
    too long."""
    rounded = pc.fill_null(pc.match_substring_regex(ids.dictionary, ROUNDED_TEXT), False)
    _refuse_lossy(named, _rows_of(rounded, ids), column, checks)
    too_long = pc.fill_null(pc.greater(pc.utf8_length(ids.dictionary), MAX_ID_LENGTH), False)
    if name == "item_id":
        checks.reject(
            _rows_of(too_long, ids),
            lambda row, count: (
                f"{named}, row {checks.number(row)} (0-based): an id of more than {MAX_ID_LENGTH} characters, which "
                f"no request may name ({count} such rows). Give these items shorter ids."
            ),
        )
    blank = pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(ids.dictionary)), 0), True)
    if not pc.any(blank).as_py():
        return ids
    indices = pc.if_else(pc.fill_null(blank.take(ids.indices), True), None, ids.indices)
    return pa.DictionaryArray.from_arrays(indices, ids.dictionary)


def _whole_floats(column: pa.ChunkedArray, named: str, checks: RowChecks) -> pa.ChunkedArray:
    """Floating-point numbers as whole ones: a column of whole numbers with gaps becomes floating in many writers."""
    numbers = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    known = ~np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        fractions = known & (numbers != np.floor(numbers))
        lossy = known & (np.abs(numbers) >= EXACT)
    _refuse_lossy(named, np.flatnonzero(lossy), column, checks)
    checks.reject(
        np.flatnonzero(fractions),
        lambda row, count: (
            f"{named} has fractions, row {checks.number(row)} (0-based): received {shown(column[row].as_py())} "
            f"({count} such rows). Allowed: text or whole numbers. Convert it."
        ),
    )
    return pa.chunked_array([pa.array(np.where(known, numbers, 0).astype(np.int64), mask=~known)])


def _refuse_lossy(named: str, rows: np.ndarray, column: pa.ChunkedArray, checks: RowChecks) -> None:
    checks.reject(
        rows,
        lambda row, count: (
            f"{named}, row {checks.number(row)} (0-based): received {shown(column[row].as_py())}, an id that was "
            f"rounded to a floating-point number ({count} such rows): different ids have become one. Allowed: text or "
            "whole numbers. Write the column anew as text or int64 (in pandas: Int64); an empty cell makes it "
            "floating."
        ),
    )


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers (n,) float64; NaN where the cell is null, no number, or NaN itself. What a cell is does not depend on
    the others."""
    import pandas as pd

    column = decoded(column)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy()
    if is_text(kind):
        text = as_text(column)
        try:
            # Many times as fast as pandas, where all cells are plain numbers.
            return text.cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            pass
        plain = pc.fill_null(pc.match_substring_regex(text, PLAIN_NUMBER), False)
        numbers = np.full(len(text), np.nan)
        numbers[plain.to_numpy()] = text.filter(plain).cast(pa.float64()).to_numpy()
        others = text.filter(pc.invert(plain)).to_pandas().astype(object)
        numbers[~plain.to_numpy()] = pd.to_numeric(others, errors="coerce").to_numpy(dtype=np.float64)
        return numbers
    return np.full(len(column), np.nan)


def blanks(column: pa.ChunkedArray) -> np.ndarray:
    """(n,) bool: where the cell has no value: null, NaN, or text of spaces."""
    column = decoded(column)
    if is_text(column.type):
        text = as_text(column)
        column = pc.if_else(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0), None, text)
    elif pa.types.is_floating(column.type):
        column = pc.if_else(pc.is_nan(column), None, column)
    return nulls(column)


def nulls(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """(n,) bool: where the cell is null."""
    return column.is_null().to_numpy() if isinstance(column, pa.ChunkedArray) else column.is_null().to_numpy(False)


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as one array; 64-bit offsets when the text of all rows passes 2 GiB."""
    if isinstance(column, pa.Array):
        return column
    if column.type == pa.string() and column.nbytes >= 2**31:
        column = column.cast(pa.large_string())
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def as_text(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of text in a type that arrow's functions of text take."""
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column that is coded (a dictionary, such as a category of pandas) as its values."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def is_text(kind: pa.DataType) -> bool:
    """Whether a column's type is text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
