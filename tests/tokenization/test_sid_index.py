import time

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from index_checks import check_trie

from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.tokenization import SIDIndex

CODES = np.array([[0, 0], [2, 3], [1, 1], [2, 3], [2, 3]])  # three items share an SID
IDS = ["a", "b", "c", "d", "e"]
PRIORITY = np.array([0.0, 1.0, 0.0, 7.0, 1.0])


def test_both_ways_and_order():
    index = SIDIndex(IDS, CODES, PRIORITY)
    assert len(index) == index.num_active == 5 and index.sid_of("b") == (2, 3) and index.version == 0
    assert index.items_of((2, 3)) == ["d", "b", "e"] and index.items_of([0, 1]) == []
    assert [IDS[row] for row in index.ranked_rows()] == ["d", "b", "e", "a", "c"]
    assert [IDS[row] for row in index.rows_by_sid()] == ["a", "c", "d", "b", "e"]
    shuffled = SIDIndex(IDS[::-1], CODES[::-1], PRIORITY[::-1])
    assert shuffled.items_of((2, 3)) == ["d", "b", "e"]  # never by place in the catalog
    with pytest.raises(KeyError):
        index.sid_of("nope")


def test_lookup_of_many(index):
    sids = np.array([[2, 3], [7, 0], [-1, 3], [0, 0], [2, 3], [2**40, 3], [1, 0]])
    trio = ["d", "b", "e"]
    assert index.lookup(sids) == [trio, [], [], ["a"], trio, [], []]
    assert index.lookup(np.zeros((0, 2), dtype=np.int64)) == []
    for bad in (np.zeros((3, 3), dtype=int), np.array([2, 3]), np.array([[0.0, 1.0]])):
        with pytest.raises(ValueError, match=r"`sids` must be integers of shape \(n, 2\), one code a level. Received"):
            index.lookup(bad)


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from([3, 2**31 - 1]), st.integers(1, 4))
def test_ranks_equal_brute_force(data, highest, levels):
    """SIDs of narrow levels become integers, those of 3 and more wide levels bytes: both are sorted alike."""
    code = st.integers(0, 2) | st.just(highest) | st.sampled_from([255, 256, 2**16]).map(lambda c: min(c, highest))
    count = data.draw(st.integers(0, 16))
    codes = np.array([[data.draw(code) for _ in range(levels)] for _ in range(count)]).reshape(count, levels)
    ids = data.draw(st.lists(st.text(max_size=3), min_size=count, max_size=count, unique=True))
    assume(not any("\0" in item for item in ids))
    priority = np.array([data.draw(st.sampled_from([-np.inf, 0.0, -0.0, 1.0, 2.5])) for _ in range(count)])
    index = SIDIndex(ids, codes.astype(np.int64), priority)
    best_first = sorted(range(count), key=lambda row: (-priority[row], ids[row]))
    assert index.ranked_rows().tolist() == best_first
    by_sid = sorted(best_first, key=lambda row: codes[row].tolist())
    assert index.rows_by_sid().tolist() == by_sid
    for row in range(count):
        assert index.items_of(codes[row]) == [ids[r] for r in best_first if (codes[r] == codes[row]).all()]
    asked = np.array([[data.draw(code) for _ in range(levels)] for _ in range(5)])
    for sid, (start, stop) in zip(asked, index.prefix_ranges(asked).tolist(), strict=True):
        for shared in range(levels, -1, -1):
            peers = [row for row in by_sid if (codes[row, :shared] == sid[:shared]).all()]
            if peers or shared == 0:
                assert by_sid[start:stop] == peers
                break
    if count:
        groups: dict[tuple[int, ...], list[int]] = {}
        for row in by_sid:
            groups.setdefault(tuple(codes[row].tolist()), []).append(row)
        shuffled = torch.tensor(data.draw(st.permutations(range(count))))
        by_rank = torch.tensor(best_first)
        check_trie(SIDTrie.from_index(index), groups)
        check_trie(SIDTrie.from_codes(torch.tensor(codes)[by_rank], by_rank), groups)  # not sorted by SID
        assert SIDTrie.from_codes(torch.tensor(codes)[shuffled]).num_sids == len(groups)


def test_its_arrays_cannot_be_changed_behind_its_back(index):
    for name in ("item_ids", "codes", "priority", "active"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(index, name)[0] = getattr(index, name)[1]
    with pytest.raises(ValueError, match="read-only"):
        index.rows_by_sid()[0] = 1
    mine = CODES.copy()
    other = SIDIndex(IDS, mine)
    mine[:] = 0
    assert other.sid_of("b") == (2, 3)


def test_bad_indices_are_refused():
    with pytest.raises(ValueError, match="`item_ids` must be distinct. Received twice: 'b'"):
        SIDIndex(["a", "b", "c", "b"], np.zeros((4, 2)))
    with pytest.raises(ValueError, match=r"Received: 2 items, codes \(3, 2\), 2 priorities"):
        SIDIndex(["a", "b"], np.zeros((3, 2)))
    with pytest.raises(ValueError, match="Received: 2 items.*1 priorities"):
        SIDIndex(["a", "b"], np.zeros((2, 2)), [1.0])
    with pytest.raises(ValueError, match=r"`codes` must be integers in 0..2\*\*31-1. Received: int64, -1..2"):
        SIDIndex(["a"], np.array([[-1, 2]]))
    with pytest.raises(ValueError, match="columns of other lengths: {'title': 1}"):
        SIDIndex(["a", "b"], np.zeros((2, 2)), columns={"title": ["x"]})
    with pytest.raises(ValueError, match=r"half of a surrogate pair: '\\ud83d'. Correct that id"):
        SIDIndex(["a", "b\ud83d"], np.zeros((2, 2)))
    for wrong in (5, None, [5]):
        with pytest.raises(ValueError, match="`item_ids` must be a list of strings"):
            SIDIndex(["a"], np.zeros((1, 2))).remove(wrong)
    for name in ("active", "code_1", "item_id", "priority"):
        with pytest.raises(ValueError, match=f"named as the index's own. Received: '{name}'. Rename it"):
            SIDIndex(["a"], np.zeros((1, 2)), columns={name: [True]})


def test_add_replace_and_remove(index):
    index.add(["f", "B"], [[2, 3], [9, 9]], [7.0, 0.0], {"title": ["new", "Big"]})
    assert index.items_of((2, 3)) == ["d", "f", "b", "e"] and index.items_of((9, 9)) == ["B"]
    assert index.rows["f"] == 5 and index.columns == {
        "title": [*"vwxyz", "new", "Big"],
        "price": [1.5, None, 2.0, 0.0, 3.0, None, None],
    }
    index.remove(["d", "f"])
    assert index.items_of((2, 3)) == ["b", "e"] and index.sid_of("d") == (2, 3) and index.rows["d"] == 3
    assert (len(index), index.num_active, index.version) == (7, 5, 2)
    assert index.active.tolist() == [True, True, True, False, True, False, True]
    index.add(["d"], [[0, 0]])
    assert index.rows["d"] == 3 and index.sid_of("d") == (0, 0) and index.items_of((0, 0)) == ["a", "d"]
    assert index.priority[3] == 0 and index.columns["title"][3] is None
    index.replace(["d"], priority=[1.0], columns={"title": ["back"]})
    assert index.items_of((0, 0)) == ["d", "a"] and index.columns["title"][3] == "back"
    index.replace(["d", "a"], codes=[[1, 1], [2, 3]])
    assert index.lookup(np.array([[0, 0], [1, 1], [2, 3]])) == [[], ["d", "c"], ["b", "e", "a"]]
    assert index.version == 5
    index.add([], np.zeros((0, 2)))
    index.remove([])
    assert index.version == 5  # nothing was changed


def test_a_large_index_stays_fast_after_changes():
    """Ten times the time seen, so that only another order of growth fails; kept figures are the benchmark's."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 100_000) for size in (4096, 1024, 256)], 1)
    index = SIDIndex([f"ad_{n}" for n in range(len(codes))], codes, rng.random(len(codes)))
    index.rows_by_sid()
    index.add([f"new_{n}" for n in range(700)], codes[:700])
    index.remove([f"ad_{n}" for n in range(500)])
    assert index._order is not None  # changes are kept beside the sorted keys
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        found = index.lookup(codes[:1000])
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05
    for number, items in enumerate(found):
        assert (f"new_{number}" in items) == (number < 700) and (f"ad_{number}" in items) == (number >= 500)
