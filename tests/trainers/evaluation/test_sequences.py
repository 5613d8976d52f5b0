import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset

from gr4ad.trainers.evaluation import Sequences, SequenceTable, check_no_leakage, tie_order

CATALOG = ["b", "a", "d", "c"]


def table(histories: dict[str, str], targets: dict[str, str] | None = None) -> SequenceTable:
    columns: dict[str, list] = {
        "user_id": list(histories),
        "items": [list(items) for items in histories.values()],
        "values": [[float(place) for place in range(len(items))] for items in histories.values()],
    }
    if targets is not None:
        columns["target_items"] = [list(targets[user]) for user in histories]
        columns["target_values"] = [[1.0] * len(targets[user]) for user in histories]
    return SequenceTable.from_arrow(pa.table(columns), CATALOG)


def test_reads_a_dataset_in_its_current_order():
    dataset = Dataset.from_dict(
        {
            "user_id": ["u", "v", "w"],
            "items": [["a", "b"], [], ["c", "c", "d"]],
            "values": [[1.0, 2.0], [], [3.0, 4.0, 5.0]],
            "target_items": [["d"], ["a"], ["b", "a"]],
            "target_values": [[9.0], [8.0], [7.0, 6.0]],
        }
    )
    read = SequenceTable.from_dataset(dataset.select([2, 1, 0]), CATALOG)
    assert read.user_ids.tolist() == ["w", "v", "u"]
    assert read.history.offsets.tolist() == [0, 3, 3, 5]
    assert read.history.items.tolist() == [3, 3, 2, 1, 0]
    assert read.history.values.tolist() == [3.0, 4.0, 5.0, 1.0, 2.0]
    assert read.history.age.tolist() == [2, 1, 0, 1, 0]
    assert read.history.users.tolist() == [0, 0, 0, 2, 2]
    assert read.targets is not None
    assert read.targets.offsets.tolist() == [0, 2, 3, 4]
    assert read.targets.items.tolist() == [0, 1, 1, 2]
    assert read.targets.values.dtype == np.float64


def test_reads_chunked_columns_and_null_lists():
    one = pa.table({"user_id": ["u", "v"], "items": [["a"], None], "values": [[1.0], None]})
    two = pa.table({"user_id": ["w"], "items": [["d", "b"]], "values": [[2.0, 3.0]]})
    read = SequenceTable.from_arrow(pa.concat_tables([one.slice(1), two, one.slice(0, 1)]), CATALOG)
    assert read.history.offsets.tolist() == [0, 0, 2, 3]
    assert read.history.items.tolist() == [2, 0, 1]
    assert read.targets is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"items": [["a"], ["b", "zz"]]}, r"'zz' \(user 'v'\)"),
        ({"target_items": [["yy"], ["a"]]}, r"`target_items`.*'yy' \(user 'u'\)"),
        ({"values": [[1.0], [1.0]]}, "`values`.*1 values for 2 items of user 'v'"),
        ({"user_id": ["u", "u"]}, "`user_id` should be distinct.*'u'"),
        ({"target_values": None}, "`target_values`"),
        ({"values": None}, "`values`"),
    ],
)
def test_bad_tables_are_named(change, message):
    columns = {
        "user_id": ["u", "v"],
        "items": [["a"], ["b", "c"]],
        "values": [[1.0], [1.0, 2.0]],
        "target_items": [["a"], ["a"]],
        "target_values": [[1.0], [1.0]],
    } | change
    with pytest.raises(ValueError, match=message):
        SequenceTable.from_arrow(pa.table({k: v for k, v in columns.items() if v is not None}), CATALOG)


def test_repeated_catalog_ids_are_named():
    with pytest.raises(ValueError, match="`item_id` should be distinct.*'a'"):
        SequenceTable.from_arrow(pa.table({"user_id": ["u"], "items": [["a"]], "values": [[1.0]]}), ["a", "b", "a"])


def test_sequences_check_their_shapes():
    with pytest.raises(ValueError, match="`offsets`"):
        Sequences(np.array([0, 2]), np.array([1]), np.array([1.0]))
    with pytest.raises(ValueError, match="`values`"):
        Sequences(np.array([0, 1]), np.array([1]), np.array([]))
    with pytest.raises(ValueError, match="`values`"):
        Sequences.from_lists([[1], [2]], [[1.0], [2.0, 3.0]])


def test_take_and_latest():
    train, test = table({"u": "ab", "v": "c", "w": "dd"}), table({"w": "ddab", "x": "a"}, {"w": "c", "x": "b"})
    assert train.history.take(np.array([2, 0])).items.tolist() == [2, 2, 1, 0]
    merged = train.latest(test)
    assert merged.user_ids.tolist() == ["w", "x", "u", "v"]
    assert merged.history.offsets.tolist() == [0, 4, 5, 7, 8]
    assert [CATALOG[i] for i in merged.history.items] == list("ddabaabc")
    assert merged.targets is None


def test_tie_order_depends_on_the_ids_alone():
    ids = [f"item-{i}" for i in range(200)]
    wanted = [ids[i] for i in tie_order(ids)]
    shuffled = np.random.default_rng(0).permutation(ids).tolist()
    assert [shuffled[i] for i in tie_order(shuffled)] == wanted
    assert wanted != ids and wanted != sorted(ids)
    assert sorted(tie_order(ids)) == list(range(200))
    # Pinned: another order would silently change published numbers between releases.
    assert [ids[i] for i in tie_order(ids[:6])] == ["item-3", "item-5", "item-1", "item-0", "item-2", "item-4"]


def test_leave_one_out_prefixes_pass():
    train = table({"u": "ab", "v": "aa", "only": "d"})
    check_no_leakage(train, table({"v": "aa", "u": "ab"}, {"u": "c", "v": "a"}))
    check_no_leakage(train, table({"v": "aaa", "u": "abc", "new": "d"}, {"u": "d", "v": "a", "new": "a"}))


@pytest.mark.parametrize(
    ("leaky", "message"),
    [
        ({"u": "ab", "v": "aaa"}, "3 training events of user 'v', whose history has 2"),
        ({"u": "ac", "v": "aa"}, "'c' at place 1 of user 'u', where the history has 'b'"),
        ({"u": "b", "v": "aa"}, "'b' at place 0 of user 'u'"),
    ],
)
def test_leakage_names_the_user(leaky, message):
    with pytest.raises(ValueError, match=message):
        check_no_leakage(table(leaky), table({"v": "aa", "u": "ab"}, {"u": "c", "v": "a"}))


def test_leakage_check_needs_one_catalog():
    other = SequenceTable.from_arrow(pa.table({"user_id": ["u"], "items": [["a"]], "values": [[1.0]]}), CATALOG[::-1])
    with pytest.raises(ValueError, match="same catalog"):
        check_no_leakage(table({"u": "a"}), other)
