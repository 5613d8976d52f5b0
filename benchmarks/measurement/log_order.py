"""Whether the order of a log says more than time does.

A log that is sorted by time alone is sorted by something else within what its clock cannot tell apart. Of the public
review logs, where the clock is a day, that is the file's own order: product after product. A model that learns that
the next product has a larger id than the last one has learned the file, not the user.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gr4ad.data import PreparedData
from gr4ad.trainers.evaluation import SequenceTable

from .results import Row, result_row


def last_steps_ascend(table: SequenceTable) -> np.ndarray:
    """Bool (U,): whether each user's first held-out item has a larger id than the item before it."""
    last = table.history.items[table.history.offsets[1:] - 1]
    first = table.held_out.items[table.held_out.offsets[:-1]]
    return table.item_ids[first] > table.item_ids[last]


def training_steps_ascend(data: PreparedData, item_ids: list[str]) -> float:
    """Share of the steps between two different items of the training log that go to a larger id; without ties it is a
    half, and 2 * share - 1 of the steps at least are in the order of ids."""
    table = SequenceTable.from_dataset(data.train, item_ids)
    history = table.history
    same_user = history.users[1:] == history.users[:-1]
    before, after = table.item_ids[history.items[:-1][same_user]], table.item_ids[history.items[1:][same_user]]
    differs = before != after
    return float((after[differs] > before[differs]).mean())


def order_rows(ascends: np.ndarray, scores: Mapping[str, Mapping[str, np.ndarray]], unit_of: Any) -> list[Row]:
    """Rows of each system on users whose last step ascends, and on the others; scores: system -> metric -> (U,), or
    (seeds, U)."""
    rows = []
    for system, metrics in scores.items():
        for metric, values in metrics.items():
            for name, users in (("ids ascend", ascends), ("ids descend", ~ascends)):
                part = np.atleast_2d(values)[:, users]
                value = float(np.nanmean(part)) if part.size else 0.0
                rows.append(result_row(f"{name}: {system}/{metric}", metric, value, unit_of(metric), None))
    return rows
