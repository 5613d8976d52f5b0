"""A log that does not fit into memory, from its tables to the prepared ones: in parts of users, on disk.

Histories, ties, repeats, refunds and splits are each user's own, so that every part goes through the functions that a
log in memory goes through. What the whole log decides, such as the unit of its times, is gathered first and given to
each part; counts are added up; and of the errors of all parts that is raised which the whole log would have raised.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from .accounting import Account, file_facts
from .catalog import Catalog
from .checking import DataError, RowChecks, Verdict
from .config import DataConfig, FileRole
from .counting import LARGE, SMALL, ElsewhereCounts, LogCounts, count_elsewhere, count_log, count_tables
from .cross_domain import read_cross_domain
from .event_columns import EVENT_NAMES
from .events import EventLog, WholeLog, read_log
from .leakage import check_leakage
from .log_facts import facts_of_elsewhere, facts_of_events
from .log_parts import LogParts
from .memory_plan import Held
from .merged_tables import TableParts
from .part_verdicts import PartVerdicts
from .reading import RawTable, read_source
from .settling import RefundCounts, merge_events, settle_refunds
from .splits import Rows, cut_history, make_exposures, make_splits, read_bounds, require_history, require_users
from .tables import CHUNK_ENTRIES, sizes_of, tables_of
from .tracks import cross_domain_track, has_entries, history_track, require_entries
from .user_partitions import UserPartitions
from .user_table import UserTable, count_values, require_training_values

logger = logging.getLogger(__name__)

SCRATCH = "parts"
LEAST_PIECE = 5_000
"""List entries of a piece of a part, at least: a piece of each part is in memory while they are merged."""


def prepare_parts(config: DataConfig, catalog: Catalog, held: Held, partial: Path) -> tuple[Account, str]:
    """As `whole_log.prepare_whole`, with the same tables, counts and errors."""
    scratch = partial / SCRATCH
    scratch.mkdir(parents=True)
    found = _Parts(config, catalog, held.partitions, scratch)
    found.settle()
    found.join_users()
    found.join_elsewhere()
    counts, elsewhere = found.split(partial)
    shutil.rmtree(scratch)
    log = found.logs.any
    clocks = {"log": log.time} | ({} if log.cut_time is log.time else {"cut": log.cut_time})
    if elsewhere is not None:
        clocks["elsewhere"] = found.logs.clock_elsewhere
    files = [
        file_facts(role, source, found.verdicts[role], found.sources[role].facts())
        for role, source in config.sources().items()
    ]
    roles: tuple[FileRole, ...] = ("catalog", "events", "users", "cross_domain")
    verdicts: dict[str, Verdict] = {role: found.verdicts[role] for role in roles if role in found.verdicts}
    told = Account(
        config,
        files,
        verdicts,
        len(catalog.ids.ids),
        counts,
        found.joins,
        elsewhere,
        clocks,
        log.clock_name,
        held.told(),
    )
    return told, found.sources["events"].theirs.get(log.clock_name, log.clock_name)


class _Parts:
    """The steps of a preparation in parts, in their order."""

    def __init__(self, config: DataConfig, catalog: Catalog, count: int, scratch: Path):
        self.config, self.catalog, self.count, self.scratch = config, catalog, count, scratch
        self.logs = LogParts(scratch / "logs")
        self.verdicts: dict[str, Verdict] = {"catalog": catalog.checks.verdict}
        self.sources: dict[str, RawTable] = {"catalog": catalog.source}
        self.file = ""
        self.merged: list[int] = []
        self.refunds: list[RefundCounts] = []
        self.whole = WholeLog(SMALL)
        self.history = 0
        self.users: UserTable | None = None
        self.joins: dict[str, int] | None = None
        self.first_user: tuple[int, str] | None = None

    def settle(self) -> None:
        """Reads the events, and merges and settles those of each part."""
        config = self.config
        events = UserPartitions(config, "events", self.count, self.scratch / "events")
        self.sources["events"], self.file = events.raw, events.raw.name
        facts = facts_of_events(events, config)
        verdicts = PartVerdicts(self.file)
        bounds_error: DataError | None = None
        refunded, last_cut, last_settled = False, SMALL, SMALL
        first_held_out, wanted = LARGE, [EVENT_NAMES.index(name) for name in config.history_events]
        for number in range(self.count):
            table, rows = events.part(number)
            events.drop(number)
            checks = RowChecks(self.file, len(rows), config.drop, events.raw.theirs, rows, facts)
            log: EventLog | None = None
            with verdicts.of(checks):
                log = read_log(table, checks, self.catalog.ids, config)
            del table
            if log is None or verdicts.failed or bounds_error is not None:
                continue
            log = replace(log, whole=WholeLog(LARGE - 1))  # the end of the log is not known yet
            if len(log.user_ids):
                first = int(log.first_rows[0]), log.user_ids[0].as_py()
                self.first_user = min(self.first_user or first, first)
            log, merged = merge_events(log, config)
            refunded = refunded or bool(log.refund.any())
            last_cut = max(last_cut, int(log.cut.max(initial=SMALL)))
            try:
                log, refunds = settle_refunds(log, config, self.file)
            except DataError as error:
                bounds_error = error
                continue
            last_settled = max(last_settled, int(log.cut.max(initial=SMALL)))
            self.history += int(np.isin(log.event, wanted).sum())
            try:
                history, _ = cut_history(log, config, self.file)
                first_held_out = min(first_held_out, history.first_held_out)
            except DataError:
                pass  # of the bounds: raised once the other tables are read, as from a log in memory
            self.merged.append(merged)
            self.refunds.append(refunds)
            self.logs.write(number, log)
            logger.info("part %d of %d: %d of %d rows kept", number + 1, self.count, len(log.user), len(rows))
            pa.default_memory_pool().release_unused()
        self.verdicts["events"] = verdicts.require()
        if bounds_error is not None:
            raise bounds_error
        if refunded and config.split == "temporal":
            read_bounds(self.logs.any.cut_time, last_cut, config, self.file)
        self.whole = WholeLog(last_settled, first_held_out)

    def join_users(self) -> None:
        """Reads the users table, which is held in memory, and joins it."""
        if self.config.users is None:
            return
        raw = read_source(self.config, "users")
        checks = RowChecks(raw.name, raw.table.num_rows, self.config.drop, raw.theirs)
        self.users = UserTable(raw.table, checks, self.config)
        self.sources["users"] = replace(raw, table=raw.table.slice(0, 0))
        self.verdicts["users"] = checks.verdict
        found = [self.users.join(self.logs.read(number))[1] for number in range(self.count)]
        self.joins = self.users.joins(sum(found[1:], found[0]))

    def join_elsewhere(self) -> None:
        """Reads what users did elsewhere, and joins it to each part."""
        config = self.config
        if config.cross_domain is None:
            return
        table = UserPartitions(config, "cross_domain", self.count, self.scratch / "cross_domain")
        self.sources["cross_domain"] = table.raw
        facts = facts_of_elsewhere(table)
        verdicts = PartVerdicts(table.raw.name)
        assert self.first_user is not None
        for number in range(self.count):
            part, rows = table.part(number)
            table.drop(number)
            checks = RowChecks(table.raw.name, len(rows), config.drop, table.raw.theirs, rows, facts)
            with verdicts.of(checks):
                own = read_cross_domain(part, checks, self.logs.read(number), self.first_user[1], config)
                self.logs.write_elsewhere(number, own)
        self.verdicts["cross_domain"] = verdicts.require()

    def split(self, partial: Path) -> tuple[LogCounts, ElsewhereCounts | None]:
        """Splits each part, and merges the prepared tables of all."""
        config, item_ids = self.config, self.catalog.ids.ids
        require_history(self.history, config, self.file)
        if config.split == "temporal":
            read_bounds(self.logs.any.cut_time, self.whole.last_cut, config, self.file)
        counts: list[LogCounts] = []
        joined: list[ElsewhereCounts] = []
        found = False
        tables: dict[str, TableParts] = {}
        values: dict[str, Counter[str]] = {}
        for number in range(self.count):
            log = replace(self.logs.read(number), whole=self.whole)
            features = None if self.users is None else self.users.join(log)[0]
            history, too_few = cut_history(log, config, self.file)
            rows: dict[str, Rows] = dict(make_splits(log, history, self.file))
            if features is not None:
                for name, found_values in count_values(features, rows["train"].user).items():
                    values[name] = Counter(values.get(name, {})) + Counter(found_values)
            exposures = make_exposures(log, history, config, self.file)
            if exposures is not None:
                rows["impressions"] = exposures
            tracks = [history_track(log, history, item_ids)]
            if config.cross_domain is not None:
                elsewhere = self.logs.read_elsewhere(number)
                tracks.append(cross_domain_track(elsewhere, log))
                joined.append(count_elsewhere(elsewhere, tracks[-1], rows))
                found = found or has_entries(tracks[-1], rows["train"])
            own = count_log(log, len(item_ids), self.merged[number], self.refunds[number], history, too_few)
            own.tables = count_tables(rows)
            own.leakage = check_leakage(log, history, rows, tracks, config, self.file)
            counts.append(own)
            for name, part in rows.items():
                pieces = tables_of(
                    part, tracks, log.user_ids, item_ids, features, max(LEAST_PIECE, CHUNK_ENTRIES // (4 * self.count))
                )
                order = log.first_rows[part.user]
                tables.setdefault(name, TableParts(self.scratch, name)).add(pieces, order, sizes_of(part, tracks))
            pa.default_memory_pool().release_unused()
        whole: LogCounts = LogCounts.joined(counts)
        for name in ("train", "validation", "test"):
            require_users(name, whole.tables[name].rows, whole.active, whole.tables[name].left_out, self.file)
        if values:
            require_training_values(values, whole.tables["train"].rows, self.verdicts["users"].file)
        elsewhere_counts: ElsewhereCounts | None = None
        if joined:
            elsewhere_counts = ElsewhereCounts.joined(joined)
            ends = elsewhere_counts.first, elsewhere_counts.last
            require_entries(found, ends, (whole.first, whole.last), self.logs.any, config)
        for name, parts in tables.items():
            parts.write(partial / f"{name}.parquet")
            pa.default_memory_pool().release_unused()
        return whole, elsewhere_counts
