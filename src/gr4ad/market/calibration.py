"""Fits the market's rules on a pilot of auctions: clicks to their configured mean, spreads and prices to iPinYou."""

from dataclasses import dataclass, replace

import numpy as np

from . import draws, ipinyou
from .ads import Ads
from .auction import Rules, examination, second_prices
from .config import MarketConfig
from .retrieval import POPULARITY_DECAY, Retrieval
from .users import Users

PILOT_REQUESTS, PILOT_DAYS, STAGES, ROUNDS = 4000, 8, 4, 4
SMALLEST_BUDGET = 10.0
"""Least daily budget, in mean prices of a click: budgets of a few clicks cannot be paced."""


@dataclass(frozen=True)
class Calibration:
    """`rules` of the market; per account (F,) the `daily_budget`, fen, and the `participation` that meets it."""

    rules: Rules
    daily_budget: np.ndarray
    participation: np.ndarray


def calibrate(config: MarketConfig, ads: Ads, users: Users, rng: np.random.Generator) -> Calibration:
    """Runs pilot auctions until the rules reproduce, on shown ads:

    - the mean click-through rate `ctr_mean` and, on clicked ads, the mean conversion rate `cvr_mean`;
    - the spread of predicted CTR in iPinYou (mean of the logs of q90/q50 and q50/q10);
    - the quantiles of the market price in iPinYou.

    Budgets thin the competition, so the pilot solves for it as a fluid: an account takes part with the probability at
    which its expected spend meets its budget. Clicks feed the popularity that the retrieval policy uses, so every
    stage redraws the pilot's candidates under the popularity expected from the stage before.
    """
    seen = examination(config, config.positions)
    target = (np.log(ipinyou.PCTR_UPPER) + np.log(ipinyou.PCTR_LOWER)) / 2
    requests_per_day = users.activity.sum()
    popularity = np.zeros(len(ads.category))
    rules = Rules(
        ads, users, float(np.log(config.ctr_mean)), 1.5, float(np.log(config.cvr_mean)), 0.0, np.zeros(1), np.zeros(1)
    )
    participation = np.ones(len(ads.account_daily))
    for stage in range(STAGES):
        who, vectors, candidates, present = _pilot(config, ads, users, popularity, rng)
        noise = config.estimate_noise * (rng.standard_normal(candidates.shape) - config.estimate_noise / 2)
        # One lot per request and account: an account out of money is missing with all of its ads.
        lots = draws.uniform(
            config.seed, draws.LOT, (np.arange(len(who))[:, None], ads.account[candidates], np.array(stage))
        )
        for _ in range(ROUNDS):
            ctr = rules.ctr(rules.utility(vectors, candidates))
            cvr = rules.cvr(who, candidates)
            pctr = ctr * np.exp(noise)
            taking_part = present & (lots < participation[ads.account[candidates]])
            log_worth = np.where(taking_part, rules.log_worth(pctr, cvr, candidates), -np.inf)
            order = np.argsort(-log_worth, axis=1)[:, : config.positions + 1]
            worth = np.take_along_axis(log_worth, order, axis=1)
            order = order[:, : config.positions]
            shown = np.isfinite(worth[:, : config.positions])
            winners = np.take_along_axis(candidates, order, axis=1)
            ctr, cvr, pctr = (np.take_along_axis(values, order, axis=1) for values in (ctr, cvr, pctr))
            clicks = np.where(shown, ctr * seen, 0.0)
            low, high = np.log(np.quantile(pctr[shown], [0.1, 0.9]))

            # Prices first: they were bid under the rules of this round.
            fitted = _fit_prices(rules, worth, shown)
            prices = second_prices(fitted.cpm(worth), config.reserve_cpm, config.positions)
            spend = prices * clicks / (1000 * pctr)
            per_day = requests_per_day / len(who)
            budget = np.maximum(
                ads.account_daily * spend.sum() * per_day / config.ads * config.budget_factor,
                SMALLEST_BUDGET * spend.sum() / clicks.sum(),
            )
            daily_spend = per_day * np.bincount(ads.account[winners].ravel(), spend.ravel(), len(budget))
            participation = np.clip(participation * np.sqrt(budget / np.maximum(daily_spend, 1e-12)), 0.01, 1.0)
            rules = replace(
                fitted,
                level=rules.level + float(np.log(config.ctr_mean * shown.sum() / clicks.sum())),
                cvr_level=rules.cvr_level + float(np.log(config.cvr_mean * clicks.sum() / (clicks * cvr).sum())),
                slope=float(np.clip(rules.slope * (2 * target / (high - low)) ** 0.7, 0.05, 20.0)),
            )
        popularity = per_day * np.bincount(winners.ravel(), clicks.ravel(), len(popularity)) / (1 - POPULARITY_DECAY)
    # The bids' unit: the largest for which no CPM bid exceeds the worth of the impressions.
    shift = float((fitted.log_cpm_knots - fitted.log_worth_knots).max())
    fitted = replace(fitted, bid_level=fitted.bid_level + shift, log_worth_knots=fitted.log_worth_knots + shift)
    return Calibration(fitted, budget, participation)


def _pilot(
    config: MarketConfig, ads: Ads, users: Users, popularity: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Users (B,), their vectors (B, d), candidates (B, K) and which of them are distinct ads of accounts still
    there, bool (B, K)."""
    retrieval = Retrieval(config, ads, users)
    days = np.unique(np.linspace(0, config.days - 1, PILOT_DAYS).astype(int))
    size = PILOT_REQUESTS // len(days)
    parts = []
    for day in days:
        retrieval.refresh(int(day), popularity * (1 - POPULARITY_DECAY ** int(day)))
        who = rng.choice(len(users.age), size=size, p=users.activity / users.activity.sum())
        time = config.start_time + int(day) * 86_400 + rng.integers(0, 86_400, size=size)
        candidates, first = retrieval.draw(who, time, rng)
        present = first & (day < ads.account_days)[ads.account[candidates]]
        parts.append((who, users.vectors(who, time), candidates, present))
    who, vectors, candidates, present = (np.concatenate(values) for values in zip(*parts, strict=True))
    return who, vectors, candidates, present


def _fit_prices(rules: Rules, log_worth: np.ndarray, shown: np.ndarray) -> Rules:
    """Bid function under which the runner-up's bids, from log worths (B, n + 1) under `rules`, have iPinYou's price
    quantiles."""
    runner_up = np.where(np.isfinite(log_worth[:, 1:]), log_worth[:, 1:], log_worth[:, :-1])[shown]
    knots = np.maximum.accumulate(np.quantile(runner_up, ipinyou.LEVELS)) + 1e-6 * np.arange(len(ipinyou.LEVELS))
    prices = np.log(ipinyou.PRICE_QUANTILES)
    # Beyond the known quantiles: proportional below (never bid above worth), nearly flat above (iPinYou caps prices
    # at 300 fen).
    knots = np.concatenate([[knots[0] - 50], knots, [knots[-1] + 50]])
    prices = np.concatenate([[prices[0] - 50], prices, [prices[-1] + 2.5]])
    return replace(rules, log_worth_knots=knots, log_cpm_knots=prices)
