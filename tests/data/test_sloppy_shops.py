"""Hundreds of sloppy shops: each is read right or refused in one line, and nothing is left half-written."""

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gr4ad.data import DataConfig, DataError, load_prepared, prepare

Rows = list[dict[str, Any]]
TABLES = ("catalog", "events", "users")
START = 1_700_000_000


def shop(rng: random.Random) -> dict[str, Rows]:
    """A clean shop: every user has at least four events at moments of their own."""
    items = [f"{number:05d}" for number in rng.sample(range(1, 99_999), rng.randint(8, 20))]
    users = [f"u{number}" for number in range(rng.randint(4, 10))]
    catalog = [{"item_id": item, "account_id": f"0{rng.randint(1, 3)}", "title": f"Ad, no. {item}"} for item in items]
    events, moment = [], START
    for user in users:
        for _ in range(rng.randint(4, 9)):
            moment += rng.randint(4_000, 90_000)
            event, value = rng.choice(["click", "conversion"]), round(rng.random() * 9, 2)
            row = {"user_id": user, "item_id": rng.choice(items), "timestamp": moment}
            events.append(row | {"event": event, "value": value})
    return {"catalog": catalog, "events": events, "users": [{"user_id": u, "city": rng.choice("XY")} for u in users]}


# --- faults of rows: each changes the rows of one table in place


def cell(column: str, value: Callable[[random.Random, Any], Any]) -> Callable[[random.Random, Rows], None]:
    def fault(rng: random.Random, rows: Rows) -> None:
        for row in rng.sample(rows, rng.randint(1, max(1, len(rows) // 4))):
            if column in row:
                row[column] = value(rng, row[column])

    fault.__name__ = f"cell_{column}"
    return fault


def whole_column(column: str, value: Callable[[Any], Any]) -> Callable[[random.Random, Rows], None]:
    def fault(rng: random.Random, rows: Rows) -> None:
        for row in rows:
            if column in row:
                row[column] = value(row[column])

    fault.__name__ = f"column_{column}"
    return fault


def repeat_rows(rng: random.Random, rows: Rows) -> None:
    rows += [dict(row) for row in rng.sample(rows, len(rows) // 2)]


def repeat_all(rng: random.Random, rows: Rows) -> None:
    rows[:] = [dict(row) for row in rows for _ in range(2)]


def shuffle(rng: random.Random, rows: Rows) -> None:
    rng.shuffle(rows)


def lose_column(rng: random.Random, rows: Rows) -> None:
    name = rng.choice(list(rows[0]))
    for row in rows:
        row.pop(name, None)


def rename_column(rng: random.Random, rows: Rows) -> None:
    name = rng.choice(list(rows[0]))
    new = rng.choice([name.upper(), f" {name}", f"{name}_", "values", "items"])
    rows[:] = [{new if key == name else key: value for key, value in row.items()} for row in rows]


def keep_one(rng: random.Random, rows: Rows) -> None:
    del rows[1:]


def keep_none(rng: random.Random, rows: Rows) -> None:
    rows.clear()


def one_moment(rng: random.Random, rows: Rows) -> None:
    for row in rows:
        if "timestamp" in row:
            row["timestamp"] = START


STRANGE = [None, "", " ", "NA", "null", "nan", "None", "-1", "x", 1e300, float("nan"), float("inf"), True, [1], ["a"],
           {"a": 1}, "a" * 3000, "1,5", "$3", "2024-02-30", "2024-01-05T10:00:00Z", "20240105", -(2**62), 2**60 + 1,
           "ad;1,2", 'qu"ote', "two\nlines", "\t", "=1+1"]  # fmt: skip
COLUMNS = ("user_id", "item_id", "timestamp", "event", "value", "title", "account_id", "city")
ROW_FAULTS: list[Callable[[random.Random, Rows], None]] = [
    *(cell(column, lambda rng, old: rng.choice(STRANGE)) for column in COLUMNS),
    *(cell(column, lambda rng, old: None) for column in COLUMNS),
    cell("item_id", lambda rng, old: f"unknown{rng.randint(0, 9)}"),
    cell("item_id", lambda rng, old: f" {old}"),
    cell("timestamp", lambda rng, old: old * 1000 if isinstance(old, int) else old),
    cell("value", lambda rng, old: -3.5),
    cell("event", lambda rng, old: rng.choice(["Click", "view", "purchase", "impression"])),
    whole_column("timestamp", lambda old: old * 1000 if isinstance(old, int) else old),
    whole_column("timestamp", lambda old: f"{old}"),
    whole_column("timestamp", lambda old: float(old) if isinstance(old, int) else old),
    whole_column("timestamp", lambda old: "2024-01-05 10:00"),
    whole_column("user_id", lambda old: float(int(str(old)[1:])) if str(old)[1:].isdigit() else old),
    whole_column("user_id", lambda old: "everyone"),
    whole_column("item_id", lambda old: int(old) if str(old).isdigit() else old),
    whole_column("item_id", lambda old: float(int(old)) if str(old).isdigit() else old),
    whole_column("title", lambda old: None),
    whole_column("value", lambda old: None),
    repeat_rows, repeat_all, shuffle, lose_column, rename_column, keep_one, keep_none, one_moment,
]  # fmt: skip
PLAIN_FAULTS = [fault for fault in ROW_FAULTS[len(COLUMNS) :] if fault is not rename_column]
"""Those that write text and numbers alone, which every form of a file can hold; a csv's header is trimmed."""


# --- forms of files, and faults of bytes


def text_of(value: Any) -> str:
    return "" if value is None else str(value)


def csv_bytes(rows: Rows, separator: str = ",", newline: str = "\n") -> bytes:
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["item_id"]

    def line(cells: list[str]) -> str:
        quoted = ['"' + c.replace('"', '""') + '"' if set(c) & {separator, '"', "\n", "\r"} else c for c in cells]
        return separator.join(quoted)

    lines = [line(names), *(line([text_of(row.get(name)) for name in names]) for row in rows)]
    return (newline.join(lines) + newline).encode()


def jsonl_bytes(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def parquet_bytes(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    try:
        table = pa.Table.from_pylist(rows)
    except (pa.ArrowException, OverflowError):  # no column of a file holds such a mixture
        table = pa.Table.from_pylist([{name: text_of(value) for name, value in row.items()} for row in rows])
    pq.write_table(table, sink)
    return sink.getvalue().to_pybytes()


FORMS: dict[str, Callable[[Rows], bytes]] = {
    "csv": csv_bytes,
    "tsv": lambda rows: csv_bytes(rows, "\t"),
    "jsonl": jsonl_bytes,
    "parquet": parquet_bytes,
    "csv.gz": lambda rows: gzip.compress(csv_bytes(rows)),
}


def cut(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randint(0, len(content))]


def swap_byte(rng: random.Random, content: bytes) -> bytes:
    if not content:
        return content
    place = rng.randrange(len(content))
    return content[:place] + bytes([rng.randrange(256)]) + content[place + 1 :]


def with_line(rng: random.Random, content: bytes) -> bytes:
    lines = content.split(b"\n")
    extra = rng.choice([b"# a comment", b'"', b"a,b,c,d,e,f,g,h,i", b"", b"{", b"\x00\x00", b"caf\xe9,1,2"])
    lines.insert(rng.randint(0, len(lines)), extra)
    return b"\n".join(lines)


BYTE_FAULTS: list[Callable[[random.Random, bytes], bytes]] = [
    cut, swap_byte, with_line,
    lambda rng, content: b"",
    lambda rng, content: b"\xef\xbb\xbf" + content,
    lambda rng, content: content.replace(b"\n", b"\r\n"),
    lambda rng, content: content.replace(b",", b";"),
    lambda rng, content: rng.randbytes(200),
    lambda rng, content: content.decode("latin-1").encode("utf-16"),
]  # fmt: skip
DROPS = [[], ["unknown_item"], ["missing", "bad_time", "bad_value", "unknown_event", "unknown_item", "duplicate_item",
                                "duplicate_user", "unsorted_time"]]  # fmt: skip


def sloppy_shop(folder: Path, rng: random.Random) -> DataConfig:
    tables = shop(rng)
    sources = {}
    damaged = rng.choice(TABLES)
    for name, rows in tables.items():
        for _ in range(rng.randint(0, 2)):
            if rows:
                rng.choice(ROW_FAULTS)(rng, rows)
        form = rng.choice(list(FORMS))
        content = FORMS[form](rows)
        if name == damaged and rng.random() < 0.3:
            content = rng.choice(BYTE_FAULTS)(rng, content)
        sources[name] = f"{name}.{form}"
        (folder / sources[name]).write_bytes(content)
    split: dict[str, Any] = {"split": "leave_one_out"}
    if rng.random() < 0.3:
        split = {"split": "temporal", "validation_start": START + 900_000, "test_start": START + 1_500_000}
    users = {"users": sources["users"], "user_features": ["city"]} if rng.random() < 0.5 else {}
    return DataConfig(root=str(folder), catalog=sources["catalog"], events=sources["events"], drop=rng.choice(DROPS),
                      **users, **split)  # fmt: skip


def check_prepared(folder: Path) -> None:
    data = load_prepared(folder)
    known = set(data.catalog["item_id"])
    assert len(known) == len(data.catalog) and not {"", " "} & known
    for split in (data.train, data.validation, data.test):
        assert len(split) > 0 and len(set(split["user_id"])) == len(split)
        for row in split:
            assert set(row["items"]) <= known and len(row["items"]) == len(row["times"]) == len(row["values"])
            assert row["times"] == sorted(row["times"])
            assert all(0 <= value < float("inf") for value in row["values"])
            assert "target_items" not in row or set(row["target_items"]) <= known
    accounting = data.summary["accounting"]
    lost = sum(data.summary["dropped"].values())
    assert data.summary["events"] <= accounting["rows_in"], "rows out of nothing"
    assert accounting["kept"] + lost >= 1


@pytest.mark.parametrize("first", range(0, 300, 50))
def test_sloppy_shops_are_read_right_or_refused_in_one_line(first, tmp_path):
    outcomes = {"read": 0, "refused": 0}
    for seed in range(first, first + 50):
        rng = random.Random(seed)
        folder, out = tmp_path / f"shop{seed}", tmp_path / f"prepared{seed}"
        folder.mkdir()
        try:
            prepare(sloppy_shop(folder, rng), out)
        except DataError as error:
            outcomes["refused"] += 1
            text = str(error)
            assert "\n" not in text and len(text) < 1000, f"seed {seed}: {text}"
            assert not out.exists(), f"seed {seed}: half-written after: {text}"
        else:
            outcomes["read"] += 1
            check_prepared(out)
        left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
        assert not left, f"seed {seed}: left behind {left}"
    assert min(outcomes.values()) >= 3, outcomes


def one_type_a_column(rows: Rows) -> Rows:
    """The rows as typed files can hold them: columns of whole numbers, of numbers, or of text."""
    for name in {name for row in rows for name in row}:
        given = [row[name] for row in rows if row.get(name) is not None]
        kinds = {type(value) for value in given}
        if not kinds <= {int, float}:
            for row in rows:
                if row.get(name) is not None:
                    row[name] = str(row[name])
        elif float in kinds:
            for row in rows:
                if row.get(name) is not None:
                    row[name] = float(row[name])
    return rows


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_the_form_of_a_file_does_not_change_what_it_says(first, tmp_path):
    for seed in range(first, first + 20):
        rng = random.Random(seed)
        tables = shop(rng)
        for rows in tables.values():
            rng.choice(PLAIN_FAULTS)(rng, rows)
            one_type_a_column(rows)
        drop = rng.choice(DROPS)
        outcomes = {}
        for form in FORMS:
            folder = tmp_path / f"{seed}-{form}"
            folder.mkdir()
            for name, rows in tables.items():
                (folder / f"{name}.{form}").write_bytes(FORMS[form](rows))
            config = DataConfig(root=str(folder), catalog=f"catalog.{form}", events=f"events.{form}", drop=drop,
                                users=f"users.{form}", user_features=["city"])  # fmt: skip
            try:
                data = prepare(config, folder / "prepared")
            except DataError:
                outcomes[form] = "refused"
            else:
                outcomes[form] = str([part.to_dict() for part in (data.train, data.validation, data.test)])
        assert len(set(outcomes.values())) == 1, f"seed {seed}: {[o[:60] for o in outcomes.values()]}"
