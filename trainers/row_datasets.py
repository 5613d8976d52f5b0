# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The forms in which a trainer takes its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
import pyarrow as pa
from datasets import Dataset, IterableDataset

READ_ROWS = 1000
Rows: TypeAlias = "Dataset | IterableDataset | pd.DataFrame | Sequence[Mapping[str, Any]]"


def as_dataset(rows: Rows, name: str) -> Dataset | IterableDataset:
    """Rows as a `Dataset`, or as the `IterableDataset` that they are.

    Args:
        rows: A data set, a DataFrame, or a list of dicts, whose keys may differ: what one has and another lacks is
            null there.
        name: Of the argument, for errors.

    Raises:
        ValueError: For anything else, or columns that Arrow has no type for.
    """
    if isinstance(rows, Dataset | IterableDataset):
        return rows
    try:
        if isinstance(rows, pd.DataFrame):
            return Dataset.from_pandas(rows, preserve_index=False)
        if isinstance(rows, Sequence) and all(isinstance(row, Mapping) for row in rows):
            names = dict.fromkeys(key for row in rows for key in row)
            return Dataset.from_dict({key: [row.get(key) for row in rows] for key in names})
    except (TypeError, ValueError) as error:  # Arrow's errors are of these
        raise ValueError(
            f"`{name}` holds a column whose rows are not of one type: {error}. Give a list of text, of numbers or "
            "null in every row."
        ) from error
    raise ValueError(
        f"`{name}` must be a `Dataset`, an `IterableDataset`, a DataFrame or a list of dicts. Received: "
        f"{type(rows).__name__}."
    )


def as_table(rows: Rows, name: str, *, read_streams: bool = False) -> Dataset:
    """As `as_dataset`, of rows that are all read at once; a stream is read into memory where `read_streams` allows it.

    Raises:
        ValueError: As `as_dataset`, or for a stream that is not to be read.
    """
    dataset = as_dataset(rows, name)
    if isinstance(dataset, Dataset):
        return dataset
    if not read_streams:
        raise ValueError(
            f"`{name}` must be a `Dataset`: all of it is read at once. Received: an IterableDataset. Take some rows: "
            "`Dataset.from_list(list(stream.take(2000)))`."
        )
    return Dataset(pa.concat_tables(dataset.with_format("arrow").iter(READ_ROWS)))


__all__ = ["Rows", "as_dataset", "as_table"]
