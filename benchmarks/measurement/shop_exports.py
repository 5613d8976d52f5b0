"""Exports of three shops as shops write them: odd names, separators, units, repeats and refunds."""

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

GROUPS = 6
START = datetime(2024, 3, 1, tzinfo=UTC)
NOUNS = ["lamp", "chair", "kettle", "rug", "mirror", "shelf", "clock", "vase"]
ADJECTIVES = ["red", "oak", "round", "tall", "soft", "steel"]


@dataclass(frozen=True)
class ShopSize:
    """How much a shop has, and what is in it to be learned.

    Attributes:
        users, items: How many; items a multiple of 6. seed: Of all draws.
        skew: How much more often the first items of a group are bought than its last, 0 = alike: the r-th of n as
            often as (r / n) ** (1 / (1 + skew) - 1).
        along: Share of the picks, in [0, 1], that go along with what the user picked last: always the same companion.
    """

    users: int = 240
    items: int = 96
    seed: int = 0
    skew: float = 0.0
    along: float = 0.0


def title(item: int) -> str:
    return f"{ADJECTIVES[item % GROUPS]} {NOUNS[item // GROUPS % len(NOUNS)]} no. {item}"


def price(item: int) -> float:
    """5 to 147.50, which says nothing of how often an item is bought."""
    return 5 + item * 37 % 96 * 1.5


def visits(size: ShopSize, seed: int, a_user: int, days: int) -> Iterator[tuple[int, datetime, list[int]]]:
    """(user, moment, items) of each visit, a user's in order: of five items four are of the user's group, which is
    what the user's number says."""
    rng = np.random.default_rng([size.seed, seed])
    ranks = size.items // GROUPS
    for user in range(size.users):
        last: int | None = None
        for second in np.sort(rng.integers(days * 86400, size=a_user)):
            picked: dict[int, None] = {}
            for _ in range(int(rng.integers(1, 4))):
                if last is not None and rng.random() < size.along:
                    last = (last + 5 * GROUPS) % size.items  # of the same group
                else:
                    group = user % GROUPS if rng.random() < 0.8 else int(rng.integers(GROUPS))
                    last = int(ranks * rng.random() ** (1 + size.skew)) * GROUPS + group
                picked[last] = None
            yield user, START + timedelta(seconds=int(second)), list(picked)


def write_orders_shop(folder: Path, size: ShopSize) -> None:
    """Semicolons, German names, leading zeros, baskets, a table of persons with their e-mail addresses."""
    folder.mkdir()
    with (folder / "bestellungen.csv").open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["BestellNr", "Kundennummer", "Artikelnummer", "Bestelldatum", "Menge", "Umsatz_EUR"])
        orders = sorted(visits(size, 1, 5, 180), key=lambda visit: visit[1])
        for number, (user, moment, items) in enumerate(orders):
            for item in items:
                when = moment.strftime("%Y-%m-%d %H:%M:%S")
                out.writerow([f"B{number}", f"{user:06}", f"{item:07}", when, 1, price(item)])
    with (folder / "artikel.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["Artikelnummer", "Bezeichnung", "Kategorie", "Hersteller", "Preis", "Bild_URL"])
        for item in range(size.items):
            url = f"https://shop.example/{item}.jpg"
            out.writerow([f"{item:07}", title(item), NOUNS[item % 8], f"H{item % 7:03}", price(item), url])
    with (folder / "kunden.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["Kundennummer", "EMail", "Einkommen", "Region", "Newsletter"])
        for user in range(size.users):
            income = 20_000 + 317 * (user * 7919 % 200)
            out.writerow(
                [f"{user:06}", f"k{user}@mail.example", income, f"R{user % GROUPS}", ["ja", "nein"][user % 2]]
            )
    (folder / "liesmich.txt").write_text("Export vom 1.9.\n", encoding="utf-8")


def write_clicks_shop(folder: Path, size: ShopSize) -> None:
    """Tabs and gzip, milliseconds, kinds of events of their own, every tenth row twice, out of order, blank prices."""
    folder.mkdir()
    rng = np.random.default_rng([size.seed, 12])
    rows: list[list[Any]] = []
    for user, moment, items in visits(size, 2, 6, 60):
        for place, item in enumerate(items):
            at = int(moment.timestamp() * 1000) + 60_000 * place
            session = f"s{user}-{at // 10**7}"
            rows.append([at, f"v{user}", item, "view", "", session])
            if rng.random() < 0.7:
                rows.append([at + 5_000, f"v{user}", item, "add_to_cart", "", session])
                if rng.random() < 0.6:
                    rows.append([at + 95_000, f"v{user}", item, "purchase", price(item), session])
            if rng.random() < 0.05:
                rows.append([at + 1_000, f"v{user}", item, "search", "", session])
    rows += rows[::10]
    rng.shuffle(rows)
    with gzip.open(folder / "clickstream.tsv.gz", "wt", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["eventTime", "visitorId", "productId", "action", "paidAmount", "sessionId"])
        out.writerows(rows)
    with (folder / "products.jsonl").open("w", encoding="utf-8") as file:
        for item in range(size.items):
            product = {
                "productId": item,
                "productName": title(item),
                "tags": [NOUNS[item % 8], "home"],
                "seller": item % 5,
            }
            file.write(json.dumps(product) + "\n")


def write_lines_shop(folder: Path, size: ShopSize) -> None:
    """One file of order lines: no catalog, ids that a missing one made floating, refunds as negative prices."""
    folder.mkdir()
    rng = np.random.default_rng([size.seed, 13])
    rows: list[list[Any]] = []
    for number, (user, moment, items) in enumerate(sorted(visits(size, 3, 6, 120), key=lambda visit: visit[1])):
        for item in items:
            naive = moment.replace(tzinfo=None)
            line = [f"{536000 + number}", f"{85000 + item}A", title(item), 1, naive, price(item), 12000.0 + user, "UK"]
            rows.append(line)
            if rng.random() < 0.04:
                rows.append([f"C{number}", f"{85000 + item}A", title(item), -1, naive + timedelta(days=3),
                             -price(item), 12000.0 + user, "UK"])  # fmt: skip
    names = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "LineTotal", "CustomerID", "Country"]
    frame = pd.DataFrame(rows, columns=names)
    frame.loc[::50, "CustomerID"] = None
    frame.to_parquet(folder / "order_lines.parquet")


SHOPS: dict[str, Callable[[Path, ShopSize], None]] = {
    "orders": write_orders_shop,
    "clicks": write_clicks_shop,
    "lines": write_lines_shop,
}
