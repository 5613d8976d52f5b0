"""A million ads in the item index, and how soon a new one is served, on one core.

    python benchmarks/sid_index.py --out benchmarks/results/sid_index.json

Random SIDs of 4096 x 1024 x 256 codes, random priorities, a small untrained model with an item vector an ad. Values
are medians over repetitions in one process; `spread` is half the distance between the fastest and the slowest, which
stand beside it as `min` and `max`.
"""

from __future__ import annotations

import argparse
import json
import os

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[variable] = "1"  # Read once, when numpy and torch load their linear algebra.

import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from importlib.metadata import version  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import GenerationConfig, set_seed  # noqa: E402

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, SIDTrie  # noqa: E402
from gr4ad.pipeline.run import VERSIONS, machine  # noqa: E402
from gr4ad.serving import Recommender  # noqa: E402
from gr4ad.tokenization import SIDIndex, UASIDTokenizer  # noqa: E402

SIZES = [4096, 1024, 256]
SIDS_ASKED = 1000
LOOKUPS = 5  # in each repetition, of other SIDs each
CHANGES = 3000
SMOKE_ITEMS = 20_000


def random_sids(rng: np.random.Generator, count: int) -> np.ndarray:
    return np.stack([rng.integers(0, size, count) for size in SIZES], 1)


def small_recommender(index: SIDIndex) -> Recommender:
    """Without files; ranks by the item head alone."""
    tokenizer = UASIDTokenizer(codebook_sizes=SIZES)
    tokenizer.index = index
    set_seed(0)
    model = GR4ADForRecommendation(
        GR4ADConfig(
            codebook_sizes=SIZES,
            num_items=len(index) + 1,
            item_head=True,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_parallel_layers=2,
            num_attention_heads=2,
            max_context_items=10,
        )
    )
    defaults = GenerationConfig(
        beam_widths=[128, 256, 512], item_weight=1.0, value_weight=0.0, score_history=True, exclude_history=False
    )
    return Recommender(model, tokenizer, defaults)


def index_times(ids: list[str], codes: np.ndarray, priority: np.ndarray, rng, repeats: int) -> dict[str, list[float]]:
    """Building, looking up, saving and loading."""
    times: dict[str, list[float]] = {}

    def timed(name: str, function: Callable, *args) -> None:
        start = time.perf_counter()
        function(*args)
        times.setdefault(name, []).append(time.perf_counter() - start)

    for repeat in range(repeats):
        timed("build", SIDIndex, ids, codes, priority)
        index = SIDIndex(ids, codes, priority)
        timed("sort for the first lookup", index.rows_by_sid)
        half = SIDS_ASKED // 2
        asked = [
            np.concatenate([codes[rng.integers(0, len(ids), half)], random_sids(rng, half)]) for _ in range(LOOKUPS)
        ]
        for sids in asked:
            timed(f"look up {SIDS_ASKED} SIDs", index.lookup, sids)
        changed = [ids[row] for row in rng.choice(len(ids), CHANGES, replace=False)]
        third = CHANGES // 3
        index.remove(changed[:third])
        index.replace(changed[third : 2 * third], random_sids(rng, third))
        index.add([f"new_{repeat}_{n}" for n in range(third)], random_sids(rng, third))
        for sids in asked:
            timed(f"look up {SIDS_ASKED} SIDs after {CHANGES} changes", index.lookup, sids)
        timed("add one ad to the index", index.add, ["one"], codes[:1])
        timed("snapshot", index.snapshot)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "items.parquet"
            timed("save", index.save, path)
            timed("load", SIDIndex.load, path)
    return times


def serving_times(recommender: Recommender, rng, repeats: int) -> dict[str, list[float]]:
    """One new ad, from the call that adds it to an answer that holds it; with the parts of that time."""
    times: dict[str, list[float]] = {}

    def measured(name: str, function: Callable) -> Callable:
        def call(*args, **kwargs):
            start = time.perf_counter()
            result = function(*args, **kwargs)
            parts[name] = time.perf_counter() - start
            return result

        return call

    build, extend, change = SIDTrie.from_index, recommender._extend_tables, recommender._change
    SIDTrie.from_index = measured("part: trie", build)  # type: ignore[method-assign]
    recommender._extend_tables = measured("part: tables", extend)  # type: ignore[method-assign]
    recommender._change = lambda act: change(measured("part: index", act))  # type: ignore[method-assign]
    try:
        for repeat in range(repeats):
            parts: dict[str, float] = {}
            new = f"fresh_{repeat}"
            start = time.perf_counter()
            recommender.add_ads([new], random_sids(rng, 1))
            added = time.perf_counter()
            # Its own SID in the history is among the candidates, so that an untrained model finds the ad too.
            [ranked] = recommender.recommend([[new]], top_k=512)
            done = time.perf_counter()
            if new not in {ad.item_id for ad in ranked}:
                raise SystemExit(f"{new} was added but is not in the answer.")
            parts["part: recommend"] = done - added
            parts["one new ad, from the call to an answer with it"] = done - start
            for name, value in parts.items():
                times.setdefault(name, []).append(value)
    finally:
        SIDTrie.from_index = build  # type: ignore[method-assign]
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="JSON file to write.")
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help=f"{SMOKE_ITEMS} items, two repetitions.")
    arguments = parser.parse_args()
    count, repeats = (SMOKE_ITEMS, 2) if arguments.smoke else (arguments.items, arguments.repeats)
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    ids = [f"ad_{number:07d}" for number in range(count)]
    codes, priority = random_sids(rng, count), rng.random(count)
    times = index_times(ids, codes, priority, rng, repeats)
    times |= serving_times(small_recommender(SIDIndex(ids, codes, priority)), rng, repeats)
    rows = [
        {
            "name": f"{count} ads",
            "metric": metric,
            "value": round(float(np.median(values)), 5),
            "spread": round(float(np.ptp(values) / 2), 5),
            "min": round(min(values), 5),
            "max": round(max(values), 5),
            "unit": "s",
        }
        for metric, values in times.items()
    ]
    content = {
        "command": f"python benchmarks/sid_index.py --items {count} --repeats {repeats} --out FILE",
        "machine": {**machine(), "threads_used": 1},
        "versions": {name: version(name) for name in (*VERSIONS, "numpy", "pyarrow")},
        "seeds": [arguments.seed],
        "rows": rows,
        "ratios": {},
    }
    text = json.dumps(content, indent=1) + "\n"
    print(text, end="")  # noqa: T201
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        temporary = arguments.out.with_name(arguments.out.name + ".tmp")
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, arguments.out)


if __name__ == "__main__":
    main()
