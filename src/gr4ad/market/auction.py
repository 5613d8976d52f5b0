"""The rules of the market: click and conversion probabilities, CPM bids, second prices and examination."""

from dataclasses import dataclass

import numpy as np

from .ads import Ads
from .config import MarketConfig
from .users import Users

MOST_LIKELY = 0.9
"""Upper bound of the probability of a click or conversion."""


@dataclass(frozen=True)
class Rules:
    """Calibrated response of users and advertisers. Shapes: B users, K ads each.

    - Probability of a click given that the position is examined: `exp(level + slope * utility)`, at most
      `MOST_LIKELY`.
    - Probability of a conversion given a click: `exp(cvr_level + log_cvr[ad] + spending[user])`, at most
      `MOST_LIKELY`.
    - Worth of a thousand examined impressions to the advertiser: `worth = 1000 * ctr * cvr * bid`, with the bid per
      conversion `exp(bid_level + log_bid[ad])`, fen.
    - CPM bid: `cpm(worth) <= worth`, monotone and concave in the large, as the bids of optimal real-time bidding
      (Zhang, Yuan, Wang 2014, KDD). Its knots are fitted so that clearing prices follow iPinYou. Being monotone, it
      keeps the ranking by worth.
    """

    ads: Ads
    users: Users
    level: float
    slope: float
    cvr_level: float
    bid_level: float
    log_worth_knots: np.ndarray
    log_cpm_knots: np.ndarray

    def utility(self, vectors: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """float32 (B, K) utility of ads (B, K) for user vectors (B, DIMENSION)."""
        products = np.matmul(self.ads.vectors[ads], vectors[:, :, None])[:, :, 0]
        return products + self.ads.quality[ads]

    def ctr(self, utility: np.ndarray) -> np.ndarray:
        """Probability of a click given examination, same shape as `utility`."""
        return np.minimum(np.exp(self.level + self.slope * utility), MOST_LIKELY)

    def cvr(self, users: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """Probability of a conversion given a click, (B, K), of users (B,) and ads (B, K)."""
        logs = self.cvr_level + self.ads.log_cvr[ads] + self.users.spending[users][:, None]
        return np.minimum(np.exp(logs), MOST_LIKELY)

    def log_worth(self, ctr: np.ndarray, cvr: np.ndarray, ads: np.ndarray) -> np.ndarray:
        """Log of the worth of a thousand examined impressions, fen, (B, K)."""
        return np.log(1000 * ctr * cvr) + (self.bid_level + self.ads.log_bid[ads])

    def cpm(self, log_worth: np.ndarray) -> np.ndarray:
        """CPM bids, fen per thousand examined impressions; 0 where `log_worth` is -inf."""
        return np.exp(np.interp(log_worth, self.log_worth_knots, self.log_cpm_knots, left=-np.inf))

    def response(
        self, users: np.ndarray, time: np.ndarray, ads: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True (ctr, cvr, CPM bid) of ads (B, K) for users (B,) at times (B,), each (B, K)."""
        ctr = self.ctr(self.utility(self.users.vectors(users, time), ads))
        cvr = self.cvr(users, ads)
        return ctr, cvr, self.cpm(self.log_worth(ctr, cvr, ads))


def examination(config: MarketConfig, positions: int) -> np.ndarray:
    """Probability that each of the first positions is examined, float64 (positions,), falling from 1."""
    return np.arange(1, positions + 1, dtype=np.float64) ** -config.examination_decay


def second_prices(cpm: np.ndarray, reserve: float, positions: int) -> np.ndarray:
    """Generalised second prices of ordered lists.

    A position pays the CPM bid of the next one, at least the reserve and never more than its own bid. Bids below the
    reserve pay 0.

    Args:
        cpm: CPM bids (B, n) in order of display, fen; entries beyond `positions` only set the price of the last one
        shown.
        reserve: Reserve price, fen per thousand impressions.
        positions: Positions shown.

    Returns:
        Prices (B, min(n, positions)), fen per thousand examined impressions.
    """
    shown = min(cpm.shape[1], positions)
    own = cpm[:, :shown]
    following = np.zeros_like(own)
    behind = cpm[:, 1 : shown + 1]
    following[:, : behind.shape[1]] = behind
    return np.where((own > 0) & (own >= reserve), np.minimum(own, np.maximum(following, reserve)), 0.0)
