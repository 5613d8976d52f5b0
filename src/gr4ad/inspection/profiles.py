"""What a column holds: ids, numbers, times and of which unit, words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gr4ad.data.clocks import DATE_DIGITS, MICROSECONDS, read_clock
from gr4ad.data.columns import whole
from gr4ad.inspection.names import is_id_name

LOOKED_AT = 20_000
UNITS = {"date": 0.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
"""Unit of a column of numbers that are times -> seconds of one; `date` are numbers such as 20171105."""
SECOND_RANGE = (3e8, 5e9)  # 1979 to 2128: narrow, for ids are numbers too
LIKE_ISO = re.compile(r"^\s*\d{4}[-/]\d\d?[-/]\d\d?")
OTHER_DATE = re.compile(r"^\s*\d{1,2}[./-]\d{1,2}[./-]\d{2,4}(\s|$)")
DECIMAL_COMMA = re.compile(r"^\s*-?\d{1,3}(\.?\d{3})*,\d+\s*$")


@dataclass
class Column:
    """A column of a sample.

    Attributes:
        name: In the file. values: As read. rows: Of the sample.
    """

    name: str
    values: pa.ChunkedArray
    rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.rows = len(self.values)

    @cached_property
    def is_list(self) -> bool:
        return pa.types.is_list(self.values.type) or pa.types.is_large_list(self.values.type)

    @cached_property
    def is_nested(self) -> bool:
        return pa.types.is_nested(self.values.type)

    @cached_property
    def text(self) -> pa.Array:
        """(rows,) text, null where the cell is blank; whole numbers that stand as 7.0 in a typed file are 7."""
        kind, column = self.values.type, self.values
        if self.is_nested:
            return pa.array([None if cell is None else str(cell) for cell in column.to_pylist()], pa.string())
        if pa.types.is_dictionary(kind):
            column = column.cast(kind.value_type)
        if pa.types.is_floating(kind):
            try:
                column = pc.if_else(pc.is_nan(column), None, column).cast(pa.int64())
            except pa.ArrowInvalid:
                pass
        text = pc.utf8_trim_whitespace(whole(column.cast(pa.large_string())))
        return pc.if_else(pc.equal(pc.utf8_length(text), 0), None, text)

    @cached_property
    def unique(self) -> pa.Array:
        """Its distinct values, without blank ones, as text."""
        return self.text.unique().drop_null()

    @cached_property
    def distinct(self) -> int:
        return len(self.unique)

    @cached_property
    def blank(self) -> np.ndarray:
        """(rows,) bool."""
        return self.text.is_null().to_numpy(zero_copy_only=False)

    @property
    def filled(self) -> int:
        return self.rows - self.text.null_count

    @cached_property
    def is_key(self) -> bool:
        """Nearly every row has a value of its own: what names the rows of a table, but for a few that stand twice."""
        twice = self.filled - self.distinct
        few = 10 * twice <= self.filled or twice <= 3
        return self.filled >= 0.9 * self.rows and (self.distinct > 1 or self.rows == 1) and few

    @property
    def is_unique(self) -> bool:
        """Each row has a value of its own: numbers of events, not of their users or items."""
        return self.distinct >= 0.98 * self.filled

    @cached_property
    def is_typed_time(self) -> bool:
        return pa.types.is_temporal(self.values.type)

    @cached_property
    def numbers(self) -> np.ndarray:
        """(rows,) float64, NaN where a cell is blank or no number."""
        import pandas as pd

        kind = self.values.type
        if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            return self.values.cast(pa.float64(), safe=False).to_numpy()
        if self.is_typed_time or self.is_nested or pa.types.is_boolean(kind):
            return np.full(self.rows, np.nan)
        # Each distinct text is read once.
        encoded = self.text.dictionary_encode()
        values = pd.to_numeric(encoded.dictionary.to_pandas().astype(object), errors="coerce").to_numpy(np.float64)
        codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
        return np.r_[values, np.nan][codes]

    @cached_property
    def number_share(self) -> float:
        """Share of the filled cells that are numbers."""
        return float(np.isfinite(self.numbers).sum() / max(1, self.filled))

    @property
    def is_number(self) -> bool:
        return self.number_share >= 0.95

    @cached_property
    def is_whole(self) -> bool:
        numbers = self.numbers[np.isfinite(self.numbers)]
        return self.is_number and bool((numbers == np.floor(numbers)).all())

    @cached_property
    def seen(self) -> list[str]:
        """Some of its distinct values, evenly spaced."""
        step = max(1, self.distinct // LOOKED_AT)
        return self.unique[::step].to_pylist()[:LOOKED_AT]

    def share(self, pattern: re.Pattern[str]) -> float:
        """Share of the distinct values that match."""
        return sum(bool(pattern.search(value)) for value in self.seen) / max(1, len(self.seen))

    @cached_property
    def has_decimal_commas(self) -> bool:
        return not self.is_number and self.share(DECIMAL_COMMA) > 0.5

    @cached_property
    def time_unit(self) -> str | None:
        """`iso` (dates, or text that is read as such), one of `UNITS`, `unreadable` (dates of another form), or None:
        no times. Of a mixture the unit that most of the numbers have; numbers that are ids by their name are none."""
        if self.is_typed_time:
            return None if pa.types.is_time(self.values.type) or pa.types.is_duration(self.values.type) else "iso"
        if self.is_number:
            units = {} if is_id_name(self.name) else self.unit_shares
            unit = max(units, key=lambda name: units[name], default=None)
            return unit if unit is not None and (units[unit] > 0.5 or sum(units.values()) > 0.9) else None
        if self.is_nested or not self.seen:
            return None
        if self.share(OTHER_DATE) > 0.9:
            return "unreadable"
        if self.share(LIKE_ISO) < 0.5:
            return None
        return (
            "iso" if np.isfinite(_seconds(pa.chunked_array([self.unique[:LOOKED_AT]]), "auto")).mean() > 0.9 else None
        )

    @cached_property
    def unit_shares(self) -> dict[str, float]:
        """Unit -> share of the numbers that are times of it, by magnitude."""
        numbers = self.numbers[np.isfinite(self.numbers)]
        shares = {}
        for unit, seconds in UNITS.items():
            fits = np.zeros(len(numbers), dtype=bool)
            if seconds:
                fits = (numbers * seconds >= SECOND_RANGE[0]) & (numbers * seconds < SECOND_RANGE[1])
            for digits in DATE_DIGITS if unit == "date" else ():
                year, rest = np.divmod(numbers, 10.0 ** (digits - 4))
                month, day = np.divmod(rest // 10.0 ** (digits - 8), 100)
                fits |= (year >= 1970) & (year <= 2100) & (month >= 1) & (month <= 12) & (day >= 1) & (day <= 31)
            if fits.any():
                shares[unit] = float(fits.mean())
        return shares

    @cached_property
    def seconds(self) -> np.ndarray:
        """(rows,) float64, NaN where there is none: seconds since 1970 UTC of a column of times; of a column without
        a unit the numbers themselves."""
        if self.time_unit is None:
            return self.numbers
        if self.is_typed_time:
            return _seconds(self.values, "auto")
        encoded = self.text.dictionary_encode()
        distinct = pa.chunked_array([encoded.dictionary])
        if self.time_unit == "unreadable":
            values = _any_seconds(distinct)
        else:
            values = _seconds(distinct, "auto" if self.time_unit == "iso" else self.time_unit)
        if UNITS.get(self.time_unit):  # of a mixture of units, what is of this one
            values = np.where((values >= SECOND_RANGE[0]) & (values < SECOND_RANGE[1]), values, np.nan)
        return np.r_[values, np.nan][pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)]

    @cached_property
    def mean_length(self) -> float:
        return float(np.mean([len(value) for value in self.seen])) if self.seen else 0.0

    @cached_property
    def has_words(self) -> bool:
        """Most values have letters, and are not one opaque token each."""
        letters = sum(bool(re.search(r"[^\W\d_]{2}", value)) for value in self.seen) / max(1, len(self.seen))
        return not self.is_number and not self.is_list and self.time_unit is None and letters > 0.5

    @cached_property
    def has_spaces(self) -> bool:
        return sum(" " in value for value in self.seen) > 0.3 * len(self.seen)

    @cached_property
    def is_id(self) -> bool:
        """Could be ids: whole numbers or short texts without blanks, and no times."""
        if self.is_nested or self.is_typed_time or self.distinct < 1 or pa.types.is_boolean(self.values.type):
            return False
        if self.is_number:
            return self.is_whole and self.time_unit is None
        return self.mean_length <= 64 and self.time_unit is None and not self.has_decimal_commas


def _seconds(column: pa.ChunkedArray, unit: str) -> np.ndarray:
    """As a run reads them."""
    clock = read_clock(column, unit)
    seconds = clock.values / MICROSECONDS if clock.is_date else clock.values.astype(np.float64)
    return np.where(clock.bad | clock.mixed, np.nan, seconds)


def _any_seconds(column: pa.ChunkedArray) -> np.ndarray:
    """Dates of other forms, day first: to measure with, not what a run reads."""
    import pandas as pd

    dates = pd.to_datetime(column.to_pandas(), errors="coerce", utc=True, dayfirst=True, format="mixed")
    naive = dates.dt.tz_localize(None).to_numpy().astype("datetime64[us]")
    return np.where(np.isnat(naive), np.nan, naive.astype(np.int64) / MICROSECONDS)


def columns_of(table: pa.Table) -> dict[str, Column]:
    """The columns of a sample by name."""
    return {name: Column(name, table[name]) for name in table.column_names}
