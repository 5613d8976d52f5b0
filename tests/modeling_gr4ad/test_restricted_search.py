"""Block lists, allow lists and limits of groups, against brute force."""

import itertools
import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import RankingWeights, SIDTrie, TrieRestriction, trie_restriction_gr4ad

LENGTHS = [3, 6, 1]  # of `history`
SPACE = list(itertools.product(range(4), range(5), range(3)))
OFFSETS = torch.tensor([4, 8, 13])
# Item rows behind SIDs, of which some share one; rows 40.. of lists are in no trie.
CATALOGS = st.lists(st.sampled_from(SPACE[::2]), min_size=1, max_size=40)
LISTS = st.lists(st.none() | st.lists(st.integers(-1, 45), max_size=30), min_size=3, max_size=3)
NARROW = st.tuples(*[st.integers(1, 4)] * 3)
WEIGHTS = st.sampled_from(
    [
        RankingWeights(),
        RankingWeights(item_weight=0.5, value_weight=0.4),
        RankingWeights(item_weight=0.7, item_candidates=3, score_history=True),
    ]
)


def tensors(lists):
    return [None if rows is None else torch.tensor(rows, dtype=torch.int64) for rows in lists]


def open_rows(catalog, blocked, allowed):
    """Item rows that one request may be given."""
    rows = set(range(len(catalog))) - set(blocked or [])
    return rows if allowed is None else rows & set(allowed)


def best(scores, rows, groups, most, top_k):
    """The best items of a list, greedily: scores of item rows, the rows that are open, the group of each row."""
    taken, ranked = {}, []
    for row in sorted(rows, key=lambda row: -scores[row]):
        group = groups[row]
        if group >= 0 and most is not None:
            if taken.get(group, 0) >= most:
                continue
            taken[group] = taken.get(group, 0) + 1
        ranked.append(row)
    return ranked[:top_k]


@settings(max_examples=100, deadline=None)
@given(CATALOGS, LISTS, LISTS, st.randoms(use_true_random=False), st.sampled_from([0, 2, 10**9]))
def test_a_node_is_closed_when_all_below_it_is(catalog, blocked, allowed, random, long_lists):
    rows = random.sample(range(40), len(catalog))  # as after ads were removed: not all rows are in the trie
    trie = SIDTrie.from_codes(torch.tensor(catalog), torch.tensor(rows))
    with patch.object(trie_restriction_gr4ad, "LONG_LISTS", long_lists):
        restriction = TrieRestriction.from_items(trie, 3, blocked=tensors(blocked), allowed=tensors(allowed))
    restriction.check(trie, 3)
    for request in range(3):
        mine = set(rows) - set(blocked[request] or [])
        mine = mine if allowed[request] is None else mine & set(allowed[request])
        assert restriction.open_items[request] == len(mine)
        closed = restriction.closed_items[request].tolist()
        assert {row for row in rows if not closed[row]} == mine
        for level in range(1, 4):
            prefixes = sorted({sid[:level] for sid in catalog})
            expected = [
                not any(row in mine for sid, row in zip(catalog, rows, strict=True) if sid[:level] == prefix)
                for prefix in prefixes
            ]
            assert restriction.closed[level - 1][request, : len(prefixes)].tolist() == expected
    part = restriction.take([2, 0])
    assert torch.equal(part.closed[1], restriction.closed[1][[2, 0]])
    assert part.open_items.tolist() == restriction.open_items[[2, 0]].tolist()


def test_no_list_closes_nothing():
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    restriction = TrieRestriction.from_items(trie, 2)
    assert restriction.open_items.tolist() == [60, 60] and not restriction.closed_items.any()
    assert not any(mask[:, : len(trie.offsets[level]) - 1].any() for level, mask in enumerate(restriction.closed))


def plain_beam_search(steps, sids, widths):
    """Beam search over some SIDs, level by level, from log-probabilities (60, 3) of each token of every SID."""
    prefixes = {(): 0.0}
    for level, width in enumerate(widths, start=1):
        scores = {}
        for sid in sids:
            if sid[: level - 1] in prefixes:
                scores[sid[:level]] = float(steps[SPACE.index(sid), :level].sum())
        prefixes = dict(sorted(scores.items(), key=lambda pair: -pair[1])[:width])
    return prefixes


@settings(max_examples=40, deadline=None)
@given(CATALOGS, LISTS, LISTS, NARROW)
def test_beams_are_those_of_a_search_over_what_is_open(model, history, truth, catalog, blocked, allowed, widths):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    restriction = TrieRestriction.from_items(trie, 3, blocked=tensors(blocked), allowed=tensors(allowed))
    found = model.beam_search(**history, beam_widths=widths, trie=trie, restriction=restriction)
    for user in range(3):
        sids = {catalog[row] for row in open_rows(catalog, blocked[user], allowed[user])}
        expected = plain_beam_search(truth["steps"][user], sids, widths)
        got = (found.sequences[user][found.leaves[user] >= 0] - OFFSETS).tolist()
        assert list(map(tuple, got)) == list(expected)
        scores = found.scores[user, : len(expected)].tolist()
        assert scores == pytest.approx(list(expected.values()), abs=1e-5)  # nothing is renormalised


@settings(max_examples=40, deadline=None)
@given(
    CATALOGS, LISTS, LISTS, WEIGHTS, NARROW | st.just((60, 60, 60)),
    st.lists(st.integers(-1, 4), min_size=40, max_size=40), st.none() | st.integers(1, 3),
    st.tuples(*[st.integers(1, 12)] * 3),
)  # fmt: skip
def test_a_list_is_full_whenever_enough_is_left(
    model, history, catalog, blocked, allowed, weights, widths, groups, most, lengths
):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    wide = model.recommend(**history, beam_widths=[60] * 3, trie=trie, top_k=60, weights=weights)
    limited = {} if most is None else {"item_groups": torch.tensor(groups), "max_per_group": most}
    lists = {"exclude_items": tensors(blocked), "allow_items": tensors(allowed)}
    ranked = model.recommend(
        **history, beam_widths=widths, trie=trie, top_k=lengths, weights=weights, **lists, **limited
    )
    for user in range(3):
        if blocked[user] is None and allowed[user] is None and most is None:
            continue  # as many as the beams hold
        scores = dict(zip(wide.items[user].tolist(), wide.scores[user].tolist(), strict=True))
        rows = open_rows(catalog, blocked[user], allowed[user])
        exact = best(scores, rows, groups, most, 60)
        items = ranked.items[user].tolist()
        held = [item for item in items if item >= 0]
        assert items[: len(held)] == held and len(set(held)) == len(held) and set(held) <= rows
        assert len(held[: lengths[user]]) == min(lengths[user], len(exact))
        if most is not None:
            of_groups = [groups[item] for item in held if groups[item] >= 0]
            assert all(of_groups.count(group) <= most for group in of_groups)
        got = ranked.scores[user, : len(held)].tolist()
        assert got == sorted(got, reverse=True)
        assert got == pytest.approx([scores[item] for item in held], abs=1e-5)
        assert (ranked.scores[user, len(held) :] == -math.inf).all()
        sids = (ranked.sequences[user, : len(held)] - OFFSETS).tolist()
        assert list(map(tuple, sids)) == [catalog[item] for item in held]
        if widths[0] == 60:  # the beams hold all: the list is the best there is
            assert got[: lengths[user]] == pytest.approx([scores[row] for row in exact][: lengths[user]], abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(CATALOGS, st.lists(st.integers(0, 39), max_size=20), WEIGHTS, NARROW)
def test_a_request_without_lists_is_ranked_as_in_a_batch_without(model, history, catalog, blocked, weights, widths):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    arguments = {**history, "beam_widths": widths, "trie": trie, "top_k": 7, "weights": weights}
    free = model.recommend(**arguments)
    mixed = model.recommend(**arguments, exclude_items=tensors([None, blocked, None]))
    width = free.items.shape[1]
    for name, part in free.parts().items():
        assert torch.equal(mixed.parts()[name][[0, 2], :width], part[[0, 2]])
        assert (mixed.items[[0, 2], width:] == -1).all()


def test_without_lists_and_limits_there_is_one_plain_search(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    searched = model.decode_levels
    with (
        patch.object(model, "decode_levels", side_effect=searched) as search,
        patch.object(TrieRestriction, "from_items", side_effect=AssertionError),
    ):
        model.recommend(**history, beam_widths=[1, 1, 1], trie=trie, top_k=5, exclude_items=[None] * 3)
    [call] = search.call_args_list
    assert "closed" not in call.kwargs and "row_leaves" not in vars(trie)


@pytest.mark.parametrize(
    ("groups", "searches"),
    [(None, 2), ([0] * 60, 1), ([row // 15 for row in range(60)], 4), ([min(row // 2, 12) for row in range(60)], 5)],
)
def test_searches_are_bounded(model, history, groups, searches):
    """One search more where nothing is limited; four more with a limit."""
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    limited = {} if groups is None else {"item_groups": torch.tensor(groups), "max_per_group": 1}
    with patch.object(model, "decode_levels", side_effect=model.decode_levels) as search:
        ranked = model.recommend(
            **history, beam_widths=[1, 1, 2], trie=trie, top_k=60, exclude_items=tensors([[5]] * 3), **limited
        )
    full = 59 if groups is None else len(set(groups))
    assert (ranked.items >= 0).sum(1).tolist() == [full] * 3
    assert len(search.call_args_list) <= searches


def test_a_list_is_full_after_four_searches_that_all_fall_into_one_group(model, history, truth):
    """Each group is better than the next as a whole: what a narrow search finds is always of one."""
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    order = truth["steps"][0].sum(-1).argsort(descending=True)
    groups = torch.zeros(60, dtype=torch.int64)
    groups[order] = torch.arange(60) // 6
    one = {name: value[:1] for name, value in history.items()}
    for weights in (RankingWeights(), RankingWeights(item_weight=0.5)):
        with patch.object(model, "decode_levels", side_effect=model.decode_levels) as search:
            ranked = model.recommend(
                **one, beam_widths=[1, 1, 1], trie=trie, top_k=10, item_groups=groups, max_per_group=1, weights=weights
            )
        assert sorted(groups[ranked.items[0]].tolist()) == list(range(10))
        assert 2 < len(search.call_args_list) <= 5


def test_nothing_is_searched_where_nothing_is_left(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    with patch.object(model, "decode_levels", side_effect=model.decode_levels) as search:
        ranked = model.recommend(
            **history, beam_widths=[4, 8, 8], trie=trie, top_k=9, allow_items=tensors([[3, 9], [], [99, -1]])
        )
    assert [set(items.tolist()) - {-1} for items in ranked.items] == [{3, 9}, set(), set()]
    assert len(search.call_args_list) == 1


def test_scores_that_are_no_numbers_end_the_filling(build_model, history):
    model = build_model()
    with torch.no_grad():
        model.sid_heads[1].weight.fill_(math.nan)
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    ranked = model.recommend(**history, beam_widths=[4, 8, 8], trie=trie, top_k=9, exclude_items=tensors([[3]] * 3))
    assert (ranked.items == -1).all()


def test_lists_of_another_batch_or_trie_are_refused(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    options = {**history, "beam_widths": [4, 4, 4], "trie": trie}
    for name in ("exclude_items", "allow_items"):
        with pytest.raises(ValueError, match=f"`{name}` needs one list of item rows for each of the 3.*Received: 2"):
            model.recommend(**options, top_k=3, **{name: [None, None]})
    with pytest.raises(ValueError, match="`top_k` needs one number, or one for each of the 3 requests"):
        model.recommend(**options, top_k=[3, 3])
    for other, batch in ((SIDTrie.from_codes(torch.tensor(SPACE[:9])), 3), (trie, 2)):
        with pytest.raises(ValueError, match="`restriction` must be of the trie and batch of the search"):
            model.beam_search(**options, restriction=TrieRestriction.from_items(other, batch))
