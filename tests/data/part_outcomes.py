"""What a preparation gives when its log is held in memory, and in parts on disk."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from row_logs import ITEMS, T

from gr4ad.data import DataConfig, DataError, write_prepared

PARTS = (1, 2, 3, 7)


def outcome(folder, config, parts):
    """The files of a preparation, or its error."""
    out = folder / f"out_{parts}"
    shutil.rmtree(out, ignore_errors=True)
    try:
        summary = write_prepared(DataConfig(root=str(folder), user_partitions=parts, **config), out)
    except DataError as error:
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []
        return str(error)
    assert summary["accounting"]["held"]["user_partitions"] == parts
    files = {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix == ".parquet"}
    text = (out / "data.json").read_text()
    told = json.loads(text)
    del told["accounting"]["held"]
    return files | {"data.json": json.dumps(told)}  # in order: that of its keys is the same too


def assert_same(folder, config, parts=PARTS):
    """Byte for byte."""
    whole = outcome(folder, config, 0)
    for count in parts:
        found = outcome(folder, config, count)
        if isinstance(whole, str) or isinstance(found, str):
            assert found == whole
            continue
        assert list(found) == list(whole)
        for name in whole:
            assert found[name] == whole[name], (name, count)
    return whole


def shop(rows=600, users=40, seed=0):
    draw = np.random.default_rng(seed)
    kinds = draw.choice(["impression", "click", "conversion"], rows, p=[0.5, 0.3, 0.2])
    return pd.DataFrame(
        {
            "user_id": draw.integers(0, users, rows),
            "item_id": draw.choice(ITEMS, rows),
            "timestamp": T + np.sort(draw.integers(0, 300, rows)),
            "event": kinds,
            "value": np.where(kinds == "conversion", draw.gamma(2, 3, rows), np.nan),
            "note": [f"{number % 7},\n{number}" for number in range(rows)],
        }
    )


def csv(frame, folder, name="events.csv", **options):
    frame.to_csv(folder / name, index=False, **options)
    return {"events": name}


def parquet(frame, folder, name="events.parquet", **options):
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), folder / name, row_group_size=100, **options)
    return {"events": name}
