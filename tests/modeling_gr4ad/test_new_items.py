"""Items that came after training, against a brute force over users and items."""

import copy
import math

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, RankingWeights, SIDTrie

LENGTHS = [3, 6, 1]
OLD, NEW = 40, 7
CODES = torch.cartesian_prod(*(torch.arange(n) for n in (4, 5, 3)))


def unit_rows(rng: np.random.Generator, shape: tuple[int, int]) -> torch.Tensor:
    rows = rng.normal(size=shape)
    return torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def grown(model: GR4ADForRecommendation, share: float, seed: int = 0, count: int = NEW) -> GR4ADForRecommendation:
    """The model with new items, of which the last says nothing that is known."""
    rng, model = np.random.default_rng(seed), copy.deepcopy(model)
    contents = torch.cat([torch.zeros(1, 5), unit_rows(rng, (OLD + count, 5))])
    contents[-1] = 0
    width = model.config.hidden_size
    model.extend_item_tables(torch.from_numpy(rng.normal(size=(count, width))), contents=contents, share=share)
    return model


def evidence(model: GR4ADForRecommendation, items: list[int], share: float) -> list[float]:
    """s q(item) of each new item for a history of rows of the item table, written out."""
    contents = model.new_items.contents.double()
    affinity = []
    for item in range(OLD + 1, len(contents)):
        said = contents[item]
        near = [math.exp((float(said @ contents[own]) - 1) / 0.07) for own in items]
        affinity.append(sum(near) / len(near) if said.any() else 0.0)
    return [share * one / sum(affinity) for one in affinity]


@pytest.fixture(scope="module")
def small(build_model, build_history):
    model = build_model()
    return model, build_history(model.config, LENGTHS)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 99), st.sampled_from([0.001, 0.05]))
def test_new_items_get_what_the_history_says_of_them(small, seed, share):
    before, history = small
    model, plain = grown(before, share, seed), grown(before, 0.0, seed)
    context = model.model.encode(**history)
    trunk = model.model.trunk(context)
    log_probs = plain.item_head.log_probs(trunk, plain.item_table, context)[:, 1:]
    assert torch.equal(plain.new_items(context, log_probs), log_probs), "nothing is added to a share of 0"
    found = model.new_items(context, log_probs)
    assert torch.equal(found[:, :OLD], log_probs[:, :OLD]), "what training knew stays as it was"
    for user, length in enumerate(LENGTHS):
        items = [item for item in history["item_ids"][user].tolist() if item > 0]
        assert len(items) <= length
        wanted = evidence(model, items, share) if items else [0.0] * NEW
        got = (found[user, OLD:].exp() - log_probs[user, OLD:].exp()).tolist()
        assert got == pytest.approx(wanted, abs=1e-4 * share)


@pytest.mark.parametrize("item_weight", [0.4, 1.0])
def test_new_items_are_ranked_although_no_beam_finds_them(small, item_weight):
    before, history = small
    model = grown(before, 0.05)
    trie = SIDTrie.from_codes(CODES[torch.arange(OLD + NEW) % len(CODES)])
    weights = RankingWeights(item_weight=item_weight)
    narrow = model.recommend(**history, beam_widths=[1, 1, 1], trie=trie, top_k=8, weights=weights)
    wide = model.recommend(**history, beam_widths=[60] * 3, trie=trie, top_k=60, weights=weights)
    for user in range(len(LENGTHS)):
        rows = narrow.items[user].tolist()
        assert set(range(OLD, OLD + NEW)) <= set(rows), "each of them is a candidate"
        new = [row for row in wide.items[user].tolist() if row >= OLD]
        assert [row for row in rows if row >= OLD] == new, "in the order of a search that finds everything"


def test_a_new_items_score_by_sid_is_that_of_the_others_on_average(small):
    before, history = small
    model, trie = grown(before, 0.05), SIDTrie.from_codes(CODES[: OLD + NEW])
    alone = {}
    for item_weight in (0.5, 1.0):
        ranking = model.recommend(
            **history, beam_widths=[60] * 3, trie=trie, top_k=60, weights=RankingWeights(item_weight=item_weight)
        )
        alone[item_weight] = [
            dict(zip(items, scores, strict=True))
            for items, scores in zip(ranking.items.tolist(), ranking.scores.tolist(), strict=True)
        ]
    for half, item in zip(alone[0.5], alone[1.0], strict=True):
        gaps = {row: 2 * (half[row] - item[row]) for row in range(OLD + NEW)}  # score by SID less that by the head
        mean = np.mean([gaps[row] for row in range(OLD)])
        assert [gaps[row] for row in range(OLD, OLD + NEW)] == pytest.approx([mean] * NEW, abs=1e-4)


def test_a_closed_new_item_is_no_candidate(small):
    before, history = small
    model, trie = grown(before, 0.05), SIDTrie.from_codes(CODES[: OLD + NEW])
    blocked = torch.tensor([OLD, OLD + 2])
    ranking = model.recommend(
        **history, beam_widths=[2, 2, 2], trie=trie, top_k=40, exclude_items=[blocked] * 3,
        weights=RankingWeights(item_weight=1.0),
    )  # fmt: skip
    assert not np.isin(ranking.items.numpy(), blocked.numpy()).any()


def test_what_others_ask_for_does_not_change_a_list(build_model, build_history):
    """Of 200 new items a list of 5 has 64 for candidates, also beside one of 150."""
    model = grown(build_model(codebook_sizes=[8, 8, 8]), 0.05, count=200)
    history = build_history(model.config, [3, 6])
    trie = SIDTrie.from_codes(torch.cartesian_prod(*[torch.arange(8)] * 3)[torch.randperm(512)[: OLD + 200]])
    weights = RankingWeights(item_weight=0.5, value_weight=5.0)
    options = {"trie": trie, "weights": weights, "beam_widths": [[2, 2, 150], [2, 2, 150]]}
    one, beside = (model.recommend(**history, top_k=[5, length], **options) for length in (5, 150))
    assert torch.equal(one.items[0], beside.items[0, :5])
    assert (beside.items >= 0).sum(1).tolist()[0] <= 64 + 2 * 8 < (beside.items >= 0).sum(1).tolist()[1]
    assert one.scores[0].tolist() == pytest.approx(beside.scores[0, :5].tolist())


def test_what_is_new_is_saved_and_grows(small, tmp_path):
    before, history = small
    model = grown(before, 0.05)
    model.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path, dtype=torch.float64)
    assert again.config.num_new_items == NEW and again.new_items.first == OLD
    assert torch.equal(again.new_items.contents, model.new_items.contents)
    # Items of which nothing is known join the new ones, and take no part in their share.
    again.extend_item_tables(torch.zeros(2, before.config.hidden_size))
    assert again.config.num_new_items == NEW + 2 and again.new_items.first == OLD
    assert not again.new_items.contents[-2:].any()
    trie = SIDTrie.from_codes(CODES[: OLD + NEW])
    weights = RankingWeights(item_weight=1.0)
    for one in (model, again):
        one.item_head.repeats = False  # the rows that joined change the softmax of the others by nothing else
    ours, theirs = (
        one.recommend(**history, beam_widths=[60] * 3, trie=trie, top_k=47, weights=weights) for one in (model, again)
    )
    assert torch.equal(ours.items[:, :5], theirs.items[:, :5])


@pytest.mark.parametrize("changes", [{"item_head": False, "item_head_copy": False, "item_head_repeat": False},
                                     {"content_size": 0}, {"num_new_items": 41}])  # fmt: skip
def test_a_configuration_that_cannot_be_is_refused(changes):
    fields = {"num_items": 41, "item_head": True, "num_new_items": 3, "content_size": 5, **changes}
    with pytest.raises(StrictDataclassClassValidationError, match="`num_new_items` counts rows of the item table"):
        GR4ADConfig(**fields)


def test_contents_of_another_length_are_refused(small):
    before, _ = small
    model = copy.deepcopy(before)
    with pytest.raises(ValueError, match="`contents` must have a row for each of 43 items"):
        model.extend_item_tables(torch.zeros(2, model.config.hidden_size), contents=torch.zeros(42, 5))
    assert model.new_items is None and model.config.num_items == OLD + 1
