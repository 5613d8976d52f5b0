import pytest
import torch
from torch.nn import functional as F

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, SIDTrie, VSLLossWeights

LENGTHS = [3, 6, 1, 4]
# Whole first codes are missing, other nodes have one child, two or three.
CATALOG = torch.cartesian_prod(*map(torch.arange, (4, 5, 3)))[[*range(0, 30, 2), *range(31, 45)]]
TRIE = SIDTrie.from_codes(CATALOG)
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}  # losses are taken in float32, everything else in float64


def gradients(model: GR4ADForRecommendation) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.fixture(params=["codebook", "trie"])
def parts(request, catalog_parts) -> dict:
    """For `build_model`: both ways in which the probabilities of codes sum to one."""
    return catalog_parts if request.param == "trie" else {}


@pytest.fixture
def build_targets(build_labels):
    """As `build_labels`, of SIDs of the catalog alone."""

    def build(config, lengths) -> dict[str, torch.Tensor]:
        labels = build_labels(config, lengths)
        offsets = torch.tensor(config.level_offsets)
        known = CATALOG[labels["labels"].clamp(min=0).sum(-1) % len(CATALOG)] + offsets
        return {**labels, "labels": known.where(labels["labels"] >= 0, labels["labels"])}

    return build


@pytest.mark.parametrize("changes", [{}, {"query_from_context": False}, {"fuse_prefix": True}])
def test_every_parameter_learns(build_model, build_history, build_targets, parts, changes):
    model = build_model(**changes, **parts).train()
    output = model(**build_history(model.config, LENGTHS), **build_targets(model.config, LENGTHS), trie=TRIE)
    assert set(output.losses) == {"sid", "value", "mtp", "item"}
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_eager_equals_sdpa(build_model, build_history, build_targets, parts):
    model = build_model(**parts).train()
    inputs = {**build_history(model.config, LENGTHS), **build_targets(model.config, LENGTHS), "trie": TRIE}
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


def test_gradient_checkpointing_changes_nothing(build_model, build_history, build_targets, parts):
    model = build_model(**parts).train()
    inputs = {**build_history(model.config, LENGTHS), **build_targets(model.config, LENGTHS), "trie": TRIE}
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
def test_one_pass_over_prefixes_equals_a_pass_for_each(
    build_model, build_history, build_targets, parts, num_context_layers
):
    model = build_model(num_context_layers=num_context_layers, label_smoothing=0.1, **parts).train()
    batch, labels = build_history(model.config, LENGTHS), build_targets(model.config, LENGTHS)
    together = model(**batch, **labels, trie=TRIE)
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
            apart.append(model(**history, **target, trie=TRIE).loss)
    assert len(apart) == sum(LENGTHS)
    loss = torch.stack(apart).mean()
    loss.backward()
    torch.testing.assert_close(together.loss, loss, **TOLERANCE)
    torch.testing.assert_close(gradients(model), expected, **TOLERANCE)


def test_sample_weight_scales_each_target(build_model, build_history, build_targets, parts):
    model = build_model(**parts).train()
    history, labels = build_history(model.config, LENGTHS), build_targets(model.config, LENGTHS)
    weight = labels.pop("sample_weight").float()
    labels["trie"] = TRIE
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
    del labels["trie"]
    alone = {name: value.masked_fill(torch.ones_like(value, dtype=torch.bool), -100) for name, value in labels.items()}
    for name, value in labels.items():
        alone[name][0, 0] = value[0, 0]
    one = model(**history, **alone, trie=TRIE).loss
    first_only = model(**history, **labels, sample_weight=first, trie=TRIE).loss
    torch.testing.assert_close(first_only * sum(LENGTHS), one, **TOLERANCE)


def test_loss_is_the_cross_entropy_of_the_logits_returned(build_model, build_history, build_targets, parts):
    model = build_model(**({**parts, "sid_copy": False} if parts else {}))
    labels = build_targets(model.config, LENGTHS)
    chosen = labels["labels"][..., 0] >= 0
    del labels["sample_weight"]
    output = model(**build_history(model.config, LENGTHS), **labels, trie=TRIE)
    codes = labels["labels"][chosen] - torch.tensor(model.config.level_offsets)
    sid = sum(F.cross_entropy(logits.float(), codes[:, t]) for t, logits in enumerate(output.logits))
    torch.testing.assert_close(output.losses["sid"], sid)
    torch.testing.assert_close(
        output.losses["value"], F.cross_entropy(output.value_logits.float(), labels["value_labels"][chosen])
    )
    assert "mtp" not in output.losses


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_smoothing_is_spread_over_what_the_catalog_continues_with(
    build_model, build_history, build_targets, parts, smoothing
):
    model = build_model(**parts).train()
    labels = build_targets(model.config, LENGTHS)
    chosen = labels["labels"][..., 0] >= 0
    given = {**build_history(model.config, LENGTHS), **labels, "trie": TRIE}
    given["sample_weight"] = None
    plain = model(**given, loss_weights=VSLLossWeights())
    smoothed = model(**given, loss_weights=VSLLossWeights(label_smoothing=smoothing))
    codes = (labels["labels"][chosen] - torch.tensor(model.config.level_offsets)).tolist()
    spread = []
    for place, sid in enumerate(codes):
        for level in range(3):
            legal = sorted({other[level] for other in CATALOG.tolist() if other[:level] == sid[:level]})
            legal = legal if parts else list(range(model.config.codebook_sizes[level]))
            logits = plain.logits[level][place]
            assert logits.isfinite().nonzero()[:, 0].tolist() == legal
            spread.append(-logits[legal].log_softmax(0).mean().item())
    expected = (1 - smoothing) * plain.losses["sid"].item() + smoothing * sum(spread) / len(codes)
    assert smoothed.losses["sid"].item() == pytest.approx(expected, rel=1e-5)
    smoothed.loss.backward()
    assert all(gradient.isfinite().all() for gradient in gradients(model).values())
    model.eval()
    kept = model(**given, loss_weights=VSLLossWeights(label_smoothing=smoothing)).losses["sid"]
    torch.testing.assert_close(kept, model(**given).losses["sid"])  # validation measures p(SID) itself


def test_accumulation_is_one_trajectory(build_model, build_history, build_targets, parts):
    lengths = [3, 6, 1, 4, 2, 2, 5, 1]
    model = build_model(**parts).train()
    batch, labels = build_history(model.config, lengths), build_targets(model.config, lengths)
    tokens = int((labels["labels"] >= 0).sum())
    whole = model(**batch, **labels, num_items_in_batch=tokens, trie=TRIE).loss
    torch.testing.assert_close(whole, model(**batch, **labels, trie=TRIE).loss, **TOLERANCE)
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    total = 0.0
    for user in range(8):
        part = {name: value[user : user + 1] for name, value in {**batch, **labels}.items()}
        loss = model(**part, num_items_in_batch=torch.tensor(tokens), trie=TRIE).loss
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), rel=1e-9)
    torch.testing.assert_close(gradients(model), expected, **TOLERANCE)


def test_bfloat16_is_finite(build_model, build_history, build_targets, parts):
    model = build_model(**parts).to(torch.bfloat16).train()
    labels = build_targets(model.config, LENGTHS)
    labels |= {"sample_weight": None, "trie": TRIE}
    output = model(**build_history(model.config, LENGTHS), **labels)
    output.loss.backward()
    assert output.loss.isfinite() and all(p.grad.isfinite().all() for p in model.parameters())
    assert output.logits[0].dtype == torch.float32  # beams differ by less than bfloat16 resolves
    full = build_model(**parts).train()(**build_history(model.config, LENGTHS), **labels).loss
    assert output.loss.item() == pytest.approx(full.item(), rel=0.1)


def test_targets_and_candidates_of_one_reading_are_those_of_two(build_model, build_history, parts):
    model = build_model(**parts).train()
    history = build_history(model.config, [6, 3, 4])
    offsets = torch.tensor(model.config.level_offsets)
    rng = torch.Generator().manual_seed(3)
    sids = CATALOG[torch.randint(len(CATALOG), (3, 6), generator=rng)] + offsets
    labels = sids[:, 0].masked_fill(torch.tensor([[False], [True], [False]]), -100)  # the second user has no target
    targets = {"labels": labels, "item_labels": torch.tensor([3, -100, 9]), "value_labels": torch.tensor([1, -100, 2])}
    both = model(**history, **targets, candidate_ids=sids, trie=TRIE)
    alone = model(**history, **targets, trie=TRIE)
    torch.testing.assert_close(both.candidate_logps, model(**history, candidate_ids=sids, trie=TRIE).candidate_logps)
    torch.testing.assert_close(both.loss, alone.loss)
    assert both.losses.keys() == alone.losses.keys() == {"sid", "value", "mtp", "item"}
    assert both.target_losses.shape == (2,)
    torch.testing.assert_close(both.target_losses.mean(), both.loss)
    with pytest.raises(ValueError, match=r"`labels` beside `candidate_ids` must be \(B, 3\)"):
        model(**history, labels=sids.expand(3, 6, 3)[:, :6], candidate_ids=sids)
