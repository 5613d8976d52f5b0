"""The simulated ad market: tables in the raw data contract, and the ground truth of what other lists would have
earned."""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from . import draws
from .ads import Ads, make_ads
from .auction import Rules, examination, second_prices
from .calibration import Calibration, calibrate
from .config import MarketConfig
from .simulation import AuctionLog, Budgets, behave, simulate_auctions
from .users import Users, make_users

VALUE_UNIT = "eCPM, RMB fen per thousand impressions"
_ORACLE_BATCH = 256


@dataclass(frozen=True)
class Replay:
    """Outcome of replayed lists: `revenue` float64 (B,), fen; `clicked`, `converted` bool (B, n)."""

    revenue: np.ndarray
    clicked: np.ndarray
    converted: np.ndarray


class AdMarket:
    """A seeded market of users, ads and advertisers; equal configs give equal output.

    Users with drifting interests in 48 categories of 8 verticals send requests. A production policy retrieves
    candidates, a generalised second-price auction over noisy estimates ranks them by eCPM, users examine positions
    from the top, click and convert, and advertisers pay per click out of daily budgets. Prices and the spread of
    predicted CTR follow iPinYou (see `gr4ad.market.ipinyou`, `MarketConfig`).

    Example:
        >>> market = AdMarket(MarketConfig(users=200, ads=300, accounts=30, days=3))
        >>> market.write("data/market")                                    # doctest: +SKIP
        >>> events = market.simulate()
        >>> time = market.config.end_time
        >>> best = market.oracle_list(["user_000000"], time, k=6)          # (1, 6) item ids
        >>> market.expected_revenue(["user_000000"], best, time)           # (1,) fen per request # doctest: +SKIP

    Money is in RMB fen. Budgets bound the log, not the ground truth: `expected_revenue`, `replay` and `oracle_list`
    take every ad that has entered by the time of the request as able to pay.
    """

    def __init__(self, config: MarketConfig | None = None) -> None:
        self.config = MarketConfig() if config is None else config
        ads, users, pilot, log = np.random.SeedSequence(self.config.seed).spawn(4)
        self._ads: Ads = make_ads(self.config, ads)
        self._users: Users = make_users(self.config, self._ads.category_vectors, users)
        self._calibration: Calibration = calibrate(self.config, self._ads, self._users, np.random.default_rng(pilot))
        self._log_seed = log
        self._item_index = pd.Index(self._ads.item_ids)
        self._user_index = pd.Index(self._users.user_ids)

    @property
    def rules(self) -> Rules:
        """The calibrated response of users and advertisers."""
        return self._calibration.rules

    def budgets(self) -> Budgets:
        """The accounts' budgets at the start of the log, fen."""
        daily = self._calibration.daily_budget
        return Budgets(daily, daily * self._ads.account_days, self._calibration.participation)

    @cached_property
    def auctions(self) -> AuctionLog:
        """The log of auctions behind `simulate`, as arrays."""
        return simulate_auctions(self.config, self.rules, self.budgets(), np.random.default_rng(self._log_seed))

    def catalog(self) -> pd.DataFrame:
        """The ads: item_id, title, description, category, brand, account_id, conversion_type (all str), price (int64,
        fen).

        Some ads enter after the start of the log; all are listed.
        """
        return self._ads.table()

    def entry_times(self) -> pd.Series:
        """When each ad enters, Unix seconds, int64, by item_id; before that it earns nothing."""
        seconds = self.config.start_time + 86_400 * self._ads.entry_day.astype(np.int64)
        return pd.Series(seconds, index=self._ads.item_ids, name="entry_time")

    def users(self) -> pd.DataFrame:
        """The users: user_id, age_band, region, device (all str), informative about interests and conversion rate."""
        return self._users.table()

    def simulate(self) -> pd.DataFrame:
        """The log as raw events, sorted by user, then time.

        Returns:
            Columns user_id, item_id (str), timestamp (int64, Unix seconds), event ("impression", "click",
            "conversion"), value (float64), request_id (str, shared by a list). `value` of an impression is the
            production system's expected value per thousand (examined) impressions, i.e. the winner's CPM bid in fen;
            rows of clicks and conversions carry the value of the auction that they come from.
        """
        log = self.auctions
        row, position = np.nonzero(log.ad >= 0)
        click_row, click_position = np.nonzero(log.clicked)
        sale_row, sale_position = np.nonzero(log.converted)
        delay = draws.uniform(self.config.seed, draws.DELAY, (sale_row, log.ad[sale_row, sale_position]))
        click_time = log.time[click_row] + 2 + 3 * click_position
        sale_time = log.time[sale_row] + 2 + 3 * sale_position + 30 + (600 * -np.log1p(-delay)).astype(np.int64)
        rows = np.concatenate([row, click_row, sale_row])
        positions = np.concatenate([position, click_position, sale_position])
        times = np.concatenate([log.time[row], click_time, sale_time])
        kinds = np.repeat(np.arange(3), [len(row), len(click_row), len(sale_row)])
        order = np.lexsort((positions, rows, kinds, times, log.user[rows]))
        rows, positions, times, kinds = rows[order], positions[order], times[order], kinds[order]
        requests = np.char.mod("r%08d", np.arange(len(log.user)))
        return pd.DataFrame(
            {
                "user_id": _strings(self._users.user_ids, log.user[rows]),
                "item_id": _strings(self._ads.item_ids, log.ad[rows, positions]),
                "timestamp": times,
                "event": _strings(np.array(["impression", "click", "conversion"]), kinds),
                "value": log.cpm[rows, positions].astype(np.float64),
                "request_id": _strings(requests, rows),
            }
        )

    def statistics(self) -> dict[str, float]:
        """Counts and means of the log.

        Returns:
            users, ads, requests, impressions, clicks, conversions; ctr, cvr; mean_ecpm and mean_market_price (fen per
            thousand examined impressions); revenue (fen charged) and written_off (fen of clicks beyond budgets).
        """
        log = self.auctions
        shown = log.ad >= 0
        impressions, clicks, conversions = int(shown.sum()), int(log.clicked.sum()), int(log.converted.sum())
        revenue = float(log.charged.sum(dtype=np.float64))
        return {
            "users": self.config.users,
            "ads": self.config.ads,
            "requests": len(log.user),
            "impressions": impressions,
            "clicks": clicks,
            "conversions": conversions,
            "ctr": clicks / max(impressions, 1),
            "cvr": conversions / max(clicks, 1),
            "mean_ecpm": float(log.cpm[shown].mean(dtype=np.float64)) if impressions else 0.0,
            "mean_market_price": float(log.price[shown].mean(dtype=np.float64)) if impressions else 0.0,
            "revenue": revenue,
            "written_off": float(log.click_price[log.clicked].sum(dtype=np.float64)) - revenue,
        }

    def write(self, directory: str | Path) -> None:
        """Writes catalog.parquet, users.parquet, events.parquet and market.json (config, statistics, value_unit) to
        a folder."""
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in (("catalog", self.catalog()), ("users", self.users()), ("events", self.simulate())):
            _replace(folder / f"{name}.parquet", partial(table.to_parquet, index=False))
        content = {"config": asdict(self.config), "statistics": self.statistics(), "value_unit": VALUE_UNIT}
        _replace(folder / "market.json", lambda path: path.write_text(json.dumps(content, indent=1) + "\n"))

    def expected_revenue(
        self, user_ids: Sequence[str], lists: Sequence[Sequence[str]] | np.ndarray, time: int | np.ndarray
    ) -> np.ndarray:
        """What lists would earn in expectation: sum over positions of examination x true CTR x price of a click.

        The price of a click is the generalised second price under true probabilities (`second_prices`): a position
        pays the CPM bid of the next one, at least the reserve, at most its own. Best order is therefore descending
        eCPM.

        Args:
            user_ids: Users (B,).
            lists: Item ids (B, n) in order of display; "" for an empty position. The first `config.positions` are
                shown; one more entry serves as the runner-up that prices the last position (without it, that position
                pays the reserve). Repetitions within a list and ads that have not entered yet earn nothing.
            time: Unix seconds, one or (B,).

        Returns:
            Money, float64 (B,), fen per request.

        Raises:
            ValueError: Unknown ids, shapes that do not match, or a time outside of the log and its horizon.
        """
        users, ads, times = self._lists(user_ids, lists, time)
        *_, price = self._priced(users, ads, times)
        return (price * examination(self.config, price.shape[1])).sum(axis=1) / 1000

    def replay(
        self,
        user_ids: Sequence[str],
        lists: Sequence[Sequence[str]] | np.ndarray,
        time: int | np.ndarray,
        requests: np.ndarray,
    ) -> Replay:
        """Sampled version of `expected_revenue` under common random numbers.

        Draws depend on the seed, the request number and the ad only, so two policies replayed with equal `requests`
        meet the same users: an ad examined in both lists is clicked in both or in none. The log's own lists and
        request numbers reproduce its clicks.

        Args:
            user_ids, lists, time: As in `expected_revenue`.
            requests: Request numbers, int (B,), >= 0.

        Returns:
            Revenue (B,), clicks and conversions (B, min(n, positions)).
        """
        users, ads, times = self._lists(user_ids, lists, time)
        numbers = np.asarray(requests, dtype=np.int64)
        if numbers.shape != users.shape or (len(numbers) and numbers.min() < 0):
            raise ValueError(
                f"`requests` should be {len(users)} request numbers >= 0, one per user. Received: shape "
                f"{numbers.shape}, minimum {numbers.min() if numbers.size else None}."
            )
        shown, ctr, cvr, price = self._priced(users, ads, times)
        clicked, converted = behave(self.config, numbers, shown, ctr, cvr)
        return Replay((clicked * price / (1000 * ctr)).sum(axis=1), clicked, converted)

    def oracle_list(self, user_ids: Sequence[str], time: int | np.ndarray, k: int) -> np.ndarray:
        """The lists with the highest expected revenue: the k best ads by true CPM bid, in order.

        Under second prices no order of any k ads earns more (the number of adjacent pairs above a price is largest
        when the ads above it come first).

        Returns:
            Item ids, object array of str (B, k).

        Raises:
            ValueError: k is not in [1, number of ads that have entered], or see `expected_revenue`.
        """
        users, times = self._requests(user_ids, time)
        best = np.empty((len(users), k), dtype=np.int64)
        for low in range(0, len(users), _ORACLE_BATCH):
            part = slice(low, low + _ORACLE_BATCH)
            everything = np.broadcast_to(np.arange(self.config.ads), (len(users[part]), self.config.ads))
            entered = self._ads.entry_day[None, :] <= self._users.day(times[part])[:, None]
            most = int(entered.sum(axis=1).min())
            if not 1 <= k <= most:
                raise ValueError(
                    f"`k` should be in [1, {most}], the number of ads that have entered. Received: k = {k}."
                )
            utility = self._users.vectors(users[part], times[part]) @ self._ads.vectors.T + self._ads.quality
            ctr, cvr = self.rules.ctr(utility), self.rules.cvr(users[part], everything)
            worth = np.where(entered, self.rules.log_worth(ctr, cvr, everything), -np.inf)
            top = np.argpartition(-worth, k - 1, axis=1)[:, :k]
            ranks = np.argsort(-np.take_along_axis(worth, top, axis=1), axis=1, kind="stable")
            best[part] = np.take_along_axis(top, ranks, axis=1)
        return self._ads.item_ids[best]

    def _priced(self, users: np.ndarray, ads: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, ...]:
        """Ads shown (-1: empty), their true ctr and cvr, and their second prices, each (B, min(n, positions))."""
        entered = self._ads.entry_day[np.maximum(ads, 0)] <= self._users.day(times)[:, None]
        ads = np.where(entered, ads, -1)
        ctr, cvr, cpm = self.rules.response(users, times, np.maximum(ads, 0))
        price = second_prices(
            np.where(ads >= 0, cpm, 0.0).astype(np.float64), self.config.reserve_cpm, self.config.positions
        )
        shown = slice(price.shape[1])
        return ads[:, shown], ctr[:, shown].astype(np.float64), cvr[:, shown].astype(np.float64), price

    def _requests(self, user_ids: Sequence[str], time: int | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        names = np.asarray(user_ids, dtype=object)
        users = self._user_index.get_indexer(names)
        if (users < 0).any():
            raise ValueError(f"`user_ids` should be ids of `users()`. Received: {names[users < 0][0]!r}.")
        times = np.asarray(time, dtype=np.int64)
        if times.ndim and times.shape != users.shape:
            raise ValueError(
                f"`time` should be one number or {len(users)}, one per user. Received: shape {times.shape}."
            )
        return users, np.broadcast_to(times, users.shape)

    def _lists(
        self, user_ids: Sequence[str], lists: Sequence[Sequence[str]] | np.ndarray, time: int | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        users, times = self._requests(user_ids, time)
        if len({len(entries) for entries in lists}) > 1:
            raise ValueError(
                '`lists` should be of equal length. Received: different lengths. Pad shorter lists with "".'
            )
        items = np.array([list(entries) for entries in lists], dtype=object)
        if items.ndim != 2 or len(items) != len(users) or not items.shape[1]:
            raise ValueError(
                f"`lists` should have shape ({len(users)}, n), one list per user. Received: shape {items.shape}."
            )
        ads = self._item_index.get_indexer(items.ravel()).reshape(items.shape)
        unknown = (ads < 0) & (items != "")
        if unknown.any():
            raise ValueError(f'`lists` should hold item ids of `catalog()` or "". Received: {items[unknown][0]!r}.')
        ranked = np.argsort(ads, axis=1, kind="stable")
        repeated = np.zeros(ads.shape, dtype=bool)
        in_order = np.take_along_axis(ads, ranked, axis=1)
        np.put_along_axis(repeated, ranked[:, 1:], in_order[:, 1:] == in_order[:, :-1], axis=1)
        return users, np.where(repeated, -1, ads), times


def _strings(names: np.ndarray, rows: np.ndarray) -> pd.Series:
    taken = pa.array(names, type=pa.large_string()).take(pa.array(rows))
    return pd.Series(pd.array(taken, dtype="str"))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    os.replace(temporary, path)
