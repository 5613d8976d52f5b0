import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import SIDTrie


@st.composite
def catalogs(draw) -> list[tuple[int, ...]]:
    levels = draw(st.integers(1, 4))
    sid = st.tuples(*[st.integers(0, draw(st.integers(0, 4))) for _ in range(levels)])
    return draw(st.lists(sid, min_size=1, max_size=25))


@settings(max_examples=60, deadline=None)
@given(catalogs(), st.randoms(use_true_random=False))
def test_children_and_items_equal_a_dictionary(sids, random):
    rows = list(range(100, 100 + len(sids)))
    random.shuffle(rows)
    trie = SIDTrie.from_codes(torch.tensor(sids), torch.tensor(rows))
    levels = len(sids[0])
    children: dict[tuple[int, ...], set[int]] = {}
    items: dict[tuple[int, ...], list[int]] = {}
    for sid, row in zip(sids, rows, strict=True):
        items.setdefault(sid, []).append(row)
        for level in range(levels):
            children.setdefault(sid[:level], set()).add(sid[level])

    assert trie.code_limits == [max(level) + 1 for level in zip(*sids, strict=True)]
    assert (trie.num_levels, trie.num_sids, trie.max_items) == (levels, len(items), max(map(len, items.values())))
    nodes: dict[tuple[int, ...], int] = {(): 0}
    for level in range(levels):
        prefixes = [prefix for prefix in children if len(prefix) == level]
        assert trie.max_children[level] == max(len(children[prefix]) for prefix in prefixes)
        asked = torch.tensor([[nodes[prefix] for prefix in prefixes]])
        codes, first, valid = trie.children(level, asked)
        log_probs = torch.randn(1, len(prefixes), 6)
        scores, same_codes, _ = trie.restrict(level, asked, log_probs)
        assert torch.equal(same_codes, codes) and first.shape == (1, len(prefixes), 1)
        places = first + torch.arange(codes.shape[-1])
        assert codes.shape == (1, len(prefixes), trie.max_children[level])
        for number, prefix in enumerate(prefixes):
            held = valid[0, number]
            assert codes[0, number][held].tolist() == sorted(children[prefix])
            assert (scores[0, number][~held] == -torch.inf).all()
            assert torch.equal(scores[0, number][held], log_probs[0, number][codes[0, number][held]])
            found = zip(codes[0, number][held].tolist(), places[0, number][held].tolist(), strict=True)
            nodes.update({(*prefix, code): place for code, place in found})
    for sid, expected in items.items():
        rows_found, held = trie.items(torch.tensor(nodes[sid]))
        assert rows_found[held].tolist() == expected  # items that share an SID keep the order they were given in


@settings(max_examples=60, deadline=None)
@given(catalogs())
def test_sids_of_leaves_are_the_inverse_of_find(sids):
    trie = SIDTrie.from_codes(torch.tensor(sids))
    leaves = torch.arange(trie.num_sids)
    assert trie.sids(leaves).tolist() == [list(sid) for sid in sorted(set(sids))]
    assert torch.equal(trie.find(trie.sids(leaves)), leaves)
    assert trie.sids(leaves[:, None].expand(-1, 2)).shape == (trie.num_sids, 2, len(sids[0]))
    own = trie.sids(trie.item_leaves)
    assert own.tolist() == [list(sids[item]) for item in trie.leaf_items.tolist()]


def test_a_catalog_of_one_item():
    trie = SIDTrie.from_codes(torch.tensor([[2, 0, 1]]))
    node = torch.zeros(1, dtype=torch.int64)
    for level, code in enumerate((2, 0, 1)):
        codes, node, valid = (x[:, 0] for x in trie.children(level, node))
        assert codes.tolist() == [code] and valid.all()
    assert trie.items(node)[0].tolist() == [[0]]


def test_items_that_share_an_sid_keep_their_order():
    codes = torch.tensor([[1, 1], [0, 0], [1, 1], [1, 1]])
    trie = SIDTrie.from_codes(codes, torch.tensor([9, 4, 3, 5]))
    items, valid = trie.items(torch.tensor([0, 1]))
    assert items[valid].tolist() == [4, 9, 3, 5]
    moved = trie.to("cpu")
    assert torch.equal(moved.leaf_items, trie.leaf_items) and moved.max_children == trie.max_children


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (torch.zeros((0, 3), dtype=torch.int64), "must have shape"),
        (torch.zeros((3, 0), dtype=torch.int64), "must have shape"),
        (torch.zeros(3, dtype=torch.int64), "must have shape"),
        (torch.tensor([[0, -1]]), "must be >= 0. Received a minimum of -1"),
    ],
)
def test_bad_codes_are_refused(codes, message):
    with pytest.raises(ValueError, match=message):
        SIDTrie.from_codes(codes)


@settings(max_examples=50, deadline=None)
@given(
    catalog=st.lists(st.tuples(*[st.integers(0, 4)] * 3), min_size=1, max_size=30),
    asked=st.lists(st.tuples(*[st.integers(-1, 5)] * 3), min_size=1, max_size=30),
)
def test_find_gives_the_leaf_of_a_valid_sid_and_none_of_another(catalog, asked):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    leaves = trie.find(torch.tensor(asked))
    for sid, leaf in zip(asked, leaves.tolist(), strict=True):
        if sid in catalog:
            items, valid = trie.items(torch.tensor(leaf))
            assert {catalog[item] for item in items[valid].tolist()} == {sid}
        else:
            assert leaf == -1
