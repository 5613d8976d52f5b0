"""Ads and advertisers of the market: latent vectors and, from the same structure, text."""

from dataclasses import dataclass
from functools import cached_property
from itertools import product

import numpy as np
import pandas as pd

from .config import MarketConfig
from .vocabulary import VOCABULARY, Category

DIMENSION = 24
VERTICALS = VOCABULARY.verticals
CATEGORIES: tuple[tuple[int, Category], ...] = tuple(
    (number, category) for number, vertical in enumerate(VERTICALS) for category in vertical.categories
)
"""Index of the vertical and category, for every category of the market."""

_CONVERSION_VALUE = {"purchase": (0.6, 1.6), "install": (1.4, 0.7), "form": (0.9, 1.2), "follow": (1.6, 0.6)}
"""Conversion type: conversion rate and value of a conversion, both relative to the mean."""


@dataclass(frozen=True)
class Ads:
    """All ads (A of them) as arrays, row i being `item_id` "ad_%05d" of i; C categories, F accounts.

    Attributes:
        vectors: float32 (A, DIMENSION).
        category_vectors: float32 (C, DIMENSION), the centres around which the ads lie.
        category, account, product, point, audience: int (A,).
        conversion_type: str (A,).
        price: int64 (A,), RMB fen.
        quality: float32 (A,), appeal to all users alike, added to the utility.
        log_cvr: float32 (A,), log of the conversion rate up to the market's level.
        log_bid: float32 (A,), log of the advertiser's value of a conversion up to the market's level.
        entry_day: int (A,), first day of the ad; 0 for ads there from the start.
        account_daily: float64 (F,), daily budget relative to the expected spend of a mean ad.
        account_days: float64 (F,), total budget over the daily budget, days.
    """

    vectors: np.ndarray
    category_vectors: np.ndarray
    category: np.ndarray
    account: np.ndarray
    product: np.ndarray
    point: np.ndarray
    audience: np.ndarray
    conversion_type: np.ndarray
    price: np.ndarray
    quality: np.ndarray
    log_cvr: np.ndarray
    log_bid: np.ndarray
    entry_day: np.ndarray
    account_daily: np.ndarray
    account_days: np.ndarray
    text_seed: np.random.SeedSequence

    @cached_property
    def item_ids(self) -> np.ndarray:
        """Item ids, object array of str (A,)."""
        return np.array([f"ad_{number:05d}" for number in range(len(self.category))], dtype=object)

    def table(self) -> pd.DataFrame:
        """The catalog: item_id, title, description, category, brand, account_id, conversion_type, price (fen)."""
        rng, words = np.random.default_rng(self.text_seed), VOCABULARY
        brands = _brands(len(self.account_daily), rng)
        choices = rng.integers(0, 1 << 30, size=(len(self.category), 3))
        rows = []
        for ad, (title, opening, call) in enumerate(choices):
            number, category = CATEGORIES[self.category[ad]]
            vertical = VERTICALS[number]
            point, benefit = list(vertical.selling_points.items())[self.point[ad]]
            noun, calls = category.products[self.product[ad]], words.calls[self.conversion_type[ad]]
            fields = {
                "brand": brands[self.account[ad]],
                "point": point,
                "product": noun,
                "product_start": noun[0].upper() + noun[1:],
                "purpose": category.purpose,
                "category": category.name,
                "category_lower": category.name.lower(),
                "audience": vertical.audiences[self.audience[ad]],
            }
            text = words.openings[opening % len(words.openings)].format(**fields)
            rows.append(
                (
                    words.titles[title % len(words.titles)].format(**fields),
                    f"{text} {benefit} Made for {fields['audience']}. {calls[call % len(calls)]}",
                    f"{vertical.name} > {category.name}",
                    fields["brand"],
                )
            )
        table = pd.DataFrame(rows, columns=["title", "description", "category", "brand"])
        table.insert(0, "item_id", self.item_ids)
        table["account_id"] = [f"account_{number:04d}" for number in self.account]
        table["conversion_type"] = self.conversion_type
        table["price"] = self.price
        return table


def _brands(count: int, rng: np.random.Generator) -> list[str]:
    parts = (VOCABULARY.brand_starts, VOCABULARY.brand_middles, VOCABULARY.brand_ends)
    names = ["".join(name) for name in product(*parts)]
    order = rng.permutation(len(names))
    rounds = [names[order[number % len(names)]] for number in range(count)]
    return [
        name if number < len(names) else f"{name} {number // len(names) + 1}" for number, name in enumerate(rounds)
    ]


def _directions(rng: np.random.Generator, *shape: int) -> np.ndarray:
    draws = rng.standard_normal((*shape, DIMENSION))
    return draws / np.linalg.norm(draws, axis=-1, keepdims=True)


def make_ads(config: MarketConfig, seed: np.random.SeedSequence) -> Ads:
    """Draws the ads and accounts of a market.

    An ad's vector is its vertical's plus its category's direction, plus smaller ones for product, selling point and
    audience, plus noise: ads that share words lie close. Bids are log-normal in account, vertical and ad.
    """
    structure_seed, text_seed = seed.spawn(2)
    rng = np.random.default_rng(structure_seed)
    verticals, count = len(VERTICALS), config.ads
    per_vertical = len(VERTICALS[0].categories)
    points, audiences = len(VERTICALS[0].selling_points), len(VERTICALS[0].audiences)
    products = len(VERTICALS[0].categories[0].products)

    vertical_of_category = np.array([number for number, _ in CATEGORIES])
    centres = 0.5 * _directions(rng, verticals)[vertical_of_category] + 0.85 * _directions(rng, len(CATEGORIES))
    product_vectors = _directions(rng, len(CATEGORIES), products)
    point_vectors = _directions(rng, verticals, points)
    audience_vectors = _directions(rng, verticals, audiences)

    account_vertical = rng.permutation(np.arange(config.accounts) % verticals)
    account_categories = np.argsort(rng.random((config.accounts, per_vertical)), axis=1)[:, :3]
    account_point = rng.integers(0, points, size=config.accounts)
    sizes = rng.lognormal(0.0, 0.7, size=config.accounts)
    extra = rng.choice(config.accounts, size=count - config.accounts, p=sizes / sizes.sum())
    account = rng.permutation(np.concatenate([np.arange(config.accounts), extra]))

    vertical = account_vertical[account]
    category = vertical * per_vertical + account_categories[account, rng.choice(3, size=count, p=[0.55, 0.3, 0.15])]
    product_number = rng.choice(products, size=count, p=_zipf(products))
    point = np.where(rng.random(count) < 0.5, account_point[account], rng.integers(0, points, size=count))
    audience = rng.integers(0, audiences, size=count)
    vectors = (
        centres[category]
        + 0.45 * product_vectors[category, product_number]
        + 0.3 * point_vectors[vertical, point]
        + 0.2 * audience_vectors[vertical, audience]
        + 0.15 * _directions(rng, count)
    )

    conversion_type = np.empty(count, dtype=object)
    for number, entry in enumerate(VERTICALS):
        rows = np.flatnonzero(vertical == number)
        names, shares = zip(*entry.conversion_types.items(), strict=True)
        conversion_type[rows] = np.array(names, dtype=object)[rng.choice(len(names), size=len(rows), p=shares)]
    rate, worth = np.array([_CONVERSION_VALUE[name] for name in conversion_type]).T
    median_price = np.array([entry.price for entry in VERTICALS], dtype=float)[vertical]
    log_price = rng.normal(0.0, 0.6, size=count)
    log_value = np.log([entry.click_value for entry in VERTICALS])[vertical] + np.log(worth) + 0.3 * log_price
    log_bid = log_value + rng.normal(0.0, 0.45, size=config.accounts)[account] + rng.normal(0.0, 0.4, size=count)

    late = rng.random(count) < config.new_ads
    entry_day = np.where(late, rng.integers(1, max(2, config.days), size=count), 0)
    leaves = rng.random(config.accounts) < config.leaving_accounts
    ads_of_account = np.bincount(account, minlength=config.accounts)
    return Ads(
        vectors=vectors.astype(np.float32),
        category_vectors=centres.astype(np.float32),
        category=category,
        account=account,
        product=product_number,
        point=point,
        audience=audience,
        conversion_type=conversion_type,
        price=np.round(median_price * np.exp(log_price), -1).astype(np.int64),
        quality=rng.normal(0.0, 0.15, size=count).astype(np.float32),
        log_cvr=(np.log(rate) + rng.normal(0.0, 0.3, size=count)).astype(np.float32),
        log_bid=log_bid.astype(np.float32),
        entry_day=entry_day,
        account_daily=ads_of_account * rng.lognormal(-0.32, 0.8, size=config.accounts),
        account_days=np.where(leaves, rng.uniform(0.1, 0.8, size=config.accounts) * config.days, 2.0 * config.days),
        text_seed=text_seed,
    )


def _zipf(count: int) -> np.ndarray:
    weights = 1.0 / np.arange(1, count + 1) ** 0.5
    return weights / weights.sum()
