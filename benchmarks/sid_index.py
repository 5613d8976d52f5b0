"""A million ads in the item index, and how soon a new one is served, on one core.

    python benchmarks/sid_index.py --out benchmarks/results/sid_index.json

Random SIDs of 4096 x 1024 x 256 codes, random priorities, a small untrained model with an item vector an ad. The time
to a new ad is that of the change and of an answer; its parts are measured beside it: the index's copy with the change,
the trie, the answer; `tables` is the rest of the change, in which the item vectors grow. Values are medians over
repetitions in one process; `spread` is half the distance between the fastest and the slowest, which stand beside it as
`min` and `max`.
"""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from measurement import one_core  # noqa: F401  before numpy is loaded

# isort: split
import numpy as np
import torch
from measurement.random_artifact import ad_ids, random_artifact, random_codes, random_tokenizer
from measurement.results import Benchmark, result_row
from measurement.timing import milliseconds

from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.serving import Recommender
from gr4ad.tokenization import SIDIndex

SIZES = [4096, 1024, 256]
SIDS_ASKED = 1000
LOOKUPS = 5  # in each repetition, of other SIDs each
CHANGES = 3000
SMOKE_ITEMS = 20_000
SMALL = {
    "item_head": True, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_parallel_layers": 2,
    "num_attention_heads": 2, "max_context_items": 10,
}  # fmt: skip


def seconds(call: Callable, *arguments: object) -> float:
    return milliseconds(lambda: call(*arguments)) / 1000


def index_times(ids: list[str], codes: np.ndarray, rng: np.random.Generator, repeats: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {}

    def note(name: str, call: Callable, *arguments: object) -> None:
        times.setdefault(name, []).append(seconds(call, *arguments))

    priority = rng.random(len(ids))
    half, third = SIDS_ASKED // 2, CHANGES // 3
    for repeat in range(repeats):
        note("build", SIDIndex, ids, codes, priority)
        index = SIDIndex(ids, codes, priority)
        note("sort for the first lookup", index.rows_by_sid)
        asked = [
            np.concatenate([codes[rng.integers(0, len(ids), half)], random_codes(SIZES, half, rng)])
            for _ in range(LOOKUPS)
        ]
        for sids in asked:
            note(f"look up {SIDS_ASKED} SIDs", index.lookup, sids)
        changed = [ids[row] for row in rng.choice(len(ids), CHANGES, replace=False)]
        index.remove(changed[:third])
        index.replace(changed[third : 2 * third], random_codes(SIZES, third, rng))
        index.add([f"new_{repeat}_{n}" for n in range(third)], random_codes(SIZES, third, rng))
        for sids in asked:
            note(f"look up {SIDS_ASKED} SIDs after {CHANGES} changes", index.lookup, sids)
        note("add one ad to the index", index.add, ["one"], codes[:1])
        note("snapshot", index.snapshot)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "items.parquet"
            note("save", index.save, path)
            note("load", SIDIndex.load, path)
    return times


def serving_times(recommender: Recommender, rng: np.random.Generator, repeats: int) -> dict[str, list[float]]:
    """One new ad, from the call that adds it to an answer that holds it; with the parts of that time."""
    times: dict[str, list[float]] = {}
    for repeat in range(repeats):
        new, codes = f"fresh_{repeat}", random_codes(SIZES, 1, rng)
        index = recommender.tokenizer.index
        parts = {"part: index": seconds(lambda index=index, new=new, codes=codes: index.snapshot().add([new], codes))}
        change = seconds(recommender.add_ads, [new], codes)
        parts["part: trie"] = seconds(SIDTrie.from_index, recommender.tokenizer.index)
        parts["part: tables"] = max(0.0, change - sum(parts.values()))
        # Its own SID in the history is among the candidates, so that an untrained model finds the ad too.
        ranked: list = []
        parts["part: recommend"] = seconds(
            lambda new=new, ranked=ranked: ranked.extend(recommender.recommend([[new]], top_k=512)[0])
        )
        if new not in {ad.item_id for ad in ranked}:
            raise SystemExit(f"{new} was added but is not in the answer.")
        parts["one new ad, from the call to an answer with it"] = change + parts["part: recommend"]
        for name, value in parts.items():
            times.setdefault(name, []).append(value)
    return times


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke=f"{SMOKE_ITEMS} items, two repetitions.")
    benchmark.take(items=1_000_000, repeats=7, seed=0)
    arguments = benchmark.start(words, items=SMOKE_ITEMS, repeats=2)
    count, repeats = arguments.items, arguments.repeats
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    times = index_times(ad_ids(count), random_codes(SIZES, count, rng), rng, repeats)
    with tempfile.TemporaryDirectory() as name:
        tokenizer = random_tokenizer(SIZES, count, seed=arguments.seed, distinct=False)
        # The item head alone ranks, among the beams and the history.
        serving = {"item_weight": 1.0, "score_history": True}
        folder = random_artifact(
            Path(name), tokenizer, beam_widths=[128, 256, 512], serving=serving, num_items=count + 1, **SMALL
        )
        times |= serving_times(Recommender.from_pretrained(folder), rng, repeats)
    rows = [
        result_row(
            f"{count} ads", metric, np.median(values), "s", np.ptp(values) / 2, min=min(values), max=max(values)
        )
        for metric, values in times.items()
    ]
    benchmark.write(arguments, rows, seeds=[arguments.seed], threads=1, packages=("numpy", "pyarrow"))


if __name__ == "__main__":
    main()
