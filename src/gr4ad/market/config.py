"""Settings of the simulated ad market."""

from dataclasses import dataclass, field
from typing import Any

_RANGES: list[tuple[float, float]] = []  # of the settings, in their order


def _setting(default: Any, low: float, high: float, text: str) -> Any:
    _RANGES.append((low, high))  # not in the metadata, all of which argument parsers take for their own
    return field(default=default, metadata={"help": f"{text} Range [{low:g}, {high:g}]."})


@dataclass
class MarketConfig:
    """Size and behaviour of an `AdMarket`.

    The default click-through rate is that of a dense demo log, so that 30 days give a user about twenty clicks.
    Display banners in iPinYou are clicked at 0.0007 (`ctr_mean=0.0007` reproduces it, with hardly any clicks left at
    this size); in-feed surfaces lie near 0.03. Whatever the mean, the spread of predicted CTR (ratios of its
    quantiles) follows iPinYou. Prices follow iPinYou in fen per thousand impressions, so bids per conversion fall as
    `ctr_mean` and `cvr_mean` rise.

    Raises:
        ValueError: A field is outside of its range.
    """

    users: int = _setting(3000, 1, 10_000_000, "Number of users.")
    ads: int = _setting(3000, 50, 10_000_000, "Number of ads.")
    accounts: int = _setting(240, 1, 1_000_000, "Number of advertisers (accounts); each has at least one ad.")
    days: int = _setting(30, 1, 3650, "Length of the log, days.")
    horizon_days: int = _setting(7, 0, 3650, "Days after the log for which the ground truth can be asked.")
    start_time: int = _setting(
        1_704_067_200, 0, 4_000_000_000, "First second of the log (UTC midnight), Unix seconds."
    )
    requests_per_user_day: float = _setting(1.6, 0.001, 1000, "Mean ad requests of a user per day.")
    activity_sigma: float = _setting(0.6, 0, 3, "Spread of user activity: sigma of a log-normal.")
    positions: int = _setting(6, 1, 64, "Ads shown per request.")
    candidates: int = _setting(40, 4, 2000, "Ads the production retrieval hands to the auction, per request.")
    examination_decay: float = _setting(0.5, 0, 5, "Position p (from 1) is examined with probability p ** -decay.")
    ctr_mean: float = _setting(0.08, 1e-5, 0.15, "Mean click-through rate of shown ads (clicks / impressions).")
    cvr_mean: float = _setting(0.1, 1e-4, 0.4, "Mean conversion rate of clicks.")
    interests: int = _setting(4, 1, 16, "Categories a user is interested in at a time.")
    drift: float = _setting(0.15, 0, 5, "Daily random walk of the interest weights (standard deviation, log scale).")
    jump_rate: float = _setting(0.015, 0, 1, "Probability per day that one interest is replaced by another category.")
    shift_day: int = _setting(0, 0, 3650, "Day on which fashion changes at once; matters with `shift_share` > 0.")
    shift_share: float = _setting(
        0.0, 0, 1, "Share of users who from `shift_day` on like another category in the place of each."
    )
    intent: float = _setting(0.5, 0, 1, "Share of the user's vector given by the intent of the session.")
    session_seconds: int = _setting(7200, 60, 86_400, "Seconds after which a user's intent is drawn anew.")
    estimate_noise: float = _setting(0.35, 0, 3, "Noise of the production pCTR estimate (sigma of its log).")
    new_ads: float = _setting(0.25, 0, 0.9, "Share of ads that enter after the start, evenly over the log.")
    budget_factor: float = _setting(2.0, 0.05, 1e6, "Daily budgets over the expected daily spend, mean of accounts.")
    leaving_accounts: float = _setting(0.15, 0, 1, "Share of accounts whose total budget ends before the log does.")
    reserve_cpm: float = _setting(2.0, 0, 1000, "Reserve price, RMB fen per thousand impressions.")
    slot_seconds: int = _setting(3600, 60, 86_400, "Seconds between two updates of budgets and pacing.")
    seed: int = _setting(0, 0, 2**31, "Seed of everything.")

    def __post_init__(self) -> None:
        for (name, value), (low, high) in zip(vars(self).items(), _RANGES, strict=True):
            if not low <= value <= high:
                raise ValueError(f"`{name}` should be in [{low:g}, {high:g}]. Received: {name} = {value}.")
        if self.accounts > self.ads:
            raise ValueError(
                f"`accounts` should be at most `ads`, since every account has an ad. Received: accounts = "
                f"{self.accounts}, ads = {self.ads}. Lower `accounts` or raise `ads`."
            )
        if self.candidates <= self.positions:
            raise ValueError(
                f"`candidates` should be above `positions`, to leave a runner-up that sets the price. Received: "
                f"candidates = {self.candidates}, positions = {self.positions}. Raise `candidates`."
            )

    @property
    def end_time(self) -> int:
        """First second after the log, Unix seconds."""
        return self.start_time + self.days * 86_400
