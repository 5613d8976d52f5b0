import gzip
import json
import random
from types import SimpleNamespace

import datasets
import huggingface_hub
import pandas as pd
import pyarrow as pa
import pytest

from gr4ad.data import DataConfig, DataError, read_table
from gr4ad.data.file_readers import has_odd_quotes
from gr4ad.data.reading import check_number_columns, column_names, read_source, source_files
from gr4ad.inspection.samples import read_sample

ROWS = pd.DataFrame({"item_id": ["007", "1e5", "2017-01-01"], "title": ["a", "b\nc", "d"], "price": [1.0, 2.5, 0.0]})


def write(frame, path):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl", ".json"])
def test_formats_give_the_same_rows_and_ids_stay_as_written(tmp_path, suffix):
    table = read_table(write(ROWS, tmp_path / f"t{suffix}"), file_role="catalog", number_columns=["price"])
    assert isinstance(table, datasets.Dataset)
    assert table.to_list() == ROWS.to_dict("records")


def test_columns_of_a_csv_are_text_unless_they_are_said_to_be_numbers(tmp_path):
    path = tmp_path / "catalog.csv"
    path.write_text(" item_id,code, price ,stock,since,flag\na,0000010, 1.50 ,3,2024-01-31,true\nb,1e5,,,NA,null\n")
    as_text = read_table(path, file_role="catalog").to_list()
    assert as_text == [
        {"item_id": "a", "code": "0000010", "price": " 1.50 ", "stock": "3", "since": "2024-01-31", "flag": "true"},
        {"item_id": "b", "code": "1e5", "price": None, "stock": None, "since": "NA", "flag": "null"},
    ]
    numbers = read_table(path, file_role="catalog", number_columns=["price", "stock"])
    assert numbers.select_columns(["price", "stock"]).to_list() == [
        {"price": 1.5, "stock": 3},
        {"price": None, "stock": None},
    ]
    with pytest.raises(DataError, match="column `since`, row 0 .0-based.: received '2024-01-31', allowed: a number"):
        read_table(path, file_role="catalog", number_columns=["since"])


def test_number_columns_may_be_named_as_here_and_must_exist(tmp_path):
    (tmp_path / "catalog.csv").write_text("sku,cost\na,1\nb,2\n")
    (tmp_path / "events.csv").write_text("user_id,item_id,timestamp\nu,a,1\n")
    files = {"root": str(tmp_path), "catalog": "catalog.csv", "events": "events.csv"}
    maps = {"catalog_columns": {"item_id": "sku", "price": "cost"}}
    for name in ("price", "cost"):
        config = DataConfig(**files, **maps, number_columns=[name])
        check_number_columns(config)
        assert read_source(config, "catalog").table["price"].to_pylist() == [1, 2]
    with pytest.raises(
        DataError, match="`number_columns` names 'weight', which no table has. Columns there are: cost"
    ):
        check_number_columns(DataConfig(**files, **maps, number_columns=["weight"]))


@pytest.mark.parametrize(
    ("name", "text", "called"),
    [
        ("t.csv", 'item_id;price;title\na;1,50;x\nb;2;"y;z"\n', "semicolon"),
        ("t.csv", "item_id|title\na|x, y\nb|z\n", "bar"),
        ("t.csv", "item_id\ttitle\na\tx, y\nb\tz\n", "tab"),
        ("t.csv", "item_id,title\na,x;y;z\nb,u\tv\n", "comma"),
        ("t.tsv", "item_id\ttitle\na\tx, y\nb\tz\n", "tab"),
        ("t.tsv", "item_id,title\na,x\nb,z\n", "comma"),
        ("t.csv", "item_id\na\nb\n", "comma"),
    ],
)
def test_the_delimiter_is_found_and_said(tmp_path, name, text, called):
    (tmp_path / name).write_text(text)
    raw = read_source(DataConfig(root=str(tmp_path), catalog=name), "catalog")
    assert raw.files == [
        {"role": "catalog", "file": str(tmp_path / name), "format": name[2:], "delimiter": called, "rows": 2}
    ]
    assert (
        raw.table["item_id"].to_pylist() == ["a", "b"]
        and raw.table.num_columns
        == text.split("\n")[0].count({"semicolon": ";", "bar": "|", "tab": "\t", "comma": ","}[called]) + 1
    )


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("blank", [[""], ["", "  ", ""]])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_blank_lines_before_the_names_hide_no_row(tmp_path, end, blank, start):
    path = tmp_path / "t.csv"
    path.write_bytes(start + end.join([*blank, "item_id;title", "a;x", "", "b;y", ""]).encode())
    for limit in (None, 2):
        config = DataConfig(root=str(tmp_path), catalog="t.csv")
        table = read_source(config, "catalog", limit).table
        assert table.to_pylist() == [{"item_id": "a", "title": "x"}, {"item_id": "b", "title": "y"}]
    assert column_names(config, "catalog") == ["item_id", "title"]


@pytest.mark.parametrize("mark", ["\f", "\v", "\x1c", "\x85", "\u2028"])
def test_a_mark_within_a_text_ends_no_line(tmp_path, mark):
    path = tmp_path / "t.csv"
    path.write_text(f"item_id;title\na;one{mark}two\nb;y\n", encoding="utf-8")
    rows = [{"item_id": "a", "title": f"one{mark}two"}, {"item_id": "b", "title": "y"}]
    assert read_table(path, file_role="catalog").to_list() == rows


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
@pytest.mark.parametrize("codec", ["gz", "zst", "bz2"])
def test_packed_files_are_read_alike(tmp_path, suffix, codec):
    rows = ROWS.assign(title=["a", "b", "d"])
    plain = tmp_path / f"t{suffix}"
    if suffix == ".tsv":
        rows.to_csv(plain, index=False, sep="\t")
    else:
        write(rows, plain)
    packed = tmp_path / f"t{suffix}.{codec}"
    names = {"gz": "gzip", "zst": "zstd", "bz2": "bz2"}
    with pa.output_stream(str(packed), compression=names[codec]) as stream:
        stream.write(plain.read_bytes())
    raw = read_source(DataConfig(root=str(tmp_path), catalog=packed.name), "catalog")
    assert raw.table.equals(read_source(DataConfig(root=str(tmp_path), catalog=plain.name), "catalog").table)
    assert raw.files[0]["packed"] == names[codec]
    packed.write_bytes(packed.read_bytes()[:-9])
    assert f"t{suffix}.{codec}: cannot be read as {suffix[1:]}" in refused(packed)


def test_several_files_are_one_table(tmp_path):
    for day, items in (("02", ["b"]), ("01", ["a", "c"])):
        frame = pd.DataFrame({"user_id": [7] * len(items), "item_id": items, "timestamp": [int(day)] * len(items)})
        frame.to_parquet(tmp_path / f"events-{day}.parquet")
    config = DataConfig(root=str(tmp_path), events="events-*.parquet")
    raw = read_source(config, "events")
    assert raw.table["item_id"].to_pylist() == ["a", "c", "b"] and [file["rows"] for file in raw.files] == [2, 1]
    assert raw.name == str(tmp_path / "events-*.parquet")
    assert source_files("events-{02,01}.parquet", tmp_path) == source_files("events-*.parquet", tmp_path)
    assert column_names(config, "events") == ["user_id", "item_id", "timestamp"]
    pd.DataFrame({"user_id": [7], "item_id": ["a"], "time": [3]}).to_parquet(tmp_path / "events-03.parquet")
    with pytest.raises(DataError, match="events-03.parquet: has column `time`, unlike .*events-01.parquet"):
        read_source(config, "events")
    with pytest.raises(DataError, match=r"day-\*.parquet: no file matches .the events table."):
        read_source(DataConfig(root=str(tmp_path), events="day-*.parquet"), "events")


@pytest.mark.parametrize("text", ['u,a,"b\nu,b,d\nu,c,f\n', 'u,a,"b\nu,b,d\nu,c,"f\nv,d,x\n', 'u,a,"b\nu,b,d'])
def test_a_quote_that_nobody_closes_swallows_no_rows(tmp_path, text):
    (tmp_path / "t.csv").write_text("user_id,item_id,note\n" + text)
    assert "t.csv: quotes that do not match, seen in line" in refused(tmp_path / "t.csv", role="events")


@pytest.mark.parametrize(
    ("text", "row"),
    [
        (r'a,"say \"hi\" now"', 0),  # as Spark writes it
        (r'x,"fine"' + "\n" + r'a,"5\""', 1),
        (r'a,"\"hi\""' + "\n" + 'b,"x"', 0),
        ('x,fine\n\ny,"a\nb"\na,"say "hi" now"', 2),  # by hand
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_quotes_that_are_not_doubled_are_refused_as_their_text_would_be_altered(tmp_path, text, row, packed):
    path = tmp_path / ("t.csv.gz" if packed else "t.csv")
    content = f"item_id,title\n{text}\nlast,row\n".encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    message = refused(path)
    assert f"{path}: quotes that do not match, seen in line" in message and f"row {row} (0-based)" in message
    assert 'in Spark: .option("escape"' in message
    with pytest.raises(DataError, match="quotes that do not match"):
        read_sample(path, 1000)


def test_backslashes_and_quotes_that_alter_nothing_are_read_as_they_stand(tmp_path):
    text = 'item_id,title,size\na,"C:\\dir\\",5" disk\nb,x,\\"\nc,"say ""\\"" now",\n'
    (tmp_path / "t.csv").write_text(text)
    raw = read_source(DataConfig(root=str(tmp_path), catalog="t.csv"), "catalog")
    assert raw.table["title"].to_pylist() == ["C:\\dir\\", "x", 'say "\\" now']
    assert raw.table["size"].to_pylist() == ['5" disk', '\\"', None]


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_odd_quotes_are_found_wherever_blocks_end(tmp_path, monkeypatch, block):
    rng = random.Random(block)
    for text in ('"a b","c"', '"a\\"b"', '"a"b"', '"a""b"', '5"x', '"" , "', '"\\'):
        line = text + rng.choice(["", "\n", ",x\n"])
        whole = has_odd_quotes(line.encode(), ",")
        parts = [line.encode()[start : start + block] for start in range(0, len(line), block)]
        end, found = b"", False
        for part in parts:
            found = found or has_odd_quotes(end[-2:] + part, ",")
            end = (end + part)[-64:]
        assert found == whole, text


def test_cells_of_several_lines_are_said(tmp_path):
    text = 'item_id,note\r\na,"one\r\ntwo"\r\nb,"say ""hi"""\r\nc,5" disk\r\n\r\n'
    (tmp_path / "t.csv").write_bytes(text.encode())
    raw = read_source(DataConfig(root=str(tmp_path), catalog="t.csv"), "catalog")
    assert raw.table["note"].to_pylist() == ["one\r\ntwo", 'say "hi"', '5" disk']
    assert raw.notes == ["1 rows span several lines, within quotes"]


def test_utf16_is_named(tmp_path):
    (tmp_path / "t.csv").write_text("item_id,title\na,b\n", encoding="utf-16")
    assert "t.csv: is in UTF-16. Allowed: UTF-8" in refused(tmp_path / "t.csv")


def test_texts_that_look_like_dates_stay_text_in_json_lines(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"item_id": "a"}\n{"item_id": "b", "code": "2019-01-01"}\n')
    assert read_table(path, file_role="catalog").to_list() == [
        {"item_id": "a", "code": None},
        {"item_id": "b", "code": "2019-01-01"},
    ]


def test_a_head_of_each_format(tmp_path):
    frame = pd.DataFrame({"item_id": [str(number) for number in range(50)], "title": ["t"] * 50})
    for suffix in (".parquet", ".csv", ".jsonl"):
        write(frame, tmp_path / f"t{suffix}")
        raw = read_source(DataConfig(root=str(tmp_path), catalog=f"t{suffix}"), "catalog", limit=7)
        assert raw.table["item_id"].to_pylist() == [str(number) for number in range(7)]


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_column_map_swaps_names(tmp_path, suffix):
    frame = pd.DataFrame({"item_id": [1, 2], "asin": ["A", "B"], "name": ["x", "y"]})
    path = write(frame, tmp_path / f"t{suffix}")
    table = read_table(path, file_role="catalog", columns={"item_id": "asin", "event_key": "item_id"})
    assert table.column_names == ["item_id", "event_key", "name"]
    assert table["item_id"][:] == ["A", "B"]
    assert [int(key) for key in table["event_key"]] == [1, 2]


def test_column_whose_name_is_taken_is_left_out_with_a_warning(tmp_path, caplog):
    path = write(pd.DataFrame({"item_id": [1], "asin": ["A"]}), tmp_path / "t.csv")
    table = read_table(path, file_role="catalog", columns={"item_id": "asin"})
    assert table.to_list() == [{"item_id": "A"}]
    assert "left out column(s) item_id" in caplog.text


def test_reading_leaves_no_cache_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    read_table(write(ROWS, tmp_path / "t.parquet"), file_role="catalog")
    assert not (tmp_path / "cache").exists()


def refused(source, role="catalog", columns=None):
    with pytest.raises(DataError) as caught:
        read_table(source, file_role=role, columns=columns)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_missing_file(tmp_path):
    text = refused(tmp_path / "no.parquet")
    assert "no.parquet: no such file" in text and "catalog" in text


def test_folder_and_unknown_suffix(tmp_path):
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "t.xlsx").write_text("x")
    assert ".parquet, .csv, .tsv, .jsonl" in refused(tmp_path / "t.xlsx")


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_empty_file_and_file_without_rows(tmp_path, suffix):
    path = tmp_path / f"t{suffix}"
    path.write_bytes(b"")
    assert f"{path}: the file is empty (0 bytes)" in refused(path)
    if suffix == ".jsonl":
        path.write_text("\n\n")
        assert "no json object" in refused(path)
    else:
        write(ROWS.iloc[:0], path)
        assert "has no rows" in refused(path)


@pytest.mark.parametrize("cut", [3, 50, -1])
def test_truncated_parquet(tmp_path, cut):
    path = write(ROWS, tmp_path / "t.parquet")
    path.write_bytes(path.read_bytes()[:cut])
    assert "cannot be read as parquet" in refused(path)


def test_parquet_damaged_in_the_middle(tmp_path):
    frame = pd.DataFrame({"item_id": [str(i) for i in range(5000)]})
    path = write(frame, tmp_path / "t.parquet")
    content = bytearray(path.read_bytes())
    content[100:4000] = b"\xff" * 3900
    path.write_bytes(content)
    assert "cannot be read as parquet" in refused(path)


def test_malformed_json_names_the_line(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"item_id": "a"}\n{"item_id": "b"\n{"item_id": "c"}\n')
    assert "line 1 (0-based) is not json" in refused(path)
    path.write_text('{"item_id": "a"}\n{"item_id": "b"}\n{"item_id": NaN}\n')
    assert "line 2 (0-based) is not json" in refused(path)


def test_json_array_is_refused(tmp_path):
    path = tmp_path / "t.json"
    path.write_text(json.dumps([{"item_id": "a"}]))
    assert "not as one array" in refused(path)


def test_json_column_of_two_types_names_the_row(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_text('{"item_id": "a"}\n{"item_id": null}\n{"item_id": 5}\n')
    assert "column `item_id`, row 2 (0-based): received 5, allowed: str" in refused(path)


def test_csv_row_of_another_width_and_wrong_encoding(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("item_id,title\na,b\nc,d,e\n")
    assert "Expected 2 columns, got 3" in refused(path)
    path.write_bytes(b"item_id,title\na,\xff\xfe\n")
    assert "t.csv: cannot be read as csv" in refused(path)
    path.write_bytes(b"item_id,\xff\na,b\n")
    assert "t.csv: cannot be read as csv" in refused(path)


def test_missing_column_lists_those_there(tmp_path):
    path = write(pd.DataFrame({"asin": ["A"], "title": ["t"]}), tmp_path / "t.parquet")
    text = refused(path)
    assert "no column `item_id`" in text and "asin, title" in text
    text = refused(path, columns={"item_id": "sku"})
    assert "no column `sku` (mapped to `item_id`)" in text and "asin, title" in text
    assert "no column `user_id`" in refused(path, role="users")


def test_repeated_column(tmp_path):
    (tmp_path / "t.csv").write_text("item_id,item_id\na,b\n")
    assert "stands twice" in refused(tmp_path / "t.csv")


def test_hub_ids(monkeypatch, tmp_path):
    (tmp_path / "train.csv").write_text("item_id,code\n007,NA\n008,null\n")
    (tmp_path / "dev.csv").write_text("item_id,code\n009,None\n")
    fetched = []

    def load_dataset_builder(name, data_files):
        if name == "owner/gone":
            raise ConnectionError("no\nnetwork")
        place = f"hf://datasets/{name}@abc/data"
        files = {"train": [f"{place}/train.csv"], "dev": [f"{place}/dev.csv"]}
        return SimpleNamespace(config=SimpleNamespace(data_files={} if name == "owner/odd" else files))

    def hf_hub_download(repository, name, repo_type, revision):
        assert repo_type == "dataset"
        fetched.append((repository, name, revision))
        return str(tmp_path / name.rsplit("/")[-1])

    def load_dataset(name, data_files, split):
        # select leaves an index mapping over the full arrow table
        return datasets.Dataset.from_dict({"item_id": ["a", "b", "c"]}).select([2, 0])

    monkeypatch.setattr(datasets, "load_dataset_builder", load_dataset_builder)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    local = read_table(tmp_path / "train.csv", file_role="catalog").to_list()
    assert local == [{"item_id": "007", "code": "NA"}, {"item_id": "008", "code": "null"}]
    assert read_table("owner/shop", file_role="catalog").to_list() == local
    assert read_table("hf://owner/shop:dev", file_role="catalog").to_list() == [{"item_id": "009", "code": "None"}]
    assert read_table("hf://owner/shop/data/train.csv", file_role="catalog").to_list() == local
    assert fetched == [
        ("owner/shop", "data/train.csv", "abc"),
        ("owner/shop", "data/dev.csv", "abc"),
        ("owner/shop", "data/train.csv", None),
    ]
    assert read_table("owner/odd", file_role="catalog")["item_id"][:] == ["c", "a"]
    assert "no split 'test'. Splits there are: train, dev" in refused("hf://owner/shop:test")
    assert "owner/gone" in refused("owner/gone") and "ConnectionError" in refused("owner/gone")
    assert "not a hub data set" in refused("hf://owner")
