"""From the user's tables to the folder that training and evaluation read."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .accounting import account, file_facts
from .checking import DataError, RowChecks
from .columns import as_ids
from .config import DataConfig, FileRole
from .cross_domain import CrossDomain, read_cross_domain
from .event_columns import EVENT_NAMES
from .events import EventLog, read_log
from .leakage import check_leakage
from .reading import RawTable, check_number_columns, read_source
from .settling import merge_events, settle_refunds
from .splits import History, Rows, cut_history, make_exposures, make_splits
from .tables import HISTORY_LISTS, HistoryTrack, tables_of, write_tables
from .user_table import first_of_each, read_users, require_training_values

if TYPE_CHECKING:
    from datasets import Dataset

SUMMARY_FILE = "data.json"


@dataclass
class PreparedData:
    """Checked and split data. All ids are text; lists of a user are oldest first.

    Attributes:
        catalog: `item_id` first, then the columns of the catalog as read.
        train: `user_id`, the history's columns, and the user features as text (null for users without). Along
            `items`: `events`, `values` (float32, in value_unit), `times` (int64: seconds since 1970 UTC, or the
            position). Where the recipe has `cross_domain`, what the user did elsewhere before the first held-out
            event: `cross_domain` (any ids) and `cross_domain_times`.
        validation, test: the same columns up to the targets, and `target_items, target_values (float32)`: one entry
            per distinct held-out item.
        impressions: the same columns up to an exposure list of the training period, and `candidates, rewards
            (float32), outcomes` of the list; one row a list, by user and time. `outcomes` (impression, click or
            conversion: the furthest thing that came of each candidate) is null where something that came of the list
            is held out. None when the log has no impressions.
        summary: the content of `data.json`: counts, rows dropped by reason, users left out, the split, `value_unit`,
            `event_names` (the log's names of events -> ours, as the recipe gives them), `clock` (the column that
            `times` are from: timestamp or position), `user_features` (of each the bins that its numbers are to be put
            into, 0: its values are categories), and `accounting`, as [`gr4ad.data.accounting.account`] returns it.
    """

    catalog: Dataset
    train: Dataset
    validation: Dataset
    test: Dataset
    impressions: Dataset | None
    summary: dict[str, Any]

    def catalog_columns(self, setting: str, names: Sequence[str]) -> list[Sequence[Any]]:
        """Columns of the catalog. Raises ValueError, naming the setting, for one that the catalog does not have."""
        missing = [name for name in names if name not in self.catalog.column_names]
        if missing:
            raise ValueError(
                f"`{setting}` names {missing[0]!r}, which the catalog does not have. It has: "
                f"{', '.join(self.catalog.column_names)}."
            )
        return [self.catalog[name] for name in names]

    @property
    def user_features(self) -> list[str]:
        """The columns of `train` that are user features."""
        return [name for name in self.train.column_names if name not in ("user_id", *HISTORY_LISTS)]


def prepare(config: DataConfig, out_dir: str | Path) -> PreparedData:
    """[`write_prepared`], and what it wrote."""
    write_prepared(config, out_dir)
    return load_prepared(out_dir)


def write_prepared(config: DataConfig, out_dir: str | Path) -> dict[str, Any]:
    """Reads, checks, splits and writes; a killed run leaves no half-written `out_dir`. Returns the summary.

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
    check_number_columns(config)
    checks: dict[str, RowChecks] = {}
    sources: dict[str, RawTable] = {}
    catalog, keys = _read_catalog(config, checks, sources)
    item_ids = catalog["item_id"].combine_chunks()
    raw = _read(config, "events", checks, sources)
    file = checks["events"].file
    log = read_log(raw, checks["events"], keys, item_ids, config)
    log, merged = merge_events(log, config)
    log, refunds = settle_refunds(log, config, file)
    users = elsewhere = None
    if config.users is not None:
        users = read_users(_read(config, "users", checks, sources), checks["users"], log, config)
    if config.cross_domain is not None:
        elsewhere = read_cross_domain(
            _read(config, "cross_domain", checks, sources), checks["cross_domain"], log, config
        )
    del raw
    pa.default_memory_pool().release_unused()
    history, too_few = cut_history(log, config, file)
    rows: dict[str, Rows] = dict(make_splits(log, history, file))
    if users is not None and users.table is not None:
        require_training_values(users.table, rows["train"].user, checks["users"].file)
    exposures = make_exposures(log, history, config, file)
    if exposures is not None:
        rows["impressions"] = exposures
    tracks = [_history_track(log, history, item_ids)]
    if elsewhere is not None:
        tracks.append(_cross_domain_track(elsewhere, log, rows["train"], config))
    leakage = check_leakage(log, history, rows, tracks, config, file)

    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pq.write_table(catalog, partial / "catalog.parquet")
    features = None if users is None else users.table
    for name, part in rows.items():
        write_tables(partial / f"{name}.parquet", tables_of(part, tracks, log.user_ids, item_ids, features))
    dropped = sum((Counter(part.dropped) for part in checks.values()), Counter())
    summary = _summary(config, catalog, log, rows, dropped, too_few)
    if elsewhere is not None:
        summary["cross_domain"] = _cross_domain_summary(elsewhere, log, tracks[-1], rows)
    if features is not None:
        summary["user_features"] = config.bins_of_features()
    summary["accounting"] = account(
        files=[
            file_facts(role, source, checks[role], sources[role].facts()) for role, source in config.sources().items()
        ],
        checks=checks,
        config=config,
        items=catalog.num_rows,
        log=log,
        merged=merged,
        refunds=refunds,
        history=history,
        rows=rows,
        users=users,
        elsewhere=elsewhere,
        leakage=leakage,
    )
    text = json.dumps(summary, indent=2) + "\n"
    (partial / SUMMARY_FILE).write_text(text, encoding="utf-8")
    _replace(partial, out)
    return json.loads(text)


class HeldOut:
    """In place of a split that whoever loaded the data must not learn from: any use of it is an AssertionError."""

    def __init__(self, name: str):
        self._name = name

    def _refuse(self, *_: Any) -> Any:
        raise AssertionError(f"the {self._name} rows are held out from what is fitted here")

    __getattr__ = __getitem__ = __iter__ = __len__ = __bool__ = _refuse


def load_prepared(directory: str | Path, *, held_out: Sequence[str] = ()) -> PreparedData:
    """Loads what `prepare` wrote, into memory.

    Args:
        held_out: splits that are not loaded, because what is fitted must not see them: [`HeldOut`] stands for each.

    Raises:
        DataError: `directory` is no prepared data folder, or a file of it is damaged.
    """
    from datasets import Dataset
    from datasets.fingerprint import generate_random_fingerprint

    folder = Path(directory)
    if not (folder / SUMMARY_FILE).exists():
        raise DataError(
            f"{folder}: no prepared data here (no {SUMMARY_FILE}). Allowed: a folder written by `prepare`. Prepare "
            "the data first, or correct the name."
        )

    def load(name: str) -> Dataset:
        if name in held_out:
            return cast("Dataset", HeldOut(name))
        path = folder / f"{name}.parquet"
        try:
            # The fingerprint that `datasets` would make is a hash of all rows, which nothing here asks for.
            return Dataset(pq.read_table(path, memory_map=False), fingerprint=generate_random_fingerprint())
        except (pa.ArrowException, OSError) as error:
            reason = str(error)[:200]
            raise DataError(f"{path}: cannot be read ({reason}). Prepare the data again.") from error

    try:
        summary = json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{folder / SUMMARY_FILE}: is no json ({error}). Prepare the data again.") from error
    impressions = load("impressions") if "impressions" in summary else None
    return PreparedData(load("catalog"), load("train"), load("validation"), load("test"), impressions, summary)


def _read(config: DataConfig, role: FileRole, checks: dict[str, RowChecks], sources: dict[str, RawTable]) -> pa.Table:
    """A raw table with our column names; puts the checks of its rows into `checks`, how it was read into `sources`."""
    raw = read_source(config, role)
    checks[role] = RowChecks(raw.name, raw.table.num_rows, config.drop, raw.theirs)
    sources[role] = replace(raw, table=raw.table.slice(0, 0))
    return raw.table


def _read_catalog(
    config: DataConfig, checks: dict[str, RowChecks], sources: dict[str, RawTable]
) -> tuple[pa.Table, pa.Array]:
    """The good rows of the catalog, `item_id` first, and (items,) text by which the events refer to them."""
    raw = _read(config, "catalog", checks, sources)
    own = checks["catalog"]
    names = ["item_id"] + (["event_key"] if "event_key" in raw.column_names else [])
    ids = {name: as_ids(raw[name], name, own) for name in names}
    for name in names:
        first_of_each(ids[name], "duplicate_item", name, raw, own)
    own.require_rows()
    keep = pa.array(own.keep)
    others = raw.drop_columns(names).filter(keep)
    catalog = others.add_column(0, "item_id", ids["item_id"].filter(keep))
    return catalog, ids[names[-1]].filter(keep)


def _history_track(log: EventLog, history: History, item_ids: pa.Array) -> HistoryTrack:
    rows = pa.array(history.rows)
    columns = {
        "items": pa.DictionaryArray.from_arrays(pa.array(log.item), item_ids),
        "events": pa.DictionaryArray.from_arrays(pa.array(log.event), pa.array(EVENT_NAMES)),
        "times": pa.array(log.times(log.clock)),
        **log.features,
    }
    return HistoryTrack({name: column.take(rows) for name, column in columns.items()})


def _cross_domain_track(elsewhere: CrossDomain, log: EventLog, train: Rows, config: DataConfig) -> HistoryTrack:
    times = pa.array(log.times(elsewhere.clock))
    track = HistoryTrack(
        {"cross_domain": elsewhere.item, "cross_domain_times": times}, (elsewhere.user, elsewhere.clock)
    )
    start, stop = track.spans(train)
    if not (stop > start).any():
        raise DataError(
            f"{config.cross_domain}: column `timestamp`: no training history has an entry before its end. Received: "
            f"{pc.min(times)} to {pc.max(times)}, the events: {log.times(log.clock.min())} to "
            f"{log.times(log.clock.max())}. Give times on the clock of the events."
        )
    return track


def _summary(
    config: DataConfig,
    catalog: pa.Table,
    log: EventLog,
    rows: dict[str, Rows],
    dropped: Counter[str],
    too_few: int,
) -> dict[str, Any]:
    description: dict[str, object] = {"kind": config.split}
    if config.split == "temporal":
        description |= {
            "column": config.split_column,
            "validation_start": config.validation_start,
            "test_start": config.test_start,
            "test_end": config.test_end,
        }
    counts = np.bincount(log.event, minlength=len(EVENT_NAMES)).tolist()
    summary: dict[str, Any] = {
        "items": catalog.num_rows,
        "users": int(len(np.unique(log.user))),
        "events": len(log.user),
        "events_by_name": dict(zip(EVENT_NAMES, counts, strict=True)),
        "event_names": config.names_of_events(),
        "history_events": config.history_events,
        "value_unit": config.value_unit,
        "clock": log.clock_name,
        "split": description,
        "dropped": dict(dropped),
        "sorted_rows": log.unsorted,
        "left_out_min_user_events": too_few,
    }
    for name, part in rows.items():
        if part.known is not None:
            summary[name] = {
                "lists": len(part.user),
                "rows": int(part.lengths.sum()),
                "outcomes_held_out": int((~part.known).sum()),
                "left_out": part.left_out,
            }
            continue
        summary[name] = {
            "users": len(part.user),
            "mean_history": float((part.stop - part.start).mean()),
            "left_out": part.left_out,
        }
        if part.lists:
            summary[name]["mean_targets"] = float(part.lengths.mean())
            summary[name]["mean_target_value"] = float(part.lists["target_values"].sum() / len(part.user))
    return summary


def _cross_domain_summary(
    elsewhere: CrossDomain, log: EventLog, track: HistoryTrack, rows: dict[str, Rows]
) -> dict[str, Any]:
    users = len(np.unique(elsewhere.user))
    means = {}
    for name, part in rows.items():
        start, stop = track.spans(part)
        means[f"mean_{name}"] = float((stop - start).mean()) if len(start) else 0.0
    return {
        "entries": len(elsewhere.user),
        "users": users,
        "users_without": int(len(np.unique(log.user))) - users,
        "unmatched_users": elsewhere.unmatched_users,
        "unmatched_entries": elsewhere.unmatched_entries,
        "sorted_rows": elsewhere.unsorted,
        "repeats": elsewhere.repeats,
        **means,
    }


def _replace(partial: Path, out: Path) -> None:
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():  # a folder that holds files cannot be replaced in one step; the gap is two renames
        os.replace(out, old)
    os.replace(partial, out)
    shutil.rmtree(old, ignore_errors=True)
