import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, RankingWeights, SIDTrie
from gr4ad.modeling_gr4ad.item_neighbours_gr4ad import GR4ADItemNeighbours

LENGTHS = [6, 1, 3]
ITEMS = 40
CODES = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))[:ITEMS]


@pytest.fixture(scope="module")
def model(build_model):
    model = build_model()
    draw = torch.Generator().manual_seed(3)
    items = torch.randint(0, 41, (41, 4), generator=draw)
    similarity = torch.rand((41, 4), generator=draw).masked_fill(items == 0, 0.0)
    similarity[0] = 0.0
    model.set_item_neighbours(items, similarity, 0.6)
    return model


def plain_scores(model, history) -> torch.Tensor:
    """The same by dictionaries, a user at a time."""
    table, lines = model.item_neighbours, []
    for items, mask in zip(history["item_ids"].tolist(), history["attention_mask"][:, ::3].tolist(), strict=True):
        own = [item for item, real in zip(items, mask, strict=True) if real]
        total = dict.fromkeys(range(41), 0.0)
        for age, item in enumerate(reversed(own)):
            for other, similar in zip(table.items[item].tolist(), table.similarity[item].tolist(), strict=True):
                total[other] += 0.6**age * similar
        lines.append([math.log(1 + total[item] / 0.003) for item in range(41)])
    return torch.tensor(lines)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_equal_plain_sums_on_either_padding_side(model, build_history, side):
    history = build_history(model.config, LENGTHS, side=side)
    history["item_ids"][0, 2] = 0  # an item newer than the table has no neighbours, and ages the others all the same
    base = torch.randn(len(LENGTHS), 40)
    found = model.item_neighbours(model.model.encode(**history), base, 0.7)
    torch.testing.assert_close(found, base + 0.7 * plain_scores(model, history)[:, 1:], atol=1e-4, rtol=1e-4)


@settings(max_examples=15, deadline=None)
@given(weight=st.floats(0.01, 3.0), item_weight=st.sampled_from([0.3, 1.0]))
def test_recommend_adds_the_neighbours_to_the_item_head(model, build_history, weight, item_weight):
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(CODES)
    arguments = {"beam_widths": [4, 20, 60], "trie": trie, "top_k": ITEMS}
    without = model.recommend(**history, **arguments, weights=RankingWeights(item_weight=item_weight))
    both = RankingWeights(item_weight=item_weight, neighbour_weight=weight)
    ranked = model.recommend(**history, **arguments, weights=both)
    evidence = plain_scores(model, history)
    for user in range(len(LENGTHS)):
        scores = dict(zip(without.items[user].tolist(), without.scores[user].tolist(), strict=True))
        expected = {item: score + item_weight * weight * evidence[user, item + 1] for item, score in scores.items()}
        for item, score in zip(ranked.items[user].tolist(), ranked.scores[user].tolist(), strict=True):
            assert math.isclose(score, expected[item], rel_tol=1e-4, abs_tol=1e-4)
        assert ranked.scores[user].tolist() == sorted(ranked.scores[user].tolist(), reverse=True)


def test_likeliest_candidates_are_chosen_with_the_neighbours(model, build_history):
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(CODES)
    weights = RankingWeights((4, 20, 60), item_weight=1.0, neighbour_weight=2.0)
    whole = model.recommend(**history, trie=trie, top_k=3, weights=weights)
    narrow = model.recommend(
        **history, trie=trie, top_k=3, beam_widths=[1, 1, 1], weights=replace(weights, item_candidates=3)
    )
    assert torch.equal(narrow.items, whole.items)


def test_the_table_is_saved_and_grows_with_the_items(model, build_history, tmp_path):
    model.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path, dtype=torch.float64)
    assert again.config.num_item_neighbours == 4 and again.item_neighbours.decay == 0.6
    assert torch.equal(again.item_neighbours.items, model.item_neighbours.items)
    history = build_history(model.config, LENGTHS)
    context = model.model.encode(**history)
    before = model.item_neighbours(context, torch.zeros(3, 40), 1.0)
    assert torch.equal(again.item_neighbours(context, torch.zeros(3, 30), 1.0), before[:, :30])
    again.extend_item_tables(torch.ones(3, 16))
    now = again.item_neighbours(again.model.encode(**history), torch.zeros(3, 43), 1.0)
    assert torch.equal(now[:, :40], before) and not now[:, 40:].any()
    assert torch.equal(again.item_neighbours(context, torch.zeros(3, 40), 1.0), before)  # who holds the older tables
    again.save_pretrained(tmp_path / "grown")
    assert len(GR4ADForRecommendation.from_pretrained(tmp_path / "grown").item_neighbours.items) == 44


def test_a_fresh_table_says_nothing(build_model, build_history):
    fresh = build_model(num_item_neighbours=3)
    context = fresh.model.encode(**build_history(fresh.config, LENGTHS))
    assert not fresh.item_neighbours(context, torch.zeros(3, 40), 1.0).any()


@pytest.mark.parametrize(("weight", "item_weight"), [(-0.5, 1.0), (0.5, 0.0)])
def test_bad_weights_are_named(model, build_history, weight, item_weight):
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(CODES)
    with pytest.raises(
        ValueError, match=r"`neighbour_weight` (must be finite and >= 0|= 0.5 is part of the item head)"
    ):
        model.recommend(
            **history,
            beam_widths=[4, 4, 4],
            trie=trie,
            top_k=3,
            weights=RankingWeights(neighbour_weight=weight, item_weight=item_weight),
        )


def test_a_model_without_a_table_says_so(build_model, build_history):
    bare, trie = build_model(), SIDTrie.from_codes(CODES)
    history = build_history(bare.config, LENGTHS)
    with pytest.raises(ValueError, match="`neighbour_weight` = 0.5 needs a model with item neighbours"):
        bare.recommend(
            **history,
            beam_widths=[4, 4, 4],
            trie=trie,
            top_k=3,
            weights=RankingWeights(neighbour_weight=0.5, item_weight=1.0),
        )


@pytest.mark.parametrize(
    ("items", "similarity", "decay", "message"),
    [
        (torch.zeros(41, 2), torch.zeros(41, 3), 0.5, r"shape \(41, n\).*\(41, 2\) and \(41, 3\)"),
        (torch.zeros(40, 2), torch.zeros(40, 2), 0.5, r"shape \(41, n\)"),
        (torch.full((41, 2), 41), torch.zeros(41, 2), 0.5, r"rows 0\.\.40.*41\.\.41"),
        (torch.zeros(41, 2), torch.full((41, 2), -1.0), 0.5, "`similarity` 0 or more"),
        (torch.zeros(41, 2), torch.full((41, 2), math.nan), 0.5, "`similarity` 0 or more"),
        (torch.zeros(41, 2), torch.zeros(41, 2), 1.5, r"`neighbour_decay` must be in \(0, 1\]"),
    ],
)
def test_bad_tables_change_nothing(build_model, items, similarity, decay, message):
    model = build_model()
    with pytest.raises(ValueError, match=message):
        model.set_item_neighbours(items, similarity, decay)
    assert model.item_neighbours is None and model.config.num_item_neighbours == 0


def test_new_items_take_the_neighbours_of_their_peers_and_join_them():
    """Against a table of all pairs: the similarity to a new item is the mean of those to its peers."""
    rng = np.random.default_rng(0)
    rows, width = 30, 6
    dense = rng.random((rows, rows)) * (rng.random((rows, rows)) < 0.3)
    dense[0] = dense[:, 0] = 0
    np.fill_diagonal(dense, 0)
    order = np.argsort(-dense, axis=1)[:, :width]
    similarity = np.take_along_axis(dense, order, 1)
    kept = np.zeros_like(dense)
    np.put_along_axis(kept, order, similarity, 1)
    config = GR4ADConfig(
        codebook_sizes=[4, 4], num_items=rows, item_head=True, num_item_neighbours=width, hidden_size=16,
        num_attention_heads=2,
    )  # fmt: skip
    table = GR4ADItemNeighbours(config)
    table.items.copy_(torch.from_numpy(order * (similarity > 0)))
    table.similarity.copy_(torch.from_numpy(similarity))
    peers = [[3, 4, 7], [], [9, 3]]
    before = table.items.clone()
    table.extend(3, peers)
    assert table.items.dtype == torch.int32 and table.items.shape == (rows + 3, width)
    for place, own in enumerate(peers):
        found = np.zeros(rows + 3)
        np.put(found, table.items[rows + place].numpy(), table.similarity[rows + place].numpy())
        expected = kept[own].mean(0) if own else np.zeros(rows)
        best = np.sort(expected)[::-1][:width]
        np.testing.assert_allclose(np.sort(found)[::-1][:width], best, rtol=1e-5, atol=1e-7)
        np.testing.assert_allclose(found[:rows][found[:rows] > 0], expected[found[:rows] > 0], rtol=1e-5)
    for row in range(1, rows):
        # The best of what the row had and of the new items, each at the mean of its peers.
        new = {rows + place: kept[row, own].mean() for place, own in enumerate(peers) if own and kept[row, own].any()}
        held = {int(i): float(s) for i, s in zip(before[row], similarity[row], strict=True) if s > 0}
        best = sorted({**held, **new}.values(), reverse=True)[:width]
        now = sorted(table.similarity[row][table.similarity[row] > 0].tolist(), reverse=True)
        np.testing.assert_allclose(now, best, rtol=1e-5)
        for item, near in zip(table.items[row].tolist(), table.similarity[row].tolist(), strict=True):
            assert near == 0 or near == pytest.approx({**held, **new}[item], rel=1e-5)
    same = GR4ADItemNeighbours(config)
    same.extend(2)
    assert not same.similarity.any() and same.items.shape[0] == rows + 2
