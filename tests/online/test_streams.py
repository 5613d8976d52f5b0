import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from online_runs import write_records

from gr4ad.online import FolderStream, LostRecordsError, Unreadable, open_stream


def numbered(first: int, count: int) -> list[dict]:
    return [{"n": n} for n in range(first, first + count)]


def read_all(stream, after=None, limit=3) -> tuple[list, dict | None]:
    found = []
    while True:
        records, after = stream.read(after, limit)
        if not records:
            return found, after
        assert len(records) <= limit
        found += records


def test_an_empty_folder_has_no_records_and_no_place(tmp_path):
    stream = FolderStream(tmp_path / "missing")
    assert stream.read(None, 5) == ([], None)


def test_files_are_read_in_the_order_of_their_names(tmp_path):
    pq.write_table(pa.table({"n": [0, 1, 2, 3]}), tmp_path / "a.parquet")
    write_records(tmp_path / "b.jsonl", numbered(4, 5))
    write_records(tmp_path / "c.jsonl", [])
    write_records(tmp_path / "d.jsonl", numbered(9, 1))
    for limit in (1, 2, 3, 100):
        assert read_all(FolderStream(tmp_path), limit=limit)[0] == numbered(0, 10)


def test_reading_goes_on_from_any_place_in_a_new_process(tmp_path):
    write_records(tmp_path / "a.jsonl", numbered(0, 4))
    write_records(tmp_path / "b.jsonl", numbered(4, 3))
    for first in range(8):
        head, place = FolderStream(tmp_path).read(None, first)
        place = json.loads(json.dumps(place))
        assert head + read_all(FolderStream(tmp_path), place)[0] == numbered(0, 7)


def test_incomplete_files_wait(tmp_path):
    write_records(tmp_path / "a.jsonl", numbered(0, 2))
    for name in ("b.jsonl.tmp", ".b.jsonl", "b.txt"):
        (tmp_path / name).write_text('{"n": 9}\n')
    found, place = read_all(FolderStream(tmp_path))
    assert found == numbered(0, 2)
    (tmp_path / "b.jsonl.tmp").rename(tmp_path / "b.jsonl")
    assert read_all(FolderStream(tmp_path), place)[0] == [{"n": 9}]


def test_a_line_that_is_no_object_keeps_its_place(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": 0}\n{"n": \n\n[1]\n{"n": 1}')
    found, place = read_all(FolderStream(tmp_path))
    assert found[0] == {"n": 0} and found[3] == {"n": 1}
    assert isinstance(found[1], Unreadable) and "not JSON" in found[1].reason
    assert isinstance(found[2], Unreadable) and "not a JSON object" in found[2].reason
    assert place is not None and place["row"] == 4


def test_a_line_that_is_nested_too_deeply_keeps_its_place(tmp_path):
    nested = ["[" * deep + "]" * deep for deep in (31, 32, 900)]  # within the object of the record
    (tmp_path / "a.jsonl").write_text("\n".join(f'{{"n": {value}}}' for value in nested))
    found, _ = read_all(FolderStream(tmp_path))
    assert found[0] == {"n": json.loads(nested[0])}
    assert all(isinstance(one, Unreadable) and "nested more than 32 deep" in one.reason for one in found[1:])


def test_a_value_that_python_cannot_hold_costs_its_record_alone(tmp_path):
    moments = pa.array([0, 10**15, 1], pa.timestamp("ms"))  # the second in the year 33658
    pq.write_table(pa.table({"n": [0, 1, 2], "at": moments}), tmp_path / "a.parquet")
    found, place = read_all(FolderStream(tmp_path))
    assert [found[0]["n"], found[2]["n"]] == [0, 2] and place is not None and place["rows"] == 3
    assert isinstance(found[1], Unreadable) and "cannot be read" in found[1].reason


def test_a_file_that_comes_too_late_in_order_is_refused(tmp_path):
    write_records(tmp_path / "b.jsonl", numbered(0, 2))
    _, place = read_all(FolderStream(tmp_path))
    write_records(tmp_path / "a.jsonl", numbered(2, 2))
    with pytest.raises(LostRecordsError, match="1 complete files sort before 'b.jsonl'"):
        FolderStream(tmp_path).read(place, 3)


def test_files_that_were_read_may_go_and_others_may_not(tmp_path):
    for name in ("a", "b", "c"):
        write_records(tmp_path / f"{name}.jsonl", numbered(0, 2))
    _, place = FolderStream(tmp_path).read(None, 3)
    (tmp_path / "a.jsonl").unlink()
    assert FolderStream(tmp_path).read(place, 1)[0] == [{"n": 1}]
    (tmp_path / "b.jsonl").unlink()
    with pytest.raises(LostRecordsError, match="'b.jsonl' is gone after 1 of its 2"):
        FolderStream(tmp_path).read(place, 1)


def test_a_complete_file_that_changes_is_refused(tmp_path):
    write_records(tmp_path / "a.jsonl", numbered(0, 3))
    _, place = FolderStream(tmp_path).read(None, 1)
    write_records(tmp_path / "a.jsonl", numbered(0, 4))
    with pytest.raises(LostRecordsError, match="has 4 records, and had 3"):
        FolderStream(tmp_path).read(place, 1)


def test_a_damaged_parquet_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable parquet file"):
        FolderStream(tmp_path).read(None, 1)


# --- Redis
# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://host:1/0", "redis://host:1", "redis://u:secret@host:1/x/key"])
def test_a_url_without_database_and_key_is_refused_without_its_password(url):
    with pytest.raises(ValueError, match="redis://HOST:PORT/DB/KEY") as error:
        open_stream(url)
    assert "secret" not in str(error.value)


@pytest.fixture(scope="module")
def redis_url(start_redis, tmp_path_factory):
    with start_redis(tmp_path_factory.mktemp("redis")) as port:
        yield f"redis://127.0.0.1:{port}/3"


@pytest.fixture
def redis_stream(redis_url, request):
    stream = open_stream(f"{redis_url}/{request.node.name}")
    stream.client.delete(stream.key)
    return stream


def add(stream, records) -> None:
    for record in records:
        stream.client.xadd(stream.key, {"record": json.dumps(record)})


def test_redis_entries_are_read_from_any_place(redis_stream, redis_url):
    assert redis_stream.read(None, 5) == ([], None)
    add(redis_stream, numbered(0, 7))
    assert read_all(redis_stream)[0] == numbered(0, 7)
    for first in range(8):
        head, place = redis_stream.read(None, first)
        place = json.loads(json.dumps(place))
        other = open_stream(f"{redis_url}/{redis_stream.key}")
        assert head + read_all(other, place)[0] == numbered(0, 7)


def test_redis_entries_that_are_no_records_keep_their_place(redis_stream):
    redis_stream.client.xadd(redis_stream.key, {"other": "x"})
    redis_stream.client.xadd(redis_stream.key, {"record": "{"})
    add(redis_stream, numbered(0, 1))
    found, place = read_all(redis_stream)
    assert "no field `record`" in found[0].reason and "not JSON" in found[1].reason and found[2] == {"n": 0}
    assert place is not None and place["read"] == 3


def test_a_redis_stream_may_be_trimmed_as_far_as_it_was_read(redis_stream):
    add(redis_stream, numbered(0, 6))
    _, place = redis_stream.read(None, 4)
    redis_stream.client.xtrim(redis_stream.key, maxlen=2, approximate=False)
    assert redis_stream.read(place, 9)[0] == numbered(4, 2)
    redis_stream.client.xtrim(redis_stream.key, maxlen=1, approximate=False)
    with pytest.raises(LostRecordsError, match="5 entries were removed, but only 4 had been read"):
        redis_stream.read(place, 9)


def test_a_redis_stream_that_began_anew_is_refused(redis_stream):
    add(redis_stream, numbered(0, 2))
    _, place = redis_stream.read(None, 2)
    redis_stream.client.delete(redis_stream.key)
    with pytest.raises(LostRecordsError, match="The stream was deleted"):
        redis_stream.read(place, 1)
