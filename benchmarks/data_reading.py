"""Five million events from a file to the prepared data, and what of it is reading, by which library.

    python -m pip install polars duckdb
    python benchmarks/data_reading.py --work out/data_reading --out benchmarks/results/data_reading.json
    python benchmarks/data_reading.py --work out/data_reading --events 3000000 --partitions 4 16 \
        --out benchmarks/results/data_streaming.json

A generated log of 200,000 users and 20,000 items, as csv and as parquet. Each measurement is a process of its own with
one thread for numerical libraries: its CPU seconds, and the peak of its resident memory. `prepare` is the stage `data`
with what it imports. `read csv` is the csv as an arrow table of text by each library, the library's import left out of
its seconds and within its memory; pyarrow's is the reader of gr4ad, which checks the quotes too. A library that is not
installed is left out. With `--partitions` only `prepare` is measured, in memory and in so many parts of users on disk.
"""

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from measurement import one_core  # noqa: F401  before numpy is loaded

# isort: split
from measurement.own_process import in_own_process, peak_gb
from measurement.results import Benchmark, Row, result_row

EVENTS, SMOKE_EVENTS = 5_000_000, 20_000
ITEMS = 20_000
LIBRARIES = ("pyarrow", "polars", "duckdb")


def generate(folder: str, events: int) -> None:
    """`events.csv`, `events.parquet` and `catalog.parquet`: impressions, clicks and conversions over 30 days, in the
    order of time."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    rng = np.random.default_rng(0)
    users = rng.integers(0, max(10, events // 25), events)
    items = (rng.pareto(1.2, events) * 200).astype(np.int64) % ITEMS
    kinds = rng.choice(3, events, p=[0.6, 0.35, 0.05])
    values = np.where(kinds == 2, np.round(rng.gamma(2, 20, events), 2), 0.0)
    table = pa.table(
        {
            "user_id": np.char.add("u", users.astype(str)),
            "item_id": np.char.add("ad_", items.astype(str)),
            "timestamp": 1_700_000_000 + np.sort(rng.integers(0, 30 * 86400, events)),
            "event": pa.array(["impression", "click", "conversion"]).take(pa.array(kinds)),
            "value": values,
        }
    )
    ids = np.char.add("ad_", np.arange(ITEMS).astype(str))
    pq.write_table(table, Path(folder) / "events.parquet")
    pa.csv.write_csv(table, Path(folder) / "events.csv")
    pq.write_table(pa.table({"item_id": ids, "title": ids}), Path(folder) / "catalog.parquet")


def read_pyarrow(path: str) -> None:
    from gr4ad.data.file_formats import table_file
    from gr4ad.data.file_readers import read_file

    read_file(table_file(Path(path), "events"))


def read_polars(path: str) -> None:
    import polars

    polars.read_csv(path, infer_schema=False).to_arrow()


def read_duckdb(path: str) -> None:
    import duckdb

    duckdb.sql(f"SET threads = {os.environ['OMP_NUM_THREADS']}")
    duckdb.read_csv(path, all_varchar=True).to_arrow_table()


READERS: dict[str, Callable[[str], None]] = {"pyarrow": read_pyarrow, "polars": read_polars, "duckdb": read_duckdb}


def reading(library: str, path: str, small: str) -> dict[str, float]:
    """CPU seconds and peak memory of a library that reads a csv; a small one is read first and loads the library."""
    READERS[library](small)
    start = time.process_time()
    READERS[library](path)
    return {"seconds": time.process_time() - start, "gb": peak_gb()}


def preparing(folder: str, events: str, partitions: int) -> dict[str, float]:
    """CPU seconds and peak memory of the stage `data`; `partitions` 0: in memory."""
    from gr4ad.data import DataConfig, write_prepared

    start = time.process_time()
    config = DataConfig(root=folder, events=events, user_partitions=partitions)
    write_prepared(config, Path(folder) / "prepared")
    return {"seconds": time.process_time() - start, "gb": peak_gb()}


def main(words: Sequence[str] | None = None) -> None:
    parser = Benchmark(__file__, __doc__, smoke=f"A log of {SMOKE_EVENTS} events.")
    parser.take("--work", events=(EVENTS, "Events of the log."))
    parser.add_argument("--partitions", type=int, nargs="+", default=[], help="Parts of users, several numbers.")
    arguments = parser.start(words, events=SMOKE_EVENTS)
    # The processes read it before they load a numerical library, or the threads of polars.
    os.environ["POLARS_MAX_THREADS"] = os.environ["OMP_NUM_THREADS"]
    folder, small = (arguments.work / name for name in (f"log_{arguments.events}", "log_small"))
    for place, events in ((folder, arguments.events), (small, 1000)):
        place.mkdir(parents=True, exist_ok=True)
        if not (place / "catalog.parquet").exists():
            in_own_process(generate, str(place), events)
    found = [library for library in LIBRARIES if importlib.util.find_spec(library)]
    found = ["pyarrow"] if arguments.partitions else found
    rows: list[Row] = []
    for library in () if arguments.partitions else found:
        took = in_own_process(reading, library, str(folder / "events.csv"), str(small / "events.csv"))
        rows += both(f"read csv, {library}", took)
    for name in ("events.csv", "events.parquet"):
        for parts in (0, *arguments.partitions):
            held = f", {parts} parts" if parts else ", in memory" if arguments.partitions else ""
            rows += both(
                f"prepare, {Path(name).suffix[1:]}{held}", in_own_process(preparing, str(folder), name, parts)
            )
    parser.write(arguments, rows, packages=[*found], events=arguments.events)


def both(name: str, took: dict[str, float]) -> list[Row]:
    return [
        result_row(name, "CPU time", took["seconds"], "s"),
        result_row(name, "peak memory", took["gb"], "GB"),
    ]


if __name__ == "__main__":
    main()
