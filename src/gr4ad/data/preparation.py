"""From the user's tables to the folder that training and evaluation read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .checking import DataError, RowChecks
from .columns import as_ids, nulls
from .config import EVENT_NAMES, DataConfig
from .events import EventLog, read_log
from .reading import FileRole, read_table
from .splits import Exposures, History, Split, cut_history, make_exposures, make_splits, spans

if TYPE_CHECKING:
    from datasets import Dataset

# Entries of list columns per row group: bounds memory while writing, and keeps arrow's 32-bit offsets far from full.
CHUNK_ENTRIES = 4_000_000
SUMMARY_FILE = "data.json"
SEQUENCE_COLUMNS = ("user_id", "items", "events", "values", "times", "target_items", "target_values")


@dataclass
class PreparedData:
    """Checked and split data. All ids are text; lists of a user are oldest first.

    Attributes:
        catalog: `item_id` first, then the columns of the catalog as read.
        train: `user_id, items, events, values (float32, in value_unit), times (int64: seconds since 1970 UTC, or the
            position)`, and the user features as text (null for users without).
        validation, test: the same columns up to the cut, and `target_items, target_values (float32)`: one entry per
            distinct held-out item.
        impressions: `user_id, items, candidates, rewards (float32), outcomes` of the training period, one row an
            exposure list in the order of the log; `outcomes` (impression, click or conversion: the furthest thing that
            came of each candidate) is null where something that came of the list is held out. None when the log has
            no impressions.
        summary: the content of `data.json`: counts, rows dropped by reason, users left out, the split, `value_unit`,
            `clock` (the column that `times` are from: timestamp or position).
    """

    catalog: Dataset
    train: Dataset
    validation: Dataset
    test: Dataset
    impressions: Dataset | None
    summary: dict


def prepare(config: DataConfig, out_dir: str | Path) -> PreparedData:
    """Reads, checks, splits and writes; a killed run leaves no half-written `out_dir`.

    Args:
        config: where the tables are and how they are split.
        out_dir: folder to write; an earlier prepared folder there is replaced.

    Raises:
        DataError: a table that cannot be read, a bad row whose reason `config.drop` does not name, an empty split, or
            an `out_dir` that holds something else than prepared data.
    """
    out = Path(out_dir).resolve()
    if out.exists() and not (out.is_dir() and ((out / SUMMARY_FILE).exists() or not any(out.iterdir()))):
        raise DataError(
            f"{out}: exists and is no prepared data folder. Allowed: a new or empty folder, or one written before. "
            "Choose another name."
        )
    dropped: dict[str, int] = {}
    events_file = _resolve(config, config.events)
    catalog, keys = _read_catalog(config, dropped)
    raw = _read(config, config.events, "events")
    checks = RowChecks(str(events_file), raw.num_rows, config.drop)
    log = read_log(raw, checks, keys, config)
    _add(dropped, checks)
    features = _read_features(config, log, dropped)
    history, too_few = cut_history(log, config, str(events_file))
    splits = make_splits(log, history, str(events_file))
    exposures = make_exposures(log, history, config, str(events_file))

    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    item_ids = catalog["item_id"].combine_chunks()
    pq.write_table(catalog, partial / "catalog.parquet")
    for name, split in splits.items():
        _write(partial / f"{name}.parquet", _sequences(log, history, split, item_ids, features, name != "train"))
    if exposures is not None:
        _write(partial / "impressions.parquet", _lists(log, history, exposures, item_ids))
    summary = _summary(config, catalog, log, history, splits, exposures, dropped, too_few)
    (partial / SUMMARY_FILE).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    _replace(partial, out)
    return load_prepared(out)


def load_prepared(directory: str | Path) -> PreparedData:
    """Loads what `prepare` wrote, into memory.

    Raises:
        DataError: `directory` is no prepared data folder, or a file of it is damaged.
    """
    from datasets import Dataset

    folder = Path(directory)
    if not (folder / SUMMARY_FILE).exists():
        raise DataError(
            f"{folder}: no prepared data here (no {SUMMARY_FILE}). Allowed: a folder written by `prepare`. Prepare "
            "the data first, or correct the name."
        )

    def load(name: str) -> Dataset:
        path = folder / f"{name}.parquet"
        try:
            return Dataset(pq.read_table(path, memory_map=False))
        except (pa.ArrowException, OSError) as error:
            reason = str(error)[:200]
            raise DataError(f"{path}: cannot be read ({reason}). Prepare the data again.") from error

    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / SUMMARY_FILE}: is no json ({error}). Prepare the data again.") from error
    impressions = load("impressions") if "impressions" in summary else None
    return PreparedData(load("catalog"), load("train"), load("validation"), load("test"), impressions, summary)


def _resolve(config: DataConfig, source: str) -> str | Path:
    local = Path(config.root, source)
    if source.startswith("hf://") or (not local.exists() and not local.suffix and len(Path(source).parts) == 2):
        return source
    return local


def _read(config: DataConfig, source: str, role: FileRole) -> pa.Table:
    dataset = read_table(_resolve(config, source), file_role=role, columns=config.columns_of(role))
    return dataset.data.table


def _add(dropped: dict[str, int], checks: RowChecks) -> None:
    for reason, count in checks.dropped.items():
        dropped[reason] = dropped.get(reason, 0) + count


def _first_of_each(ids: pa.Array, reason: str, column: str, raw: pa.Table, checks: RowChecks) -> None:
    """Refuses rows of `raw` whose id is missing or stands in an earlier row."""
    checks.refuse(nulls(ids), "missing", column, raw[column], "a non-empty id")
    codes = ids.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    repeated = np.ones(len(ids), dtype=bool)
    rows = np.flatnonzero(checks.keep)
    repeated[rows[np.unique(codes[rows], return_index=True)[1]]] = False
    checks.refuse(repeated, reason, column, raw[column], "each id once")


def _read_catalog(config: DataConfig, dropped: dict[str, int]) -> tuple[pa.Table, pa.Array]:
    """The good rows of the catalog, `item_id` first, and (items,) text by which the events refer to them."""
    raw = _read(config, config.catalog, "catalog")
    file = str(_resolve(config, config.catalog))
    checks = RowChecks(file, raw.num_rows, config.drop)
    names = ["item_id"] + (["event_key"] if "event_key" in raw.column_names else [])
    ids = {name: as_ids(raw[name], name, file) for name in names}
    for name in names:
        _first_of_each(ids[name], "duplicate_item", name, raw, checks)
    checks.require_rows()
    _add(dropped, checks)
    keep = pa.array(checks.keep)
    others = raw.drop_columns(names).filter(keep)
    catalog = others.add_column(0, "item_id", ids["item_id"].filter(keep))
    return catalog, ids[names[-1]].filter(keep)


def _read_features(config: DataConfig, log: EventLog, dropped: dict[str, int]) -> pa.Table | None:
    """User features as text, one row per row of `log.user_ids`; null for users that the table lacks."""
    if config.users is None:
        return None
    raw = _read(config, config.users, "users")
    file = str(_resolve(config, config.users))
    clash = [name for name in raw.column_names if name in SEQUENCE_COLUMNS[1:]]
    if clash:
        raise DataError(
            f"{file}: column `{clash[0]}` has the name of a prepared column. Allowed: any name but "
            f"{', '.join(SEQUENCE_COLUMNS[1:])}. Rename it."
        )
    checks = RowChecks(file, raw.num_rows, config.drop)
    ids = as_ids(raw["user_id"], "user_id", file)
    _first_of_each(ids, "duplicate_user", "user_id", raw, checks)
    _add(dropped, checks)
    rows = np.flatnonzero(checks.keep)
    place = pc.index_in(log.user_ids, value_set=ids.take(pa.array(rows)).cast(log.user_ids.type))
    place = pa.array(rows).take(place) if len(rows) else pa.nulls(len(log.user_ids), pa.int64())
    columns = {}
    for name in raw.drop_columns(["user_id"]).column_names:
        try:
            columns[name] = raw[name].cast(pa.string()).take(place)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{file}: column `{name}` is of type {raw[name].type}. Allowed: text, numbers, booleans, dates: one "
                "feature value a user. Convert or remove it."
            ) from error
    return pa.table(columns) if columns else None


def _chunks(sizes: np.ndarray) -> Iterator[slice]:
    """Slices of rows whose list entries (`sizes`, (m,)) sum to about CHUNK_ENTRIES; at least one slice."""
    part = np.cumsum(sizes) // CHUNK_ENTRIES
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1).tolist(), len(sizes)]
    for start, stop in zip(edges[:-1], edges[1:], strict=True):
        yield slice(start, stop)


def _list(values: pa.Array, lengths: np.ndarray) -> pa.ListArray:
    return pa.ListArray.from_arrays(pa.array(np.r_[0, np.cumsum(lengths)], pa.int32()), values)


def _sequences(
    log: EventLog, history: History, split: Split, item_ids: pa.Array, features: pa.Table | None, targets: bool
) -> Iterator[pa.Table]:
    names, times = pa.array(EVENT_NAMES), log.times
    lengths = split.stop - split.start
    target_ends = np.r_[0, np.cumsum(split.target_lengths)]
    for part in _chunks(lengths + split.target_lengths):
        user = pa.array(split.user[part])
        rows = history.rows[spans(split.start[part], split.stop[part])]
        columns = {
            "user_id": log.user_ids.take(user),
            "items": _list(item_ids.take(pa.array(log.item[rows])), lengths[part]),
            "events": _list(names.take(pa.array(log.event[rows])), lengths[part]),
            "values": _list(pa.array(log.value[rows].astype(np.float32)), lengths[part]),
            "times": _list(pa.array(times[rows]), lengths[part]),
        }
        if targets:
            span = slice(target_ends[part.start], target_ends[part.stop])
            held_out = item_ids.take(pa.array(split.target_items[span]))
            columns["target_items"] = _list(held_out, split.target_lengths[part])
            paid = pa.array(split.target_values[span].astype(np.float32))
            columns["target_values"] = _list(paid, split.target_lengths[part])
        if features is not None:
            chosen = features.take(user)
            columns |= {name: chosen[name] for name in chosen.column_names}
        yield pa.table(columns)


def _lists(log: EventLog, history: History, exposures: Exposures, item_ids: pa.Array) -> Iterator[pa.Table]:
    ends = np.r_[0, np.cumsum(exposures.lengths)]
    names = pa.array(EVENT_NAMES)
    lengths = exposures.stop - exposures.start
    for part in _chunks(lengths + exposures.lengths):
        past = history.rows[spans(exposures.start[part], exposures.stop[part])]
        span = slice(ends[part.start], ends[part.stop])
        seen = exposures.rows[span]
        came = _list(names.take(pa.array(exposures.outcome[span])), exposures.lengths[part])
        yield pa.table(
            {
                "user_id": log.user_ids.take(pa.array(exposures.user[part])),
                "items": _list(item_ids.take(pa.array(log.item[past])), lengths[part]),
                "candidates": _list(item_ids.take(pa.array(log.item[seen])), exposures.lengths[part]),
                "rewards": _list(pa.array(log.value[seen].astype(np.float32)), exposures.lengths[part]),
                "outcomes": pc.if_else(pa.array(exposures.known[part]), came, pa.scalar(None, came.type)),
            }
        )


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        writer.write_table(first)
        for table in tables:
            writer.write_table(table)


def _summary(
    config: DataConfig,
    catalog: pa.Table,
    log: EventLog,
    history: History,
    splits: dict[str, Split],
    exposures: Exposures | None,
    dropped: dict[str, int],
    too_few: int,
) -> dict:
    description: dict[str, object] = {"kind": config.split}
    if config.split == "temporal":
        description |= {
            "column": config.split_column,
            "validation_start": config.validation_start,
            "test_start": config.test_start,
            "test_end": config.test_end,
        }
    counts = np.bincount(log.event, minlength=len(EVENT_NAMES)).tolist()
    summary: dict[str, object] = {
        "items": catalog.num_rows,
        "users": int(len(np.unique(log.user))),
        "events": len(log.user),
        "events_by_name": dict(zip(EVENT_NAMES, counts, strict=True)),
        "history_events": config.history_events,
        "value_unit": config.value_unit,
        "clock": log.clock_name,
        "split": description,
        "dropped": dropped,
        "sorted_rows": log.unsorted,
        "left_out_min_user_events": too_few,
    }
    for name, split in splits.items():
        figures: dict[str, object] = {
            "users": len(split.user),
            "mean_history": float((split.stop - split.start).mean()),
            "left_out": split.left_out,
        }
        if name != "train":
            figures["mean_targets"] = float(split.target_lengths.mean())
            figures["mean_target_value"] = float(split.target_values.sum() / len(split.user))
        summary[name] = figures
    if exposures is not None:
        summary["impressions"] = {
            "lists": len(exposures.user),
            "rows": len(exposures.rows),
            "outcomes_held_out": int((~exposures.known).sum()),
            "left_out": exposures.left_out,
        }
    return summary


def _replace(partial: Path, out: Path) -> None:
    if out.exists() and any(out.iterdir()):
        # A folder that holds files cannot be replaced in one step; the gap is two renames.
        old = out.parent / f".{out.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        os.replace(out, old)
        os.replace(partial, out)
        shutil.rmtree(old)
    else:
        os.replace(partial, out)
