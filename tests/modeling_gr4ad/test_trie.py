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
        assert first.shape == (1, len(prefixes), 1)
        assert 0 <= codes.min() and codes.max() < trie.code_limits[level], "no place gathers beyond a head"
        places = first + torch.arange(codes.shape[-1])
        assert codes.shape == (1, len(prefixes), trie.max_children[level])
        for number, prefix in enumerate(prefixes):
            held = valid[0, number]
            assert codes[0, number][held].tolist() == sorted(children[prefix])
            assert held.tolist() == sorted(held.tolist(), reverse=True), "children stand in front"
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


@st.composite
def catalogs_and_questions(draw) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """A catalog, and SIDs that it may hold or not: some beyond its codes, some negative, some far out."""
    catalog = draw(catalogs())
    code = st.one_of(st.integers(-1, 5), st.sampled_from([-(2**40), -100, 99, 2**31, 2**40]))
    asked = st.one_of(st.sampled_from(catalog), st.tuples(*[code] * len(catalog[0])))
    return catalog, draw(st.lists(asked, min_size=1, max_size=30))


@settings(max_examples=80, deadline=None)
@given(catalogs_and_questions())
def test_paths_and_find_equal_dictionaries(drawn):
    catalog, asked = drawn
    trie, levels = SIDTrie.from_codes(torch.tensor(catalog)), len(catalog[0])
    # Nodes are numbered in the order of their prefixes.
    nodes = [sorted({sid[: level + 1] for sid in catalog}) for level in range(levels)]
    paths, leaves = trie.paths(torch.tensor(asked)), trie.find(torch.tensor(asked))
    for sid, path, leaf in zip(asked, paths.tolist(), leaves.tolist(), strict=True):
        if sid in catalog:
            assert path == [known.index(sid[: level + 1]) for level, known in enumerate(nodes)]
            items, valid = trie.items(torch.tensor(leaf))
            assert {catalog[item] for item in items[valid].tolist()} == {sid}
        else:
            assert path == [-1] * levels, "also where a prefix of it is known"
        assert leaf == path[-1]
    shaped = torch.tensor(asked).view(1, len(asked), 1, levels)
    assert torch.equal(trie.paths(shaped), paths.view(shaped.shape))
    assert torch.equal(trie.find(shaped), leaves.view(shaped.shape[:-1]))
    assert trie.paths(shaped[:, :0]).shape == (1, 0, 1, levels), "of no SIDs, none"


@settings(max_examples=80, deadline=None)
@given(catalogs())
def test_parents_edges_ancestors_and_counts_equal_dictionaries(sids):
    trie, distinct, levels = SIDTrie.from_codes(torch.tensor(sids)), sorted(set(sids)), len(sids[0])
    nodes = [[()], *(sorted({sid[: level + 1] for sid in sids}) for level in range(levels))]
    for level, prefixes in enumerate(nodes[1:]):
        above = [nodes[level].index(prefix[:-1]) for prefix in prefixes]
        assert trie.parents[level].tolist() == above
        limit = max(prefix[-1] for prefix in prefixes) + 1
        codes = [prefix[-1] for prefix in prefixes]
        assert trie.edges[level].tolist() == [node * limit + code for node, code in zip(above, codes, strict=True)]
        below = [sum(sid[: level + 1] == prefix for sid in distinct) for prefix in prefixes]
        assert trie.sid_counts[level].tolist() == below
    ancestors = trie.ancestors(torch.arange(trie.num_sids))
    assert ancestors.tolist() == [[nodes[t + 1].index(sid[: t + 1]) for t in range(levels)] for sid in distinct]
    assert torch.equal(trie.paths(torch.tensor(distinct)), ancestors)
    some = torch.tensor([[trie.num_sids - 1, 0]] * 2).T  # not contiguous
    assert torch.equal(trie.ancestors(some), ancestors[some])


@settings(max_examples=30, deadline=None)
@given(catalogs())
def test_a_moved_trie_is_the_same(sids):
    trie = SIDTrie.from_codes(torch.tensor(sids))
    asked, nodes = torch.tensor(sids), torch.zeros((1, 1), dtype=torch.int64)
    moved = trie.to("cpu")
    assert torch.equal(moved.paths(asked), trie.paths(asked)) and moved.max_children == trie.max_children
    for ours, theirs in zip(moved.children(0, nodes), trie.children(0, nodes), strict=True):
        assert torch.equal(ours, theirs)
