"""The leakage check sees what it should: rows that hold an event they must not are found, and held-out rows cannot be
read where something is fitted."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from row_logs import T

from gr4ad.data import DataConfig, load_prepared, prepare
from gr4ad.data import whole_log as module
from gr4ad.data.leakage import check_leakage

EVENTS = {
    "user_id": ["u"] * 6 + ["v"] * 4 + ["w"],
    "item_id": list("abcabc") + list("cabc") + ["a"],
    "timestamp": [T + 10 * k for k in range(6)] + [T + 10 * k for k in range(4)] + [T],
    "event": ["click", "impression", "click", "click", "click", "click"] + ["click"] * 5,
}
ELSEWHERE = {"user_id": ["u", "u", "v"], "item_id": ["p", "q", "p"], "timestamp": [T + 5, T + 45, T + 1]}
BOUNDS = {"split": "temporal", "validation_start": T + 20, "test_start": T + 30}


@pytest.fixture(params=["leave_one_out", "temporal"])
def seen(request, tmp_path, monkeypatch):
    """What a preparation hands to its check."""
    pd.DataFrame({"item_id": list("abc")}).to_parquet(tmp_path / "catalog.parquet")
    pd.DataFrame(EVENTS).to_parquet(tmp_path / "events.parquet")
    pd.DataFrame(ELSEWHERE).to_parquet(tmp_path / "seen.parquet")
    given = []
    monkeypatch.setattr(module, "check_leakage", lambda *args: given.append(args) or check_leakage(*args))
    split = BOUNDS if request.param == "temporal" else {}
    data = prepare(DataConfig(root=str(tmp_path), cross_domain="seen.parquet", **split), tmp_path / "out")
    return data, *given[0]


def test_a_clean_preparation_passes_and_says_what_it_looked_at(seen):
    data, log, history, rows, tracks, config, file = seen
    held_out = sum(len(part["target_items"][row]) for part in (data.validation, data.test) for row in range(len(part)))
    entries = sum(map(len, data.train["items"])) + sum(map(len, data.validation["items"]))
    entries += sum(map(len, data.impressions["items"])) + sum(map(len, data.impressions["candidates"]))
    entries += sum(
        len(ids) for part in (data.train, data.validation, data.impressions) for ids in part["cross_domain"]
    )
    lone = config.split == "leave_one_out"  # the only event of `w` is held out, but has no history to be tested with
    assert data.summary["accounting"]["leakage"] == {"entries": entries, "held_out_events": held_out + lone}


@pytest.mark.parametrize("name", ["train", "validation", "test"])
def test_a_history_that_holds_its_target_is_found(seen, name):
    _, log, history, rows, tracks, config, file = seen
    leaking = {**rows, name: replace(rows[name], stop=rows[name].stop + (np.arange(len(rows[name].stop)) == 0))}
    with pytest.raises(AssertionError, match=f"{name}: a history holds a"):
        check_leakage(log, history, leaking, tracks, config, file)


def test_lists_and_entries_of_the_held_out_time_are_found(seen):
    _, log, history, rows, tracks, config, file = seen
    late = {**rows, "impressions": replace(rows["impressions"], moment=np.array([T + 60]))}
    with pytest.raises(AssertionError, match="is of the held-out time"):
        check_leakage(log, history, late, tracks, config, file)
    late = {**rows, "train": replace(rows["train"], moment=rows["train"].moment + 60)}
    with pytest.raises(AssertionError, match="train: what a user did elsewhere is of the held-out time"):
        check_leakage(log, history, late, tracks, config, file)


def test_held_out_rows_are_not_there_where_something_is_fitted(seen, tmp_path):
    for name in ("validation", "test"):
        (tmp_path / "out" / f"{name}.parquet").unlink()
    data = load_prepared(tmp_path / "out", held_out=("validation", "test"))
    assert len(data.train) == len(seen[0].train)
    for use in (len, list, bool, lambda part: part["items"], lambda part: part.num_rows):
        with pytest.raises(AssertionError, match="the test rows are held out from what is fitted here"):
            use(data.test)
