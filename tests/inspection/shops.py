"""Exports of three shops as shops write them: odd names, separators, units, repeats and refunds."""

import csv
import gzip
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

USERS, ITEMS, GROUPS = 240, 96, 6
START = datetime(2024, 3, 1, tzinfo=UTC)
NOUNS = ["lamp", "chair", "kettle", "rug", "mirror", "shelf", "clock", "vase"]
ADJECTIVES = ["red", "oak", "round", "tall", "soft", "steel"]


def title(item: int) -> str:
    return f"{ADJECTIVES[item % GROUPS]} {NOUNS[item // GROUPS % len(NOUNS)]} no. {item}"


def visits(seed: int, a_user: int, days: int):
    """(user, moment, items) of each visit: users like items of their group, which are what their number says."""
    rng = np.random.default_rng(seed)
    for user in range(USERS):
        for _ in range(a_user):
            moment = START + timedelta(seconds=int(rng.integers(days * 86400)))
            size = int(rng.integers(1, 4))
            liked = rng.random(size) < 0.8
            group = np.where(liked, user % GROUPS, rng.integers(GROUPS, size=size))
            yield (
                user,
                moment,
                list(dict.fromkeys((rng.integers(ITEMS // GROUPS, size=size) * GROUPS + group).tolist())),
            )


def write_orders_shop(folder: Path) -> None:
    """Semicolons, German names, leading zeros, baskets, a table of persons with their e-mail addresses."""
    folder.mkdir()
    with (folder / "bestellungen.csv").open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["BestellNr", "Kundennummer", "Artikelnummer", "Bestelldatum", "Menge", "Umsatz_EUR"])
        orders = sorted(visits(1, 5, 180), key=lambda visit: visit[1])
        for number, (user, moment, items) in enumerate(orders):
            for item in items:
                price = 5 + item * 1.5
                out.writerow(
                    [f"B{number}", f"{user:06}", f"{item:07}", moment.strftime("%Y-%m-%d %H:%M:%S"), 1, price]
                )
    with (folder / "artikel.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["Artikelnummer", "Bezeichnung", "Kategorie", "Hersteller", "Preis", "Bild_URL"])
        for item in range(ITEMS):
            url = f"https://shop.example/{item}.jpg"
            out.writerow([f"{item:07}", title(item), NOUNS[item % 8], f"H{item % 7:03}", 5 + item * 1.5, url])
    with (folder / "kunden.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter=";")
        out.writerow(["Kundennummer", "EMail", "Einkommen", "Region", "Newsletter"])
        for user in range(USERS):
            income = 20_000 + 317 * (user * 7919 % 200)
            out.writerow(
                [f"{user:06}", f"k{user}@mail.example", income, f"R{user % GROUPS}", ["ja", "nein"][user % 2]]
            )
    (folder / "liesmich.txt").write_text("Export vom 1.9.\n", encoding="utf-8")


def write_clicks_shop(folder: Path) -> None:
    """Tabs and gzip, milliseconds, kinds of events of their own, every tenth row twice, out of order, blank prices."""
    folder.mkdir()
    rng = np.random.default_rng(2)
    rows = []
    for user, moment, items in visits(2, 6, 60):
        for place, item in enumerate(items):
            at = int(moment.timestamp() * 1000) + 60_000 * place
            session = f"s{user}-{at // 10**7}"
            rows.append([at, f"v{user}", item, "view", "", session])
            if rng.random() < 0.7:
                rows.append([at + 5_000, f"v{user}", item, "add_to_cart", "", session])
                if rng.random() < 0.6:
                    rows.append([at + 95_000, f"v{user}", item, "purchase", 10 + item, session])
            if rng.random() < 0.05:
                rows.append([at + 1_000, f"v{user}", item, "search", "", session])
    rows += rows[::10]
    rng.shuffle(rows)
    with gzip.open(folder / "clickstream.tsv.gz", "wt", encoding="utf-8", newline="") as file:
        out = csv.writer(file, delimiter="\t")
        out.writerow(["eventTime", "visitorId", "productId", "action", "paidAmount", "sessionId"])
        out.writerows(rows)
    with (folder / "products.jsonl").open("w", encoding="utf-8") as file:
        for item in range(ITEMS):
            product = {
                "productId": item,
                "productName": title(item),
                "tags": [NOUNS[item % 8], "home"],
                "seller": item % 5,
            }
            file.write(json.dumps(product) + "\n")


def write_lines_shop(folder: Path) -> None:
    """One file of order lines: no catalog, ids that a missing one made floating, refunds as negative prices."""
    folder.mkdir()
    rng = np.random.default_rng(3)
    rows = []
    for number, (user, moment, items) in enumerate(sorted(visits(3, 6, 120), key=lambda visit: visit[1])):
        for item in items:
            naive = moment.replace(tzinfo=None)
            rows.append(
                [f"{536000 + number}", f"{85000 + item}A", title(item), 1, naive, 2.5 + item, 12000.0 + user, "UK"]
            )
            if rng.random() < 0.04:
                rows.append([f"C{number}", f"{85000 + item}A", title(item), -1, naive + timedelta(days=3), -2.5 - item,
                             12000.0 + user, "UK"])  # fmt: skip
    names = ["InvoiceNo", "StockCode", "Description", "Quantity", "InvoiceDate", "LineTotal", "CustomerID", "Country"]
    frame = pd.DataFrame(rows, columns=names)
    frame.loc[::50, "CustomerID"] = None
    frame.to_parquet(folder / "order_lines.parquet")
