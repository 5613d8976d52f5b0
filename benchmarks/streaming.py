"""Training on a log that is read as a stream: memory and speed, on one core.

    python benchmarks/streaming.py --out benchmarks/results/streaming.json

A log of 10 million random events (20 a user on average, of 100,000 ads, with event kinds and values) lies in parquet.
Each in a process of its own: the whole log goes through the stream once (read, shuffled in a buffer of 20,000 users,
tokenized and collated), a small model trains some steps on it, and up to `--in-memory` events of it are tokenized in
memory. Peak memory is that of the process, Python and libraries included, which stand beside it as `imports alone`.
One pass each, so `spread` is 0.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measurement import one_core  # noqa: F401  before numpy is loaded

# isort: split
os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"

import numpy as np  # noqa: E402
import pyarrow as pa  # noqa: E402
import pyarrow.parquet as pq  # noqa: E402
import torch  # noqa: E402
from datasets import Dataset, load_dataset  # noqa: E402
from measurement.own_process import in_own_process, peak_gb  # noqa: E402
from measurement.random_artifact import ad_ids, random_tokenizer  # noqa: E402
from measurement.results import Benchmark, result_row  # noqa: E402
from transformers import set_seed  # noqa: E402

from gr4ad import GR4ADConfig, GR4ADForRecommendation, UASIDTokenizer, VSLConfig, VSLTrainer  # noqa: E402
from gr4ad.tokenization import fit_value_buckets  # noqa: E402
from gr4ad.trainers.vsl import tokenize_histories  # noqa: E402

SIZES = [256, 64, 64]
EVENTS = ["click", "conversion"]
MEAN_ITEMS, MAX_ITEMS = 20, 50
GROUP_USERS = 5000
BATCH = 64
SMOKE = {"events": 40_000, "ads": 2000, "steps": 3, "in_memory": 10_000}


def write_log(path: Path, events: int, ads: int, seed: int) -> int:
    rng = np.random.default_rng(seed)
    ids = pa.array(ad_ids(ads))
    kinds = pa.array(EVENTS)
    written, writer = 0, None
    while written < events:
        lengths = np.minimum(2 + rng.geometric(1 / (MEAN_ITEMS - 2), GROUP_USERS), 200)
        lengths = lengths[: int(np.searchsorted(np.cumsum(lengths), events - written)) + 1]
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
        count = int(lengths.sum())
        table = pa.table(
            {
                "items": pa.ListArray.from_arrays(offsets, ids.take(pa.array(rng.integers(0, ads, count)))),
                "events": pa.ListArray.from_arrays(offsets, kinds.take(pa.array(rng.integers(0, 2, count)))),
                "values": pa.ListArray.from_arrays(offsets, pa.array(rng.exponential(10, count).round(2))),
            }
        )
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
        written += count
    assert writer is not None
    writer.close()
    return written


def build_tokenizer(ads: int, seed: int) -> UASIDTokenizer:
    edges, means = fit_value_buckets(np.random.default_rng(seed).exponential(10, 10_000), 10)
    return random_tokenizer(
        SIZES, ads, seed=seed, distinct=False, event_names=EVENTS, value_bucket_edges=edges, value_bucket_means=means
    )


def build_trainer(folder: Path, ads: int, seed: int, steps: int) -> VSLTrainer:
    tokenizer = build_tokenizer(ads, seed)
    set_seed(seed)
    config = GR4ADConfig.from_tokenizer(
        tokenizer, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_parallel_layers=2,
        num_attention_heads=2, num_context_layers=1, max_context_items=MAX_ITEMS, context_values=True,
    )  # fmt: skip
    arguments = VSLConfig(
        output_dir=str(folder / "run"), max_steps=steps, per_device_train_batch_size=BATCH, use_cpu=True,
        save_strategy="no", logging_steps=steps, disable_tqdm=True, user_value_mean=10.0 * MEAN_ITEMS, seed=seed,
    )  # fmt: skip
    log = load_dataset("parquet", data_files=str(folder / "log.parquet"), split="train", streaming=True)
    return VSLTrainer(GR4ADForRecommendation(config), arguments, log, tokenizer)


def imports(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Nothing: what the libraries take."""
    return {}


def write(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    return {"events": write_log(folder / "log.parquet", options.events, options.ads, options.seed)}


def one_pass(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The whole log through the stream: events that reached a batch, as history or target, a second."""
    trainer = build_trainer(folder, options.ads, options.seed, steps=10**9)
    stream = trainer.train_dataset
    start, batches, kept, early = time.perf_counter(), 0, 0, 0.0
    for batch in trainer.get_train_dataloader():
        if stream.position(batches).number:  # of the next pass, whose first buffer is filled by now
            break
        kept += int((batch["item_labels"] >= 0).sum()) + len(batch["labels"])
        batches += 1
        if kept < options.written / 10:
            early = 1000 * peak_gb()
    seconds = time.perf_counter() - start
    return {
        "one pass": seconds,
        "events in the log": options.written,
        "events of the log a second": options.written / seconds,
        "events within the context, in batches": kept,
        "batches": batches,
        "peak memory in the first tenth": early,
    }


def some_steps(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Training, after one step that fills the buffer."""
    trainer = build_trainer(folder, options.ads, options.seed, steps=options.steps)
    stream, own_batches = trainer.train_dataset, trainer.train_dataset.own_batches
    filled: list[float] = []

    def first(*arguments: Any) -> Any:
        filled.append(time.perf_counter())
        return own_batches(*arguments)

    stream.own_batches = first
    start = time.perf_counter()
    trainer.train()
    end = time.perf_counter()
    targets = sum(float(log.get("loss_sid", 0)) > 0 for log in trainer.state.log_history)
    assert targets, "no loss was logged"
    return {"filling the first buffer": filled[0] - start, "a training step": (end - filled[0]) / options.steps}


def in_memory(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The first row groups of the log, read and tokenized as a `Dataset`."""
    tokenizer = build_tokenizer(options.ads, options.seed)
    file = pq.ParquetFile(folder / "log.parquet")
    groups, events = [], 0
    for number in range(file.num_row_groups):
        if events >= options.in_memory:
            break
        groups.append(file.read_row_group(number))
        events += len(groups[-1]["items"].combine_chunks().values)
    log = Dataset(pa.concat_tables(groups))
    start = time.perf_counter()
    tokenize_histories(log, tokenizer, max_items=MAX_ITEMS)
    return {"events read": events, "tokenizing them": time.perf_counter() - start}


WORKS = {"imports": imports, "write": write, "one_pass": one_pass, "some_steps": some_steps, "in_memory": in_memory}


def measured(work: str, folder: str, options: dict[str, float]) -> dict[str, float]:
    """What one of the `WORKS` found, and the peak of the process's memory in MB."""
    torch.set_num_threads(1)
    found = WORKS[work](Path(folder), argparse.Namespace(**options))
    return {**found, "peak memory": 1000 * peak_gb()}


UNITS = {
    "log on disk": "MB",
    "peak memory": "MB",
    "peak memory in the first tenth": "MB",
    "one pass": "s",
    "events of the log a second": "events/s",
    "filling the first buffer": "s",
    "a training step": "s",
    "tokenizing them": "s",
}


def main(words: Sequence[str] | None = None) -> None:
    benchmark = Benchmark(__file__, __doc__, smoke=f"{SMOKE['events']} events, {SMOKE['steps']} steps.")
    benchmark.take(
        events=10_000_000, ads=100_000, steps=(50, "Training steps."), seed=0,
        in_memory=(1_000_000, "Events of the log to read as a whole."),
    )  # fmt: skip
    options = benchmark.start(words, **SMOKE)
    with tempfile.TemporaryDirectory() as name:
        settings = {key: vars(options)[key] for key in ("events", "ads", "steps", "in_memory", "seed")}

        def of(work: str) -> dict[str, float]:
            return in_own_process(measured, work, name, settings)

        # In a process too: what writing the log takes must not stand in the others' peak.
        settings["written"] = int(of("write")["events"])
        size = (Path(name) / "log.parquet").stat().st_size / 1e6
        found = {
            "imports alone": of("imports"),
            "stream, whole log": {"log on disk": size, **of("one_pass")},
            f"stream, {options.steps} training steps": of("some_steps"),
            "in memory, part of the log": of("in_memory"),
        }
    rows = [
        result_row(name, metric, value, UNITS.get(metric, ""), 0.0)
        for name, values in found.items()
        for metric, value in values.items()
    ]
    base = found["imports alone"]["peak memory"]
    stream_mb = found["stream, whole log"]["peak memory"] - base
    memory_mb = found["in memory, part of the log"]["peak memory"] - base
    ratios = {
        "memory_a_million_events_in_memory_mb": memory_mb / found["in memory, part of the log"]["events read"] * 1e6,
        "memory_of_the_stream_whatever_its_length_mb": stream_mb,
    }
    benchmark.write(options, rows, ratios, seeds=[options.seed], threads=1, packages=("numpy", "pyarrow"))


if __name__ == "__main__":
    main()
