import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, SIDTrie, VSLLossWeights
from gr4ad.modeling_gr4ad.soft_targets_gr4ad import soft_target_losses

LENGTHS = [3, 6, 1]
OFFSETS = torch.tensor([4, 8, 13])
SPACE = torch.cartesian_prod(torch.arange(4), torch.arange(5), torch.arange(3))
SIDS = st.lists(st.integers(0, len(SPACE) - 1), min_size=40, max_size=40)  # of 40 items: some share one


@pytest.fixture(scope="module")
def model(build_model, catalog_parts) -> GR4ADForRecommendation:
    return build_model(**catalog_parts)


@pytest.fixture(scope="module")
def history(model, build_history) -> dict[str, torch.Tensor]:
    history = build_history(model.config, LENGTHS)
    history["input_ids"].view(3, -1, 3)[1, 5, :2] = history["input_ids"].view(3, -1, 3)[1, 2, :2]
    return history


def parts_of(model, history, labels, trie, **given) -> dict[str, float]:
    """The parts of the loss, as training has them; the tests' models drop nothing out."""
    weights = VSLLossWeights(**{"mtp": 0.0, "teacher": 0.7, "teacher_share": 1.0, **given.pop("weights", {})})
    model.train()
    try:
        output = model(**history, labels=labels, trie=trie, loss_weights=weights, **given)
    finally:
        model.eval()
    return {name: float(part) for name, part in output.losses.items()} | {"loss": float(output.loss.detach())}


def plain_loss(model, history, labels, codes, scores, temperature: float) -> float:
    """The mean over the users of what soft targets cost, from the probabilities of all SIDs, prefix by prefix."""
    sids = sorted(set(map(tuple, codes.tolist())))
    trie = SIDTrie.from_codes(codes)
    candidates = (torch.tensor(sids) + OFFSETS).expand(3, -1, -1)
    ours = model(**history, candidate_ids=candidates, trie=trie).candidate_logps.detach().exp()
    total = 0.0
    for user, label in enumerate((labels - OFFSETS).tolist()):
        theirs = (scores[user] / temperature).softmax(0).tolist()
        for level in range(3):

            def below(prefix: tuple[int, ...], user=user, theirs=theirs) -> tuple[float, float]:
                matching = [place for place, sid in enumerate(sids) if sid[: len(prefix)] == prefix]
                items = [place for place, sid in enumerate(codes.tolist()) if tuple(sid[: len(prefix)]) == prefix]
                return float(ours[user, matching].sum()), sum(theirs[place] for place in items)

            node = tuple(label[:level])
            p_node, q_node = below(node)
            for child in sorted({sid[: level + 1] for sid in sids if sid[:level] == node}):
                p, q = below(child)
                if q > 0:
                    total -= q / q_node * math.log(p / p_node)
    return total / 3


@settings(max_examples=10, deadline=None)
@given(sids=SIDS, targets=st.lists(st.integers(0, 39), min_size=3, max_size=3), temperature=st.floats(0.3, 3.0),
       unranked=st.one_of(st.sets(st.integers(0, 39)), st.just(set(range(40)))))  # fmt: skip
def test_levels_learn_what_a_teacher_thinks_of_their_children(model, history, sids, targets, temperature, unranked):
    codes = SPACE[sids]
    labels = codes[targets] + OFFSETS
    scores = 3 * torch.randn(3, 40, generator=torch.Generator().manual_seed(sum(sids)), dtype=torch.float64)
    scores[:, sorted(unranked)] = -torch.inf
    asked = []

    def teacher(items: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
        asked.append((items, visible))
        return torch.stack([scores[user_of[tuple(line.tolist())]] for line in items])

    user_of = {tuple(line.tolist()): user for user, line in enumerate(history["item_ids"])}
    found = parts_of(model, history, labels, SIDTrie.from_codes(codes), teacher=teacher,
                     weights={"teacher_temperature": temperature})  # fmt: skip
    assert found["teacher"] == pytest.approx(plain_loss(model, history, labels, codes, scores, temperature), rel=1e-6)
    ((items, visible),) = asked
    assert visible.sum(1).tolist() == [LENGTHS[user_of[tuple(line.tolist())]] for line in items]
    without = parts_of(model, history, labels, SIDTrie.from_codes(codes), weights={"teacher": 0.0})
    assert found["loss"] == pytest.approx(without["loss"] + 0.7 * found["teacher"], rel=1e-6)
    assert "teacher" not in without


@pytest.mark.parametrize("neighbour_weight", [0.0, 1.3])
def test_the_item_head_is_the_teacher_with_its_neighbours(build_model, catalog_parts, build_history, neighbour_weight):
    model = build_model(**catalog_parts)
    draw = torch.Generator().manual_seed(3)
    items = torch.randint(0, 41, (41, 4), generator=draw)
    model.set_item_neighbours(items, torch.rand((41, 4), generator=draw).masked_fill(items == 0, 0.0), 0.6)
    history = build_history(model.config, LENGTHS)
    codes = SPACE[:40]
    labels = codes[[3, 20, 39]] + OFFSETS
    context = model.model.encode(**history)
    scores = model.item_head.log_probs(model.model.trunk(context), model.item_table, context)[:, 1:]
    if neighbour_weight:
        scores = model.item_neighbours(context, scores, neighbour_weight)
    weights = {"teacher_neighbour_weight": neighbour_weight, "teacher_temperature": 0.8}
    found = parts_of(model, history, labels, SIDTrie.from_codes(codes), weights=weights)
    assert found["teacher"] == pytest.approx(plain_loss(model, history, labels, codes, scores, 0.8), rel=1e-6)


def test_a_share_of_the_targets_is_drawn_and_counts_for_all(model, history):
    codes = SPACE[:40]
    labels = torch.full((3, 6, 3), -100)
    for user, length in enumerate(LENGTHS):
        labels[user, :length] = codes[torch.arange(length) + 5 * user] + OFFSETS
    given = {"history": history, "labels": labels, "trie": SIDTrie.from_codes(codes)}
    whole = parts_of(model, **given)["teacher"]
    shares = [parts_of(model, **given, weights={"teacher_share": 0.3})["teacher"] for _ in range(60)]
    assert len({round(share, 9) for share in shares}) > 10
    error = torch.tensor(shares).std() / 60**0.5
    assert abs(sum(shares) / 60 - whole) < 4 * float(error)


def test_soft_targets_change_the_path_alone_and_training_alone(model, history):
    codes = SPACE[:40]
    given = {"labels": codes[[3, 20, 39]] + OFFSETS, "trie": SIDTrie.from_codes(codes)}
    weights = VSLLossWeights(value=0.0, mtp=0.0, item=0.0, teacher=1.0, teacher_share=1.0)
    assert "teacher" not in model(**history, **given, loss_weights=weights).losses
    model.train()
    model.zero_grad()
    model(**history, **given, loss_weights=weights).loss.backward()
    model.eval()
    assert model.item_head.bias.grad is None and model.prefix_vectors.vectors.grad.abs().sum() > 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    model.zero_grad()


def test_a_teacher_ranks_the_items_of_the_table(build_model, catalog_parts, model, history, build_history):
    codes = SPACE[:40]
    labels, trie = codes[[3, 20, 39]] + OFFSETS, SIDTrie.from_codes(codes)
    with pytest.raises(ValueError, match=r"teacher.*shape \(3, 40\).*Received: \(3, 39\)"):
        parts_of(model, history, labels, trie, teacher=lambda items, visible: torch.zeros(3, 39))
    parts = {"item_head": False, "item_head_copy": False, "item_head_repeat": False, "num_items": 0}
    bare = build_model(**catalog_parts, **parts)
    own = {name: value for name, value in build_history(bare.config, LENGTHS).items() if name != "item_ids"}
    with pytest.raises(ValueError, match="no item table"):
        parts_of(bare, own, labels, trie, teacher=lambda items, visible: torch.zeros(3, 40))


def test_a_model_without_an_item_head_needs_a_teacher(build_model, catalog_parts, build_history):
    parts = {"item_head": False, "item_head_copy": False, "item_head_repeat": False}
    model = build_model(**catalog_parts, **parts)
    history, codes = build_history(model.config, LENGTHS), SPACE[:40]
    with pytest.raises(ValueError, match="Soft targets need a teacher.*`teacher`"):
        parts_of(model, history, codes[[3, 20, 39]] + OFFSETS, SIDTrie.from_codes(codes))


@pytest.mark.parametrize("gap", [20.0, 40.0, 300.0])
def test_a_teacher_that_is_sure_of_another_node_still_tells_the_children_apart(gap):
    trie, target = SIDTrie.from_codes(torch.cartesian_prod(torch.arange(4), torch.arange(6))), torch.tensor([[2, 3]])
    scores = torch.zeros(1, 24, dtype=torch.float64)
    scores[0, 6:] = torch.linspace(-1, 1, 18) - gap  # those below the first code are likelier than all others
    levels = [torch.zeros(1, 4).double(), torch.tensor([[3.0, 1.0, 0.0, -1.0, -2.0, -3.0]]).double()]
    own = scores[0, 12:18].softmax(0)
    shares = torch.stack([scores[0, 6 * code : 6 * code + 6].logsumexp(0) for code in range(4)]).softmax(0)
    expected = -(shares * levels[0][0].log_softmax(0)).sum() - (own * levels[1][0].log_softmax(0)).sum()
    found = soft_target_losses(scores, levels, target, trie.paths(target), trie)
    torch.testing.assert_close(found[0], expected)
