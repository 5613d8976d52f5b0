"""Speed of the market simulator on one core.

    python benchmarks/market.py --out benchmarks/results/market.json

Times the three steps of a demo log (default `MarketConfig`) and the ground truth of a simulated A/B test. Rates are
medians over repetitions with different seeds; `spread` is half the distance between the fastest and the slowest.
"""

import argparse
import json
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # Read once, when numpy loads its linear algebra.

import platform  # noqa: E402
import time  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from gr4ad.market import AdMarket, MarketConfig  # noqa: E402


def machine() -> dict[str, str | int]:
    """CPU model and core count."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": models[0], "cores": len(models), "threads_used": 1}


def measure(seed: int) -> dict[str, tuple[float, str]]:
    """One repetition: metric -> (value, unit)."""
    start = time.perf_counter()
    market = AdMarket(MarketConfig(seed=seed))
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
        "oracle_list, 3000 ads": (2000 / (done - expected), "lists/s"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="One repetition per seed.")
    arguments = parser.parse_args()
    runs = [measure(seed) for seed in arguments.seeds]
    rows = []
    for metric, (_, unit) in runs[0].items():
        values = np.array([run[metric][0] for run in runs])
        rows.append(
            {
                "name": "market",
                "metric": metric,
                "value": round(float(np.median(values)), 3),
                "spread": round(float(np.ptp(values) / 2), 3),
                "unit": unit,
            }
        )
    content = {
        "command": "python benchmarks/market.py --out benchmarks/results/market.json",
        "machine": machine(),
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "pandas": pd.__version__},
        "seeds": arguments.seeds,
        "rows": rows,
        "ratios": {},
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = arguments.out.with_name(arguments.out.name + ".tmp")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, arguments.out)


if __name__ == "__main__":
    main()
