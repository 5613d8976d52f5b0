"""A log that fits into memory, from its tables to the prepared ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa

from .accounting import Account, file_facts
from .catalog import Catalog
from .checking import RowChecks
from .config import DataConfig, FileRole
from .counting import count_elsewhere, count_log, count_tables
from .cross_domain import read_cross_domain
from .events import read_log
from .leakage import check_leakage
from .memory_plan import Held
from .reading import RawTable, read_source
from .settling import merge_events, settle_refunds
from .splits import Rows, cut_history, make_exposures, make_splits
from .tables import tables_of, write_tables
from .tracks import cross_domain_track, has_entries, history_track, require_entries
from .user_table import UserTable, count_values, require_training_values


def prepare_whole(config: DataConfig, catalog: Catalog, held: Held, partial: Path) -> tuple[Account, str]:
    """Reads the other tables, splits the log and writes the prepared tables into `partial`, a new folder. Returns what
    there is to tell, and how the file calls the column of the clock. Raises DataError."""
    checks: dict[str, RowChecks] = {"catalog": catalog.checks}
    sources: dict[str, RawTable] = {"catalog": catalog.source}

    def read(role: FileRole) -> pa.Table:
        raw = read_source(config, role)
        checks[role] = RowChecks(raw.name, raw.table.num_rows, config.drop, raw.theirs)
        sources[role] = replace(raw, table=raw.table.slice(0, 0))
        return raw.table

    item_ids = catalog.ids.ids
    raw = read("events")
    file = checks["events"].file
    log = read_log(raw, checks["events"], catalog.ids, config)
    log, merged = merge_events(log, config)
    log, refunds = settle_refunds(log, config, file)
    features = joins = elsewhere = None
    if config.users is not None:
        table = UserTable(read("users"), checks["users"], config)
        features, matches = table.join(log)
        joins = table.joins(matches)
    if config.cross_domain is not None:
        first_user = log.user_ids[0].as_py()
        elsewhere = read_cross_domain(read("cross_domain"), checks["cross_domain"], log, first_user, config)
    del raw
    pa.default_memory_pool().release_unused()
    history, too_few = cut_history(log, config, file)
    rows: dict[str, Rows] = dict(make_splits(log, history, file))
    if features is not None:
        counted = count_values(features, rows["train"].user)
        require_training_values(counted, len(rows["train"].user), checks["users"].file)
    exposures = make_exposures(log, history, config, file)
    if exposures is not None:
        rows["impressions"] = exposures
    tracks = [history_track(log, history, item_ids)]
    counts = count_log(log, len(item_ids), merged, refunds, history, too_few)
    counts.tables = count_tables(rows)
    clocks = {"log": log.time} | ({} if log.cut_time is log.time else {"cut": log.cut_time})
    joined = None
    if elsewhere is not None:
        tracks.append(cross_domain_track(elsewhere, log))
        joined = count_elsewhere(elsewhere, tracks[-1], rows)
        clocks["elsewhere"] = elsewhere.time
        found = has_entries(tracks[-1], rows["train"])
        require_entries(found, (joined.first, joined.last), (counts.first, counts.last), log, config)
    counts.leakage = check_leakage(log, history, rows, tracks, config, file)

    partial.mkdir(parents=True)
    for name, part in rows.items():
        write_tables(partial / f"{name}.parquet", tables_of(part, tracks, log.user_ids, item_ids, features))
    verdicts = {role: part.verdict for role, part in checks.items()}
    files = [
        file_facts(role, source, verdicts[role], sources[role].facts()) for role, source in config.sources().items()
    ]
    told = Account(config, files, verdicts, len(item_ids), counts, joins, joined, clocks, log.clock_name, held.told())
    return told, checks["events"].theirs(log.clock_name)
