"""The log of the market: requests, auctions of the production system, clicks, conversions, budgets."""

from dataclasses import dataclass, fields

import numpy as np

from . import draws
from .auction import Rules, examination, second_prices
from .config import MarketConfig
from .retrieval import POPULARITY_DECAY, Retrieval

DIURNAL = np.array([3, 2, 1, 1, 1, 1, 2, 4, 5, 5, 5, 6, 8, 7, 5, 5, 5, 6, 7, 8, 9, 10, 9, 6], dtype=float)
"""Traffic by hour of the day, relative."""

LARGEST_BATCH = 4096
SMALLEST_PARTICIPATION = 0.01


@dataclass(frozen=True)
class AuctionLog:
    """Every auction of the log, in order of time; R requests, n positions. Row r is request_id "r%08d" of r.

    Attributes:
        user: int64 (R,), index of the user.
        time: int64 (R,), Unix seconds.
        ad: int32 (R, n), index of the ad shown; -1 where the position stayed empty.
        pctr: float32 (R, n), production estimate of the click probability given examination.
        cpm: float32 (R, n), winner's CPM bid = the production system's expected value, fen per thousand examined
        impressions.
        price: float32 (R, n), second price, same unit.
        clicked, converted: bool (R, n).
        click_price: float32 (R, n), price of a click, fen; the winner's bid per click is `cpm / (1000 * pctr)`.
        charged: float32 (R, n), money charged, fen: the price of the click, less what the account's budget could not
        cover.
    """

    user: np.ndarray
    time: np.ndarray
    ad: np.ndarray
    pctr: np.ndarray
    cpm: np.ndarray
    price: np.ndarray
    clicked: np.ndarray
    converted: np.ndarray
    click_price: np.ndarray
    charged: np.ndarray


def draw_requests(
    config: MarketConfig, activity: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Users and times (R,) of all requests, sorted by time: Poisson sessions of a geometric number of requests a
    minute apart."""
    per_session = 2.5
    sessions = rng.poisson(activity * config.days / per_session)
    user = np.repeat(np.arange(len(activity)), sessions)
    hour = rng.choice(24, size=len(user), p=DIURNAL / DIURNAL.sum())
    start = rng.integers(0, config.days, size=len(user)) * 86_400 + hour * 3600 + rng.integers(0, 3600, size=len(user))
    length = rng.geometric(1 / per_session, size=len(user))
    within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    user = np.repeat(user, length)
    time = np.repeat(start, length) + 60 * within + rng.integers(0, 40, size=len(user))
    keep = time < config.days * 86_400
    user, time = user[keep], time[keep]
    order = np.lexsort((user, time))
    return user[order], time[order] + config.start_time


def charge(amounts: np.ndarray, accounts: np.ndarray, remaining: np.ndarray) -> np.ndarray:
    """Charges amounts in order, each at most what is left of the account's budget.

    Args:
        amounts: Money asked, float64 (E,), in order of time.
        accounts: Account of each, int (E,).
        remaining: Budget left per account, float64 (F,).

    Returns:
        Money charged, float64 (E,); summed by account it is at most `remaining`.
    """
    order = np.argsort(accounts, kind="stable")
    sums = np.cumsum(amounts[order])
    starts = np.searchsorted(accounts[order], accounts[order])
    before_account = np.concatenate([[0.0], sums])[starts]
    within = sums - before_account
    left = np.maximum(remaining[accounts[order]] - (within - amounts[order]), 0.0)
    charged = np.empty_like(amounts)
    charged[order] = np.minimum(amounts[order], left)
    return charged


def behave(
    config: MarketConfig, request: np.ndarray, ads: np.ndarray, ctr: np.ndarray, cvr: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What users do with lists, under random numbers keyed by request and ad (not by position or list).

    Args:
        request: Request numbers, int (B,), >= 0.
        ads: Ads shown, int (B, n); negative for an empty position.
        ctr, cvr: Probabilities (B, n) of a click given examination and of a conversion given a click.

    Returns:
        Clicked and converted, bool (B, n).
    """
    seen = examination(config, ads.shape[1])
    depth = draws.uniform(config.seed, draws.DEPTH, (request,))[:, None]
    keys = (request[:, None], np.maximum(ads, 0))
    clicked = (depth < seen) & (draws.uniform(config.seed, draws.CLICK, keys) < ctr) & (ads >= 0)
    row, position = np.nonzero(clicked)
    converted = np.zeros_like(clicked)
    chance = draws.uniform(config.seed, draws.CONVERSION, (request[row], ads[row, position]))
    converted[row, position] = chance < cvr[row, position]
    return clicked, converted


class Budgets:
    """Daily and total budgets of the accounts (F), fen, with pacing.

    Pacing follows the rule of "Budget pacing for targeted online advertisements at LinkedIn" (Agarwal et al. 2014,
    KDD): an account's probability of taking part in an auction falls by a tenth when its spend is ahead of the day's
    plan (budget x share of the day's traffic so far) and rises by a tenth otherwise. An account without money takes
    part in none. Clicks won between two updates that exceed the budget are not charged in full, so the tolerance by
    which a daily or total budget can be exceeded is zero.

    Args:
        daily: Daily budgets, float64 (F,), fen.
        total: Total budgets, float64 (F,), fen.
        participation: Probabilities of taking part with which the log starts, (F,).
    """

    def __init__(self, daily: np.ndarray, total: np.ndarray, participation: np.ndarray) -> None:
        self.daily = daily
        self.total_left = total.copy()
        self._participation = participation.copy()
        self.new_day()

    def new_day(self) -> None:
        """Renews the daily budgets."""
        self.planned = np.minimum(self.daily, self.total_left)
        self.day_left = self.planned.copy()

    def pace(self, traffic_share: float) -> None:
        """Adapts the participation to the share of the day's traffic so far."""
        ahead = self.planned - self.day_left > self.planned * traffic_share
        self._participation = np.clip(self._participation * np.where(ahead, 0.9, 1.1), SMALLEST_PARTICIPATION, 1.0)

    @property
    def participation(self) -> np.ndarray:
        """Probability of taking part in an auction, float32 (F,)."""
        return np.where(self.day_left > 0, self._participation, 0.0).astype(np.float32)

    def spend(self, amounts: np.ndarray, accounts: np.ndarray) -> np.ndarray:
        """Charges amounts (E,) to accounts (E,) and returns what was charged (E,)."""
        charged = charge(amounts, accounts, self.day_left)
        spent = np.bincount(accounts, weights=charged, minlength=len(self.daily))
        self.day_left = np.maximum(self.day_left - spent, 0.0)
        self.total_left = np.maximum(self.total_left - spent, 0.0)
        return charged


def simulate_auctions(config: MarketConfig, rules: Rules, budgets: Budgets, rng: np.random.Generator) -> AuctionLog:
    """Runs the log of the market in batches of at most `slot_seconds` and `LARGEST_BATCH` requests."""
    ads = rules.ads
    user, time = draw_requests(config, rules.users.activity, rng)
    count, n = len(user), config.positions
    kinds = {"ad": np.int32, "clicked": bool, "converted": bool}
    lists = {
        entry.name: np.zeros((count, n), dtype=kinds.get(entry.name, np.float32))
        for entry in fields(AuctionLog)
        if entry.name not in ("user", "time")
    }
    slot_edges = config.start_time + np.arange(0, config.days * 86_400 + config.slot_seconds, config.slot_seconds)
    day_edges = config.start_time + 86_400 * np.arange(config.days + 1)
    edges = np.unique(
        np.concatenate([np.searchsorted(time, slot_edges), np.searchsorted(time, day_edges), [0, count]])
    )
    pieces = [np.arange(low, high, LARGEST_BATCH) for low, high in zip(edges[:-1], edges[1:], strict=True)]
    bounds = np.concatenate([*pieces, [count]]).astype(int)
    traffic = np.concatenate([[0.0], np.cumsum(DIURNAL) / DIURNAL.sum()])
    retrieval = Retrieval(config, ads, rules.users)
    popularity, today, slot = np.zeros(len(ads.category)), -1, 0
    for low, high in zip(bounds[:-1], bounds[1:], strict=True):
        who, when, request = user[low:high], time[low:high], np.arange(low, high)
        day = int((when[0] - config.start_time) // 86_400)
        if day != today:
            retrieval.refresh(day, popularity)
            popularity *= POPULARITY_DECAY
            budgets.new_day()
            today = day
        second = (when[0] - config.start_time) % 86_400
        if second // config.slot_seconds != slot:
            slot = second // config.slot_seconds
            budgets.pace(float(np.interp(slot * config.slot_seconds / 3600, np.arange(25), traffic)))
        participation = budgets.participation

        candidates, valid = retrieval.draw(who, when, rng)
        valid &= rng.random(candidates.shape, dtype=np.float32) < participation[ads.account[candidates]]
        ctr = rules.ctr(rules.utility(rules.users.vectors(who, when), candidates))
        cvr = rules.cvr(who, candidates)
        noise = rng.standard_normal(candidates.shape, dtype=np.float32)
        sigma = np.float32(config.estimate_noise)
        pctr = np.minimum(ctr * np.exp(sigma * (noise - sigma / 2)), np.float32(1.0))
        log_worth = np.where(valid, rules.log_worth(pctr, cvr, candidates), -np.inf)
        order = np.argsort(-log_worth, axis=1)[:, : n + 1]
        cpm = rules.cpm(np.take_along_axis(log_worth, order, axis=1))
        price = second_prices(cpm, config.reserve_cpm, n)
        shown = np.where(price > 0, np.take_along_axis(candidates, order[:, :n], axis=1), -1)
        ctr, cvr, pctr = (np.take_along_axis(values, order[:, :n], axis=1) for values in (ctr, cvr, pctr))
        clicked, converted = behave(config, request, shown, ctr, cvr)
        click_price = price / (1000 * pctr)

        rows, positions = np.nonzero(clicked)
        clicked_ads = shown[rows, positions]
        popularity += np.bincount(clicked_ads, minlength=len(popularity))
        lists["charged"][low + rows, positions] = budgets.spend(
            click_price[rows, positions].astype(np.float64), ads.account[clicked_ads]
        )
        found = {"ad": shown, "pctr": pctr, "cpm": cpm[:, :n], "price": price, "click_price": click_price}
        for name, values in {**found, "clicked": clicked, "converted": converted}.items():
            lists[name][low:high] = values
    empty = lists["ad"] < 0
    for name in ("pctr", "cpm", "price", "click_price"):
        lists[name][empty] = 0
    return AuctionLog(user=user, time=time, **lists)
