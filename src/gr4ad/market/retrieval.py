"""The production retrieval policy of the market: what hands candidates to the auction in the log."""

from dataclasses import dataclass, field

import numpy as np

from .ads import CATEGORIES, Ads
from .config import MarketConfig
from .users import Users

RELEVANT_SHARE, POPULAR_SHARE = 0.6, 0.2
"""Shares of candidates from the user's categories and from popularity; the rest is uniform exploration."""

INTENT_SEEN, RANDOM_CATEGORY = 0.4, 0.15
"""Relevant candidates from the category of the session's intent, and from any category (the noise of the policy)."""


POPULARITY_DECAY = 0.8
"""Clicks of a day count this much less each day later."""


@dataclass
class Retrieval:
    """Draws candidates by three routes: categories of interest, popularity, exploration. Call `refresh` once a day
    first."""

    config: MarketConfig
    ads: Ads
    users: Users
    _active: np.ndarray = field(init=False)
    _cumulative: np.ndarray = field(init=False)
    _category_ends: np.ndarray = field(init=False)

    def refresh(self, day: int, clicks: np.ndarray) -> None:
        """Rebuilds the tables for a day from the (decayed) clicks per ad, float (A,)."""
        active = np.flatnonzero(self.ads.entry_day <= day)
        self._active = active[np.argsort(self.ads.category[active], kind="stable")]
        weights = np.sqrt(2.0 + clicks[self._active])
        self._cumulative = np.concatenate([[0.0], np.cumsum(weights)])
        ends = np.searchsorted(self.ads.category[self._active], np.arange(len(CATEGORIES) + 1))
        self._category_ends = self._cumulative[ends]

    def draw(self, users: np.ndarray, time: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Candidates for users (B,) at times (B,).

        Returns:
            Ads int (B, candidates), and bool (B, candidates), False for repetitions within a row.
        """
        batch, count = len(users), self.config.candidates
        relevant = max(1, round(RELEVANT_SHARE * count))
        popular = round(POPULAR_SHARE * count)
        day = np.maximum(self.users.day(time) - 1, 0)  # The policy knows yesterday's interests only.
        slots, weights = self.users.slot_category[day, users], self.users.slot_weight[day, users]
        chance = rng.random((batch, relevant), dtype=np.float32)
        slot = (chance[:, :, None] > np.cumsum(weights, axis=1)[:, None, :-1]).sum(axis=2)
        category = np.take_along_axis(slots, slot, axis=1).astype(np.int64)
        route = rng.random((batch, relevant), dtype=np.float32)
        intent = np.broadcast_to(self.users.intent(users, time)[:, None], category.shape)
        category = np.where(route < INTENT_SEEN, intent, category)
        category = np.where(
            route > 1 - RANDOM_CATEGORY, rng.integers(0, len(CATEGORIES), size=category.shape), category
        )

        low, high = self._category_ends[category], self._category_ends[category + 1]
        empty = low == high
        total = self._cumulative[-1]
        low, high = np.where(empty, 0.0, low), np.where(empty, total, high)
        points = np.concatenate(
            [low + rng.random(low.shape) * (high - low), total * rng.random((batch, popular))], axis=1
        )
        weighted = np.searchsorted(self._cumulative, points.ravel(), side="right").reshape(points.shape) - 1
        uniform = rng.integers(0, len(self._active), size=(batch, count - relevant - popular))
        rows = np.minimum(np.concatenate([weighted, uniform], axis=1), len(self._active) - 1)
        rows.sort(axis=1)
        first = np.ones(rows.shape, dtype=bool)
        first[:, 1:] = rows[:, 1:] != rows[:, :-1]
        return self._active[rows], first
