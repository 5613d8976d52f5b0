"""Speed of the market simulator on one core.

    python benchmarks/market.py --out benchmarks/results/market.json

Times the three steps of a demo log (default `MarketConfig`) and the ground truth of a simulated A/B test. Rates are
medians over repetitions with different seeds; `spread` is half the distance between the fastest and the slowest.
"""

import time
from collections.abc import Sequence

import numpy as np
from measurement import one_core  # noqa: F401  before numpy is loaded
from measurement.results import Benchmark, result_row

from gr4ad.market import AdMarket, MarketConfig

SMOKE = {"users": 150, "ads": 120, "accounts": 12, "days": 5}


def measure(seed: int, size: dict[str, int]) -> dict[str, tuple[float, str]]:
    """One repetition: metric -> (value, unit)."""
    start = time.perf_counter()
    market = AdMarket(MarketConfig(seed=seed, **size))
    built = time.perf_counter()
    log = market.auctions
    simulated = time.perf_counter()
    events = market.simulate()
    tabled = time.perf_counter()
    impressions = int((log.ad >= 0).sum())

    rows = np.arange(0, len(log.user), 8)
    users = market.users()["user_id"].to_numpy(dtype=object)[log.user[rows]]
    lists = np.append(market.catalog()["item_id"].to_numpy(dtype=object), "")[log.ad[rows]]
    asked = time.perf_counter()
    market.expected_revenue(users, lists, log.time[rows])
    expected = time.perf_counter()
    market.oracle_list(users[:2000], log.time[rows[:2000]], k=6)
    done = time.perf_counter()
    return {
        "build and calibrate": (built - start, "s"),
        "auctions": (impressions / (simulated - built), "impressions/s"),
        "auctions and events table": (impressions / (tabled - built), "impressions/s"),
        "demo log": (tabled - start, "s"),
        "events": (float(len(events)), "rows"),
        "expected_revenue": (len(rows) / (expected - asked), "lists/s"),
        f"oracle_list, {market.config.ads} ads": (2000 / (done - expected), "lists/s"),
    }


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__)
    benchmark.take(seeds=([0, 1, 2], "One repetition per seed."))
    arguments = benchmark.start(words)
    runs = [measure(seed, SMOKE if arguments.smoke else {}) for seed in arguments.seeds]
    rows = []
    for metric, (_, unit) in runs[0].items():
        values = np.array([run[metric][0] for run in runs])
        rows.append(result_row("market", metric, np.median(values), unit, np.ptp(values) / 2))
    benchmark.write(arguments, rows, seeds=arguments.seeds, threads=1, packages=("numpy", "pandas"))


if __name__ == "__main__":
    main()
