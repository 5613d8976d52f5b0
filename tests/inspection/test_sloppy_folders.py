"""Random sloppy exports: each is made out or refused in one line, and what is made out runs through the data stage."""

import json
import string
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from gr4ad.data import DataError, prepare
from gr4ad.inspection.inspecting import inspect_folder, write_recipe
from gr4ad.pipeline.recipe import load_recipe
from gr4ad.pipeline.recipe_checks import RecipeError

NAMES = {
    "user": ["user_id", "CustomerID", "visitorid", "Kunde", "uid", "member no"],
    "item": ["item_id", "sku", "ProductId", "Artikelnummer", "ad id", "asin"],
    "time": ["timestamp", "ts", "event_time", "Datum", "created at"],
    "event": ["event", "action", "event_type", "Aktion"],
    "value": ["price", "revenue", "total amount", "Umsatz EUR"],
    "title": ["title", "product name", "Bezeichnung", "desc"],
}
KINDS = [
    ["view", "add_to_cart", "purchase"],
    ["pv", "fav", "buy"],
    ["impression", "click"],
    ["click", "nonsense", "order"],
]


def ids(rng, numbers, form):
    forms = {
        "number": lambda n: int(n) + 1,
        "text": lambda n: f"K{n}",
        "zeros": lambda n: f"{n:08}",
        "float": lambda n: float(n),
        "blanks": lambda n: f" {n} x",
    }
    return [forms[form](number) for number in numbers]


def times(rng, rows, form):
    moments = [datetime(2024, 1, 1) + timedelta(seconds=int(s)) for s in rng.integers(0, 200 * 86400, rows)]
    forms = {
        "s": lambda m: int(m.timestamp()),
        "ms": lambda m: int(m.timestamp() * 1000),
        "iso": lambda m: m.isoformat(),
        "utc": lambda m: f"{m} UTC",
        "date": lambda m: int(m.strftime("%Y%m%d")),
        "typed": lambda m: m,
        "day": lambda m: m.date(),
        "german": lambda m: m.strftime("%d.%m.%Y"),
    }
    return [forms[form](moment) for moment in moments]


def odd_column(rng, rows):
    makers = [
        lambda: [None] * rows,
        lambda: [Decimal(int(n)) / 7 for n in rng.integers(0, 99, rows)],
        lambda: [{"a": int(n)} for n in rng.integers(0, 9, rows)],
        lambda: [[int(n)] * int(n) for n in rng.integers(0, 4, rows)],
        lambda: [bool(n) for n in rng.integers(0, 2, rows)],
        lambda: [date(2024, 1, 1 + int(n)) for n in rng.integers(0, 28, rows)],
        lambda: ["".join(rng.choice(list(string.printable), 8)) for _ in range(rows)],
        lambda: rng.normal(size=rows).tolist(),
        lambda: ["NA", "null", "None", ""] * (rows // 4) + [""] * (rows % 4),
    ]
    return makers[int(rng.integers(len(makers)))]()


def some(rng, options):
    return options[int(rng.integers(len(options)))]


def write(rng, frame, folder, name):
    form = some(rng, ["parquet", "csv", "semicolon", "tsv", "gz", "jsonl"])
    odd = any(isinstance(value, (dict, list)) for value in frame.iloc[0]) if len(frame) else False
    try:
        if form == "parquet":
            return frame.to_parquet(folder / f"{name}.parquet")
    except (ValueError, TypeError):  # a mixture that Parquet cannot hold
        form = "csv"
    if form == "jsonl" or odd:
        rows = (json.dumps(row, default=str) + "\n" for row in frame.to_dict("records"))
        return (folder / f"{name}.jsonl").write_text("".join(rows).replace("NaN", "null"))
    separator = {"semicolon": ";", "tsv": "\t"}.get(form, ",")
    suffix = {"tsv": ".tsv", "gz": ".csv.gz"}.get(form, ".csv")
    return frame.to_csv(folder / f"{name}{suffix}", index=False, sep=separator, compression="infer")


def sloppy_folder(seed: int, folder: Path) -> None:
    rng = np.random.default_rng(seed)
    rows, users, items = int(rng.integers(0, 700)), int(rng.integers(1, 60)), int(rng.integers(1, 50))
    user, item = rng.integers(users, size=rows), rng.integers(items, size=rows)
    user_form, item_form = (
        some(rng, ["number", "text", "zeros", "float", "blanks"]),
        some(rng, ["number", "text", "zeros"]),
    )
    called = {role: some(rng, names) for role, names in NAMES.items()}
    log = pd.DataFrame({called["user"]: ids(rng, user, user_form), called["item"]: ids(rng, item, item_form)})
    if rng.random() < 0.9:
        log[called["time"]] = times(rng, rows, some(rng, ["s", "ms", "iso", "utc", "date", "typed", "day", "german"]))
    if rng.random() < 0.6:
        log[called["event"]] = rng.choice(some(rng, KINDS), rows)
    if rng.random() < 0.6:
        log[called["value"]] = np.round(rng.normal(20, 10, rows), 2)
    if rng.random() < 0.3:
        log["odd"] = odd_column(rng, rows)
    for column in log.columns:
        if rng.random() < 0.3 and rows:
            log[column] = log[column].astype(object).where(rng.random(rows) > 0.05, None)
    if rng.random() < 0.4:
        log = pd.concat([log, log.iloc[::7]], ignore_index=True)
    write(rng, log, folder, some(rng, ["events", "log", "orders 2024", "export"]))
    if rng.random() < 0.85:
        known = np.arange(0, items, int(rng.integers(1, 3)))
        form = item_form if rng.random() < 0.9 else "zeros"
        catalog = pd.DataFrame({called["item"]: ids(rng, known, form)})
        catalog[called["title"]] = [f"thing {n} of kind {n % 5}" for n in known]
        if rng.random() < 0.4:
            catalog["odd"] = odd_column(rng, len(catalog))
        if rng.random() < 0.3:
            catalog = pd.concat([catalog, catalog.head(2)], ignore_index=True)
        write(rng, catalog, folder, some(rng, ["catalog", "products", "Artikel"]))
    if rng.random() < 0.4:
        table = pd.DataFrame(
            {called["user"]: ids(rng, range(users), user_form), "region": rng.integers(4, size=users)}
        )
        table["mail"] = [f"a{n}@b.example" for n in range(users)]
        write(rng, table, folder, "persons")
    if rng.random() < 0.2:
        (folder / "broken.csv").write_bytes(rng.bytes(200))


def one_line(error: Exception) -> bool:
    return "\n" not in str(error) and len(str(error)) > 20


@pytest.mark.parametrize("block", range(5))
def test_sloppy_exports_are_made_out_or_refused(tmp_path, block):
    made_out = 0
    for seed in range(block * 60, block * 60 + 60):
        folder = tmp_path / str(seed)
        folder.mkdir()
        sloppy_folder(seed, folder)
        before = sorted(folder.iterdir())
        try:
            inspection = inspect_folder(folder)
            write_recipe(inspection, tmp_path / f"{seed}.yaml")
        except (DataError, RecipeError) as error:
            assert one_line(error), seed
            continue
        recipe = load_recipe(tmp_path / f"{seed}.yaml", data_root=folder)
        try:
            prepare(recipe.data, tmp_path / f"{seed}.prepared")
        except DataError as error:
            assert one_line(error), seed
            # What a run would not get past has been told, or is a log too small to split.
            assert inspection.found.stops or "split is empty" in str(error), (seed, str(error))
            assert not (tmp_path / f"{seed}.prepared").exists()
            continue
        made_out += 1
        assert sorted(folder.iterdir()) == before
    assert made_out > 20
