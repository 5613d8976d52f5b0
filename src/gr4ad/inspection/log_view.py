"""A log's sample as arrays: who, what, when, of which kind, worth how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from gr4ad.data.event_columns import EVENT_NAMES
from gr4ad.inspection.layout import Layout

IMPRESSION, CLICK, CONVERSION = range(len(EVENT_NAMES))
FEW_HISTORIES = 0.1
MERGE_SECONDS = 1800


@dataclass
class LogView:
    """Rows of a log, n of them, as sampled.

    Attributes:
        user, item: (n,) int64 codes, -1 where blank; those of `item` are rows of the catalog's distinct keys, -1 also
            where the catalog has none.
        seconds: (n,) float64, seconds since 1970 UTC or positions; NaN where blank, 0 in a log without a clock.
        kind: (n,) int8, rows of `EVENT_NAMES`, -1 where the kind is none of them.
        value: (n,) float64, NaN where blank or no number; None of a log without values.
        repeated: (n,) bool, rows that stand in the sample before, the same in every column.
        history: (h,) int64, good rows that make up histories, sorted by user and time: each once, and a click and its
            conversion as one.
        merged: Clicks that became one event with their conversion.

    Of refunds, negative conversions, `history` holds what a run will hold: none where they are netted, all where they
    are worth nothing but stay.
    """

    user: np.ndarray
    item: np.ndarray
    seconds: np.ndarray
    kind: np.ndarray
    value: np.ndarray | None
    repeated: np.ndarray
    history: np.ndarray
    merged: int = 0

    @property
    def starts(self) -> np.ndarray:
        """(users,) int64: where each user's run of `history` begins."""
        users = self.user[self.history]
        return np.flatnonzero(np.r_[True, users[1:] != users[:-1]]) if len(users) else np.zeros(0, np.int64)

    @property
    def covered_refunds(self) -> float:
        """Share of the negative rows with a purchase, of the same user and item, that they could take back."""
        assert self.value is not None
        pair = self.user * (int(self.item.max()) + 2) + self.item
        return float(np.isin(pair[self.value < 0], pair[self.value > 0]).mean())

    @property
    def refunds_are_netted(self) -> bool:
        """Whether a run takes refunds off their purchases; else they stay in histories, worth nothing."""
        if self.value is None or not (self.value < 0).any():
            return False
        return bool((self.kind[self.value < 0] == CONVERSION).all()) and self.covered_refunds > 0.5

    @property
    def lengths(self) -> np.ndarray:
        """(users,) int64: events of each user with any."""
        return np.diff(np.r_[self.starts, len(self.history)])


def view_of(layout: Layout) -> LogView:
    """The log as arrays. Views that a layout has as impressions become clicks there where next to no user has
    anything else: what a shop's visitors looked at is then all that histories can be made of."""
    log = layout.columns[layout.events]
    user, item = log[layout.user], log[layout.item]
    seconds = log[layout.clock].seconds if layout.clock is not None else np.zeros(user.rows)
    view = LogView(
        user=_codes(user.text),
        item=_places(item.text, layout.key_column.unique),
        seconds=seconds,
        kind=_kinds(layout),
        value=None if layout.value is None else log[layout.value].numbers,
        repeated=_repeated(layout),
        history=np.zeros(0, np.int64),
    )
    _make_history(view, layout.is_timed)
    views = [name for name, kind in layout.event_names.items() if kind == "impression" and name not in layout.told]
    if views and layout.request is None and _few_histories(view):
        layout.event_names |= dict.fromkeys(views, "click")
        layout.remarks.append(
            f"next to no user has more than `{', '.join(views)}` rows: these are read as clicks, since histories are "
            "made of clicks and conversions"
        )
        view.kind = _kinds(layout)
        _make_history(view, layout.is_timed)
    return view


def _make_history(view: LogView, is_timed: bool) -> None:
    good = (view.kind > IMPRESSION) & (view.user >= 0) & (view.item >= 0) & np.isfinite(view.seconds) & ~view.repeated
    if view.value is not None and view.refunds_are_netted:
        good &= ~(view.value < 0)  # what a refund takes back is no event
    rows = np.flatnonzero(good)
    view.merged = 0
    if is_timed:
        order = rows[np.lexsort((view.kind[rows], view.seconds[rows], view.item[rows], view.user[rows]))]
        merged = order[_beside_conversion(view, order)]
        view.merged = len(merged)
        good[merged] = False
        rows = np.flatnonzero(good)
    view.history = rows[np.lexsort((view.seconds[rows], view.user[rows]))]


def _beside_conversion(view: LogView, order: np.ndarray) -> np.ndarray:
    """Places in `order`, rows sorted by user, item and time, of the clicks at most MERGE_SECONDS before or after a
    conversion of their user and item, which a run makes one event with it."""
    user, item, seconds = view.user[order], view.item[order], view.seconds[order]
    clicks, sold = np.flatnonzero(view.kind[order] == CLICK), np.flatnonzero(view.kind[order] == CONVERSION)
    after = np.searchsorted(sold, clicks)
    merged = np.zeros(len(clicks), dtype=bool)
    for beside, there in ((after, after < len(sold)), (after - 1, after > 0)):
        one, other = clicks[there], sold[beside[there]]
        same = (user[one] == user[other]) & (item[one] == item[other])
        merged[there] |= same & (np.abs(seconds[one] - seconds[other]) <= MERGE_SECONDS)
    return clicks[merged]


def _few_histories(view: LogView) -> bool:
    users = len(np.unique(view.user[view.user >= 0]))
    return int((view.lengths >= 3).sum()) < FEW_HISTORIES * users


def _codes(text: object) -> np.ndarray:
    encoded = text.dictionary_encode()  # type: ignore[attr-defined]
    return pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _places(text: object, keys: object) -> np.ndarray:
    return pc.fill_null(pc.index_in(text, value_set=keys), -1).to_numpy(zero_copy_only=False).astype(np.int64)


def _kinds(layout: Layout) -> np.ndarray:
    if layout.event is None:
        return np.full(layout.of_log(layout.user).rows, CONVERSION, dtype=np.int8)
    encoded = layout.of_log(layout.event).text.dictionary_encode()
    ours = [EVENT_NAMES.index(layout.event_names[name]) if name in layout.event_names else -1
            for name in encoded.dictionary.to_pylist()]  # fmt: skip
    codes = pc.fill_null(encoded.indices, -1).to_numpy(zero_copy_only=False)
    return np.array([*ours, -1], dtype=np.int8)[codes]


def _repeated(layout: Layout) -> np.ndarray:
    import pandas as pd

    columns = [column for column in layout.columns[layout.events].values() if not column.is_nested]
    codes = {column.name: _codes(column.text) for column in columns}
    return pd.DataFrame(codes).duplicated().to_numpy()
