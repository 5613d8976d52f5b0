import copy
import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, SIDTrie, TrieRestriction, sid_path_gr4ad
from gr4ad.modeling_gr4ad.prefix_vectors_gr4ad import count_prefixes

LENGTHS = [3, 6, 1]
OFFSETS = torch.tensor([4, 8, 13])
SPACE = list(itertools.product(range(4), range(5), range(3)))
CATALOGS = st.lists(st.sampled_from(SPACE), min_size=1, max_size=30)
PARTS = [
    {"num_prefix_vectors": 0, "sid_copy": False, "sid_repeat": False},
    {"num_prefix_vectors": 25, "prefix_size": 5, "sid_copy": False, "sid_repeat": True},
    {"num_prefix_vectors": 99, "sid_copy": True, "sid_repeat": False},
    {"num_prefix_vectors": 40, "prefix_size": 15, "sid_copy": True, "sid_repeat": True},
]


@pytest.fixture(scope="module", params=PARTS, ids=["children", "repeat", "copy", "all"])
def model(request, build_model) -> GR4ADForRecommendation:
    return build_model(sid_normalization="trie", **request.param)


@pytest.fixture(scope="module")
def history(model, build_history) -> dict[str, torch.Tensor]:
    """Histories in which an SID stands twice, and several share prefixes."""
    history = build_history(model.config, LENGTHS)
    tokens = history["input_ids"].view(3, -1, 3)
    tokens[1, 4], tokens[1, 5, :2] = tokens[1, 1], tokens[1, 2, :2]
    return history


def plain_log_probs(model: GR4ADForRecommendation, history: dict, catalog: list, length: int = 3) -> torch.Tensor:
    """log p of each prefix of a length of a catalog, (B, prefixes in lexicographic order): every number by itself."""
    valid, lines = sorted(set(catalog)), []
    table = model.prefix_vectors
    if table is not None:
        kept = SIDTrie.from_codes(torch.tensor(SPACE))
        rows = {
            tuple(sid[: level + 1]): table.rows(kept)[level][node].item()
            for sid, path in zip(SPACE, kept.paths(torch.tensor(SPACE)).tolist(), strict=True)
            for level, node in enumerate(path)
        }
    for user in range(len(LENGTHS)):
        own = {name: value[user : user + 1] for name, value in history.items()}
        seen = [tuple(sid) for sid in (own["input_ids"].view(-1, 3)[: LENGTHS[user]] - OFFSETS).tolist()]
        weights = Counter()
        outputs = model.model(**own)
        if model.config.sid_copy:
            part = model.history_sids
            query = part.copy_query(part.norm(outputs.trunk_hidden_state[0, 0, 0]))
            for sid, state in zip(seen, outputs.context.states[0], strict=False):
                if sid in valid:
                    weights[sid] += math.exp(float(query @ state) / len(state) ** 0.5 + float(part.copy_bias))

        @torch.no_grad()
        def step(prefix: tuple[int, ...], own=own, seen=seen) -> dict[tuple[int, ...], float]:
            tokens = torch.tensor([1, *(torch.tensor(prefix, dtype=torch.long) + OFFSETS[: len(prefix)]).tolist()])
            tokens = torch.nn.functional.pad(tokens, (0, 4 - len(tokens)))
            state = model.model(**own, decoder_input_ids=tokens.view(1, 1, -1)).last_hidden_state[0, 0, len(prefix)]
            logits = {}
            for child in sorted({sid[: len(prefix) + 1] for sid in valid if sid[: len(prefix)] == prefix}):
                logit = model.sid_heads[len(prefix)].weight[child[-1]] @ state
                if table is not None:
                    logit = logit + table.bias[rows[child]]
                if table is not None and prefix:
                    query = table.query @ state if table.projects else state
                    logit = logit + table.vectors[rows[child]] @ query
                if model.config.sid_repeat:
                    below = [sid for sid in valid if sid[: len(child)] == child]
                    share = len(set(below) & set(seen)) / len(below)
                    logit = logit + math.log(1 - share + share * math.exp(model.history_sids.repeat_bias))
                logits[child] = float(logit)
            total = torch.tensor(list(logits.values()), dtype=torch.float64).logsumexp(0)
            return {child: logit - float(total) for child, logit in logits.items()}

        known = {(): 0.0}
        for level in range(length):
            known |= {
                child: known[prefix] + log_prob
                for prefix in [prefix for prefix in known if len(prefix) == level]
                for child, log_prob in step(prefix).items()
            }
        total = 1 + sum(weights.values())
        found = {}
        for prefix, log_prob in known.items():
            copied = sum(weight for sid, weight in weights.items() if sid[: len(prefix)] == prefix)
            found[prefix] = math.log((math.exp(log_prob) + copied) / total)
        lines.append([found[prefix] for prefix in sorted(found) if len(prefix) == length])
    return torch.tensor(lines, dtype=torch.float64)


@settings(max_examples=5, deadline=None)
@given(CATALOGS)
def test_candidates_have_the_defined_probability_and_all_sum_to_one(model, history, catalog):
    trie, valid = SIDTrie.from_codes(torch.tensor(catalog)), torch.tensor(sorted(set(catalog)))
    scores = model(**history, candidate_ids=(valid + OFFSETS).expand(3, -1, -1), trie=trie).candidate_logps
    torch.testing.assert_close(scores, plain_log_probs(model, history, catalog), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3, dtype=torch.float64))


def test_prefixes_of_each_length_sum_to_one(model, history):
    catalog = SPACE[::3] + SPACE[1:20:4]
    trie, valid = SIDTrie.from_codes(torch.tensor(catalog)), torch.tensor(sorted(set(catalog)))
    tokens = (valid + OFFSETS).expand(3, -1, -1)
    outputs = model.model(**history, decoder_input_ids=model.shift_right(tokens))
    own = model.read_history_sids(outputs.context, outputs.trunk_hidden_state, trie)
    log_probs = model.prefix_log_probs(outputs.last_hidden_state, tokens, trie, own)
    for level in range(3):
        first = torch.tensor(
            [i for i in range(len(valid)) if not i or any(valid[i, : level + 1] != valid[i - 1, : level + 1])]
        )
        expected = plain_log_probs(model, history, catalog, level + 1)
        torch.testing.assert_close(log_probs[:, first, level], expected, rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(log_probs[:, first, level].exp().sum(1), torch.ones(3, dtype=torch.float64))


@settings(max_examples=5, deadline=None)
@given(CATALOGS, st.integers(60, 90), st.data())
def test_wide_beams_and_known_leaves_equal_an_exhaustive_search(model, history, catalog, width, data):
    trie, valid = SIDTrie.from_codes(torch.tensor(catalog)), sorted(set(catalog))
    expected = plain_log_probs(model, history, catalog)
    output = model.beam_search(**history, beam_widths=[width] * 3, trie=trie)
    scores, order = expected.sort(dim=1, descending=True)
    assert torch.equal(output.leaves[:, : len(valid)], order)
    torch.testing.assert_close(output.scores[:, : len(valid)], scores, rtol=1e-7, atol=1e-7)
    asked = data.draw(st.lists(st.integers(-1, len(valid) - 1), min_size=2, max_size=6, unique=True))
    leaves = torch.tensor(asked).expand(3, -1)
    context = model.read_histories(
        history["input_ids"], None, {k: v for k, v in history.items() if k != "input_ids" and k != "attention_mask"}
    )
    trunk = model.model.trunk(context)
    beside = model.decode_levels(
        context, trunk, trie, (1, 1, 1), leaves=leaves, rows=model.prefix_rows(trie),
        history=model.read_history_sids(context, trunk, trie),
    )  # fmt: skip
    for user in range(3):
        for leaf, score in zip(beside.leaves[user].tolist(), beside.scores[user].tolist(), strict=True):
            assert score == -math.inf if leaf < 0 else score == pytest.approx(float(expected[user, leaf]), abs=1e-7)
        assert set(beside.leaves[user].tolist()) >= set(asked) - {-1}


@settings(max_examples=5, deadline=None)
@given(CATALOGS, st.tuples(*[st.integers(1, 9)] * 3))
def test_narrow_beams_follow_the_probability_of_prefixes(model, history, catalog, widths):
    trie, valid = SIDTrie.from_codes(torch.tensor(catalog)), sorted(set(catalog))
    output = model.beam_search(**history, beam_widths=list(widths), trie=trie)
    by_length = [plain_log_probs(model, history, catalog, length) for length in (1, 2, 3)]
    for user in range(3):
        beams: list[tuple[int, ...]] = [()]
        for length, width in enumerate(widths, start=1):
            prefixes = sorted({sid[:length] for sid in valid})
            grown = [(float(by_length[length - 1][user, place]), prefix) for place, prefix in enumerate(prefixes)]
            beams = [prefix for _, prefix in sorted(grown, reverse=True) if prefix[:-1] in beams][:width]
        alive = output.leaves[user] >= 0
        assert [tuple(sid) for sid in (output.sequences[user][alive] - OFFSETS).tolist()] == beams


def test_logits_of_few_children_are_those_of_whole_heads(model, history, monkeypatch):
    trie, found = SIDTrie.from_codes(torch.tensor(SPACE[::3])), []
    for denser in (0, 10**9):  # every level by its children alone, and none
        monkeypatch.setattr(sid_path_gr4ad, "DENSER", denser)
        found.append(model.beam_search(**history, beam_widths=[4, 6, 20], trie=trie))
    torch.testing.assert_close(found[0].scores, found[1].scores)
    assert torch.equal(found[0].sequences, found[1].sequences)


def test_a_search_runs_under_autocast(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE[::3]))
    plain = model.beam_search(**history, beam_widths=[4, 6, 20], trie=trie)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model.beam_search(**history, beam_widths=[4, 6, 20], trie=trie)
    torch.testing.assert_close(found.scores, plain.scores, rtol=0.05, atol=0.1)


def test_the_loss_is_the_negative_log_probability_of_each_prefix_of_a_history(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    labels = torch.full((3, 6, 3), -100)
    targets = torch.tensor([[1, 2, 0], [3, 4, 2], [0, 0, 1]]) + OFFSETS
    for user, (length, sid) in enumerate(zip(LENGTHS, targets, strict=True)):
        labels[user, length - 1] = sid
    labels[1, 2] = history["input_ids"].view(3, -1, 3)[1, 1]  # what the prefix holds already
    model.train()
    output = model(**history, labels=labels, trie=trie)
    model.eval()
    assert output.losses["sid"].item() == pytest.approx(output.losses["sid"].item())
    short = {name: value[1:2] for name, value in history.items()}
    whole = model(**history, candidate_ids=targets.unsqueeze(1), trie=trie).candidate_logps[:, 0]
    cut = {**short, "attention_mask": short["attention_mask"].clone()}
    cut["attention_mask"].view(1, -1, 3)[:, 3:] = 0
    cut["cross_domain_places"] = cut["cross_domain_places"] + 100 * (cut["cross_domain_places"] > 3)
    cut.pop("cross_domain_places")
    seen = history["cross_domain_places"][1] <= 3
    cut["cross_domain_ids"] = short["cross_domain_ids"] * seen
    prefix = model(**cut, candidate_ids=labels[1:2, 2:3], trie=trie).candidate_logps[0, 0]
    expected = -(whole.sum() + prefix) / 4
    assert output.losses["sid"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_every_part_learns(build_model, build_history, build_labels):
    model = build_model(sid_normalization="trie", **PARTS[3]).train()
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    model(**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS), trie=trie).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_the_row_of_unknown_prefixes_does_not_learn(build_model, build_history, build_labels):
    model = build_model(sid_normalization="trie", num_prefix_vectors=12).train()
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    model.prefix_vectors.set_prefixes(trie, torch.rand(len(SPACE), dtype=torch.float64))
    model(**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS), trie=trie).loss.backward()
    table = model.prefix_vectors
    assert not table.vectors.grad[0].any() and not table.bias.grad[0] and table.bias.grad[1:].any()
    assert not table.vectors[0].any() and not table.bias[0]


def test_gradients_are_those_of_finite_differences(build_model, build_history):
    model = build_model(sid_normalization="trie", **PARTS[3])
    trie, history = SIDTrie.from_codes(torch.tensor(SPACE[::2])), build_history(model.config, LENGTHS)
    sids = (torch.tensor(SPACE[::8]) + OFFSETS).expand(3, -1, -1)

    def total() -> torch.Tensor:
        return (model(**history, candidate_ids=sids, trie=trie).candidate_logps ** 2).sum()

    total().backward()
    for name in ("prefix_vectors.vectors", "prefix_vectors.bias", "prefix_vectors.query", "history_sids.repeat_bias",
                 "history_sids.copy_bias", "history_sids.copy_query.weight", "sid_heads.1.weight"):  # fmt: skip
        parameter = model.get_parameter(name)
        place = int(parameter.grad.abs().argmax())
        flat, step = parameter.data.view(-1), 1e-6
        flat[place] += step
        above = total().item()
        flat[place] -= 2 * step
        below = total().item()
        flat[place] += step
        assert parameter.grad.view(-1)[place].item() == pytest.approx((above - below) / 2 / step, rel=1e-4), name


def test_a_new_ad_takes_from_its_siblings_alone_and_a_removed_one_gives_back(build_model, build_history):
    model = build_model(sid_normalization="trie", num_prefix_vectors=99)
    history, catalog = build_history(model.config, LENGTHS), [sid for sid in SPACE if sid != (1, 2, 1)]
    before, after = SIDTrie.from_codes(torch.tensor(catalog)), SIDTrie.from_codes(torch.tensor(SPACE))
    tokens = (torch.tensor(catalog) + OFFSETS).expand(3, -1, -1)
    old = model(**history, candidate_ids=tokens, trie=before).candidate_logps
    new = model(**history, candidate_ids=tokens, trie=after).candidate_logps
    siblings = torch.tensor([sid[:2] == (1, 2) for sid in catalog])
    torch.testing.assert_close(old[:, ~siblings], new[:, ~siblings])
    added = model(**history, candidate_ids=(torch.tensor([[1, 2, 1]]) + OFFSETS).expand(3, -1, -1), trie=after)
    taken = old[:, siblings].exp().sum(1) - new[:, siblings].exp().sum(1)
    torch.testing.assert_close(added.candidate_logps[:, 0].exp(), taken)
    missing = model(**history, candidate_ids=(torch.tensor([[1, 2, 1]]) + OFFSETS).expand(3, -1, -1), trie=before)
    assert (missing.candidate_logps == -torch.inf).all()


@pytest.mark.parametrize("fuse_prefix", [False, True])
def test_a_search_with_a_token_table_finds_the_same(build_model, build_history, fuse_prefix):
    model = build_model(sid_normalization="trie", fuse_prefix=fuse_prefix, **PARTS[3])
    torch.nn.init.normal_(model.model.fusion.weight)
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(torch.tensor(SPACE[::2]))
    table = model.token_table()
    assert table is not None and build_model().token_table() is None
    found, same = (
        model.beam_search(**history, beam_widths=[3, 9, 20], trie=trie, token_table=given) for given in (table, None)
    )
    torch.testing.assert_close(found.scores, same.scores)
    torch.testing.assert_close(found.expected_values, same.expected_values)
    assert torch.equal(found.leaves, same.leaves)
    first, second = (model.recommend(**history, trie=trie, top_k=9, token_table=given) for given in (table, None))
    torch.testing.assert_close(first.scores, second.scores)


def test_values_are_those_of_a_full_pass(build_model, build_history):
    model = build_model(sid_normalization="trie", **PARTS[3])
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(torch.tensor(SPACE[::2]))
    found = model.beam_search(**history, beam_widths=[20] * 3, trie=trie)
    means = torch.tensor(model.config.value_bucket_means, dtype=torch.float64)
    for place in range(5):
        output = model(**history, labels=found.sequences[:, place], trie=trie)
        values = output.value_logits.softmax(-1) @ means
        torch.testing.assert_close(found.expected_values[:, place], values, rtol=1e-5, atol=1e-6)
    model.prefix_vectors.vectors.data.zero_()
    silent = model.beam_search(**history, beam_widths=[20] * 3, trie=trie)
    assert not torch.allclose(silent.expected_values[:, :5].sort().values, found.expected_values[:, :5].sort().values)


def test_restrictions_do_not_renormalise(model, history):
    trie = SIDTrie.from_codes(torch.tensor(SPACE))
    restriction = TrieRestriction.from_items(trie, 3, allowed=[torch.arange(7), None, torch.arange(30, 60)])
    free = model.beam_search(**history, beam_widths=[60] * 3, trie=trie)
    held = model.beam_search(**history, beam_widths=[60] * 3, trie=trie, restriction=restriction)
    for user in range(3):
        known = dict(zip(free.leaves[user].tolist(), free.scores[user].tolist(), strict=True))
        found = held.leaves[user][held.leaves[user] >= 0].tolist()
        assert len(found) == (7, 60, 30)[user]
        assert held.scores[user, : len(found)].tolist() == pytest.approx([known[leaf] for leaf in found])


def test_what_is_missing_is_said(model, history):
    sids = (torch.tensor(SPACE[:2]) + OFFSETS).expand(3, -1, -1)
    with pytest.raises(ValueError, match=r"pass `trie=model.build_trie\(tokenizer\)`"):
        model(**history, candidate_ids=sids)
    with pytest.raises(ValueError, match=r"`labels` hold the SID with codes \[0, 0, 0\], which `trie` does not"):
        model(**history, labels=sids[:, 0], trie=SIDTrie.from_codes(torch.tensor(SPACE[1:])))


def test_a_table_holds_the_most_frequent_prefixes_and_the_others_share_one_row(build_model):
    catalog = torch.tensor(SPACE)
    trie, counts = SIDTrie.from_codes(catalog), torch.arange(len(SPACE), dtype=torch.float64)
    vectors = torch.randn(len(SPACE), 16, dtype=torch.float64)
    whole = build_model(sid_normalization="trie", num_prefix_vectors=count_prefixes(trie)).prefix_vectors
    whole.set_prefixes(trie, counts, vectors)
    assert all((rows[: len(parents)] > 0).all() for rows, parents in zip(whole.rows(trie), trie.parents, strict=True))
    node = SPACE.index((2, 0, 0)) // 3
    below = [place for place, sid in enumerate(SPACE) if sid[:2] == (2, 0)]
    row = whole.rows(trie)[1][node]
    torch.testing.assert_close(whole.bias[row], torch.log1p(counts[below].sum()))
    torch.testing.assert_close(whole.vectors[row], vectors[below].mean(0))
    small = build_model(sid_normalization="trie", num_prefix_vectors=10, prefix_size=4).prefix_vectors
    small.set_prefixes(trie, counts, vectors)
    held = [int((rows > 0).sum()) for rows in small.rows(trie)]
    assert sum(held) == 10 and held[2] == 0  # shorter prefixes have more events
    assert not small.vectors[0].any() and not small.bias[0]


def test_rows_do_not_depend_on_the_catalog(build_model):
    table = build_model(sid_normalization="trie", num_prefix_vectors=99).prefix_vectors
    whole, part = SIDTrie.from_codes(torch.tensor(SPACE)), SIDTrie.from_codes(torch.tensor(SPACE[10:40:3]))
    table.set_prefixes(whole, torch.ones(len(SPACE), dtype=torch.float64))
    paths, own = whole.paths(torch.tensor(SPACE[10:40:3])), part.paths(torch.tensor(SPACE[10:40:3]))
    for level in range(3):
        assert torch.equal(table.rows(whole)[level][paths[:, level]], table.rows(part)[level][own[:, level]])
    assert table.rows(part) is table.rows(part)
    again = copy.deepcopy(table)
    again.set_prefixes(part, torch.ones(21, dtype=torch.float64)[: len(part.leaf_items)], None)
    assert [rows.max().item() for rows in again.rows(part)] != [rows.max().item() for rows in table.rows(part)]


def test_a_new_ad_is_as_likely_beside_its_siblings_as_its_peers_beside_theirs(build_model, build_history):
    catalog = [sid for sid in SPACE if sid[:2] not in {(1, 2), (3, 4)}]
    model = build_model(sid_normalization="trie", num_prefix_vectors=99)
    before = SIDTrie.from_codes(torch.tensor(catalog))
    counts = torch.arange(1.0, len(catalog) + 1, dtype=torch.float64)
    model.prefix_vectors.set_prefixes(before, counts, torch.randn(len(catalog), 16, dtype=torch.float64))
    history = build_history(model.config, LENGTHS)
    new = [(1, 2, 0), (3, 4, 1)]
    after = SIDTrie.from_codes(torch.tensor(catalog + new))
    tokens = (torch.tensor(catalog + new) + OFFSETS).expand(3, -1, -1)
    table, first = model.prefix_vectors, len(catalog)
    assert [table.rows(after)[level][after.paths(torch.tensor(new[0]))[level]].item() == 0 for level in range(3)] == [
        False, True, True,
    ]  # fmt: skip
    known = {sid: table.rows(after)[2][after.find(torch.tensor(sid))].item() for sid in catalog}
    assert model.extend_prefixes(after, {first: [3, 4], first + 1: []}) == 2
    assert model.config.num_prefix_vectors == len(table.keys) == 101
    rows = table.rows(after)
    path = after.paths(torch.tensor(new[0]))
    peers = [known[catalog[3]], known[catalog[4]]]
    for level in (1, 2):
        row = rows[level][path[level]]
        assert row > 0
        torch.testing.assert_close(table.vectors[row], table.vectors[peers].mean(0), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(table.bias[row], table.bias[peers].exp().mean().log(), rtol=1e-5, atol=1e-6)
    assert {sid: rows[2][after.find(torch.tensor(sid))].item() for sid in catalog} == known
    assert rows[2][after.find(torch.tensor(new[1]))] == 0  # no peers: its code alone
    scores = model(**history, candidate_ids=tokens, trie=after).candidate_logps
    torch.testing.assert_close(scores.exp().sum(1), torch.ones(3, dtype=torch.float64))
