import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from gr4ad.cli import main
from gr4ad.data.checking import DataError
from gr4ad.inspection import inspect_folder

USERS, ITEMS = 60, 30


@pytest.fixture
def shop(tmp_path) -> Path:
    """Visits to pages of products, named as ad logs name what was shown, and a purchase after each four."""
    folder = tmp_path / "shop"
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "log.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["user_id", "product_id", "time", "event"])
        for user in range(USERS):
            for place in range(20):
                event = "purchase" if place % 5 == 4 else "view"
                out.writerow([f"u{user}", f"p{rng.integers(ITEMS)}", 1_700_000_000 + 90_000 * place + user, event])
    with (folder / "products.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["product_id", "title"])
        out.writerows([f"p{item}", f"a red lamp no. {item}"] for item in range(ITEMS))
    return folder


def test_views_that_may_be_visits_are_told(shop):
    guessed = inspect_folder(shop)
    [warning] = [text for text in guessed.found.warnings if "--event-names" in text]
    assert warning.startswith("80% of the rows are `view`") and """--event-names '{"view": "click"}'""" in warning
    assert guessed.found.events == USERS * 4


def test_what_is_told_is_taken_and_sizes_follow(shop):
    told = inspect_folder(shop, event_names={"view": "click"})
    recipe = yaml.safe_load(told.recipe)
    assert recipe["data"]["event_names"] == {"view": "click", "purchase": "conversion"}
    assert told.found.events == USERS * 20 and told.found.long_length == 20
    assert not any("--event-names" in text for text in told.found.warnings)
    meant = inspect_folder(shop, event_names={"view": "impression"})
    assert meant.found.events == USERS * 4 and not any("--event-names" in text for text in meant.found.warnings)
    left_out = inspect_folder(shop, event_names={"view": None})
    assert (
        left_out.layout.event_names == {"purchase": "conversion"}
        and left_out.found.drop["unknown_event"] == USERS * 16
    )


def test_events_that_the_log_does_not_hold_are_refused(shop, capsys):
    with pytest.raises(DataError, match="no column holds all of the events look. Those of `event` are"):
        inspect_folder(shop, event_names={"look": "click"})
    for given, words in (("{view: click}", "must be JSON"), (json.dumps({"view": "klick"}), "or null")):
        assert main(["inspect", str(shop), "--event-names", given]) == 2
        assert words in capsys.readouterr().err
