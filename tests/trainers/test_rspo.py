import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gr4ad.trainers import RSPOConfig, RSPOTrainer
from gr4ad.trainers.bfloat16 import fast_bfloat16
from gr4ad.trainers.rspo import RSPOCollator
from gr4ad.trainers.rspo.list_grades import value_grades
from gr4ad.trainers.rspo.preference_losses import lambda_weights, rspo_loss


def plain_order(scores: np.ndarray, grades: np.ndarray) -> list[int]:
    """Places of one list's items: by score, ties by grade, then as given."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], -grades[i], i))
    places = [0] * len(scores)
    for place, item in enumerate(order):
        places[item] = place
    return places


def plain_rspo(logps, grades, ref, mask, beta: float, delta: float) -> tuple[float, dict[str, float]]:
    """Equations 16-18 one list, anchor and pair at a time."""
    losses, opened, margins = [], [], []
    for row in range(len(logps)):
        real = [i for i in range(len(mask[row])) if mask[row][i]]
        s, v = logps[row][real], grades[row][real]
        reference = None if ref is None else ref[row][real]
        n, places = len(real), plain_order(s, v)
        ideal = sum((2**g - 1) / math.log2(2 + k) for k, g in enumerate(sorted(v, reverse=True)))
        for i in range(n):
            worse = [j for j in range(n) if v[j] < v[i]]
            if not worse:
                continue
            gate = 0.0
            if reference is not None:
                group = [i, *worse]
                gate = float(sum(abs(s[j] - reference[j]) for j in group) / len(group) < delta)
            total = 0.0
            for j in worse:
                distance = abs(places[i] - places[j])
                discount = abs(1 / math.log2(1 + distance) - 1 / math.log2(2 + distance))
                weight = discount * abs((2 ** v[i] - 1) - (2 ** v[j] - 1)) / ideal
                margin = s[i] - s[j]
                if gate:
                    margin -= reference[i] - reference[j]
                total += weight * math.exp(-beta * margin)
                margins.append(margin)
            losses.append(math.log2(1 + total))
            opened.append(gate)
    if not losses:
        return 0.0, {"anchors": 0, "gate_open": 0.0, "accuracy": 0.0, "margin": 0.0}
    return float(np.mean(losses)), {
        "anchors": len(losses),
        "gate_open": float(np.mean(opened)),
        "accuracy": float(np.mean(np.array(margins) > 0)),
        "margin": float(np.mean(margins)),
    }


@st.composite
def lists(draw) -> dict:
    rng = np.random.default_rng(draw(st.integers(0, 100_000)))
    shape = draw(st.integers(1, 3)), draw(st.integers(2, 32))
    logps = rng.normal(-8, 3, shape)
    grades = rng.integers(0, 4, shape).astype(float) if draw(st.booleans()) else rng.uniform(0, 3, shape)
    if draw(st.booleans()):
        logps = np.round(logps / 3)  # ties in score
    ref = logps + rng.normal(0, 2.5, shape) if draw(st.booleans()) else None
    mask = rng.random(shape) < 0.7 if draw(st.booleans()) else np.ones(shape, dtype=bool)
    return {
        "logps": logps,
        "grades": grades,
        "ref": ref,
        "mask": mask,
        "beta": draw(st.sampled_from([0.05, 0.5, 2.0])),
    }


def tensors(case: dict) -> tuple:
    return tuple(None if case[n] is None else torch.from_numpy(case[n]) for n in ("logps", "grades", "ref", "mask"))


@settings(max_examples=80, deadline=None)
@given(lists())
def test_loss_equals_a_plain_loop(case):
    loss, metrics = rspo_loss(*tensors(case), beta=case["beta"], delta=2.0)
    expected, facts = plain_rspo(*(case[n] for n in ("logps", "grades", "ref", "mask")), case["beta"], 2.0)
    assert loss.item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for name, value in facts.items():
        assert float(metrics[name]) == pytest.approx(value, rel=1e-6, abs=1e-6), name


@settings(max_examples=30, deadline=None)
@given(lists(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(case, random):
    rng = np.random.default_rng(random.randrange(10_000))
    case["logps"] = case["logps"] + 1e-3 * rng.random(case["logps"].shape)  # items equal in all but reference may swap
    order = list(range(case["logps"].shape[1]))
    random.shuffle(order)
    shuffled = {n: x[:, order] if isinstance(x, np.ndarray) else x for n, x in case.items()}
    ours, theirs = (rspo_loss(*tensors(c), beta=case["beta"])[0].item() for c in (case, shuffled))
    assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)


@settings(max_examples=10, deadline=None)
@given(lists())
def test_gradients_are_those_of_the_loss(case):
    case = {n: x[:1, :6] if isinstance(x, np.ndarray) else x for n, x in case.items()}
    case["logps"] = case["logps"] + np.arange(case["logps"].shape[1]) * 1e-3  # no ties: M jumps where places swap
    logps, grades, ref, mask = tensors(case)
    assume(((logps[:, :, None] - logps[:, None]).abs() + torch.eye(logps.shape[1]) > 1e-5).all())
    logps.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: rspo_loss(x, grades, ref, mask, beta=case["beta"])[0], (logps,))


@settings(max_examples=60, deadline=None)
@given(lists())
def test_loss_bounds_the_ndcg_cost(case):
    """1 - NDCG <= sum of M_ij over pairs in the wrong order (the discounts of |i-j| add up to 1 - 1/D of a place), and
    log2 is concave, so an anchor's loss is at least its sum of M_ij over such pairs wherever sum_j M_ij <= 1."""
    logps, grades, _, mask = tensors({**case, "ref": None})
    for s, v, m in zip(logps, grades, mask, strict=True):
        s, v = s[m].unsqueeze(0), v[m].unsqueeze(0)
        if not len(s[0]):
            continue
        weights = lambda_weights(s, v, torch.ones_like(v, dtype=torch.bool))
        if (weights * (v.unsqueeze(1) < v.unsqueeze(2))).sum(-1).max() > 1 or v.max() == 0:
            continue
        loss, metrics = rspo_loss(s, v, beta=case["beta"])
        gains = 2 ** v[0].numpy() - 1
        places = np.array(plain_order(s[0].numpy(), v[0].numpy()))
        ideal = (np.sort(gains)[::-1] / np.log2(2 + np.arange(len(gains)))).sum()
        cost = 1 - (gains / np.log2(2 + places)).sum() / ideal
        assert loss.item() * int(metrics["anchors"]) >= cost - 1e-9


def test_lists_without_preference_cost_nothing():
    logps = torch.tensor([[-1.0, -2.0], [-3.0, -1.0]], requires_grad=True)
    loss, metrics = rspo_loss(logps, torch.ones(2, 2))
    loss.backward()
    assert loss.item() == 0 and metrics["anchors"] == 0 and not logps.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_numbers_stay_finite(dtype):
    logps = torch.tensor([[-1e4, -1.0, -200.0], [0.0, -1e-6, -3e4]], dtype=dtype, requires_grad=True)
    values = torch.tensor([[1e30, 0.0, 1e-30], [0.0, 3e38, 1.0]]).to(dtype)
    ref = torch.tensor([[-1.0, -1e4, 0.0], [0.0, 0.0, 0.0]], dtype=dtype)
    for reference in (None, ref):
        loss, _ = rspo_loss(logps, value_grades(values), reference, beta=1.0)
        loss.backward()
        assert loss.isfinite() and logps.grad.isfinite().all() and logps.grad.abs().sum() > 0


def test_rewards_that_differ_by_rounding_only_keep_finite_gradients():
    logps = torch.tensor([[-1.0, -2.0]], requires_grad=True)
    grades = value_grades(torch.tensor([[1.0, 1.0 + 2**-23]]))
    assert grades[0, 0] < grades[0, 1]
    rspo_loss(logps, grades.double().float())[0].backward()
    assert logps.grad.isfinite().all()


VALUES = st.just(0.0) | st.floats(1e-200, 1e12)  # no number that a change of unit rounds to 0


@settings(max_examples=50, deadline=None)
@given(st.lists(VALUES, min_size=1, max_size=12), st.floats(0.5, 6), st.floats(1e-3, 1e3))
def test_value_grades_are_bounded_ordered_and_free_of_units(values, top, unit):
    raw = torch.tensor([values], dtype=torch.float64)
    grades = value_grades(raw, max_grade=top)
    assert grades.min() >= 0 and grades.max() <= top + 1e-9
    if max(values) > 0:
        assert grades.max().item() == pytest.approx(top)
    assert (grades[raw == 0] == 0).all()
    order = raw[0].argsort()
    assert (grades[0][order].diff() >= 0).all()
    torch.testing.assert_close(value_grades(raw * unit, max_grade=top), grades, rtol=1e-6, atol=1e-6)


def test_masked_values_do_not_count():
    values, mask = torch.tensor([[1.0, 4.0, 1e9]]), torch.tensor([[True, True, False]])
    torch.testing.assert_close(value_grades(values, mask)[:, :2], value_grades(values[:, :2]))
    assert value_grades(values, torch.zeros_like(mask)).tolist() == [[0.0, 0.0, 0.0]]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"must both be \(lists, candidates\). Received: \(2, 3\) and \(2, 4\)"):
        rspo_loss(torch.zeros(2, 3), torch.zeros(2, 4))


@pytest.fixture
def ring_lists(ring_log) -> Dataset:
    """Shown lists in which even items pay and odd ones do not; one list has nothing to prefer."""
    rng = np.random.default_rng(1)
    candidates = [rng.choice(24, rng.integers(3, 7), replace=False) for _ in range(len(ring_log))]
    rows = ring_log.remove_columns("user_id").add_column("candidates", [[f"ad_{i}" for i in c] for c in candidates])
    rewards = [[float(3 + i if i % 2 == 0 else 0) for i in c] for c in candidates]
    rewards[0] = [1.0] * len(rewards[0])
    return rows.add_column("rewards", rewards)


def arguments(folder, **changes) -> RSPOConfig:
    given = {"num_train_epochs": 6, "per_device_train_batch_size": 16, "learning_rate": 3e-3, "save_strategy": "no"}
    given |= {"use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_steps": 5, "beta": 0.5, **changes}
    return RSPOConfig(output_dir=str(folder), **given)


@pytest.mark.parametrize(
    ("reference", "vsl_weight", "item_weight"), [("frozen", 0.1, 0.0), ("none", 0.0, 0.0), ("frozen", 0.0, 0.6)]
)
def test_training_parts_better_from_worse(
    build_ring_model, ring_tokenizer, ring_lists, tmp_path, reference, vsl_weight, item_weight
):
    model = build_ring_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = RSPOTrainer(
        model=model,
        args=arguments(tmp_path, reference=reference, vsl_weight=vsl_weight, item_weight=item_weight),
        train_dataset=ring_lists,
        processing_class=ring_tokenizer,
    )
    informative = sum(len(set(rewards)) > 1 for rewards in ring_lists["rewards"])
    assert len(trainer.train_dataset) == informative < len(ring_lists)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["rspo/margin"] > logs[0]["rspo/margin"] + 0.5
    assert logs[-1]["rspo/accuracy"] > 0.95 > logs[0]["rspo/accuracy"] + 0.05
    assert logs[-1]["rspo/rspo"] < logs[0]["rspo/rspo"]
    for name, parameter in model.named_parameters():
        values = ("value_head.", "prefix_vectors.token")
        heads = (*values, *(() if item_weight else ("item_head.",)))  # that do not score candidates
        untouched = not vsl_weight and name.startswith(heads)
        assert torch.equal(before[name], parameter) == untouched, name
    if reference == "frozen":
        kept = dict(trainer.ref_model.named_parameters())
        assert all(torch.equal(before[name], parameter) for name, parameter in kept.items())
        assert logs[0]["rspo/gate_open"] > 0.9
    else:
        assert trainer.ref_model is None and logs[0]["rspo/gate_open"] == 0


def test_collator_makes_the_documented_tensors(ring_tokenizer):
    rows = [
        {"items": ["ad_1", "ad_2", "ad_3"], "candidates": ["ad_0", "ad_23"], "rewards": [0.5, 2.0], "city": "x"},
        {"items": ["ad_4"], "candidates": ["ad_7", "ad_8", "ad_9"], "rewards": [1.0, 0.0, 3.0], "city": None},
    ]
    batch = RSPOCollator(ring_tokenizer, max_items=2)(rows)
    assert batch["item_ids"].tolist() == [[3, 4], [5, 0]] and batch["user_feature_ids"].tolist() == [[1], [0]]
    assert batch["candidate_ids"].tolist() == [[[4, 8], [7, 13], [4, 8]], [[5, 9], [5, 10], [5, 11]]]
    assert batch["candidate_mask"].tolist() == [[True, True, False], [True, True, True]]
    assert batch["rewards"].tolist() == [[0.5, 2.0, 0.0], [1.0, 0.0, 3.0]]
    assert batch["labels"].tolist() == [[7, 13], [5, 11]] and batch["item_labels"].tolist() == [24, 10]
    assert batch["value_labels"].tolist() == [1, 2] and not {"ref_logps", "candidate_items"} & batch.keys()
    items = RSPOCollator(ring_tokenizer, max_items=2, with_items=True)(rows)["candidate_items"]
    assert items.tolist() == [[1, 24, 1], [8, 9, 10]]
    rows = [row | {"rewards": [0.0] * len(row["rewards"]), "ref_logps": [-1.0] * len(row["rewards"])} for row in rows]
    batch = RSPOCollator(ring_tokenizer, max_items=2)(rows)
    assert batch["ref_logps"].tolist() == [[-1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]]
    assert batch["labels"].tolist() == [[-100, -100]] * 2 and batch["value_labels"].tolist() == [-100, -100]


def test_lists_without_preference_are_refused(build_ring_model, ring_tokenizer, tmp_path):
    rows = Dataset.from_dict(
        {"items": [["ad_1"], []], "candidates": [["ad_2", "ad_3"]] * 2, "rewards": [[1.0, 1.0], [0.0, 1.0]]}
    )
    with pytest.raises(ValueError, match="No list of the training data has a history and two different rewards"):
        RSPOTrainer(
            model=build_ring_model(), args=arguments(tmp_path), train_dataset=rows, processing_class=ring_tokenizer
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"beta": 0.0}, "`beta` must be > 0 and finite. Received: 0.0"),
        ({"delta": -1.0}, "`delta` must be > 0 and finite. Received: -1.0"),
        ({"max_grade": 0}, "`max_grade` must be > 0 and finite. Received: 0"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be False"),
        ({"loss_type": "ppo"}, "`loss_type` must be one of rspo, dpo, sdpo, grpo. Received: 'ppo'"),
        ({"reference": "start"}, "`reference` must be one of frozen, logged, none. Received: 'start'"),
        ({"item_weight": 1.5}, r"`item_weight` is a share in \[0, 1\]. Received: 1.5"),
        ({"vsl_weight": -0.1}, "`vsl_weight` must be >= 0 and finite. Received: -0.1"),
        ({"clip": 1.0}, r"`clip` must be in \(0, 1\). Received: 1.0"),
        ({"max_ndcg_loss": 1.0}, r"`max_ndcg_loss` is a share in \[0, 1\). Received: 1.0"),
        ({"loss_type": "grpo", "reference": "none"}, "`reference` must be frozen or logged with the GRPO loss"),
        ({"loss_type": "dpo", "unified": True}, "`unified` mixes VSL with RSPO"),
        ({"unified": True, "vsl_weight": 0.0}, "`unified` mixes VSL with RSPO"),
        ({"reference": "logged", "sync_ref_model": True}, "`sync_ref_model` moves a frozen reference"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_a_loss_of_ones_own_is_kept_by_its_name(tmp_path):
    args = arguments(tmp_path, loss_type=lambda *lists, beta, count: (lists[0].sum() / count, {}))
    assert args.loss_name == "<lambda>" and args.to_dict()["loss_type"] == "<lambda>"
    torch.save(args, tmp_path / "args.bin")  # as a checkpoint does, which cannot hold the function
    with pytest.raises(ValueError, match="`loss_type` must be one of rspo"):
        arguments(tmp_path, loss_type=3)


def test_defaults_fit_the_machine(tmp_path):
    args = RSPOConfig(str(tmp_path))
    assert args.bf16 is fast_bfloat16() and args.use_cpu is not torch.cuda.is_available()


def test_a_share_of_an_item_head_that_is_not_there_is_refused(build_ring_model, ring_tokenizer, ring_lists, tmp_path):
    with pytest.raises(ValueError, match="`item_weight` = 0.5 needs an item head"):
        RSPOTrainer(
            model=build_ring_model(item_head=False),
            args=arguments(tmp_path, item_weight=0.5),
            train_dataset=ring_lists,
            processing_class=ring_tokenizer,
        )


def test_lists_see_what_users_did_elsewhere(timed_tokenizer):
    rows = [
        {"items": ["ad_1", "ad_2"], "candidates": ["ad_0", "ad_3"], "rewards": [0.0, 1.0], "city": "x",
         "cross_domain": ["video 1", "video 2", "video 3"]},
        {"items": ["ad_1"], "candidates": ["ad_0", "ad_3"], "rewards": [0.0, 1.0], "city": "x", "cross_domain": []},
    ]  # fmt: skip
    batch = RSPOCollator(timed_tokenizer, 6, max_cross_domain=2)(rows)
    wanted = timed_tokenizer.cross_domain_indices(["video 2", "video 3"]).tolist()
    assert batch["cross_domain_ids"].tolist() == [wanted, [0, 0]]
    assert batch["cross_domain_places"].tolist() == [[0, 0], [0, 0]]
    assert "cross_domain_ids" not in RSPOCollator(timed_tokenizer, 6)(
        [{k: v for k, v in r.items() if k != "cross_domain"} for r in rows]
    )
