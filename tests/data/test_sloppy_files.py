"""300 sloppy files: the right result or one clear line, never a traceback, never something half-written.

Each case is a good shop export with one or two things wrong that exports have wrong. Its seed names it.
"""

import gzip
import json
import random

import pytest

from gr4ad.data import DataConfig, DataError, prepare

USERS, VISITS = 12, 4
ITEMS = [f"00{number}" for number in range(6)]
T = 1_700_000_000


def good_rows():
    rows = [["user", "sku", "when", "kind", "paid", "note"]]
    for user in range(USERS):
        for visit in range(VISITS):
            item = ITEMS[(user + visit) % len(ITEMS)]
            rows.append([f"{user:03d}", item, str(T + 86400 * visit + user), "purchase", f"{visit}.50", "a, b"])
    return rows


def each(change):
    """A fault that changes the cells of some rows."""

    def fault(rows, rng):
        for row in rng.sample(range(1, len(rows)), 3):
            change(rows[row], rng)

    return fault


def cell(place, *values):
    return each(lambda row, rng: row.__setitem__(place, rng.choice(values)))


def whole_column(place, make):
    def fault(rows, rng):
        for row in rows[1:]:
            row[place] = make(row[place])

    return fault


def shuffled(rows, rng):
    body = rows[1:]
    rng.shuffle(body)
    rows[1:] = body


def doubled(rows, rng):
    rows[1:] = [row for row in rows[1:] for _ in range(2)]


FAULTS = {
    "blank user": cell(0, "", " "),
    "blank item": cell(1, ""),
    "unknown item": cell(1, "999", "0"),
    "blank time": cell(2, ""),
    "odd time": cell(2, "soon", "31/12/2023", "nan", "1e400", "-1", "0x1F", "9" * 25),
    "one date": cell(2, "2023-11-14T22:13:20Z"),
    "odd kind": cell(3, "", "refund", "PURCHASE"),
    "odd amount": cell(4, "", "-3", "1,50", "$4", "inf", "NaN", "1e5", "None"),
    "quotes": cell(5, 'say "hi"', "'", '"', "line\nbreak", "\ttab", "ünï", "\0", "\u2028"),
    "short row": each(lambda row, rng: row.pop()),
    "long row": each(lambda row, rng: row.append("more")),
    "milliseconds": whole_column(2, lambda text: text + "000" if text.isdigit() else text),
    "some milliseconds": each(lambda row, rng: row.__setitem__(2, row[2] + "000")),
    "dates": whole_column(2, lambda text: f"2023-11-{14 + (int(text) - T) // 86400} 10:00:{int(text) % 60:02d}"),
    "floats": whole_column(0, lambda text: f"{float(text or 0)}"),
    "large ids": whole_column(0, lambda text: f"{float(text or 0) + 7.2e17:.16e}"),
    "shuffled": shuffled,
    "doubled": doubled,
    "no rows": lambda rows, rng: rows.__delitem__(slice(1, None)),
    "one row": lambda rows, rng: rows.__delitem__(slice(2, None)),
    "two names alike": lambda rows, rng: rows[0].__setitem__(5, "sku"),
    "blank name": lambda rows, rng: rows[0].__setitem__(5, ""),
    "spaces in names": lambda rows, rng: rows.__setitem__(0, [f" {name} " for name in rows[0]]),
    "name missing": lambda rows, rng: rows[0].__setitem__(1, "SKU"),
    "nothing": lambda rows, rng: None,
}


def as_bytes(rows, rng, suffix, quoting):
    if suffix == ".jsonl":
        names = rows[0]
        lines = [json.dumps(dict(zip(names, row, strict=False))) for row in rows[1:]]
        text = "\n".join(lines) + "\n"
    else:
        delimiter = rng.choice([",", ";", "\t", "|"])

        def written(text):
            needs = quoting and any(mark in text for mark in (delimiter, '"', "\n", "\r"))
            return '"' + text.replace('"', '""') + '"' if needs else text

        text = rng.choice(["\n", "\r\n"]).join(delimiter.join(map(written, row)) for row in rows)
        text += rng.choice(["", "\n", "\n\n\n"])
    return text.encode(rng.choice(["utf-8"] * 6 + ["utf-8-sig", "latin-1", "utf-16"]), errors="replace")


def sloppy(seed):
    """A file's suffix, its bytes, and the names of its faults."""
    rng = random.Random(seed)
    rows = good_rows()
    names = rng.sample(sorted(FAULTS), rng.choice([1, 1, 2]))
    try:
        for name in names:
            FAULTS[name](rows, rng)
    except (ValueError, IndexError):
        pass  # two faults that do not go together: the first one stays
    suffix = rng.choice([".csv", ".csv", ".csv", ".tsv", ".jsonl"])
    content = as_bytes(rows, rng, suffix, quoting=rng.random() < 0.85)
    damage = rng.random()
    if damage < 0.06:
        content = content[: rng.randrange(len(content) + 1)]
        names.append("cut")
    elif damage < 0.12:
        content, suffix = gzip.compress(content), suffix + ".gz"
        if damage < 0.09:
            content = content[: -rng.randrange(1, 20)]
            names.append("cut archive")
    elif damage < 0.15:
        suffix = rng.choice([".parquet", ".jsonl", ".txt", ".csv.zst", ""])
        names.append("another suffix")
    return suffix, content, names


def run(folder, seed):
    """The prepared data, or the error's text."""
    suffix, content, names = sloppy(seed)
    (folder / "ads.csv").write_text("sku,title\n" + "".join(f"{item},thing {item}\n" for item in ITEMS))
    (folder / f"log{suffix}").write_bytes(content)
    before = sorted(path.name for path in folder.iterdir())
    try:
        config = DataConfig(
            root=str(folder),
            catalog="ads.csv",
            events=f"log{suffix}",
            catalog_columns={"item_id": "sku"},
            event_columns={"user_id": "user", "item_id": "sku", "timestamp": "when", "event": "kind", "value": "paid"},
            event_names={"purchase": "conversion"},
        )
        data = prepare(config, folder / "out")
    except DataError as error:
        text = str(error)
        assert "\n" not in text and len(text) < 1500, names
        # A file that cannot be split stays unsaid by name only where the settings are at fault.
        assert f"log{suffix}" in text or "ads.csv" in text or text.startswith("`"), (names, text)
        assert sorted(path.name for path in folder.iterdir()) == before, names
        return text, names
    account = data.summary["accounting"]
    assert (
        account["rows_in"]
        == account["kept"]
        + sum(account["dropped"].values())
        + account["repeats"]
        + account["merged"]
        + account["refunds"]["rows"]
    ), names
    assert set(data.catalog["item_id"]) == set(ITEMS)
    assert all(item in ITEMS for row in data.test for item in [*row["items"], *row["target_items"]]), names
    return data, names


@pytest.mark.parametrize("start", range(0, 300, 25))
def test_a_sloppy_file_is_read_right_or_refused_in_one_line(tmp_path, start):
    for seed in range(start, start + 25):
        folder = tmp_path / str(seed)
        folder.mkdir()
        try:
            run(folder, seed)
        except AssertionError:
            raise
        except Exception as error:
            raise AssertionError(f"seed {seed}, {sloppy(seed)[2]}: {type(error).__name__}: {error}") from error


def test_the_files_are_of_all_kinds_and_some_are_read(tmp_path):
    names = {name for seed in range(300) for name in sloppy(seed)[2]}
    assert names >= set(FAULTS) | {"cut", "cut archive", "another suffix"}
    wanted = None
    for seed in range(300):
        if sloppy(seed)[2] not in (["nothing"], ["shuffled"], ["spaces in names"], ["doubled"], ["milliseconds"]):
            continue
        (tmp_path / str(seed)).mkdir()
        data, _ = run(tmp_path / str(seed), seed)
        if isinstance(data, str):
            keys = sloppy(seed)[0].startswith(".jsonl") and "no column" in data  # a key of JSON is what it is
            assert keys or "unsorted_time" in data or "cannot be read" in data or "UTF-16" in data, data
            continue
        rows = [(row["user_id"], row["items"], row["target_items"]) for row in data.test]
        wanted = wanted or rows
        assert rows == wanted and len(rows) == USERS and rows[0][0] == "000"
    assert wanted
