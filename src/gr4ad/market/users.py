"""Users of the market: features, activity, and interests whose path over time is a function of the seed."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from . import draws
from .ads import CATEGORIES, DIMENSION, VERTICALS
from .config import MarketConfig

AGE_BANDS = ("18-23", "24-30", "31-40", "41-50", "51-60", "60+")
REGIONS = ("north", "northeast", "east", "central", "south", "southwest", "northwest", "overseas")
DEVICES = ("ios_premium", "ios_basic", "android_premium", "android_mid", "android_entry", "tablet")

_SHIFT = 7  # seeds the planted drift apart from the draws that a market without one makes


@dataclass(frozen=True)
class Users:
    """All users (U of them), row i being `user_id` "user_%06d" of i; D days, M interests, C categories.

    Attributes:
        age, region, device: int (U,), indices into `AGE_BANDS`, `REGIONS`, `DEVICES`.
        activity: float64 (U,), mean requests per day.
        spending: float32 (U,), log of the user's conversion rate over the mean; half explained by the features.
        taste: float32 (U, DIMENSION), lasting taste within categories.
        slot_category: int16 (D, U, M), categories of interest on each day.
        slot_weight: float32 (D, U, M), their weights, sum 1 over M.
    """

    config: MarketConfig
    category_vectors: np.ndarray
    age: np.ndarray
    region: np.ndarray
    device: np.ndarray
    activity: np.ndarray
    spending: np.ndarray
    taste: np.ndarray
    slot_category: np.ndarray
    slot_weight: np.ndarray

    @cached_property
    def user_ids(self) -> np.ndarray:
        """User ids, object array of str (U,)."""
        return np.array([f"user_{number:06d}" for number in range(len(self.age))], dtype=object)

    def table(self) -> pd.DataFrame:
        """The users: user_id, age_band, region, device (all str)."""
        return pd.DataFrame(
            {
                "user_id": self.user_ids,
                "age_band": np.array(AGE_BANDS, dtype=object)[self.age],
                "region": np.array(REGIONS, dtype=object)[self.region],
                "device": np.array(DEVICES, dtype=object)[self.device],
            }
        )

    def day(self, time: np.ndarray) -> np.ndarray:
        """Day of the market, int (B,), for Unix seconds (B,). Raises ValueError for a time before the log or beyond
        `horizon_days` after it."""
        days = (time - self.config.start_time) // 86_400
        last = self.config.days + self.config.horizon_days
        if len(days) and (days.min() < 0 or days.max() >= last):
            start = self.config.start_time
            raise ValueError(
                f"`time` should lie in [{start}, {start + last * 86_400}) Unix seconds. Received: {time.min()} to "
                f"{time.max()}. Raise `horizon_days` to ask for later times."
            )
        return days

    def intent(self, users: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Category of the session's intent, int (B,), of users (B,) at times (B,)."""
        day = self.day(time)
        window = (time - self.config.start_time) // self.config.session_seconds
        draw = draws.uniform(self.config.seed, draws.INTENT, (users, window))
        slot = (draw[:, None] > np.cumsum(self.slot_weight[day, users], axis=1)[:, :-1]).sum(axis=1)
        return self.slot_category[day, users, slot]

    def vectors(self, users: np.ndarray, time: np.ndarray) -> np.ndarray:
        """True state of users (B,) at times (B,): float32 (B, DIMENSION), to be multiplied with ad vectors."""
        day = self.day(time)
        centres = self.category_vectors[self.slot_category[day, users]]
        lasting = np.einsum("bm,bmd->bd", self.slot_weight[day, users], centres)
        session = self.category_vectors[self.intent(users, time)]
        return (1 - self.config.intent) * lasting + np.float32(self.config.intent) * session + self.taste[users]


def make_users(config: MarketConfig, category_vectors: np.ndarray, seed: np.random.SeedSequence) -> Users:
    """Draws the users of a market: features, then interests given features, then the path of the interests."""
    feature_seed, path_seed = seed.spawn(2)
    rng = np.random.default_rng(feature_seed)
    count = config.users
    age = rng.choice(len(AGE_BANDS), size=count, p=[0.2, 0.26, 0.24, 0.14, 0.1, 0.06])
    region = rng.choice(len(REGIONS), size=count, p=[0.15, 0.08, 0.25, 0.15, 0.18, 0.1, 0.06, 0.03])
    device = rng.choice(len(DEVICES), size=count, p=[0.15, 0.12, 0.18, 0.3, 0.18, 0.07])

    preference = rng.normal(0.0, 0.5, size=len(CATEGORIES))[None, :]
    for values, names, strength in ((age, AGE_BANDS, 1.0), (region, REGIONS, 0.4), (device, DEVICES, 0.6)):
        of_vertical = rng.normal(0.0, strength, size=(len(names), len(VERTICALS)))
        of_category = rng.normal(0.0, strength, size=(len(names), len(CATEGORIES)))
        effect = of_vertical[:, [number for number, _ in CATEGORIES]] + of_category
        preference = preference + effect[values]

    spending = np.zeros(count)
    for values, names in ((age, AGE_BANDS), (region, REGIONS), (device, DEVICES)):
        spending += rng.normal(0.0, 0.25, size=len(names))[values]
    spending += rng.normal(0.0, 0.4, size=count)

    slot_category, slot_weight = _paths(config, preference, np.random.default_rng(path_seed))
    if config.shift_share:
        _shift(config, slot_category, np.random.default_rng((config.seed, _SHIFT)))
    sigma = config.activity_sigma
    return Users(
        config=config,
        category_vectors=category_vectors,
        age=age,
        region=region,
        device=device,
        activity=config.requests_per_user_day * rng.lognormal(-(sigma**2) / 2, sigma, size=count),
        spending=(spending - spending.mean()).astype(np.float32),
        taste=rng.normal(0.0, 0.5 / np.sqrt(DIMENSION), size=(count, DIMENSION)).astype(np.float32),
        slot_category=slot_category,
        slot_weight=slot_weight,
    )


def _paths(config: MarketConfig, preference: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    days, (count, categories) = config.days + config.horizon_days, preference.shape
    ranked = np.argsort(-(preference + rng.gumbel(size=preference.shape)), axis=1, kind="stable")
    slots = ranked[:, : config.interests].astype(np.int16)
    logits = rng.normal(0.0, 0.8, size=slots.shape)
    cumulative = np.cumsum(_softmax(preference), axis=1)
    slot_category = np.empty((days, *slots.shape), dtype=np.int16)
    slot_weight = np.empty((days, *slots.shape), dtype=np.float32)
    for day in range(days):
        slot_category[day], slot_weight[day] = slots, _softmax(logits)
        # Shrinking keeps the walk stationary, so that a long log does not end with one interest per user.
        logits = logits * (1 - config.drift**2 / 2) + rng.normal(0.0, config.drift, size=slots.shape)
        jumping = np.flatnonzero(rng.random(count) < config.jump_rate)
        which = rng.integers(0, config.interests, size=len(jumping))
        found = (rng.random((len(jumping), 1)) > cumulative[jumping]).sum(axis=1)
        slots = slots.copy()
        slots[jumping, which] = np.minimum(found, categories - 1)
        logits[jumping, which] = rng.normal(1.0, 0.5, size=len(jumping))
    return slot_category, slot_weight


def _shift(config: MarketConfig, slot_category: np.ndarray, rng: np.random.Generator) -> None:
    """Changes the interests (D, U, M) of some users from a day on: a planted drift. All of them follow one permutation
    of the categories, so that who liked one category before says what is liked now; no category stays."""
    count = len(CATEGORIES)
    circle = rng.permutation(count)
    follows = np.empty(count, dtype=slot_category.dtype)
    follows[circle] = np.roll(circle, 1)
    moved = rng.permutation(slot_category.shape[1])[: round(config.shift_share * slot_category.shape[1])]
    slot_category[config.shift_day :, moved] = follows[slot_category[config.shift_day :, moved]]


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
