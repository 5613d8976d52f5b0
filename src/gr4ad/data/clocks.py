"""Times of any unit on one integer clock: the unit is set or told by magnitude, and bounds are read alike.

What a column decides as a whole, such as its unit, follows from counts of its cells (`clock_facts.py`). Those of the
parts of a column add up, so that a log that is read in parts is read as one.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, shown
from .clock_facts import DATE_DIGITS, MICROSECONDS, ClockFacts, date_microseconds, magnitude, range_of
from .columns import as_numbers, as_text, decoded, is_text, nulls

PER_MICROSECOND = {"ms": 1_000, "us": 1}
"""Microseconds of a unit that is not finer than they are."""

ISO_DATE = "an ISO date"
NAMES = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds", "date": "dates as numbers"}


@dataclass
class Clock:
    """A column of times or positions as whole numbers.

    Attributes:
        values: (n,) int64, 0 where bad: microseconds since 1970 UTC if `is_date`, else the column's own whole numbers.
        bad: (n,) bool, missing, no number, no date. mixed: (n,) bool, of another unit than most rows; never bad too.
        is_date: the clock counts microseconds since 1970 UTC.
        unit: `s`, `ms`, `us`, `ns`, `date` of numbers; `iso` of dates as text or as the file's own type; "" of numbers
            that are no times since 1970.
        given: the unit is that of the setting, not found by magnitude.
        ends: of numbers that are no times, the least and the greatest of the whole column, for errors.
    """

    values: np.ndarray
    bad: np.ndarray
    mixed: np.ndarray
    is_date: bool
    unit: str
    given: bool = False
    ends: str = ""

    @property
    def allowed(self) -> str:
        """What a row of the column may hold, for errors."""
        if self.unit == "iso":
            return f"{ISO_DATE}, of the same kind in all rows"
        return "a whole number, of the same kind in all rows" + (f" ({NAMES[self.unit]})" if self.unit else "")


def clock_facts(column: pa.ChunkedArray) -> ClockFacts:
    """What a column of times, or a part of one, has to say on how the whole is read."""
    column = decoded(column)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        return ClockFacts()
    return ClockFacts.of(*_numbers(column), nulls(column))


def read_clock(column: pa.ChunkedArray, unit: str = "auto", facts: ClockFacts | None = None) -> Clock:
    """Times on one integer clock. Dates without a zone are taken as UTC.

    Args:
        column: dates, numbers, or text of either kind.
        unit: of numbers, one of `TIME_UNITS`; `""` for numbers that are no times, such as positions.
        facts: of the whole column, where this is a part of it.
    """
    column = decoded(column)
    kind = column.type
    if pa.types.is_date(kind):
        column = column.cast(pa.timestamp("us"))
        kind = column.type
    if pa.types.is_timestamp(kind):
        micro = pc.fill_null(column.cast(pa.timestamp("us", tz=kind.tz), safe=False).cast(pa.int64()), 0).to_numpy()
        bad, scale = nulls(column), {"s": MICROSECONDS, "ms": 1000}.get(kind.unit, 0)
        if scale:  # nanoseconds that a writer called milliseconds, for one
            bad |= magnitude(pc.fill_null(column.cast(pa.int64()), 0).to_numpy()) > 2.0**63 / scale - 1
        return Clock(np.where(bad, 0, micro), bad, np.zeros(len(column), bool), True, "iso")
    whole, fractions, bad = _numbers(column)
    facts = facts or ClockFacts.of(whole, fractions, bad, nulls(column))
    if is_text(kind) and facts.mostly_words:
        return _read_dates(column)
    if unit == "":
        bad = bad | (fractions != 0)
        return Clock(np.where(bad, 0, whole), bad, np.zeros(len(whole), bool), False, "", ends=facts.ends())
    return _with_unit(whole, fractions, bad, unit, facts)


def read_bound(name: str, bound: int | str, clock: Clock, column: str, file: str) -> int:
    """A bound of a split on the clock of the column that is split, from a number in its unit or an ISO date.

    Raises:
        DataError: it is neither, or a date where the column holds numbers that are no times.
    """
    text = str(bound).strip()
    try:
        number = int(text)
    except ValueError:
        micro = _iso_microseconds(name, bound)
        if clock.unit == "":
            raise DataError(
                f"{file}: `{name}` is a date ({shown(bound)}) but `split_column` ({column}) holds whole numbers that "
                f"are no times since 1970 ({clock.ends}). Give a whole number of that column's unit; if these are "
                "times, name their unit in `time_unit`."
            ) from None
        return micro if clock.is_date else micro // MICROSECONDS
    if clock.unit == "":
        return number
    own = "s" if clock.unit == "iso" else clock.unit
    unit = own if clock.given else (unit_of(np.array([number])) or own)
    one = np.array([number]), np.zeros(1), np.zeros(1, bool)
    value = _with_unit(*one, unit, ClockFacts.of(*one))
    if value.bad[0]:
        raise DataError(
            f"`{name}` is not of the unit {NAMES[unit]}. Received: {shown(bound)}. Write e.g. 20171105 or 2017-11-05."
        )
    micro = int(value.values[0]) * (1 if value.is_date else MICROSECONDS)
    return micro if clock.is_date else micro // MICROSECONDS


def unit_of(numbers: np.ndarray) -> str:
    """The unit of times since 1970 by their magnitude (int64 (n,), n >= 1), `date` for numbers that read as dates; ""
    where they are no such times."""
    return ClockFacts.of(numbers, np.zeros(len(numbers)), np.zeros(len(numbers), bool)).unit


def moment_text(clock: Clock, value: int) -> str:
    """A moment on a clock as a reader takes it: an ISO date (UTC), or the log's own number."""
    if clock.unit == "":
        return str(value)
    micro = int(value) if clock.is_date else int(value) * MICROSECONDS
    try:
        date = datetime.datetime.fromtimestamp(0, datetime.UTC) + datetime.timedelta(microseconds=micro)
    except OverflowError:
        return str(value)
    return date.strftime("%Y-%m-%d %H:%M:%S")


def _iso_microseconds(name: str, bound: int | str) -> int:
    import pandas as pd

    try:
        return pd.to_datetime(str(bound), utc=True, format="ISO8601").value // 1000
    except ValueError as error:
        raise DataError(
            f"`{name}` is no whole number and no ISO date. Received: {shown(bound)}. Write e.g. 45 or 2017-11-05."
        ) from error


def _read_dates(column: pa.ChunkedArray) -> Clock:
    import pandas as pd

    # Shop exports write the zone as a word.
    text = pc.replace_substring_regex(as_text(column), pattern=r"\s*(UTC|GMT)\s*$", replacement="Z")
    dates = pd.to_datetime(text.to_pandas().astype(object), errors="coerce", utc=True, format="ISO8601")
    bad = dates.isna().to_numpy()
    micro = dates.dt.tz_localize(None).to_numpy().astype("datetime64[us]").astype(np.int64)
    return Clock(np.where(bad, 0, micro), bad, np.zeros(len(bad), bool), True, "iso")


def _numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Whole part (int64) and fraction (float64) of each number, and which cells hold none, (n,) each. Whole numbers
    are exact up to 64 bits, in text too; of floating-point numbers above 2**53 nothing more is known than they say.
    What a cell is does not depend on the others."""
    kind, missing = column.type, nulls(column)
    if pa.types.is_integer(kind):
        return pc.fill_null(column.cast(pa.int64(), safe=False), 0).to_numpy(), np.zeros(len(column)), missing
    exact = np.zeros(len(column), bool)
    values = np.zeros(len(column), np.int64)
    if is_text(kind):
        text = as_text(column)
        if not pc.any(pc.match_substring(text, "x", ignore_case=True)).as_py():  # as in 0x1f, which arrow reads
            try:
                plain = text.cast(pa.int64())  # fast, where all cells are plain whole numbers
                return pc.fill_null(plain, 0).to_numpy(), np.zeros(len(text)), missing
            except pa.ArrowInvalid:
                pass
        text = pc.utf8_trim_whitespace(text)
        read = pc.if_else(pc.match_substring_regex(text, r"^-?\d{1,18}$"), text, None).cast(pa.int64())
        exact = ~nulls(read)
        values = np.where(exact, pc.fill_null(read, 0).to_numpy(), 0)
        long = np.flatnonzero(pc.fill_null(pc.match_substring_regex(text, r"^-?\d{19,}$"), False).to_numpy())
        for place, number in zip(long.tolist(), map(int, text.take(pa.array(long)).to_pylist()), strict=True):
            if -(2**63) <= number < 2**63:  # of one beyond 64 bits floating point says what it can
                exact[place], values[place] = True, number
        if exact.all():
            return values, np.zeros(len(values)), ~exact
    numbers = as_numbers(column)
    bad = ~np.isfinite(numbers) | (np.abs(numbers) >= 2.0**63)
    numbers = np.where(bad, 0, numbers)
    whole = np.floor(numbers)
    return np.where(exact, values, whole.astype(np.int64)), np.where(exact, 0, numbers - whole), bad & ~exact


def _with_unit(whole: np.ndarray, fractions: np.ndarray, bad: np.ndarray, unit: str, facts: ClockFacts) -> Clock:
    good = ~bad
    given = unit != "auto"
    if not given:
        unit = facts.unit
    mixed = np.zeros(len(whole), bool)
    if unit == "date":
        micro, dated = date_microseconds(whole, (*DATE_DIGITS, 10) if given else DATE_DIGITS)
        wrong = good & (~dated | (fractions != 0))
        bad, mixed = (bad | wrong, mixed) if given else (bad, wrong)
        return Clock(np.where(bad | mixed, 0, micro), bad, mixed, True, unit, given)
    if not given:
        least, most = range_of(unit)
        size = magnitude(whole)
        mixed = good & ((size < least) | (size >= most))
    fractional = (fractions != 0) & good & ~mixed
    if unit == "" or (unit == "s" and not facts.has_fractions(given)):
        bad = bad | fractional
        ends = "" if unit else facts.ends(*range_of(unit))
        return Clock(np.where(bad | mixed, 0, whole), bad, mixed, False, unit, given, ends)
    if unit == "ns":
        micro = whole // 1000
    else:
        scale = PER_MICROSECOND.get(unit, MICROSECONDS)
        beyond = good & (magnitude(whole) > 2.0**63 / scale - 1)
        bad = bad | beyond
        micro = np.where(beyond, 0, whole) * scale + np.rint(fractions * scale).astype(np.int64)
    return Clock(np.where(bad | mixed, 0, micro), bad, mixed, True, unit, given)
