"""What a column of numbers says on their unit: counts, of which those of several parts of a column add up."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

MICROSECONDS = 1_000_000
# A log of a unit has its median at or above the first number, no row below the second and none at or above the third:
# seconds of 1985 and 1973, milliseconds, microseconds and nanoseconds of 1973. Smaller numbers are a clock of the
# log's own (steps, seconds since its start).
MAGNITUDES = (("ns", 1e17, 1e17, np.inf), ("us", 1e14, 1e14, 1e17), ("ms", 1e11, 1e11, 1e14), ("s", 5e8, 1e8, 1e11))
OWN_NUMBERS = (0.0, 1e11)
DATE_DIGITS = (8, 12, 14, 17)
"""Digits of YYYYMMDD, YYYYMMDDhhmm, with seconds, and with milliseconds: none is mistaken for another unit. With
`time_unit: date` also YYYYMMDDhh."""
DATE_RANGES = [(1900 * 10 ** (digits - 4), 2101 * 10 ** (digits - 4)) for digits in DATE_DIGITS]
BOUNDS = np.unique(
    [float(bound) for row in (*(row[1:] for row in MAGNITUDES), OWN_NUMBERS, *DATE_RANGES) for bound in row]
)
SMALL, LARGE = np.iinfo(np.int64).min, np.iinfo(np.int64).max


@dataclass
class ClockFacts:
    """Counts of the cells of a column, or of a part of it; `+` is those of both.

    Attributes:
        cells: that are not empty. words: of these, that are no number.
        numbers: finite numbers. below: of these, those of a magnitude below each of `BOUNDS`.
        dates: numbers that read as dates, such as 20231115. whole_dates: of these, those without a fraction.
        fractions: numbers with a fraction. second_fractions: of these, those that may be seconds since 1970.
        least, most: the ends of numbers without a fraction. small_least, small_most: of those that may be the log's
            own.
    """

    cells: int = 0
    words: int = 0
    numbers: int = 0
    below: np.ndarray = field(default_factory=lambda: np.zeros(len(BOUNDS), np.int64))
    dates: int = 0
    whole_dates: int = 0
    fractions: int = 0
    second_fractions: int = 0
    least: int = LARGE
    most: int = SMALL
    small_least: int = LARGE
    small_most: int = SMALL

    @classmethod
    def of(
        cls, whole: np.ndarray, fractions: np.ndarray, bad: np.ndarray, empty: np.ndarray | None = None
    ) -> ClockFacts:
        """Of the cells of a column, (n,) each: whole part and fraction of each number, which are no number, which are
        empty."""
        filled = len(bad) if empty is None else int((~empty).sum())
        broken = fractions != 0
        numbers = ~bad
        size = magnitude(whole[numbers])
        place = np.searchsorted(BOUNDS, size, side="right")
        below = np.cumsum(np.bincount(place, minlength=len(BOUNDS) + 1))[:-1]
        found = cls(filled, filled - int((numbers | broken).sum()), len(size), below)
        broken, whole = broken[numbers], whole[numbers]
        maybe = np.logical_or.reduce([(size >= first) & (size < last) for first, last in DATE_RANGES])
        if maybe.any():
            dated = date_microseconds(whole[maybe], DATE_DIGITS)[1]
            found.dates, found.whole_dates = int(dated.sum()), int((dated & ~broken[maybe]).sum())
        if broken.any():
            least, most = range_of("s")
            found.fractions = int(broken.sum())
            found.second_fractions = int((broken & (size >= least) & (size < most)).sum())
        exact = whole[~broken]
        small = exact[size[~broken] < OWN_NUMBERS[1]]
        if len(exact):
            found.least, found.most = int(exact.min()), int(exact.max())
        if len(small):
            found.small_least, found.small_most = int(small.min()), int(small.max())
        return found

    def __add__(self, other: ClockFacts) -> ClockFacts:
        joined = {"least": min, "small_least": min, "most": max, "small_most": max}
        return ClockFacts(
            **{
                name: joined[name](mine, getattr(other, name)) if name in joined else mine + getattr(other, name)
                for name, mine in vars(self).items()
            }
        )

    @property
    def mostly_words(self) -> bool:
        """Most cells are no numbers. Of a text column the commoner kind counts as meant, so that an error names the
        odd row and not the good ones."""
        return 2 * (self.cells - self.words) < self.cells

    @property
    def unit(self) -> str:
        """The unit of times since 1970 by their magnitude, `date` for numbers that read as dates; "" where they are no
        such times, or there are none."""
        if not self.numbers:
            return ""
        if any(self._median_reaches(first) and not self._median_reaches(last) for first, last in DATE_RANGES):
            if 2 * self.dates > self.numbers:
                return "date"
        return next((unit for unit, least, _, _ in MAGNITUDES if self._median_reaches(least)), "")

    @property
    def mixed(self) -> bool:
        """Some numbers are not of the unit of most."""
        if self.unit == "date":
            return self.whole_dates < self.numbers
        least, most = range_of(self.unit)
        return bool(self._below(least) or self._below(most) < self.numbers)

    def has_fractions(self, given: bool) -> bool:
        """Some numbers have a fraction, of those that are seconds; where the unit is `given` all are."""
        return (self.fractions if given else self.second_fractions) > 0

    def ends(self, least: float = 0, most: float = np.inf) -> str:
        """The least and the greatest of the numbers below `most` in magnitude, for errors."""
        low, high = (self.least, self.most) if most == np.inf else (self.small_least, self.small_most)
        return f"{low} to {high}" if low <= high else "none"

    def _below(self, bound: float) -> int:
        return int(self.below[np.searchsorted(BOUNDS, bound)])

    def _median_reaches(self, bound: float) -> bool:
        return self._below(bound) <= self.numbers // 2


def range_of(unit: str) -> tuple[float, float]:
    """The magnitudes that numbers of a unit found by magnitude have."""
    return next(((low, high) for name, _, low, high in MAGNITUDES if name == unit), OWN_NUMBERS)


def magnitude(numbers: np.ndarray) -> np.ndarray:
    """Absolute values, float64 (n,)."""
    return np.abs(numbers.astype(np.float64))


def _first_date(digits: int) -> int:
    return 1900 * 10 ** (digits - 4)


def _last_date(digits: int) -> int:
    return 2101 * 10 ** (digits - 4)


def date_microseconds(numbers: np.ndarray, digits: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
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
