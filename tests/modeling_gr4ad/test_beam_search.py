import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gr4ad.modeling_gr4ad import RankingWeights, SIDTrie
from gr4ad.modeling_gr4ad.beam_selection_gr4ad import best_children

LENGTHS = [3, 6, 1]
SIZES = (4, 5, 3)
SPACE = list(itertools.product(*map(range, SIZES)))
OFFSETS = torch.tensor([4, 8, 13])
MEANS = [0.0, 1.0, 2.0, 5.0]
NO_ITEMS = {"num_items": 0, "item_head": False, "item_head_copy": False, "item_head_repeat": False}
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
        bare.recommend(**history, beam_widths=[4, 4, 4], trie=trie, top_k=3, weights=RankingWeights(item_weight=0.5))
    with pytest.raises(ValueError, match="`value_weight` = 0.5 needs a value head"):
        bare.recommend(**history, beam_widths=[4, 4, 4], trie=trie, top_k=3, weights=RankingWeights(value_weight=0.5))


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


@pytest.mark.parametrize("parallel", [0, 1, 2])
@pytest.mark.parametrize("fuse_prefix", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_cached_beams_equal_full_forwards_at_every_split(
    build_model, history, parallel, fuse_prefix, dtype, tolerance
):
    model = build_model(num_parallel_layers=parallel, fuse_prefix=fuse_prefix).to(dtype)
    output = model.beam_search(**history, beam_widths=[4, 20, 60], trie=SIDTrie.from_codes(torch.tensor(SPACE)))
    for number in range(0, 60, 7):
        full = model(**history, labels=output.sequences[:, number])
        codes = (output.sequences[:, number] - OFFSETS).unbind(1)
        steps = [
            level.log_softmax(-1).gather(1, code.unsqueeze(1))[:, 0]
            for level, code in zip(full.logits, codes, strict=True)
        ]
        torch.testing.assert_close(output.scores[:, number], sum(steps), rtol=tolerance, atol=tolerance)
        values = full.value_logits.softmax(-1) @ torch.tensor(MEANS, dtype=dtype)
        torch.testing.assert_close(output.expected_values[:, number], values, rtol=1e-5, atol=1e-5)


def test_one_shared_context_equals_a_copy_for_every_beam(model, history):
    context = model.model.encode(**history)
    trunk = model.model.trunk(context)
    sids = (torch.tensor(SPACE) + OFFSETS).expand(len(LENGTHS), -1, -1)
    shared = model.model.autoregress(trunk, model.shift_right(sids), context)

    def copied(value: torch.Tensor) -> torch.Tensor:
        return value.repeat_interleave(len(SPACE), dim=0)

    expanded = type(context)(
        key_states=tuple(map(copied, context.key_states)),
        value_states=tuple(map(copied, context.value_states)),
        mask=copied(context.mask),
    )
    alone = model.model.autoregress(copied(trunk), model.shift_right(sids.reshape(-1, 1, 3)), expanded)
    torch.testing.assert_close(shared.flatten(0, 1), alone.squeeze(1), rtol=1e-9, atol=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 9), st.integers(1, 60), st.integers(0, 2**31))
def test_the_cut_by_row_equals_a_plain_top_k(batch, rows, children, width, seed):
    scores = torch.randn(batch, rows, children, generator=torch.Generator().manual_seed(seed))
    scores[scores > 1] = -math.inf
    best, row, child = best_children(scores, width)
    expected = scores.flatten(1).topk(min(width, rows * children), dim=1).values
    assert torch.equal(best, expected)
    users = torch.arange(batch).unsqueeze(1)
    assert torch.equal(scores[users, row, child], best)
    for user in range(batch):
        assert len(set(zip(row[user].tolist(), child[user].tolist(), strict=True))) == best.shape[1]


@settings(max_examples=25, deadline=None)
@given(CATALOGS, st.lists(st.tuples(*[st.integers(1, 9)] * 3), min_size=3, max_size=3))
def test_mixed_widths_and_lengths_in_one_batch_equal_one_request_at_a_time(model, build_history, catalog, lines):
    trie = SIDTrie.from_codes(torch.tensor(catalog))
    together = model.beam_search(**build_history(model.config, LENGTHS), beam_widths=lines, trie=trie)
    widest = max(line[-1] for line in lines)
    assert together.sequences.shape == (3, widest, 3) and together.scores.shape == (3, widest)
    for user, (length, line) in enumerate(zip(LENGTHS, lines, strict=True)):
        history = build_history(model.config, [length], users=[user])
        alone = model.beam_search(**history, beam_widths=line, trie=trie)
        width = line[-1]
        assert alone.sequences.shape == (1, width, 3)
        assert torch.equal(together.sequences[user, :width], alone.sequences[0])
        assert torch.equal(together.leaves[user, :width], alone.leaves[0])
        torch.testing.assert_close(together.scores[user, :width], alone.scores[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.expected_values[user, :width], alone.expected_values[0])
        assert (together.leaves[user, width:] == -1).all() and (together.scores[user, width:] == -math.inf).all()
        assert not together.sequences[user, width:].any()


def test_values_can_be_left_out(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    with_values = model.beam_search(**history, beam_widths=[4, 8, 8], trie=trie)
    without = model.beam_search(**history, beam_widths=[4, 8, 8], trie=trie, return_values=False)
    assert torch.equal(with_values.scores, without.scores) and torch.equal(with_values.leaves, without.leaves)
    assert with_values.expected_values.all() and not without.expected_values.any()


HOST_READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::item",
              "aten::equal", "aten::unique", "aten::_unique2"}  # fmt: skip


class NoHostReads(TorchDispatchMode):
    """Fails on every operation that would make the host wait for a device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.name().split(".")[0] not in HOST_READS, func
        booleans = [i for i in (args[1] if func.name() == "aten::index.Tensor" else []) if i is not None]
        assert not any(index.dtype == torch.bool for index in booleans), "indexing by a mask counts it on the host"
        return func(*args, **(kwargs or {}))


def test_the_host_never_waits_for_the_device(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE[::2]))
    with NoHostReads():
        model.beam_search(**history, beam_widths=[[4, 8, 8], [2, 9, 9], [1, 1, 1]], trie=trie, value_weight=0.5)
        model.recommend(
            **history,
            beam_widths=[4, 8, 8],
            trie=trie,
            top_k=5,
            exclude_items=torch.tensor([[1], [2], [-1]]),
            item_groups=torch.arange(60) % 3,
            max_per_group=1,
            weights=RankingWeights(item_weight=0.5, value_weight=0.5, item_candidates=9, score_history=True),
        )
    with pytest.raises(AssertionError), NoHostReads():
        torch.ones(3).sum().item()


def test_the_search_compiles_into_one_graph(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE[::2]))
    leaves = torch.tensor([[0, 9, -1], [5, -1, -1], [7, 8, 29]])

    @torch.no_grad()
    def search(history):
        context = model.model.encode(**history)
        found = model.decode_levels(
            context, model.model.trunk(context), trie, (4, 8, 8), leaves=leaves, bucket_means=torch.tensor(MEANS),
            value_weight=0.5,
        )  # fmt: skip
        return found.sequences, found.scores, found.expected_values

    compiled = torch.compile(search, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(history), search(history), rtol=1e-9, atol=1e-9)


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


def test_lines_of_widths_and_codes_beyond_the_codebooks_are_refused(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    with pytest.raises(ValueError, match="or one for each of the 3 requests. Received: 2"):
        model.beam_search(**history, beam_widths=[[4, 4, 4], [2, 2, 2]], trie=trie)
    with pytest.raises(ValueError, match=r"`beam_widths` needs 3 widths >= 1.*\[4, 0, 4\]"):
        model.beam_search(**history, beam_widths=[[4, 4, 4], [4, 0, 4], [4, 4, 4]], trie=trie)
    beyond = SIDTrie.from_codes(torch.tensor([[0, 0, 3]]))
    with pytest.raises(ValueError, match=r"at least \[1, 1, 4\] codes; the model's `codebook_sizes` are \[4, 5, 3\]"):
        model.beam_search(**history, beam_widths=[4, 4, 4], trie=beyond)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_numbers_that_overflow_lead_to_no_sid(build_model, history, level):
    broken = build_model()
    with torch.no_grad():
        broken.sid_heads[level].weight[1] = float("nan")
    trie = SIDTrie.from_codes(torch.tensor([[0, 0, 0], [1, 1, 1], [1, 1, 2], [3, 4, 2]]))
    output = broken.beam_search(**history, beam_widths=[4, 8, 8], trie=trie)
    assert (output.leaves == -1).all() and (output.scores == -math.inf).all() and not output.sequences.any()
