"""Ids, times and amounts from columns of any type that a file may have."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError

MICROSECONDS = 1_000_000


def as_ids(column: pa.ChunkedArray, name: str, file: str) -> pa.Array:
    """Ids as text (n,), null where missing or blank. Whole numbers lose nothing: 7 and 7.0 are both "7". Raises
    DataError if the column's type is neither text nor whole numbers."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_floating(kind):
        try:
            # A column of whole numbers with gaps becomes floating in many writers; 7.0 is then the id 7.
            column = pc.if_else(pc.is_nan(column), None, column).cast(pa.int64())
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{file}: column `{name}` has fractions ({error}). Allowed: text or whole numbers. Convert it."
            ) from error
        kind = column.type
    if not (_is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise DataError(f"{file}: column `{name}` is of type {kind}. Allowed: text or whole numbers. Convert it.")
    text = whole(column.cast(pa.string()))
    return pc.if_else(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(text)), 0), None, text)


def as_numbers(column: pa.ChunkedArray) -> np.ndarray:
    """Numbers (n,) float64; NaN where the cell is null, no number, or NaN itself."""
    import pandas as pd

    kind = column.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return column.cast(pa.float64(), safe=False).to_numpy()
    if _is_text(kind):
        return pd.to_numeric(column.to_pandas().astype(object), errors="coerce").to_numpy(dtype=np.float64)
    return np.full(len(column), np.nan)


def as_times(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Times or positions on one integer clock.

    Returns:
        clock (n,) int64, 0 where bad; bad (n,) bool: null, fractional, or no date; is_date: the clock counts
        microseconds since 1970 UTC (dates), not the column's own whole numbers. Dates without a zone are taken as UTC.
    """
    import pandas as pd

    kind = column.type
    if pa.types.is_integer(kind):
        bad = nulls(column)
        return pc.fill_null(column.cast(pa.int64(), safe=False), 0).to_numpy(), bad, False
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        micro = column.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.int64())
        return pc.fill_null(micro, 0).to_numpy(), nulls(column), True
    numbers = as_numbers(column)
    # Of a text column the commoner kind counts as meant, so that an error names the odd row and not the good ones.
    is_text = not (pa.types.is_floating(kind) or pa.types.is_decimal(kind))
    if is_text and 2 * np.isfinite(numbers).sum() < len(numbers) - column.null_count:
        dates = pd.to_datetime(column.to_pandas().astype(object), errors="coerce", utc=True, format="ISO8601")
        bad = dates.isna().to_numpy()
        micro = dates.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
        return np.where(bad, 0, micro), bad, True
    bad = ~np.isfinite(numbers) | (np.abs(numbers) > 2**53)
    numbers = np.where(bad, 0, numbers)
    return numbers.astype(np.int64), bad | (numbers != np.floor(numbers)), False


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


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
