import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from gr4ad.modeling_gr4ad import RankingWeights, SIDTrie, TrieRestriction
from gr4ad.modeling_gr4ad.beam_selection_gr4ad import best_children

LENGTHS = [3, 6, 1]  # of `history`
SPACE = list(itertools.product(range(4), range(5), range(3)))
OFFSETS = torch.tensor([4, 8, 13])
MEANS = [0.0, 1.0, 2.0, 5.0]
NO_ITEMS = {"num_items": 0, "item_head": False, "item_head_copy": False, "item_head_repeat": False}
CATALOGS = st.lists(st.sampled_from(SPACE), min_size=1, max_size=30)


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


def test_bad_widths_and_tries_are_named(model, history, build_model):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    for widths in ([4, 4], [4, 0, 4]):
        with pytest.raises(ValueError, match=r"`beam_widths` needs 3 widths >= 1.*Received: \["):
            model.beam_search(**history, beam_widths=widths, trie=trie)
    with pytest.raises(ValueError, match="`trie` has 2 levels, the model 3"):
        model.beam_search(**history, beam_widths=[4] * 3, trie=SIDTrie.from_codes(torch.tensor([[0, 1]])))
    with pytest.raises(ValueError, match="`config.value_bucket_means` is not set"):
        build_model(value_bucket_means=None).beam_search(**history, beam_widths=[4] * 3, trie=trie)


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
    restriction = TrieRestriction.from_items(trie, 3, blocked=torch.tensor([[1], [2], [-1]]))
    widths = [[4, 8, 8], [2, 9, 9], [1, 1, 1]]
    with NoHostReads():
        model.beam_search(**history, beam_widths=widths, trie=trie, value_weight=0.5)
        model.beam_search(**history, beam_widths=widths, trie=trie, restriction=restriction)
        model.recommend(
            **history,
            beam_widths=[4, 8, 8],
            trie=trie,
            top_k=5,
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
