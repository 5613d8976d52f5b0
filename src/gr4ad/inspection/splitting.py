"""How a log is best cut into training, validation and test."""

from __future__ import annotations

import datetime
from dataclasses import dataclass

import numpy as np

from gr4ad.inspection.layout import Layout
from gr4ad.inspection.log_view import LogView
from gr4ad.inspection.names import words_of

VALIDATION_FROM, TEST_FROM = 0.82, 0.90  # shares of a log's events
PERIODS = frozenset("week day month period wk woche tag monat semana mes".split())
DAY = 86400


@dataclass(frozen=True)
class Split:
    """A cut of the log.

    Attributes:
        kind: temporal or leave_one_out. reason: Why.
        column: What a temporal split cuts, "" for the log's times. validation, test: Its bounds, as a recipe has them.
        targets: Users with a history and something to predict in the test part.
        cold: Share of the test targets whose item training has not seen.
        seen: Events of training.
    """

    kind: str
    reason: str
    column: str
    validation: int | str | None
    test: int | str | None
    targets: int
    cold: float
    seen: int


def split_of(layout: Layout, view: LogView) -> Split:
    """By time where enough users come back after the cut, else each user's last events."""
    users = len(view.lengths)
    last = _leave_one_out(view)
    if not layout.is_timed or layout.clock is None or layout.of_log(layout.clock).time_unit == "unreadable":
        reason = "the log has positions, no times: each user's last event is test, the one before it validation"
        return Split("leave_one_out", reason, "", None, None, *last)
    name, cut = _cut_column(layout, view)
    bounds = _bounds(cut[view.history], name)
    if bounds is not None:
        validation, test, shown = bounds
        came_back = _users_with(view, cut, validation, test), _users_with(view, cut, test, np.inf)
        enough = min(max(30, 0.15 * users), 1000)
        if min(came_back) >= enough:
            train = cut[view.history] < validation
            reason = (
                f"cut by time, as it will be served: {came_back[1]:,} of {users:,} users have a history and come back "
                f"in the last {1 - TEST_FROM:.0%} of the events"
            )
            known = np.unique(view.item[view.history[train]])
            targets = view.item[view.history[cut[view.history] >= test]]
            cold = float(1 - np.isin(targets, known).mean()) if len(targets) else 0.0
            return Split("temporal", reason, name, *shown, came_back[1], cold, int(train.sum()))
        reason = (
            f"only {min(came_back):,} of {users:,} users come back after a cut by time: each user's last event is "
            "test, the one before it validation"
        )
    else:
        reason = "the log is too short to cut by time: each user's last event is test, the one before it validation"
    return Split("leave_one_out", reason, "", None, None, *last)


def _leave_one_out(view: LogView) -> tuple[int, float, int]:
    starts, lengths = view.starts, view.lengths
    long = lengths >= 3
    held_out = np.zeros(len(view.history), dtype=bool)
    ends = starts + lengths
    held_out[ends - 1] = True
    held_out[np.maximum(ends - 2, starts)] = True
    known = np.unique(view.item[view.history[~held_out]])
    targets = view.item[view.history[ends[long] - 1]]
    cold = float(1 - np.isin(targets, known).mean()) if long.any() else 0.0
    return int((lengths >= 2).sum()), cold, int((~held_out).sum())


def _cut_column(layout: Layout, view: LogView) -> tuple[str, np.ndarray]:
    """A column of whole numbers that count weeks or so, if it goes along with the time; else the times."""
    for column in layout.columns[layout.events].values():
        if column.name == layout.clock or not (PERIODS & set(words_of(column.name))):
            continue
        if column.is_whole and 10 <= column.distinct <= 1000 and column.filled == column.rows:
            periods = column.numbers
            order = np.lexsort((periods, view.seconds))
            if (np.diff(periods[order]) >= 0).all():
                return column.name, periods
    return "", view.seconds


def _bounds(cut: np.ndarray, name: str) -> tuple[float, float, tuple[int | str, int | str]] | None:
    """Where validation and test begin, on the clock and as a recipe says it; None if they cannot be told apart."""
    if len(cut) < 100:
        return None
    ordered = np.sort(cut)
    at = [ordered[int(share * len(ordered))] for share in (VALIDATION_FROM, TEST_FROM)]
    if name:
        # The first period before which the share of the log lies.
        first = [int(value) + (np.searchsorted(ordered, value) / len(ordered) < share - 0.01)
                 for value, share in zip(at, (VALIDATION_FROM, TEST_FROM), strict=True)]  # fmt: skip
        shown: tuple[int | str, int | str] = (int(first[0]), int(first[1]))
    else:
        step = DAY if ordered[-1] - ordered[0] >= 20 * DAY else 3600
        first = [int(value // step * step) for value in at]
        dates = [datetime.datetime.fromtimestamp(value, datetime.UTC) for value in first]
        form = "%Y-%m-%d" if step == DAY else "%Y-%m-%dT%H:%M:%S"
        shown = dates[0].strftime(form), dates[1].strftime(form)
    if not ordered[0] < first[0] < first[1] <= ordered[-1]:
        return None
    return float(first[0]), float(first[1]), shown


def _users_with(view: LogView, cut: np.ndarray, start: float, stop: float) -> int:
    """Users with an event in [start, stop) and one before it."""
    moments, user = cut[view.history], view.user[view.history]
    return len(np.intersect1d(user[moments < start], user[(moments >= start) & (moments < stop)]))
