"""The catalog, checked: its rows, and the ids by which events refer to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pyarrow as pa

from .checking import RowChecks
from .columns import as_ids
from .config import DataConfig
from .events import CatalogIds
from .reading import RawTable, read_source
from .row_order import tie_hashes
from .user_table import first_of_each


@dataclass
class Catalog:
    """The good rows of a catalog.

    Attributes:
        table: `item_id` first. ids: what the events need of it.
        checks: the verdicts on its rows. source: how it was read.
    """

    table: pa.Table
    ids: CatalogIds
    checks: RowChecks
    source: RawTable


def read_catalog(config: DataConfig) -> Catalog:
    """Reads and checks the catalog. Raises DataError: a bad row whose reason `config.drop` does not name."""
    source = read_source(config, "catalog")
    raw = source.table
    own = RowChecks(source.name, raw.num_rows, config.drop, source.theirs)
    names = ["item_id"] + (["event_key"] if "event_key" in raw.column_names else [])
    ids = {name: as_ids(raw[name], name, own) for name in names}
    for name in names:
        first_of_each(ids[name], "duplicate_item", name, raw, own)
    own.require_rows()
    keep = pa.array(own.keep)
    others = raw.drop_columns(names).filter(keep)
    table = others.add_column(0, "item_id", ids["item_id"].filter(keep))
    item_ids = table["item_id"].combine_chunks()
    keys = ids[names[-1]].filter(keep)
    known = CatalogIds(keys, item_ids, tie_hashes(item_ids))
    return Catalog(table, known, own, replace(source, table=raw.slice(0, 0)))
