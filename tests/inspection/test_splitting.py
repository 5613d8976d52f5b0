"""Where a log is cut: by time if users come back, by a column of weeks if there is one, else by the last events."""

import numpy as np
import pandas as pd
import pytest

from gr4ad.inspection import inspect_folder
from gr4ad.inspection.joins import near_match
from gr4ad.inspection.profiles import columns_of

START = 1_672_531_200  # a Sunday, 2023-01-01


def split_of(folder, log):
    log.to_parquet(folder / "events.parquet")
    items = np.unique(log["item_id"])[::-1]
    pd.DataFrame({"item_id": items, "title": [f"thing {item} red" for item in items]}).to_parquet(
        folder / "catalog.parquet"
    )
    return inspect_folder(folder).found.split


def log_of(users, rows, days, rng):
    log = pd.DataFrame({"user_id": rng.integers(users, size=rows), "item_id": rng.integers(50, size=rows)})
    return log.assign(timestamp=START + np.sort(rng.integers(0, days * 86400, rows)))


def test_weeks_that_go_along_with_the_time_are_cut(tmp_path):
    log = log_of(100, 6000, 371, np.random.default_rng(0))
    log["week"] = (log["timestamp"] - START) // (7 * 86400) + 1
    split = split_of(tmp_path, log)
    assert (split.kind, split.column) == ("temporal", "week")
    share = log["week"].value_counts(normalize=True).sort_index().cumsum()
    assert share[split.validation - 1] == pytest.approx(0.82, abs=0.02)
    assert share[split.test - 1] == pytest.approx(0.90, abs=0.02)
    assert split.validation < split.test <= 53


def test_weeks_that_start_anew_are_not(tmp_path):
    log = log_of(100, 6000, 371, np.random.default_rng(0))
    log["week"] = (log["timestamp"] - START) // (7 * 86400) % 26
    split = split_of(tmp_path, log)
    assert (split.kind, split.column) == ("temporal", "")
    assert "2023-10-25" < split.validation < split.test < "2023-12-10"


def test_users_that_do_not_come_back_are_cut_by_their_last_events(tmp_path):
    rng = np.random.default_rng(0)
    log = log_of(400, 4000, 1, rng)
    log["timestamp"] += log["user_id"] * 86400  # a day each
    split = split_of(tmp_path, log.sort_values("timestamp"))
    assert split.kind == "leave_one_out" and "come back" in split.reason
    assert split.targets == (log["user_id"].value_counts() >= 2).sum()


@pytest.mark.parametrize(
    ("ids", "keys", "reason"),
    [
        (["1", "2"], ["0001", "0002"], "leading zeros"),
        (["ab", "cd"], ["AB", "CD"], "capitals"),
        (["1.0", "2.0"], ["1", "2"], "a `.0` behind them"),
        (["K1", "K2"], ["1", "2"], "a prefix of letters"),
        (["1", "2"], ["x", "y"], None),
    ],
)
def test_what_keeps_ids_apart_is_found(ids, keys, reason):
    import pyarrow as pa

    columns = columns_of(pa.table({"ids": ids, "keys": keys}))
    assert near_match(columns["ids"], columns["keys"]) == reason
