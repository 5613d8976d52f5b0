"""DPO, S-DPO and GRPO equal their published formulas, and RSPO relates to them as its documentation says."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from gr4ad.trainers.rspo import dpo_loss, grpo_loss, rspo_loss, sdpo_loss, unified_weights
from gr4ad.trainers.rspo.preference_losses import LOSSES, lambda_weights, loss_of


@st.composite
def lists(draw, n: int | None = None) -> tuple[torch.Tensor, ...]:
    """Log-probabilities, grades, reference and mask of random lists, float64."""
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    shape = draw(st.integers(1, 4)), n or draw(st.integers(2, 64))
    grades = rng.integers(0, 4, shape).astype(float) if draw(st.booleans()) else rng.uniform(0, 3, shape)
    logps = rng.normal(-8, 3, shape)
    mask = rng.random(shape) < 0.8 if draw(st.booleans()) else np.ones(shape, dtype=bool)
    return tuple(map(torch.from_numpy, (logps, grades, logps + rng.normal(0, 1, shape), mask)))


def mean(parts: list[float]) -> float:
    return float(np.mean(parts)) if parts else 0.0


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x)) if x > 0 else x - math.log1p(math.exp(x))


@settings(max_examples=60, deadline=None)
@given(lists(), st.sampled_from([0.05, 0.5, 2.0]))
def test_dpo_is_its_formula_on_every_pair(case, beta):
    logps, grades, ref, mask = case
    pairs = []
    for s, v, m in zip(logps - ref, grades, mask, strict=True):
        real = [i for i in range(len(v)) if m[i]]
        pairs += [-log_sigmoid(beta * float(s[i] - s[j])) for i in real for j in real if v[i] > v[j]]
    assert dpo_loss(*case, beta=beta)[0].item() == pytest.approx(mean(pairs), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(lists(n=2), st.sampled_from([0.05, 0.5, 2.0]))
def test_two_candidates_of_dpo_are_trls_sigmoid_loss(case, beta):
    """TRL: -logsigmoid(beta * ((chosen - ref_chosen) - (rejected - ref_rejected)))."""
    logps, grades, ref, _ = case
    chosen, rejected = grades.argmax(1, keepdim=True), grades.argmin(1, keepdim=True)
    ratios = [logps.gather(1, place) - ref.gather(1, place) for place in (chosen, rejected)]
    losses = -F.logsigmoid(beta * (ratios[0] - ratios[1]))
    told_apart = grades[:, 0] != grades[:, 1]
    expected = losses[told_apart].mean().item() if told_apart.any() else 0.0
    for loss in (dpo_loss, sdpo_loss):
        assert loss(logps, grades, ref, beta=beta)[0].item() == pytest.approx(expected, rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(lists(), st.sampled_from([0.05, 0.5, 2.0]))
def test_sdpo_is_its_formula_with_the_best_as_positive(case, beta):
    logps, grades, ref, mask = case
    losses = []
    for s, v, m in zip(logps - ref, grades, mask, strict=True):
        real = [i for i in range(len(v)) if m[i]]
        top = max((float(v[i]) for i in real), default=0.0)
        negatives = [j for j in real if v[j] < top]
        if not negatives:
            continue
        one = []
        for i in (i for i in real if v[i] == top):
            total = sum(math.exp(beta * float(s[j] - s[i])) for j in negatives)
            one.append(-log_sigmoid(-math.log(total)))
        losses.append(mean(one))
    assert sdpo_loss(*case, beta=beta)[0].item() == pytest.approx(mean(losses), rel=1e-9)


@settings(max_examples=60, deadline=None)
@given(lists(), st.sampled_from([0.0, 0.1, 1.0]), st.sampled_from([0.1, 0.3]))
def test_grpo_is_its_formula(case, beta, clip):
    logps, grades, ref, mask = case
    terms = []
    for s, r, v, m in zip(logps, ref, grades, mask, strict=True):
        real = [i for i in range(len(v)) if m[i]]
        rewards = np.array([float(v[i]) for i in real])
        if not len(real) or rewards.std() == 0:
            continue
        for i, advantage in zip(real, (rewards - rewards.mean()) / rewards.std(), strict=True):
            ratio = math.exp(float(s[i] - r[i]))
            gain = min(ratio * advantage, min(max(ratio, 1 - clip), 1 + clip) * advantage)
            terms.append(-gain + beta * (1 / ratio + math.log(ratio) - 1))
    loss, metrics = grpo_loss(*case, beta=beta, clip=clip)
    assert loss.item() == pytest.approx(mean(terms), rel=1e-9, abs=1e-12)
    assert metrics["kl"] >= 0 and 0 <= metrics["clipped"] <= 1


def test_grpo_needs_a_reference():
    with pytest.raises(ValueError, match="`ref_logps` are needed by GRPO"):
        grpo_loss(torch.zeros(1, 2), torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize("loss", [dpo_loss, sdpo_loss, grpo_loss, rspo_loss])
@settings(max_examples=10, deadline=None)
@given(case=lists(n=5))
def test_gradients_are_those_of_the_losses(loss, case):
    logps, grades, ref, mask = case
    logps = (logps + torch.arange(5) * 1e-3).requires_grad_()  # no ties: RSPO's weights jump where places swap
    assert torch.autograd.gradcheck(lambda x: loss(x, grades, ref, mask, beta=0.5)[0], (logps,))


@pytest.mark.parametrize("loss", [dpo_loss, sdpo_loss, grpo_loss, rspo_loss])
@settings(max_examples=20, deadline=None)
@given(case=lists(), seed=st.integers(0, 1000))
def test_the_order_of_a_list_does_not_matter(loss, case, seed):
    order = torch.from_numpy(np.random.default_rng(seed).permutation(case[0].shape[1]))
    shuffled = [part[:, order] for part in case]
    assert loss(*case)[0].item() == pytest.approx(loss(*shuffled)[0].item(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("loss", [dpo_loss, sdpo_loss, grpo_loss, rspo_loss])
def test_far_apart_numbers_stay_finite(loss):
    logps = torch.tensor([[-1e4, -1.0, -200.0], [0.0, -1e-6, -3e4]], requires_grad=True)
    ref = torch.tensor([[-1.0, -1e4, 0.0], [0.0, 0.0, 0.0]])
    value, _ = loss(logps, torch.tensor([[3.0, 0.0, 1e-6], [0.0, 3.0, 1.0]]), ref, beta=1.0)
    value.backward()
    assert value.isfinite() and logps.grad.isfinite().all()


@settings(max_examples=40, deadline=None)
@given(lists(n=2), st.sampled_from([0.05, 0.5, 2.0]))
def test_rspo_on_pairs_asks_for_the_order_that_dpo_asks_for(case, beta):
    """With n = 2 the worse item is alone in E_i: exp of RSPO's loss, less its weight, is exp of DPO's."""
    logps, grades, ref, _ = case
    for s, v, r in zip(logps.split(1), grades.split(1), ref.split(1), strict=True):
        if v[0, 0] == v[0, 1]:
            continue
        rspo = rspo_loss(s, v, r, beta=beta, delta=1e9)[0].item()
        dpo = dpo_loss(s, v, r, beta=beta)[0].item()
        weight = lambda_weights(s, v, torch.ones_like(v, dtype=torch.bool))[0, 0, 1].item()
        assert (2**rspo - 1) / weight == pytest.approx(math.exp(dpo) - 1, rel=1e-6)
        x = s.clone().requires_grad_()
        grads = [torch.autograd.grad(loss, x)[0] for loss in (rspo_loss(x, v, r, beta=beta, delta=1e9)[0],
                                                              dpo_loss(x, v, r, beta=beta)[0])]  # fmt: skip
        assert torch.equal(grads[0].sign(), grads[1].sign())


@settings(max_examples=80, deadline=None)
@given(lists())
def test_unified_weights_are_their_formula(case):
    logps, grades, _, mask = case
    imitate, rank = unified_weights(logps, grades, mask)
    for s, v, m, w_vsl, w_rl in zip(logps, grades, mask, imitate, rank, strict=True):
        real = [i for i in range(len(v)) if m[i]]
        assert not w_vsl[~m].any() and not w_rl[~m].any()
        by_likelihood = sorted(real, key=lambda i: -float(s[i]))
        by_reward = sorted(by_likelihood, key=lambda i: -float(v[i]))  # stable: ties stay in the order of likelihood
        apart = {i: abs(by_likelihood.index(i) - by_reward.index(i)) / max(len(real) - 1, 1) for i in real}
        expected = {i: (1 + float(v[i])) ** apart[i] for i in real}
        for i in real:
            assert float(w_vsl[i]) == pytest.approx(expected[i])
            assert float(w_rl[i]) == pytest.approx(max(expected.values()) * (1 - apart[i]), abs=1e-12)


def test_a_policy_that_agrees_is_only_ranked():
    imitate, rank = unified_weights(torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[3.0, 1.0, 0.0]]))
    assert imitate.tolist() == [[1.0, 1.0, 1.0]] and rank.tolist() == [[1.0, 1.0, 1.0]]


def test_anchor_weights_multiply_anchors():
    logps, grades = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[0.0, 1.0, 2.0]])
    one = rspo_loss(logps, grades, anchor_weight=torch.tensor([[5.0, 2.0, 0.0]]))[0]
    alone = rspo_loss(logps, grades, anchor_weight=torch.tensor([[0.0, 1.0, 0.0]]))[0]
    torch.testing.assert_close(one, 2 * alone)  # the worst is no anchor, whatever its weight


@pytest.mark.parametrize("name", list(LOSSES))
def test_a_loss_divides_by_its_own_denominator(name):
    """Of two lists: three grades, and no preference; the second alone counts nothing."""
    grades, mask = torch.tensor([[2.0, 1.0, 1.0], [1.0, 1.0, 1.0]]), torch.tensor([[True, True, True]] * 2)
    counted = loss_of(name).counted(grades, mask)
    assert counted == {"rspo": 1, "dpo": 2, "sdpo": 1, "grpo": 3}[name]
    assert loss_of(name).counted(grades[1:], mask[1:]) == 0
    logps = torch.tensor([[-1.0, -2.0, -3.0]] * 2)
    mean, total = (loss_of(name).function(logps, grades, logps - 0.5, mask, count=count)[0] for count in (None, 1))
    torch.testing.assert_close(mean * counted, total)


def test_an_unknown_loss_is_named_and_a_function_is_one():
    with pytest.raises(ValueError, match="`loss_type` must be one of rspo, dpo, sdpo, grpo, or a function.*'ppo'"):
        loss_of("ppo")
    assert loss_of(dpo_loss) is LOSSES["dpo"]  # with its own denominator

    def own_loss(policy_logps, grades, ref_logps, mask, *, beta, count):
        return policy_logps.sum() / count, {}

    grades, mask = torch.tensor([[2.0, 1.0], [1.0, 1.0]]), torch.ones(2, 2, dtype=torch.bool)
    assert loss_of(own_loss).counted(grades, mask) == 1  # lists with two different grades
