import os
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from index_checks import check_trie, state

from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.tokenization import SIDIndex, sid_order


def test_refused_changes_are_named_and_change_nothing(index):
    index.remove(["c"])
    before = state(index)
    one, nan = [[0, 1]], float("nan")
    for act, message in [
        (lambda: index.add(["f", "a"], [[0, 1]] * 2), "'a' is in the index already. Use `replace`"),
        (lambda: index.add(["f", "f"], [[0, 1]] * 2), "must be distinct. Received twice: 'f'"),
        (lambda: index.add(["f"], [[0, 1, 2]]), r"shape \(1, 2\): one SID an item.* Received: \(1, 3\)"),
        (lambda: index.add(["f"], [0, 1]), r"Received: \(2,\)"),
        (lambda: index.add(["f"], [[0, -1]]), "integers in 0..*Received: int64, -1..0"),
        (lambda: index.add(["f"], [[0, 0.5]]), "integers in 0..*Received: float64, 0.0..0.5"),
        (lambda: index.add(["f"], [["x", "y"]]), "integers in 0..*Received: <U1"),
        (lambda: index.add(["f"], [[0, 2**31]]), "integers in 0..*Received: int64, 0..2147483648"),
        (lambda: index.add(["f"], one, [1.0, 2.0]), r"`priority` needs one number an item, 1.*shape \(2,\)"),
        (lambda: index.add(["f"], one, [nan]), "none of them NaN. Received: .* 1 NaN"),
        (lambda: index.add(["f"], one, columns={"colour": ["red"]}), "no column 'colour', it has .'price', 'title'"),
        (lambda: index.add(["f"], one, columns={"title": []}), "'title' needs one value an item, 1. Received: 0"),
        (lambda: index.add("f", one), "`item_ids` must be a list of strings. Received: 'f'"),
        (lambda: index.add([7], one), "`item_ids` must be a list of strings"),
        (lambda: index.replace(["a", "g"], [[0, 1]] * 2), "'g' is not in the index. Use `add`"),
        (lambda: index.replace(["c"], one), "'c' was removed already. Use `add`"),
        (lambda: index.replace(["a"]), "needs `codes`, `priority` or `columns`. Received: none"),
        (lambda: index.replace(["a"], columns={"x": [1]}), "no column 'x'"),
        (lambda: index.remove(["a", "g"]), "'g' is not in the index. Leave it out"),
        (lambda: index.remove(["a", "c"]), "'c' was removed already. Leave it out"),
        (lambda: index.remove(["a", "a"]), "Received twice: 'a'"),
    ]:
        with pytest.raises(ValueError, match=message):
            act()
        assert state(index) == before


class IndexAgainstDictionary(RuleBasedStateMachine):
    """Random changes, reads, copies, saves and crashed saves; the truth is a dictionary of items in row order."""

    names = [f"i{n}" for n in range(12)]

    def __init__(self):
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "items.parquet"
        self.saved: dict | None = None
        self.copies: list[tuple[SIDIndex, dict]] = []

    def teardown(self):
        for copy, seen in self.copies:
            assert state(copy) == seen
        shutil.rmtree(self.folder)

    @initialize(wide=st.booleans(), filled=st.booleans(), floor=st.sampled_from([0, 3, 1024]))
    def start(self, wide, filled, floor):
        self.floor = floor  # how many changes until the index sorts anew
        self.highest = 2**31 - 1 if wide else 2
        sids = [[0, 0, self.highest], [self.highest, self.highest, 0], [0, 0, 1], [0, 0, 1]]
        first = self.names[: len(sids)] if filled else []
        self.index = SIDIndex(first, np.array(sids)[: len(first)], columns={"title": first})
        self.truth: dict[str, dict] = {
            item: {"sid": sid, "priority": 0.0, "active": True, "title": item}
            for item, sid in zip(first, sids, strict=False)
        }
        self.version = 0

    def pick(self, data, active):
        """Ids that an action accepts, nine times in ten."""
        pool = [item for item in self.names if self.is_active(item) == active]
        any_ids = not pool or data.draw(st.integers(0, 9)) == 0
        return data.draw(st.lists(st.sampled_from(self.names if any_ids else pool), max_size=4, unique=True))

    def draw(self, data, ids):
        number = st.integers(0, 2)
        code = number.map(lambda c: self.highest if c == 2 else c)
        sids = [[data.draw(code) for _ in range(3)] for _ in ids]
        return sids, [float(data.draw(number)) for _ in ids], [data.draw(st.sampled_from("xyz")) for _ in ids]

    def change(self, act, valid, ids):
        with mock.patch.object(sid_order, "RESORT_FLOOR", self.floor):
            if valid:
                act()
                self.version += bool(ids)
            else:
                with pytest.raises(ValueError, match="`item_ids`"):
                    act()

    def is_active(self, item):
        return item in self.truth and self.truth[item]["active"]

    @rule(data=st.data(), titled=st.booleans())
    def add(self, data, titled):
        ids = self.pick(data, active=False)
        sids, priority, titles = self.draw(data, ids)
        valid = not any(map(self.is_active, ids))
        self.change(lambda: self.index.add(ids, sids, priority, {"title": titles} if titled else None), valid, ids)
        if valid:
            for item, sid, rank, title in zip(ids, sids, priority, titles, strict=True):
                self.truth[item] = {**self.truth.get(item, {}), "sid": sid, "priority": rank, "active": True}
                self.truth[item]["title"] = title if titled else None

    @rule(data=st.data(), fields=st.sets(st.sampled_from(["codes", "priority", "columns"]), min_size=1))
    def replace(self, data, fields):
        ids = self.pick(data, active=True)
        sids, priority, titles = self.draw(data, ids)
        given_values = {"codes": sids, "priority": priority, "columns": {"title": titles}}
        valid = all(map(self.is_active, ids))
        self.change(lambda: self.index.replace(ids, **{f: given_values[f] for f in fields}), valid, ids)
        if valid:
            for item, sid, rank, title in zip(ids, sids, priority, titles, strict=True):
                new = {"codes": ("sid", sid), "priority": ("priority", rank), "columns": ("title", title)}
                self.truth[item].update(new[field] for field in fields)

    @rule(data=st.data())
    def remove(self, data):
        ids = self.pick(data, active=True)
        valid = all(map(self.is_active, ids))
        self.change(lambda: self.index.remove(ids), valid, ids)
        if valid:
            for item in ids:
                self.truth[item]["active"] = False

    @rule(continue_with_it=st.booleans())
    def snapshot(self, continue_with_it):
        copy = self.index.snapshot()
        if continue_with_it:
            self.index, copy = copy, self.index
        self.copies.append((copy, state(copy)))

    @rule()
    def save(self):
        self.index.save(self.path)
        self.saved = state(self.index)

    @rule(what=st.sampled_from([(pq, "write_table"), (os, "fsync"), (os, "replace")]), partly=st.booleans())
    def crash_while_saving(self, what, partly):
        def fail(*args, **kwargs):
            if partly and what[1] == "write_table":
                args[1].write(b"PAR1 half a table")
            raise OSError("no space left on device")

        with mock.patch.object(*what, fail), pytest.raises(OSError, match="no space left"):
            self.index.save(self.path)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def load(self):
        self.index = SIDIndex.load(self.path)
        self.truth = {
            item: {"sid": sid, "priority": rank, "active": active, "title": title}
            for item, sid, rank, active, title in zip(
                *(self.saved[name] for name in ("items", "codes", "priority", "active")),
                self.saved["columns"]["title"],
                strict=True,
            )
        }
        self.version = self.saved["version"]

    @invariant()
    def file_is_the_last_one_saved(self):
        names = [path.name for path in self.folder.iterdir()]
        assert names == ([] if self.saved is None else ["items.parquet"])
        if self.saved is not None:
            assert state(SIDIndex.load(self.path)) == self.saved

    @invariant()
    def reads_equal_the_dictionary(self):
        if not hasattr(self, "index"):
            return
        index, items = self.index, list(self.truth)
        served = [item for item in items if self.truth[item]["active"]]
        best_first = sorted(served, key=lambda item: (-self.truth[item]["priority"], item))
        groups: dict[tuple[int, ...], list[str]] = {}
        for item in best_first:
            groups.setdefault(tuple(self.truth[item]["sid"]), []).append(item)
        asked = sorted({tuple(held["sid"]) for held in self.truth.values()} | {(0, 0, 0), (1, 0, self.highest)})
        assert index.lookup(np.array(asked)) == [groups.get(sid, []) for sid in asked]  # before anything sorts anew
        assert (len(index), index.num_active, index.version) == (len(items), len(served), self.version)
        assert index.item_ids.tolist() == items and index.rows == {item: row for row, item in enumerate(items)}
        assert [list(index.sid_of(item)) for item in items] == [held["sid"] for held in self.truth.values()]
        assert index.columns == {"title": [held["title"] for held in self.truth.values()]}
        assert index.active.tolist() == [held["active"] for held in self.truth.values()]
        assert [items[row] for row in index.ranked_rows()] == best_first

    @rule()
    def settle(self):
        rows = {item: row for row, item in enumerate(self.truth)}
        served = sorted(
            (item for item in rows if self.truth[item]["active"]),
            key=lambda item: (self.truth[item]["sid"], -self.truth[item]["priority"], item),
        )
        assert self.index.rows_by_sid().tolist() == [rows[item] for item in served]
        groups: dict[tuple[int, ...], list[int]] = {}
        for item in served:
            groups.setdefault(tuple(self.truth[item]["sid"]), []).append(rows[item])
        if served:
            check_trie(SIDTrie.from_index(self.index), groups)
        else:
            with pytest.raises(ValueError, match="has no active item, so nothing can be served. Add items to it"):
                SIDTrie.from_index(self.index)


TestIndexAgainstDictionary = IndexAgainstDictionary.TestCase
TestIndexAgainstDictionary.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)


def test_a_snapshot_is_independent_both_ways(index):
    index.rows_by_sid()
    copy = index.snapshot()
    before = state(copy)
    index.add(["f"], [[2, 3]], [9.0], {"title": ["f"]})
    index.replace(["a"], [[2, 3]], columns={"price": [0.5]})
    index.remove(["d"])
    assert state(copy) == before and index.items_of((2, 3)) == ["f", "b", "e", "a"]
    after = state(index)
    copy.remove(["a", "b"])
    copy.add(["g"], [[0, 0]])
    assert state(index) == after and copy.items_of((0, 0)) == ["g"]


def test_save_and_load(index, tmp_path):
    index.remove(["c"])
    index.save(tmp_path / "i.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["i.parquet"]
    again = SIDIndex.load(tmp_path / "i.parquet")
    assert state(again) == state(index) and again.version == 1
    assert again.codes.dtype == np.int64 and again.columns["price"] == [1.5, None, 2.0, 0.0, 3.0]


def test_files_without_active_and_version_still_load(tmp_path):
    ids, codes, priority = ["a", "b", "c"], np.array([[0, 0], [2, 3], [2, 3]]), np.array([0.0, 1.0, 7.0])
    columns = {"item_id": ids, "code_1": codes[:, 0], "code_2": codes[:, 1], "priority": priority, "title": ids}
    pq.write_table(pa.table(columns), tmp_path / "old.parquet")
    old = SIDIndex.load(tmp_path / "old.parquet")
    assert state(old) == state(SIDIndex(ids, codes, priority, {"title": ids})) and old.version == 0
    pq.write_table(pa.table({**columns, "active": ids}), tmp_path / "odd.parquet")
    with pytest.raises(ValueError, match="odd.parquet: `active` .* must be boolean. Received: string. Rename"):
        SIDIndex.load(tmp_path / "odd.parquet")


def test_more_than_nine_levels_keep_their_order(tmp_path):
    codes = np.arange(11)[None]
    SIDIndex(["a"], codes, columns={"code_name": ["x"]}).save(tmp_path / "i.parquet")
    again = SIDIndex.load(tmp_path / "i.parquet")
    np.testing.assert_array_equal(again.codes, codes)
    assert again.columns == {"code_name": ["x"]}


def test_files_that_cannot_be_read_or_written_are_named(index, tmp_path):
    (tmp_path / "damaged.parquet").write_bytes(b"PAR1 and then nothing")
    for name in ("damaged.parquet", "none.parquet"):
        with pytest.raises(ValueError, match=f"{name}: not a readable item table"):
            SIDIndex.load(tmp_path / name)
    pq.write_table(pa.table({"item_id": ["a"], "priority": [0.0]}), tmp_path / "short.parquet")
    with pytest.raises(ValueError, match="needs `item_id`, `code_1`.. and `priority`. It has: item_id, priority"):
        SIDIndex.load(tmp_path / "short.parquet")
    index.columns["price"] = ["much", *index.columns["price"][1:]]  # past the checks of `add` and `replace`
    with pytest.raises(ValueError, match="Column 'price' cannot be saved .* Give all items one type"):
        index.save(tmp_path / "i.parquet")
    assert not (tmp_path / "i.parquet").exists()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["much"], r"Column 'price' \(`attributes`\) received strings, e.g. 'much'; the .* column holds numbers"),
        ([True], "received booleans, e.g. True; the item table's column holds numbers"),
        ([{"eur": 1}], "received values of type dict, e.g. {'eur': 1}; the item table's column holds numbers"),
        ([1 << 63], "received what no file can hold"),
        ([(1 << 53) + 1], "fit into no column together"),
    ],
)
def test_values_of_another_type_are_refused_when_they_come_not_when_they_are_saved(index, tmp_path, values, message):
    index.replace(["a"], columns={"price": [1.5]})
    before = dict(index.columns), len(index), index.version
    for change in (
        lambda: index.add(["new"], index.codes[:1], columns={"price": values}),
        lambda: index.replace(["a"], columns={"price": values}),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            change()
        assert "\n" not in str(caught.value)
        assert (dict(index.columns), len(index), index.version) == before
    index.add(["new"], index.codes[:1], columns={"price": [np.float32(2)]})
    index.save(tmp_path / "i.parquet")


def test_two_that_save_at_once_do_not_clash(index, tmp_path):
    """The second save runs whole while the first is between writing and renaming."""
    path, other = tmp_path / "i.parquet", SIDIndex(["z"], [[0, 0]])
    replace = os.replace

    def interrupted(source, target):
        with mock.patch.object(os, "replace", replace):
            other.save(path)
        replace(source, target)

    with mock.patch.object(os, "replace", interrupted):
        index.save(path)
    assert [file.name for file in tmp_path.iterdir()] == ["i.parquet"]
    assert state(SIDIndex.load(path)) == state(index)
