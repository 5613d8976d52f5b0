"""Ids and amounts from columns of any type that a file may have."""

from __future__ import annotations

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
            return _without_blanks(_without_fractions(ids, column, name, named, checks), column, name, named)
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        column = _whole_floats(column, named)
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
    known = _without_blanks(numbers, column, name, named)
    return text if numbers is found and known.null_count == text.null_count else known.dictionary_decode()


def _without_fractions(
    ids: pa.DictionaryArray, column: pa.ChunkedArray, name: str, named: str, checks: RowChecks
) -> pa.DictionaryArray:
    """Coded ids of which all that are not blank end in `.0`, as whole numbers; other ids as they are. Raises DataError
    for numbers that floating point has rounded."""
    given = ids.dictionary.filter(pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(ids.dictionary)), 0))
    if not len(given) or not pc.all(pc.match_substring_regex(given, FLOAT_TEXT)).as_py():
        return ids
    texts = pc.replace_substring_regex(ids.dictionary, r"\.0$", "")
    large = pc.greater(pc.utf8_length(texts), len(str(EXACT)) - 1)
    lossy = [
        bool(wide and abs(int(text)) >= EXACT) for text, wide in zip(texts.to_pylist(), large.to_pylist(), strict=True)
    ]
    if any(lossy):
        raise _lossy(named, pc.fill_null(pa.array(lossy).take(ids.indices), False).to_numpy(False), column)
    checks.notes.setdefault("whole_float_ids", []).append(checks.theirs(name))
    return pa.DictionaryArray.from_arrays(ids.indices, texts)


def _without_blanks(ids: pa.DictionaryArray, column: pa.ChunkedArray, name: str, named: str) -> pa.DictionaryArray:
    """Coded ids, null where blank. Raises DataError for those that floating point has rounded, and item ids that are
    too long."""
    rounded = pc.fill_null(pc.match_substring_regex(ids.dictionary, ROUNDED_TEXT), False)
    if pc.any(rounded).as_py():
        rows = pc.fill_null(rounded.take(ids.indices), False).to_numpy(zero_copy_only=False)
        if rows.any():
            raise _lossy(named, rows, column)
    too_long = pc.fill_null(pc.greater(pc.utf8_length(ids.dictionary), MAX_ID_LENGTH), False)
    if name == "item_id" and pc.any(too_long).as_py():
        rows = pc.fill_null(too_long.take(ids.indices), False).to_numpy(zero_copy_only=False)
        if rows.any():
            raise DataError(
                f"{named}, row {int(rows.argmax())} (0-based): an id of more than {MAX_ID_LENGTH} characters, which "
                f"no request may name ({int(rows.sum())} such rows). Give these items shorter ids."
            )
    blank = pc.fill_null(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(ids.dictionary)), 0), True)
    if not pc.any(blank).as_py():
        return ids
    indices = pc.if_else(pc.fill_null(blank.take(ids.indices), True), None, ids.indices)
    return pa.DictionaryArray.from_arrays(indices, ids.dictionary)


def _whole_floats(column: pa.ChunkedArray, named: str) -> pa.ChunkedArray:
    """Floating-point numbers as whole ones: a column of whole numbers with gaps becomes floating in many writers."""
    numbers = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    known = ~np.isnan(numbers)
    with np.errstate(invalid="ignore"):
        fractions = known & (numbers != np.floor(numbers))
        lossy = known & (np.abs(numbers) >= EXACT)
    if lossy.any():
        raise _lossy(named, lossy, column)
    if fractions.any():
        row = int(fractions.argmax())
        raise DataError(
            f"{named} has fractions, row {row} (0-based): received {shown(column[row].as_py())} "
            f"({int(fractions.sum())} such rows). Allowed: text or whole numbers. Convert it."
        )
    return pa.chunked_array([pa.array(np.where(known, numbers, 0).astype(np.int64), mask=~known)])


def _lossy(named: str, rows: np.ndarray, column: pa.ChunkedArray) -> DataError:
    row = int(rows.argmax())
    return DataError(
        f"{named}, row {row} (0-based): received {shown(column[row].as_py())}, an id that was rounded to a "
        f"floating-point number ({int(rows.sum())} such rows): different ids have become one. Allowed: text or whole "
        "numbers. Write the column anew as text or int64 (in pandas: Int64); an empty cell makes it floating."
    )


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers (n,) float64; NaN where the cell is null, no number, or NaN itself."""
    import pandas as pd

    column = decoded(column)
    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy()
    if is_text(kind):
        try:
            # Many times as fast as pandas, where all cells are plain numbers.
            return as_text(column).cast(pa.float64()).to_numpy()
        except pa.ArrowInvalid:
            pass
        return pd.to_numeric(column.to_pandas().astype(object), errors="coerce").to_numpy(dtype=np.float64)
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
