"""Times of any unit on one integer clock: the unit is set or told by magnitude, and bounds are read alike."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .checking import DataError, shown
from .columns import as_numbers, as_text, decoded, is_text, nulls

MICROSECONDS = 1_000_000
PER_MICROSECOND = {"ms": 1_000, "us": 1}
"""Microseconds of a unit that is not finer than they are."""

# A log of a unit has its median at or above the first number, no row below the second and none at or above the third:
# seconds of 1985 and 1973, milliseconds, microseconds and nanoseconds of 1973. Smaller numbers are a clock of the
# log's own (steps, seconds since its start).
MAGNITUDES = (("ns", 1e17, 1e17, np.inf), ("us", 1e14, 1e14, 1e17), ("ms", 1e11, 1e11, 1e14), ("s", 5e8, 1e8, 1e11))
DATE_DIGITS = (8, 12, 14, 17)
"""Digits of YYYYMMDD, YYYYMMDDhhmm, with seconds, and with milliseconds: none is mistaken for another unit. With
`time_unit: date` also YYYYMMDDhh."""
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
    """

    values: np.ndarray
    bad: np.ndarray
    mixed: np.ndarray
    is_date: bool
    unit: str
    given: bool = False

    @property
    def allowed(self) -> str:
        """What a row of the column may hold, for errors."""
        if self.unit == "iso":
            return f"{ISO_DATE}, of the same kind in all rows"
        return "a whole number, of the same kind in all rows" + (f" ({NAMES[self.unit]})" if self.unit else "")


def read_clock(column: pa.ChunkedArray, unit: str = "auto") -> Clock:
    """Times on one integer clock. Dates without a zone are taken as UTC.

    Args:
        column: dates, numbers, or text of either kind.
        unit: of numbers, one of `TIME_UNITS`; `""` for numbers that are no times, such as positions.
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
            bad |= _magnitude(pc.fill_null(column.cast(pa.int64()), 0).to_numpy()) > 2.0**63 / scale - 1
        return Clock(np.where(bad, 0, micro), bad, np.zeros(len(column), bool), True, "iso")
    whole, fractions, bad = _numbers(column)
    # Of a text column the commoner kind counts as meant, so that an error names the odd row and not the good ones.
    if is_text(kind) and 2 * (~bad | (fractions != 0)).sum() < len(column) - column.null_count:
        return _read_dates(column)
    if unit == "":
        bad = bad | (fractions != 0)
        return Clock(np.where(bad, 0, whole), bad, np.zeros(len(whole), bool), False, "")
    return _with_unit(whole, fractions, bad, unit)


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
                f"are no times since 1970 ({_ends(clock)}). Give a whole number of that column's unit; if these are "
                "times, name their unit in `time_unit`."
            ) from None
        return micro if clock.is_date else micro // MICROSECONDS
    if clock.unit == "":
        return number
    own = "s" if clock.unit == "iso" else clock.unit
    unit = own if clock.given else (unit_of(np.array([number])) or own)
    value = _with_unit(np.array([number]), np.zeros(1), np.zeros(1, bool), unit)
    if value.bad[0]:
        raise DataError(
            f"`{name}` is not of the unit {NAMES[unit]}. Received: {shown(bound)}. Write e.g. 20171105 or 2017-11-05."
        )
    micro = int(value.values[0]) * (1 if value.is_date else MICROSECONDS)
    return micro if clock.is_date else micro // MICROSECONDS


def unit_of(numbers: np.ndarray) -> str:
    """The unit of times since 1970 by their magnitude (int64 (n,), n >= 1), `date` for numbers that read as dates; ""
    where they are no such times."""
    middle = np.partition(_magnitude(numbers), len(numbers) // 2)[len(numbers) // 2]
    if any(_first_date(digits) <= middle < _last_date(digits) for digits in DATE_DIGITS):
        if 2 * _date_microseconds(numbers, DATE_DIGITS)[1].sum() > len(numbers):
            return "date"
    return next((unit for unit, least, _, _ in MAGNITUDES if middle >= least), "")


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


def _ends(clock: Clock) -> str:
    good = clock.values[~(clock.bad | clock.mixed)]
    return f"{good.min()} to {good.max()}" if len(good) else "none"


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
    are exact up to 64 bits, in text too; of floating-point numbers above 2**53 nothing more is known than they say."""
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
        try:
            read = pc.if_else(pc.match_substring_regex(text, r"^(-?\d{1,18}|\d{19})$"), text, None).cast(pa.int64())
            exact = ~nulls(read)
            values = pc.fill_null(read, 0).to_numpy()
        except pa.ArrowInvalid:
            pass  # a number beyond 64 bits: all are read below, as far as floating point goes
        if exact.all():
            return values, np.zeros(len(values)), ~exact
    numbers = as_numbers(column)
    bad = ~np.isfinite(numbers) | (np.abs(numbers) >= 2.0**63)
    numbers = np.where(bad, 0, numbers)
    whole = np.floor(numbers)
    return np.where(exact, values, whole.astype(np.int64)), np.where(exact, 0, numbers - whole), bad & ~exact


def _with_unit(whole: np.ndarray, fractions: np.ndarray, bad: np.ndarray, unit: str) -> Clock:
    good = ~bad
    given = unit != "auto"
    if not given:
        unit = unit_of(whole[good]) if good.any() else ""
    mixed = np.zeros(len(whole), bool)
    if unit == "date":
        micro, dated = _date_microseconds(whole, (*DATE_DIGITS, 10) if given else DATE_DIGITS)
        wrong = good & (~dated | (fractions != 0))
        bad, mixed = (bad | wrong, mixed) if given else (bad, wrong)
        return Clock(np.where(bad | mixed, 0, micro), bad, mixed, True, unit, given)
    if not given:
        least, most = next(((low, high) for name, _, low, high in MAGNITUDES if name == unit), (0, 1e11))
        magnitude = _magnitude(whole)
        mixed = good & ((magnitude < least) | (magnitude >= most))
    fractional = (fractions != 0) & good & ~mixed
    if unit == "" or (unit == "s" and not fractional.any()):
        bad = bad | fractional
        return Clock(np.where(bad | mixed, 0, whole), bad, mixed, False, unit, given)
    if unit == "ns":
        micro = whole // 1000
    else:
        scale = PER_MICROSECOND.get(unit, MICROSECONDS)
        beyond = good & (_magnitude(whole) > 2.0**63 / scale - 1)
        bad = bad | beyond
        micro = np.where(beyond, 0, whole) * scale + np.rint(fractions * scale).astype(np.int64)
    return Clock(np.where(bad | mixed, 0, micro), bad, mixed, True, unit, given)


def _magnitude(numbers: np.ndarray) -> np.ndarray:
    return np.abs(numbers.astype(np.float64))


def _first_date(digits: int) -> int:
    return 1900 * 10 ** (digits - 4)


def _last_date(digits: int) -> int:
    return 2101 * 10 ** (digits - 4)


def _date_microseconds(numbers: np.ndarray, digits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Microseconds since 1970 UTC of numbers such as 20231115 or 20231115093000 (int64 (n,)), and which of them read
    as dates of the years 1900 to 2100."""
    padded = np.zeros(len(numbers), np.int64)  # as YYYYMMDDhhmmssmmm
    dated = np.zeros(len(numbers), bool)
    for count in digits:
        here = (numbers >= _first_date(count)) & (numbers < _last_date(count))
        padded[here], dated[here] = numbers[here] * 10 ** (17 - count), True
    rest, milli = np.divmod(padded, 1000)
    rest, second = np.divmod(rest, 100)
    rest, minute = np.divmod(rest, 100)
    rest, hour = np.divmod(rest, 100)
    rest, day = np.divmod(rest, 100)
    year, month = np.divmod(rest, 100)
    dated &= (month >= 1) & (month <= 12) & (hour < 24) & (minute < 60) & (second < 60)
    months = np.where(dated, (year - 1970) * 12 + month - 1, 0).astype("datetime64[M]")
    first = months.astype("datetime64[D]")
    dated &= (day >= 1) & (day <= ((months + 1).astype("datetime64[D]") - first).astype(np.int64))
    days = first.astype(np.int64) + day - 1
    micro = (((days * 24 + hour) * 60 + minute) * 60 + second) * MICROSECONDS + milli * 1000
    return np.where(dated, micro, 0), dated
