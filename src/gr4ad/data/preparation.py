"""From the user's tables to the folder that training and evaluation read."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from .accounting import account, summary
from .catalog import read_catalog
from .checking import DataError
from .config import DataConfig
from .memory_plan import how_held
from .partitioned_log import prepare_parts
from .reading import check_number_columns
from .tables import HISTORY_LISTS
from .whole_log import prepare_whole

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

    What is written does not depend on whether the log was held in memory or in parts on disk.

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
    held = how_held(config)
    catalog = read_catalog(config)
    partial = out.parent / f".{out.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    made = [folder for folder in partial.parents if not folder.exists()]
    try:
        prepare_as = prepare_parts if held.partitions else prepare_whole
        of, column = prepare_as(config, catalog, held, partial)
        pq.write_table(catalog.table, partial / "catalog.parquet")
        text = json.dumps(summary(of, account(of, column)), indent=2) + "\n"
        (partial / SUMMARY_FILE).write_text(text, encoding="utf-8")
        _replace(partial, out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        for folder in made:
            if folder.exists() and not any(folder.iterdir()):
                folder.rmdir()
        raise
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


def _replace(partial: Path, out: Path) -> None:
    old = out.parent / f".{out.name}.old"
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():  # a folder that holds files cannot be replaced in one step; the gap is two renames
        os.replace(out, old)
    os.replace(partial, out)
    shutil.rmtree(old, ignore_errors=True)
