import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import RankingWeights, SIDTrie

LENGTHS = [3, 6, 1]  # of `history`
SPACE = list(itertools.product(range(4), range(5), range(3)))
OFFSETS = torch.tensor([4, 8, 13])
CATALOGS = st.lists(st.sampled_from(SPACE), min_size=1, max_size=30)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(SPACE[:20]), min_size=1, max_size=40),
    st.sampled_from([0.0, 0.7, 1.0]),
    st.sampled_from([0.0, 0.4]),
    st.lists(st.integers(-1, 39), max_size=12),
)
def test_recommend_equals_a_brute_force_ranking(model, history, truth, catalog, item_weight, value_weight, excluded):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    exclude = torch.tensor([excluded] * len(LENGTHS), dtype=torch.int64).view(len(LENGTHS), -1)
    ranking = model.recommend(
        **history,
        beam_widths=[60] * 3,
        trie=trie,
        top_k=50,
        exclude_items=exclude,
        weights=RankingWeights(item_weight=item_weight, value_weight=value_weight),
    )
    for user in range(len(LENGTHS)):
        scored = []
        for row, sid in enumerate(catalog):
            place = SPACE.index(sid)
            score = (1 - item_weight) * truth["steps"][user, place].sum()
            score += value_weight * truth["values"][user, place].log()
            scored.append((float(score + item_weight * truth["items"][user, row]), row))
        # Without item weight, items of one SID tie exactly and keep the order of the catalog.
        expected = [row for _, row in sorted(scored, key=lambda pair: (-round(pair[0], 9), pair[1]))]
        expected = [row for row in expected if row not in excluded]
        rows = ranking.items[user].tolist()
        assert rows[: len(expected)] == expected and set(rows[len(expected) :]) <= {-1}
        scores = {row: score for score, row in scored}
        got = ranking.scores[user, : len(expected)].tolist()
        assert got == pytest.approx([scores[row] for row in expected], abs=1e-4)
        sids = (ranking.sequences[user, : len(expected)] - OFFSETS).tolist()
        assert [tuple(sid) for sid in sids] == [catalog[row] for row in expected]
        values = [truth["values"][user, SPACE.index(catalog[row])].item() for row in expected]
        assert ranking.expected_values[user, : len(expected)].tolist() == pytest.approx(values, abs=1e-5)


@pytest.mark.parametrize("labels", [False, True])
def test_candidates_score_as_they_are_served(model, history, labels):
    trie, share = SIDTrie.from_codes(torch.tensor(SPACE[:20])), 0.3
    ranking = model.recommend(
        **history, beam_widths=[60] * 3, trie=trie, top_k=20, weights=RankingWeights(item_weight=share)
    )
    targets = {"labels": ranking.sequences[:, 0], "item_labels": ranking.items[:, 0] + 1} if labels else {}
    found = model(**history, candidate_ids=ranking.sequences, candidate_items=ranking.items + 1, **targets)
    scores = (1 - share) * found.candidate_logps + share * found.candidate_item_logps
    torch.testing.assert_close(scores, ranking.scores)


def test_candidates_have_no_item_score_without_an_item_head(build_model, build_history):
    bare = build_model(item_head=False, item_head_copy=False, item_head_repeat=False)
    history = build_history(bare.config, [2])
    sids = torch.tensor([[SPACE[0]]]) + OFFSETS
    with pytest.raises(ValueError, match="`candidate_items` needs an item head"):
        bare(**history, candidate_ids=sids, candidate_items=torch.tensor([[1]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("item_weight", [0.3, 0.8])
def test_an_item_newer_than_the_item_table_ranks_last_of_its_sid(build_model, history, dtype, item_weight):
    trie = SIDTrie.from_codes(torch.tensor([[0, 0, 0], [0, 0, 0]]), torch.tensor([900, 7]))
    model = build_model().to(dtype)
    ranking = model.recommend(
        **history, beam_widths=[1, 1, 1], trie=trie, top_k=2, weights=RankingWeights(item_weight=item_weight)
    )
    assert ranking.items.tolist() == [[7, 900]] * 3
    assert ranking.scores.isfinite().all()


def test_top_k_cuts_and_marks(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    full = model.recommend(**history, beam_widths=[60] * 3, trie=trie, top_k=60)
    cut = model.recommend(**history, beam_widths=[60] * 3, trie=trie, top_k=7)
    leaves, spec = torch.utils._pytree.tree_flatten(full)  # a field named like a method of dict would break this
    assert len(leaves) == len(full) == 4 and torch.utils._pytree.tree_unflatten(leaves, spec).keys() == full.keys()
    assert cut.items.shape == (3, 7) and torch.equal(cut.items, full.items[:, :7])
    everything = torch.arange(60).expand(3, -1)
    none = model.recommend(**history, beam_widths=[60] * 3, trie=trie, top_k=7, exclude_items=everything)
    assert (none.items == -1).all() and (none.scores == -math.inf).all() and not none.expected_values.any()


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_an_item_weight_that_is_no_share_is_refused(model, history, share):
    with pytest.raises(ValueError, match=rf"`item_weight` must be in \[0, 1\].*Received: {share}"):
        model.recommend(
            **history,
            beam_widths=[4] * 3,
            trie=SIDTrie.from_codes(torch.tensor(SPACE)),
            top_k=3,
            weights=RankingWeights(item_weight=share),
        )


@settings(max_examples=20, deadline=None)
@given(catalog=CATALOGS, widths=st.tuples(*[st.integers(1, 6)] * 3))
def test_scored_histories_join_the_beams_once_and_by_the_same_score(model, history, catalog, widths):
    codes = torch.tensor(catalog)
    trie = SIDTrie.from_codes(codes)
    weights = {"value_weight": 0.5, "item_weight": 0.5}
    wide = model.recommend(**history, beam_widths=[4, 20, 60], trie=trie, top_k=200, weights=RankingWeights(**weights))
    ranked = model.recommend(
        **history, beam_widths=widths, trie=trie, top_k=200, weights=RankingWeights(score_history=True, **weights)
    )
    valid = {tuple(sid) for sid in catalog}
    own = (history["input_ids"].view(len(LENGTHS), -1, 3) - OFFSETS).tolist()
    for user in range(len(LENGTHS)):
        score_of = dict(zip(wide.items[user].tolist(), wide.scores[user].tolist(), strict=True))
        found_items = [item for item in ranked.items[user].tolist() if item >= 0]
        assert len(found_items) == len(set(found_items))
        for item, score in zip(found_items, ranked.scores[user].tolist(), strict=False):
            assert math.isclose(score, score_of[item], rel_tol=1e-6, abs_tol=1e-6)
        reached = {tuple(codes[item].tolist()) for item in found_items}
        assert reached >= {tuple(sid) for sid in own[user][: LENGTHS[user]]} & valid


@settings(max_examples=20, deadline=None)
@given(catalog=CATALOGS, widths=st.tuples(*[st.integers(1, 6)] * 3), count=st.integers(1, 70), both=st.booleans())
def test_likeliest_items_join_the_beams_once_and_by_the_same_score(model, history, catalog, widths, count, both):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    weights = {"value_weight": 0.5, "item_weight": 0.5}
    wide = model.recommend(**history, beam_widths=[4, 20, 60], trie=trie, top_k=200, weights=RankingWeights(**weights))
    heads = model.recommend(
        **history, beam_widths=[4, 20, 60], trie=trie, top_k=count, weights=RankingWeights(item_weight=1.0)
    )
    ranked = model.recommend(
        **history,
        beam_widths=widths,
        trie=trie,
        top_k=200,
        weights=RankingWeights(item_candidates=count, score_history=both, **weights),
    )
    for user in range(len(LENGTHS)):
        score_of = dict(zip(wide.items[user].tolist(), wide.scores[user].tolist(), strict=True))
        found_items = [item for item in ranked.items[user].tolist() if item >= 0]
        assert len(found_items) == len(set(found_items))
        for item, score in zip(found_items, ranked.scores[user].tolist(), strict=False):
            assert math.isclose(score, score_of[item], rel_tol=1e-6, abs_tol=1e-6)
        assert set(found_items) >= {item for item in heads.items[user].tolist() if item >= 0}
    if count >= len(catalog):  # every item is a candidate: the ranking is that of the whole catalog
        torch.testing.assert_close(ranked.scores[:, : len(catalog)], wide.scores[:, : len(catalog)])


@pytest.mark.parametrize("count", [-1, 3])
def test_item_candidates_need_an_item_weight(model, history, count):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    with pytest.raises(ValueError, match=r"`item_candidates` (= 3 is part of|must be 0 or more. Received: -1)"):
        model.recommend(
            **history, beam_widths=[4, 4, 4], trie=trie, top_k=3, weights=RankingWeights(item_candidates=count)
        )


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(SPACE[:20]), min_size=1, max_size=40),
    st.lists(st.integers(-1, 3), min_size=40, max_size=40),
    st.integers(1, 3),
)
def test_a_list_holds_the_best_of_each_group(model, history, catalog, groups, most):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    wide = {"trie": trie, "top_k": 60, "weights": RankingWeights((60, 60, 60), item_weight=0.5)}
    everything = model.recommend(**history, **wide).items
    limited = model.recommend(**history, **wide, item_groups=torch.tensor(groups), max_per_group=most).items
    for user in range(len(LENGTHS)):
        expected, taken = [], dict.fromkeys(range(4), 0)
        for item in everything[user].tolist():
            if item < 0:
                continue
            group = groups[item]
            if group < 0 or taken[group] < most:
                expected.append(item)
                taken[group] = taken.get(group, 0) + 1
        assert [item for item in limited[user].tolist() if item >= 0] == expected


@pytest.mark.parametrize("given", [{"max_per_group": 0, "item_groups": torch.zeros(60).long()}, {"max_per_group": 2}])
def test_limits_without_groups_are_refused(model, history, given):
    with pytest.raises(ValueError, match="`max_per_group` must be at least 1 and needs `item_groups`"):
        model.recommend(**history, beam_widths=[4] * 3, trie=SIDTrie.from_codes(torch.tensor(SPACE)), top_k=3, **given)
