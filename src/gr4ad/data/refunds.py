"""Negative values: refused, taken as nothing, or taken off the purchase that they return."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from .checking import RowChecks
from .config import DataConfig
from .event_columns import EVENT_NAMES

CONVERSION = EVENT_NAMES.index("conversion")


@dataclass
class RefundCounts:
    """What became of negative values.

    Attributes:
        rows: rows with a negative value. amount: what they return, > 0.
        netted: the amount that was taken off earlier purchases. unmatched: the amount that no earlier purchase covers.
        held_back: the amount that lies in a later part of the split than its purchase, whose value therefore stays.
    """

    rows: int = 0
    amount: float = 0.0
    netted: float = 0.0
    unmatched: float = 0.0
    held_back: float = 0.0


def check_refunds(
    values: np.ndarray, event: np.ndarray, table: pa.Table, checks: RowChecks, config: DataConfig
) -> np.ndarray:
    """Which rows are refunds to be settled later, bool (n,), under `refunds: net`. Refuses negative values that the
    policy does not settle, and sets them to 0 in place under `refunds: zero`."""
