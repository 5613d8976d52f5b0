"""Sums of floating-point numbers without rounding: the same whatever the order, and those of parts add up."""

from __future__ import annotations

from fractions import Fraction

import numpy as np


def exact_sum(values: np.ndarray) -> Fraction:
    """The sum of finite numbers, float64 (n,); `float` of it is the nearest floating-point number."""
    mantissa, exponent = np.frexp(values)
    whole = np.ldexp(mantissa, 53).astype(np.int64)  # values are whole * 2**(exponent - 53)
    total = Fraction(0)
    for power in np.unique(exponent).tolist():
        part = whole[exponent == power]
        high, low = part >> 32, part & 0xFFFFFFFF  # neither sum passes 64 bits below 2**31 numbers
        total += Fraction((int(high.sum()) << 32) + int(low.sum())) * Fraction(2) ** (power - 53)
    return total
