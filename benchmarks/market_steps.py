"""Markets that were run apart, as one table: revenue of each policy and lifts with Student's t over the markets.

    python benchmarks/market_steps.py PART.json ... --out benchmarks/results/market_steps.json

The parts are files of `closed_loop.py --steps ...` with different seeds. A lift is the mean over markets of what a
policy earns over another in the same market, with its 95% interval.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from measurement.results import Benchmark, rounded, seeds_row
from scipy.stats import t as student

REFERENCE = "VSL"
SERVED, REWARDED = "VSL + RSPO, served score", "VSL + RSPO, unified, reward model"
SERVED_REWARDED = "VSL + RSPO, served score, reward model"
PAIRS = [
    *(("VSL + RSPO", name) for name in ("VSL + DPO", "VSL + S-DPO", "VSL + GRPO", "VSL + RSPO, unified")),
    (SERVED, "VSL + RSPO"),
    (SERVED_REWARDED, "VSL + RSPO, reward model"),
    (REWARDED, "VSL + RSPO, reward model"),
    *((name, other) for name in (REWARDED, SERVED_REWARDED) for other in ("DLRM-style", "item-kNN + value, tuned")),
]
"""Policies that are held against another than `REFERENCE`: first over second."""


def lift(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Mean share earned more, market by market, and the ends of its 95% interval."""
    shares = np.array(ours) / np.array(theirs) - 1
    half = student.ppf(0.975, len(shares) - 1) * shares.std(ddof=1) / np.sqrt(len(shares))
    ends = {"relative": shares.mean(), "relative_low": shares.mean() - half, "relative_high": shares.mean() + half}
    return rounded(ends)


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke="Changes nothing: small markets are put together as large ones.")
    benchmark.add_argument("parts", type=Path, nargs="+", metavar="PART.json ...", help="Files of closed_loop.py.")
    arguments = benchmark.start(words)
    parts = [json.loads(path.read_text(encoding="utf-8")) for path in arguments.parts]
    seeds = [seed for part in parts for seed in part["seeds"]]
    if len(seeds) < 2 or len(set(seeds)) < len(seeds) or any(part["align"] != parts[0]["align"] for part in parts):
        benchmark.error("the parts must hold at least two markets, each once, aligned with the same settings")
    earned: dict[str, list[float]] = {}
    for part in parts:
        for row in part["rows"]:
            if row["metric"] == "revenue":
                earned.setdefault(row["name"], []).extend(row["by_seed"])
    earned = {name: values for name, values in earned.items() if len(values) == len(seeds)}
    rows = [seeds_row(name, "revenue", values, "fen per 1,000 requests") for name, values in earned.items()]
    pairs = [*((name, REFERENCE) for name in earned if name != REFERENCE), *PAIRS]
    ratios = {
        f"{ours} over {theirs}": lift(earned[ours], earned[theirs])
        for ours, theirs in pairs
        if ours in earned and theirs in earned
    }
    facts = {name: parts[0][name] for name in ("steps", "align")}
    benchmark.write(arguments, rows, ratios, seeds=seeds, parts=[part["command"] for part in parts], **facts)


if __name__ == "__main__":
    main()
