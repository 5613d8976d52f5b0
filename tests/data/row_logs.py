"""Small logs as CSV files, prepared."""

import pandas as pd

from gr4ad.data import DataConfig, prepare

T = 1_700_000_000
ITEMS = list("abcdef")


def write(folder, events, catalog=None, users=None, **config):
    pd.DataFrame(catalog or {"item_id": ITEMS}).to_csv(folder / "catalog.csv", index=False)
    pd.DataFrame(events).to_csv(folder / "events.csv", index=False)
    if users is not None:
        pd.DataFrame(users).to_csv(folder / "users.csv", index=False)
        config["users"] = "users.csv"
    common = {"root": str(folder), "catalog": "catalog.csv", "events": "events.csv"}
    return prepare(DataConfig(**common, **config), folder / "out")


def tables(data):
    return {name: getattr(data, name).to_list() for name in ("train", "validation", "test")}


def accounting(data):
    return data.summary["accounting"]
