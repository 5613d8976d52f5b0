import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import SIDTrie

LENGTHS = [3, 6, 1]
SIZES = (4, 5, 3)
SPACE = list(itertools.product(*map(range, SIZES)))
OFFSETS = torch.tensor([4, 8, 13])
MEANS = [0.0, 1.0, 2.0, 5.0]
NO_ITEMS = {"num_items": 0, "item_head": False, "item_head_copy": False}
CATALOGS = st.lists(st.sampled_from(SPACE), min_size=1, max_size=30)


@pytest.fixture(scope="module")
def model(build_model):
    return build_model()


@pytest.fixture(scope="module")
def history(model, build_history):
    return build_history(model.config, LENGTHS)


@pytest.fixture(scope="module")
def truth(model, history, plain_item_log_probs) -> dict[str, torch.Tensor]:
    """Every SID of the code space scored by teacher-forced full passes: `steps` (B, all SIDs, T) log-probabilities of
    each token after its prefix, `values` (B, all SIDs) expected values, `items` (B, item rows) item log-probabilities.
    """
    sids = torch.tensor(SPACE) + OFFSETS
    steps, values = [], []
    for sid in sids:
        output = model(**history, labels=sid.expand(len(LENGTHS), -1))
        logits = zip(output.logits, (sid - OFFSETS).tolist(), strict=True)
        steps.append(torch.stack([level.log_softmax(-1)[:, code] for level, code in logits], -1))
        values.append(output.value_logits.softmax(-1) @ torch.tensor(MEANS, dtype=torch.float64))
    items = plain_item_log_probs(model, history)[:, 1:]
    return {
        "steps": torch.stack(steps, 1).detach(),
        "values": torch.stack(values, 1).detach(),
        "items": items.detach(),
    }


def found(output, user: int) -> list[tuple[int, ...]]:
    alive = output.leaves[user] >= 0
    return [tuple(sid) for sid in (output.sequences[user][alive] - OFFSETS).tolist()]


def test_candidates_score_as_full_passes(model, history, truth):
    candidates = (torch.tensor(SPACE) + OFFSETS).expand(len(LENGTHS), -1, -1)
    scores = model(**history, candidate_ids=candidates).candidate_logps
    torch.testing.assert_close(scores, truth["steps"].sum(-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(len(LENGTHS), dtype=torch.float64))


@settings(max_examples=30, deadline=None)
@given(CATALOGS, st.integers(60, 200))
def test_wide_beams_equal_an_exhaustive_search(model, history, truth, catalog, width):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    output = model.beam_search(**history, beam_widths=[width] * 3, trie=trie)
    valid = sorted(set(catalog))
    places = torch.tensor([SPACE.index(sid) for sid in valid])
    assert output.widths == tuple(output.widths) and max(output.widths) <= width
    for user in range(len(LENGTHS)):
        scores, order = truth["steps"].sum(-1)[user, places].sort(descending=True)
        sids = found(output, user)
        assert sids == [valid[i] for i in order.tolist()]
        count = len(sids)
        torch.testing.assert_close(output.scores[user, :count], scores, rtol=1e-9, atol=1e-9)
        expected = truth["values"][user, places][order]
        torch.testing.assert_close(
            output.expected_values[user, :count], expected, rtol=1e-5, atol=1e-6, check_dtype=False
        )
        assert (output.scores[user, count:] == -math.inf).all()
        assert (output.sequences[user, count:] == 0).all() and not output.expected_values[user, count:].any()
        assert (output.leaves[user, count:] == -1).all()


def plain_beam_search(steps: dict[tuple[int, ...], float], catalog: set, widths: list[int]) -> list[tuple]:
    beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for level, width in enumerate(widths, start=1):
        prefixes = {sid[:level] for sid in catalog}
        grown = [(s + steps[p], p) for s, before in beams for p in prefixes if p[:-1] == before]
        beams = sorted(grown, reverse=True)[:width]
    return [(sid, score) for score, sid in beams]


@settings(max_examples=40, deadline=None)
@given(CATALOGS, st.tuples(*[st.integers(1, 9)] * 3))
def test_narrow_beams_equal_a_plain_beam_search(model, history, truth, catalog, widths):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    output = model.beam_search(**history, beam_widths=list(widths), trie=trie)
    for user in range(len(LENGTHS)):
        steps = {
            sid[: level + 1]: truth["steps"][user, number, level].item()
            for number, sid in enumerate(SPACE)
            for level in range(3)
        }
        expected = plain_beam_search(steps, set(catalog), list(widths))
        sids = found(output, user)
        assert sids == [sid for sid, _ in expected]
        assert output.scores[user, : len(sids)].tolist() == pytest.approx([score for _, score in expected], abs=1e-9)
        assert len(set(sids)) == len(sids) and set(sids) <= set(catalog)
        leaves = output.leaves[user, : len(sids)]
        rows, held = trie.items(leaves)
        assert all(catalog[row] == sid for sid, r, h in zip(sids, rows, held, strict=True) for row in r[h].tolist())


@settings(max_examples=15, deadline=None)
@given(CATALOGS, st.floats(0.1, 3.0))
def test_value_weight_reorders_the_same_beams(model, history, truth, catalog, weight):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    output = model.beam_search(**history, beam_widths=[60] * 3, trie=trie, value_weight=weight)
    valid = sorted(set(catalog))
    places = torch.tensor([SPACE.index(sid) for sid in valid])
    for user in range(len(LENGTHS)):
        scores = truth["steps"].sum(-1)[user, places] + weight * truth["values"][user, places].log()
        scores, order = scores.sort(descending=True)
        assert found(output, user) == [valid[i] for i in order.tolist()]
        torch.testing.assert_close(output.scores[user, : len(valid)], scores, rtol=1e-5, atol=1e-5)


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
        item_weight=item_weight,
        value_weight=value_weight,
        exclude_items=exclude,
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("item_weight", [0.3, 0.8])
def test_an_item_newer_than_the_item_table_ranks_last_of_its_sid(build_model, history, dtype, item_weight):
    trie = SIDTrie.from_codes(torch.tensor([[0, 0, 0], [0, 0, 0]]), torch.tensor([900, 7]))
    model = build_model().to(dtype)
    ranking = model.recommend(**history, beam_widths=[1, 1, 1], trie=trie, top_k=2, item_weight=item_weight)
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


def test_a_model_without_value_token(build_model, build_history):
    bare = build_model(num_value_buckets=0, value_bucket_means=None, context_values=False, **NO_ITEMS)
    history = build_history(bare.config, LENGTHS)
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    output = bare.beam_search(**history, beam_widths=[4, 20, 60], trie=trie)
    candidates = output.sequences
    torch.testing.assert_close(bare(**history, candidate_ids=candidates).candidate_logps, output.scores)
    assert not output.expected_values.any()
    with pytest.raises(ValueError, match="`value_weight` = 1.0 needs a value head"):
        bare.beam_search(**history, beam_widths=[4, 4, 4], trie=trie, value_weight=1.0)
    with pytest.raises(ValueError, match="`item_weight` = 0.5 needs an item head"):
        bare.recommend(**history, beam_widths=[4, 4, 4], trie=trie, top_k=3, item_weight=0.5)
    with pytest.raises(ValueError, match="`value_weight` = 0.5 needs a value head"):
        bare.recommend(**history, beam_widths=[4, 4, 4], trie=trie, top_k=3, value_weight=0.5)


@pytest.mark.parametrize("share", [-0.1, 1.5])
def test_an_item_weight_that_is_no_share_is_refused(model, history, share):
    with pytest.raises(ValueError, match=rf"`item_weight` must be in \[0, 1\].*Received: {share}"):
        model.recommend(
            **history, beam_widths=[4] * 3, trie=SIDTrie.from_codes(torch.tensor(SPACE)), top_k=3, item_weight=share
        )


def test_bad_widths_and_tries_are_named(model, history, build_model):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    for widths in ([4, 4], [4, 0, 4]):
        with pytest.raises(ValueError, match=r"`beam_widths` needs 3 widths >= 1.*Received: \["):
            model.beam_search(**history, beam_widths=widths, trie=trie)
    with pytest.raises(ValueError, match="`trie` has 2 levels, the model 3"):
        model.beam_search(**history, beam_widths=[4] * 3, trie=SIDTrie.from_codes(torch.tensor([[0, 1]])))
    with pytest.raises(ValueError, match="`config.value_bucket_means` is not set"):
        build_model(value_bucket_means=None).beam_search(**history, beam_widths=[4] * 3, trie=trie)


@settings(max_examples=20, deadline=None)
@given(catalog=CATALOGS, widths=st.tuples(*[st.integers(1, 6)] * 3))
def test_scored_histories_join_the_beams_once_and_by_the_same_score(model, history, catalog, widths):
    codes = torch.tensor(catalog)
    trie = SIDTrie.from_codes(codes)
    weights = {"value_weight": 0.5, "item_weight": 0.5}
    wide = model.recommend(**history, beam_widths=[4, 20, 60], trie=trie, top_k=200, **weights)
    ranked = model.recommend(**history, beam_widths=widths, trie=trie, top_k=200, score_history=True, **weights)
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
