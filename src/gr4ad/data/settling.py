"""Rows of a log that are one event with another: refunds with their purchase, clicks with their conversion."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from .clocks import MICROSECONDS
from .config import DataConfig
from .event_columns import EVENT_NAMES
from .events import CONVERSION, EventLog
from .exact_sums import exact_sum
from .row_order import joint_keys, stable_order
from .splits import split_bounds

CLICK = EVENT_NAMES.index("click")


@dataclass
class RefundCounts:
    """What became of the rows that are refunds; amounts are > 0, in the log's unit of value, and exact sums.

    Attributes:
        rows: refunds. amount: what they return.
        netted: the amount that was taken off earlier conversions. unmatched: the amount that none covers.
        held_back: the amount that lies in a later part of the split than its conversion, whose value therefore stays:
            training must not see what was returned later.
    """

    rows: int = 0
    amount: Fraction = Fraction(0)
    netted: Fraction = Fraction(0)
    unmatched: Fraction = Fraction(0)
    held_back: Fraction = Fraction(0)

    def __add__(self, other: RefundCounts) -> RefundCounts:
        return RefundCounts(**{name: mine + getattr(other, name) for name, mine in vars(self).items()})

    def facts(self) -> dict[str, float]:
        """As JSON values."""
        return {name: value if name == "rows" else float(value) for name, value in vars(self).items()}


def settle_refunds(log: EventLog, config: DataConfig, file: str) -> tuple[EventLog, RefundCounts]:
    """The log without its refunds, each taken off the same user's earlier conversions of the item, the latest first,
    down to 0.

    Raises:
        DataError: the bounds of the split cannot be read, or are out of order.
    """
    if not log.refund.any():
        return log, RefundCounts()
    part = _parts(log, config, file)
    pair = log.user * (int(log.item.max()) + 1) + log.item
    concerned = np.flatnonzero(np.isin(pair, pair[log.refund]) & (log.event == CONVERSION))
    values = log.value.copy()
    counts = RefundCounts(int(log.refund.sum()), exact_sum(-values[log.refund]))
    bought: dict[int, list[int]] = {}  # rows of conversions with some value left, by user and item
    for row in concerned.tolist():
        stack = bought.setdefault(int(pair[row]), [])
        if not log.refund[row]:
            stack.append(row)
            continue
        left, earlier = -values[row], []
        while left > 0 and stack:
            last = stack.pop()
            if part[last] != part[row]:
                earlier.append(last)
                continue
            taken = min(left, values[last])
            values[last] -= taken
            left -= taken
            counts.netted += Fraction(float(taken))
            if values[last] > 0:
                stack.append(last)
        stack.extend(reversed(earlier))
        covered = float(min(left, sum(values[row] for row in earlier)))
        counts.held_back += Fraction(covered)
        counts.unmatched += Fraction(float(left - covered))
    return log.take(~log.refund, values), counts


def merge_events(log: EventLog, config: DataConfig) -> tuple[EventLog, int]:
    """The log without clicks that are one event with a conversion: of the same user and item, at most
    `merge_seconds` before or after it. The conversion stays as it is. Returns the log and the number of clicks left
    out: none where either kind is not in `history_events`, or the log has positions instead of times.
    """
    both = {"click", "conversion"} <= set(config.history_events)
    if not (config.merge_seconds and both and log.clock_name == "timestamp"):
        return log, 0
    rows = np.flatnonzero(((log.event == CLICK) | (log.event == CONVERSION)) & ~log.refund)
    pair = log.user[rows] * (int(log.item.max(initial=0)) + 1) + log.item[rows]
    (key,) = joint_keys((pair, log.clock[rows]))
    order = stable_order(key)
    rows, pair = rows[order], pair[order]
    clock, sold = log.clock[rows], np.flatnonzero(log.event[rows] == CONVERSION)
    window = config.merge_seconds * (MICROSECONDS if log.clock_is_date else 1)
    clicks = np.flatnonzero(log.event[rows] == CLICK)
    after = np.searchsorted(sold, clicks)
    merged = np.zeros(len(clicks), dtype=bool)
    for beside, there in ((after, after < len(sold)), (after - 1, after > 0)):
        near = sold[beside[there]]
        own = clicks[there]
        merged[there] |= (pair[near] == pair[own]) & (np.abs(clock[near] - clock[own]) <= window)
    keep = np.ones(len(log.user), dtype=bool)
    keep[rows[clicks[merged]]] = False
    return (log.take(keep) if merged.any() else log), int(merged.sum())


def _parts(log: EventLog, config: DataConfig, file: str) -> np.ndarray:
    """(n,) int64: 0 for rows of the training period, 1 of validation, 2 of test, 3 of what comes after."""
    if config.split == "temporal":
        return np.searchsorted(split_bounds(log, config, file), log.cut, side="right")
    wanted = np.isin(log.event, [EVENT_NAMES.index(name) for name in config.history_events]) & ~log.refund
    count = np.cumsum(wanted)  # history events up to and with each row
    total = np.bincount(log.user[wanted], minlength=len(log.user_ids))
    own = count - (np.cumsum(total) - total)[log.user]  # those of the row's own user
    return np.maximum(own - np.maximum(total[log.user] - 2, 0), 0)
