import pytest
import torch
from torch.nn import functional as F

from gr4ad.modeling_gr4ad import GR4ADForRecommendation

LENGTHS = [3, 6, 1, 4]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}  # losses are taken in float32, everything else in float64


def gradients(model: GR4ADForRecommendation) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("changes", [{}, {"query_from_context": False}, {"fuse_prefix": True}])
def test_every_parameter_learns(build_model, build_history, build_labels, changes):
    model = build_model(**changes).train()
    output = model(**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS))
    assert set(output.losses) == {"sid", "value", "mtp", "item"}
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_eager_equals_sdpa(build_model, build_history, build_labels):
    model = build_model().train()
    inputs = {**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS)}
    results = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        assert model.config._attn_implementation == implementation
        model.zero_grad()
        output = model(**inputs)
        output.loss.backward()
        results.append((output.loss, gradients(model)))
    torch.testing.assert_close(results[0][0], results[1][0], **TOLERANCE)
    torch.testing.assert_close(results[0][1], results[1][1], **TOLERANCE)


def test_gradient_checkpointing_changes_nothing(build_model, build_history, build_labels):
    model = build_model().train()
    inputs = {**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS)}
    plain = model(**inputs).loss
    plain.backward()
    expected = gradients(model)
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert all(layer.gradient_checkpointing for layer in model.model.layers)
    loss = model(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, plain, **TOLERANCE)
    torch.testing.assert_close(gradients(model), expected, **TOLERANCE)


@pytest.mark.parametrize("num_context_layers", [0, 2])
def test_one_pass_over_prefixes_equals_a_pass_for_each(build_model, build_history, build_labels, num_context_layers):
    model = build_model(num_context_layers=num_context_layers, label_smoothing=0.1).train()
    batch, labels = build_history(model.config, LENGTHS), build_labels(model.config, LENGTHS)
    together = model(**batch, **labels)
    together.loss.backward()
    expected = gradients(model)
    model.zero_grad()
    apart = []
    for user, length in enumerate(LENGTHS):
        for prefix in range(1, length + 1):
            history = {name: value[user : user + 1] for name, value in batch.items()}
            for name, value in history.items():
                if name in ("input_ids", "attention_mask"):
                    history[name] = value[:, : prefix * 3]
                elif name in ("item_ids", "event_ids", "value_ids", "time_ids"):
                    history[name] = value[:, :prefix]
            # What happened elsewhere after this prefix's target is not known yet.
            later = history["cross_domain_places"] > prefix
            history["cross_domain_ids"] = history["cross_domain_ids"].masked_fill(later, 0)
            target = {name: value[user : user + 1, prefix - 1] for name, value in labels.items()}
            apart.append(model(**history, **target).loss)
    assert len(apart) == sum(LENGTHS)
    loss = torch.stack(apart).mean()
    loss.backward()
    torch.testing.assert_close(together.loss, loss, **TOLERANCE)
    torch.testing.assert_close(gradients(model), expected, **TOLERANCE)


def test_sample_weight_scales_each_target(build_model, build_history, build_labels):
    model = build_model().train()
    history, labels = build_history(model.config, LENGTHS), build_labels(model.config, LENGTHS)
    weight = labels.pop("sample_weight").float()
    plain = model(**history, **labels)
    twice = model(**history, **labels, sample_weight=torch.full_like(weight, 2.0))
    torch.testing.assert_close(twice.loss, 2 * plain.loss, **TOLERANCE)
    torch.testing.assert_close(twice.losses["mtp"], 2 * plain.losses["mtp"], **TOLERANCE)
    config = model.config
    parts = plain.losses["sid"] + config.value_loss_weight * plain.losses["value"]
    parts = parts + config.mtp_loss_weight * plain.losses["mtp"] + config.item_loss_weight * plain.losses["item"]
    torch.testing.assert_close(parts, plain.loss.detach(), **TOLERANCE)
    first = torch.zeros_like(weight)
    first[0, 0] = 1.0
    alone = {name: value.masked_fill(torch.ones_like(value, dtype=torch.bool), -100) for name, value in labels.items()}
    for name, value in labels.items():
        alone[name][0, 0] = value[0, 0]
    one = model(**history, **alone).loss
    torch.testing.assert_close(model(**history, **labels, sample_weight=first).loss * sum(LENGTHS), one, **TOLERANCE)


def test_loss_is_the_cross_entropy_of_the_logits_returned(build_model, build_history, build_labels):
    model = build_model()
    labels = build_labels(model.config, LENGTHS)
    chosen = labels["labels"][..., 0] >= 0
    del labels["sample_weight"]
    output = model(**build_history(model.config, LENGTHS), **labels)
    codes = labels["labels"][chosen] - torch.tensor(model.config.level_offsets)
    sid = sum(F.cross_entropy(logits.float(), codes[:, t]) for t, logits in enumerate(output.logits))
    torch.testing.assert_close(output.losses["sid"], sid)
    torch.testing.assert_close(
        output.losses["value"], F.cross_entropy(output.value_logits.float(), labels["value_labels"][chosen])
    )
    assert "mtp" not in output.losses


def test_accumulation_is_one_trajectory(build_model, build_history, build_labels):
    lengths = [3, 6, 1, 4, 2, 2, 5, 1]
    model = build_model().train()
    batch, labels = build_history(model.config, lengths), build_labels(model.config, lengths)
    tokens = int((labels["labels"] >= 0).sum())
    whole = model(**batch, **labels, num_items_in_batch=tokens).loss
    torch.testing.assert_close(whole, model(**batch, **labels).loss, **TOLERANCE)
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    total = 0.0
    for user in range(8):
        part = {name: value[user : user + 1] for name, value in {**batch, **labels}.items()}
        loss = model(**part, num_items_in_batch=torch.tensor(tokens)).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-9)
    torch.testing.assert_close(gradients(model), expected, **TOLERANCE)


def test_bfloat16_is_finite(build_model, build_history, build_labels):
    model = build_model().to(torch.bfloat16).train()
    labels = build_labels(model.config, LENGTHS)
    output = model(**build_history(model.config, LENGTHS), **{**labels, "sample_weight": None})
    output.loss.backward()
    assert output.loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
    assert output.logits[0].dtype == torch.bfloat16
    full = build_model().train()(**build_history(model.config, LENGTHS), **{**labels, "sample_weight": None}).loss
    assert output.loss.item() == pytest.approx(full.item(), rel=0.1)


def test_targets_and_candidates_of_one_reading_are_those_of_two(build_model, build_history):
    model = build_model().train()
    history = build_history(model.config, [6, 3, 4])
    offsets = torch.tensor(model.config.level_offsets)
    rng = torch.Generator().manual_seed(3)
    draw = torch.stack([torch.randint(size, (3, 6), generator=rng) for size in model.config.codebook_sizes], -1)
    sids = draw + offsets
    labels = sids[:, 0].masked_fill(torch.tensor([[False], [True], [False]]), -100)  # the second user has no target
    targets = {"labels": labels, "item_labels": torch.tensor([3, -100, 9]), "value_labels": torch.tensor([1, -100, 2])}
    both = model(**history, **targets, candidate_ids=sids)
    alone = model(**history, **targets)
    torch.testing.assert_close(both.candidate_logps, model(**history, candidate_ids=sids).candidate_logps)
    torch.testing.assert_close(both.loss, alone.loss)
    assert both.losses.keys() == alone.losses.keys() == {"sid", "value", "mtp", "item"}
    assert both.target_losses.shape == (2,)
    torch.testing.assert_close(both.target_losses.mean(), both.loss)
    with pytest.raises(ValueError, match=r"`labels` beside `candidate_ids` must be \(B, 3\)"):
        model(**history, labels=sids.expand(3, 6, 3)[:, :6], candidate_ids=sids)
