import ast
import copy
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, GR4ADModel, SIDTrie
from gr4ad.pipeline.artifact import save_artifact

LENGTHS = [3, 6, 1, 4]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}  # losses are taken in float32, everything else in float64


def gradients(model: GR4ADForRecommendation) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def last_labels(labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Labels of the whole history only: `labels` (B, T), the others (B,)."""
    last = torch.tensor(LENGTHS) - 1
    return {name: value[torch.arange(len(last)), last] for name, value in labels.items()}


@pytest.mark.parametrize("changes", [{}, {"query_from_context": False}, {"fuse_prefix": True}])
def test_every_parameter_learns(build_model, build_history, build_labels, changes):
    model = build_model(**changes).train()
    output = model(**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS))
    assert set(output.losses) == {"sid", "value", "mtp", "item"}
    output.loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_save_and_load_are_bit_equal_and_auto_classes_find_them(build_model, build_history, tmp_path):
    model = build_model().float()
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is GR4ADForRecommendation and type(AutoConfig.from_pretrained(tmp_path)) is GR4ADConfig
    state = again.state_dict()
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    history = build_history(model.config, LENGTHS)
    for ours, theirs in zip(model(**history).logits, again.eval()(**history).logits, strict=True):
        assert torch.equal(ours, theirs)
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is GR4ADModel
    assert torch.equal(base.embed_tokens.weight, model.model.embed_tokens.weight)


def test_seeded_initialisation_from_config_is_reproducible(build_model):
    first, second = build_model(), build_model()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_the_fusion_starts_as_a_sum(build_model):
    fusion = build_model().model.fusion
    trunk, token = torch.randn(2, 16, dtype=torch.float64), torch.randn(2, 16, dtype=torch.float64)
    torch.testing.assert_close(fusion(trunk, token), trunk * (1 + fusion.gate_proj(token)) + token)


def test_token_and_level_vectors_start_at_the_trunks_scale_and_padding_at_zero():
    config = GR4ADConfig(codebook_sizes=[256, 256, 256], embedding_initializer_range=0.3, pad_token_id=0)
    model = GR4ADModel(config)
    assert model.embed_tokens.weight[1:].std().item() == pytest.approx(0.3, rel=0.02)
    assert not model.embed_tokens.weight[0].any()
    assert model.level_embeddings.weight.std().item() == pytest.approx(0.3, rel=0.2)
    assert model.context_processor.position_embeddings.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_an_item_head_without_gain_starts_as_its_bias_and_the_counts_of_the_history(build_history):
    config = GR4ADConfig(codebook_sizes=[8, 8], num_items=41, item_head=True, item_head_copy=True, item_head_gain=0.0)
    model = GR4ADForRecommendation(config).eval()
    with torch.no_grad():
        model.item_head.bias.copy_(torch.arange(41) / 10)
        model.item_head.copy_query.weight.zero_()
    history = build_history(config, [5, 2])
    history = {name: history[name] for name in ("input_ids", "attention_mask", "item_ids")}
    history["item_ids"][0] = torch.tensor([7, 9, 7, 7, 3])
    outputs = model.model(**history)
    log_probs = model.item_head.log_probs(outputs.trunk_hidden_state, model.item_table, outputs.context)
    popular = (torch.arange(41) / 10).softmax(0)
    event = torch.tensor(-5.0).exp()
    expected = (popular + event * torch.bincount(history["item_ids"][0], minlength=41)) / (1 + 5 * event)
    torch.testing.assert_close(log_probs[0, 1:].exp(), expected[1:])


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


def test_padding_side_does_not_matter(build_model, build_history, build_labels):
    model = build_model()
    labels = last_labels(build_labels(model.config, LENGTHS))
    right, left = (build_history(model.config, LENGTHS, side=side) for side in ("right", "left"))
    assert not torch.equal(right["input_ids"], left["input_ids"])
    torch.testing.assert_close(model(**right, **labels).to_tuple(), model(**left, **labels).to_tuple(), **TOLERANCE)
    trie = SIDTrie.from_codes(torch.cartesian_prod(*(torch.arange(n) for n in model.config.codebook_sizes)))
    beams = [model.beam_search(**history, beam_widths=[3, 7, 9], trie=trie) for history in (right, left)]
    assert torch.equal(beams[0].sequences, beams[1].sequences)
    torch.testing.assert_close(beams[0].scores, beams[1].scores, **TOLERANCE)


def test_padding_tokens_are_not_read(build_model, build_history):
    model = build_model()
    history = build_history(model.config, LENGTHS)
    other = {**history, "input_ids": torch.where(history["attention_mask"] > 0, history["input_ids"], 9)}
    other["item_ids"] = torch.where(history["attention_mask"][:, ::3] > 0, history["item_ids"], 5)
    torch.testing.assert_close(model(**history).logits, model(**other).logits, **TOLERANCE)


def test_a_batch_equals_one_at_a_time(build_model, build_history, build_labels):
    model = build_model()
    batch, labels = build_history(model.config, LENGTHS), last_labels(build_labels(model.config, LENGTHS))
    together = model(**batch, **labels)
    losses = []
    for user, length in enumerate(LENGTHS):
        alone = model(
            **build_history(model.config, [length], users=[user]),
            **{name: value[user : user + 1] for name, value in labels.items()},
        )
        losses.append(alone.loss)
        for level in range(3):
            torch.testing.assert_close(alone.logits[level][0], together.logits[level][user], **TOLERANCE)
        torch.testing.assert_close(alone.value_logits[0], together.value_logits[user], **TOLERANCE)
    torch.testing.assert_close(torch.stack(losses).mean(), together.loss, **TOLERANCE)


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


def plain_decoder_log_probs(model: GR4ADForRecommendation, input_ids: torch.Tensor, sid: list[int]) -> float:
    """log p(SID | history) of one history (S * T,) by a vanilla autoregressive decoder (K = 0), written from the
    formulas: one head at a time, one position at a time, no batch, no cache."""
    config, weights = model.config, dict(model.named_parameters())
    heads, head_dim, groups = config.num_attention_heads, config.head_dim, config.num_key_value_heads

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.pow(2).mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[f"model.{name}.weight"]

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"model.{name}.weight"].T

    def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, name: str) -> torch.Tensor:
        """query (d,), keys and values (n, groups, head_dim) -> (d,)."""
        out = []
        for head in range(heads):
            group = head // (heads // groups)
            scores = keys[:, group] @ query.view(heads, head_dim)[head] / head_dim**0.5
            out.append((scores.exp() / scores.exp().sum()) @ values[:, group])
        return linear(torch.cat(out), f"{name}.o_proj")

    embed = weights["model.embed_tokens.weight"]
    items = torch.stack([embed[part].flatten() for part in input_ids.view(-1, config.num_levels)])
    context = linear(items, "context_processor.fold")
    context = context + weights["model.context_processor.position_embeddings.weight"][: len(context)]
    entries = linear(norm(context, "context_processor.norm"), "context_processor.kv_proj").view(-1, groups, head_dim)
    entries = norm(entries, "context_processor.kv_norm")

    fed = [config.bos_token_id, *sid[:-1]]
    hidden = []
    for position, token in enumerate(fed):
        m, s = weights["model.level_embeddings.weight"][position] + context[-1], embed[token]
        gate = linear(s, "fusion.gate_proj") + weights["model.fusion.gate_bias"]
        hidden.append(linear(torch.cat([m * gate, s]), "fusion"))
    for layer in (f"layers.{i}" for i in range(config.num_hidden_layers)):
        hidden = [
            h + attend(linear(norm(h, f"{layer}.cross_attn_norm"), f"{layer}.cross_attn.q_proj"), entries, entries,
                       f"{layer}.cross_attn")
            for h in hidden
        ]  # fmt: skip
        normed = torch.stack([norm(h, f"{layer}.self_attn_norm") for h in hidden])
        queries, keys, values = (linear(normed, f"{layer}.self_attn.{kind}_proj") for kind in "qkv")
        keys, values = keys.view(-1, groups, head_dim), values.view(-1, groups, head_dim)
        hidden = [
            h + attend(queries[t], keys[: t + 1], values[: t + 1], f"{layer}.self_attn") for t, h in enumerate(hidden)
        ]
        for t, h in enumerate(hidden):
            x = norm(h, f"{layer}.mlp_norm")
            gate = linear(x, f"{layer}.mlp.gate_proj")
            gated = gate * torch.sigmoid(gate) * linear(x, f"{layer}.mlp.up_proj")
            hidden[t] = h + linear(gated, f"{layer}.mlp.down_proj")
    total = 0.0
    for level, h in enumerate(hidden):
        logits = weights[f"sid_heads.{level}.weight"] @ norm(h, "norm")
        total += logits.log_softmax(0)[sid[level] - config.level_offsets[level]].item()
    return total


def test_without_parallel_layers_it_is_a_vanilla_decoder(build_model, build_history):
    changes = {"num_context_kv": 1, "separate_context_values": False, "num_context_layers": 0, "num_events": 0}
    changes |= {
        "num_items": 0,
        "item_head": False,
        "item_head_copy": False,
        "item_head_repeat": False,
        "context_values": False,
        "num_value_buckets": 0,
    }
    model = build_model(num_parallel_layers=0, value_bucket_means=None, user_feature_sizes=[], **changes)
    with torch.no_grad():  # norms start at one and the fusion at the identity: give both something to get wrong
        for name, parameter in model.named_parameters():
            if "norm" in name or "fusion" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    sids = torch.tensor([[4, 8, 13], [6, 12, 15], [7, 9, 14]])
    for user, length in enumerate(LENGTHS):
        history = build_history(model.config, [length], users=[user])
        found = model(history["input_ids"], history["attention_mask"], candidate_ids=sids.unsqueeze(0)).candidate_logps
        expected = [plain_decoder_log_probs(model, history["input_ids"][0], sid) for sid in sids.tolist()]
        assert found[0].tolist() == pytest.approx(expected, abs=1e-9)


def test_trunk_sees_no_token_and_candidates_share_it(build_model, build_history):
    model = build_model()
    history = build_history(model.config, LENGTHS)
    candidates = torch.tensor([[4, 8, 13], [6, 12, 15]]).expand(len(LENGTHS), -1, -1)
    out = model.model(**history, decoder_input_ids=model.shift_right(candidates))
    assert out.trunk_hidden_state.shape == (4, 1, 4, 16) and out.last_hidden_state.shape == (4, 2, 4, 16)
    default = model.model(**history)
    torch.testing.assert_close(out.trunk_hidden_state, default.trunk_hidden_state, **TOLERANCE)


def test_hidden_states_and_attentions(build_model, build_history):
    model = build_model()
    model.set_attn_implementation("eager")
    history = build_history(model.config, LENGTHS)
    output = model(**history, output_hidden_states=True, output_attentions=True)
    assert len(output.hidden_states) in (3, 4) and all(h.shape == (4, 1, 4, 16) for h in output.hidden_states)
    assert len(output.attentions) == 3
    for weights in output.attentions:
        assert weights.shape == (4, 4, 4, 11)  # heads, positions, user entry + 4 cross-domain entries + 6 items
        torch.testing.assert_close(weights.sum(-1), torch.ones(4, 4, 4, dtype=torch.float64))
        # The user entry, the three cross-domain entries and the one item of this history.
        assert weights[2, :, :, 6:].max() == 0 and weights[2, :, :, 4].max() == 0
        assert weights[2, :, :, [0, 1, 2, 3, 5]].min() > 0
    assert model(**history).hidden_states is None


def test_return_dict_false_is_the_same_as_a_tuple(build_model, build_history, build_labels):
    model = build_model()
    inputs = {**build_history(model.config, LENGTHS), **build_labels(model.config, LENGTHS)}
    named, plain = model(**inputs), model(**inputs, return_dict=False)
    assert isinstance(plain, tuple) and len(plain) == len(named.to_tuple())
    assert torch.equal(plain[0], named.loss) and torch.equal(plain[2][0], named.logits[0])


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


@pytest.mark.parametrize("copies", [True, False])
@pytest.mark.parametrize("repeats", [True, False])
def test_item_head_equals_its_formula(build_model, build_history, build_labels, plain_item_log_probs, copies, repeats):
    model = build_model(item_head_copy=copies, item_head_repeat=repeats)
    with torch.no_grad():
        model.item_head.bias.normal_()
    history = build_history(model.config, LENGTHS)
    history["item_ids"][:, 1:3] = history["item_ids"][:, :1]  # repeats, and padding that is no item
    expected = plain_item_log_probs(model, history)
    torch.testing.assert_close(expected.exp().sum(1), torch.ones(4, dtype=torch.float64))
    outputs = model.model(**history)
    found = model.item_head.log_probs(outputs.trunk_hidden_state, model.item_table, outputs.context)
    torch.testing.assert_close(found[:, 1:].double(), expected[:, 1:], rtol=1e-5, atol=1e-5)
    assert (found[:, 0] < -1e30).all()  # "unknown" is never recommended
    labels = last_labels(build_labels(model.config, LENGTHS))
    labels["item_labels"][:2] = history["item_ids"][:2, 0]  # targets that can be copied, and such that cannot
    del labels["sample_weight"]
    loss = model(**history, **labels).losses["item"]
    nll = -expected.gather(1, labels["item_labels"].unsqueeze(1)).mean()
    torch.testing.assert_close(loss.double(), nll, rtol=1e-5, atol=1e-5)


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


def test_dropout_draws_one_mask_for_all_positions(build_model):
    dropout = build_model(dropout=0.5).model.dropout.train()
    out = dropout(torch.ones(5, 3, 4, 16))
    assert torch.equal(out, out[:, :, :1].expand_as(out)) and set(out.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(out), out)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"input_ids": torch.ones(1, 4, dtype=torch.int64)},
            r"`input_ids` must hold 1\.\.6 items.*Received: 4 tokens",
        ),
        ({"input_ids": torch.ones(1, 21, dtype=torch.int64)}, "Received: 21 tokens"),
        ({"input_ids": torch.ones(1, 0, dtype=torch.int64)}, "Received: 0 tokens"),
        ({"item_ids": None}, "pass `item_ids`"),
        ({"user_feature_ids": None}, "pass `user_feature_ids`"),
    ],
)
def test_bad_inputs_are_named(build_model, build_history, change, message):
    model = build_model()
    inputs = {**build_history(model.config, [2]), "attention_mask": None, **change}
    with pytest.raises(ValueError, match=message):
        model(**inputs)


def test_deep_copy_scores_alike(build_model, build_history):
    model = build_model()
    history = build_history(model.config, LENGTHS)
    torch.testing.assert_close(copy.deepcopy(model)(**history).logits, model(**history).logits, rtol=0, atol=0)


def test_remote_code_loads_without_the_package(tiny_artifact, tmp_path):
    serving = {"beam_widths": [8, 16, 16], "item_weight": 0.0, "value_weight": 0.0, "exclude_history": False}
    folder = tmp_path / "artifact"
    folder.mkdir()
    save_artifact(tiny_artifact, tiny_artifact, serving, folder)
    code = f"""
    import sys

    class Blocker:
        def find_spec(self, name, path=None, target=None):
            if name.split(".")[0] == "gr4ad":
                raise ModuleNotFoundError(f"blocked: {{name}}")

    sys.meta_path.insert(0, Blocker())
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, AutoTokenizer

    folder, trust = {str(folder)!r}, {{"trust_remote_code": True}}
    config = AutoConfig.from_pretrained(folder, **trust)
    base = AutoModel.from_pretrained(folder, **trust)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, **trust)
    tokenizer = AutoTokenizer.from_pretrained(folder, **trust)
    names = [type(x).__name__ for x in (config, base, model, tokenizer)]
    assert names == ["GR4ADConfig", "GR4ADModel", "GR4ADForRecommendation", "UASIDTokenizer"], names
    assert not any(name.split(".")[0] == "gr4ad" for name in sys.modules)
    batch = tokenizer.encode_histories([["ad_1", "ad_2"]], values=[[0.0, 3.0]], return_tensors="pt")
    candidates = torch.from_numpy(tokenizer.encode_items(["ad_3", "ad_4"])).unsqueeze(0)
    print(model(**batch, candidate_ids=candidates).candidate_logps[0].tolist())
    assert type(model.generate).__name__ == "partial", "the repository's own custom_generate"
    print(tokenizer.decode_items(model.generate(**batch, tokenizer=tokenizer, num_beams=8, num_return_sequences=3)))
    print(tokenizer.decode_items(model.generate(**batch, tokenizer=tokenizer, num_return_sequences=3)))
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]

    from gr4ad import UASIDTokenizer

    tokenizer = UASIDTokenizer.from_pretrained(folder)
    model = GR4ADForRecommendation.from_pretrained(folder).eval()
    batch = tokenizer.encode_histories([["ad_1", "ad_2"]], values=[[0.0, 3.0]], return_tensors="pt")
    candidates = torch.from_numpy(tokenizer.encode_items(["ad_3", "ad_4"])).unsqueeze(0)
    expected = model(**batch, candidate_ids=candidates).candidate_logps[0].tolist()
    scores, narrow, by_default = map(ast.literal_eval, done.stdout.strip().splitlines()[-3:])
    assert scores == pytest.approx(expected, abs=1e-5)
    trie = model.build_trie(tokenizer)
    for found, widths in ((narrow, [8, 8, 8]), (by_default, [8, 16, 16])):
        beams = model.beam_search(**batch, trie=trie, beam_widths=widths)
        assert found == tokenizer.decode_items(beams.sequences[0, :3])


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


def test_a_fused_prefix_is_the_sum_of_all_previous_tokens(build_model, build_history):
    """Without self-attention nothing else tells the third level of the first token."""
    model = build_model(fuse_prefix=True, num_parallel_layers=2, num_value_buckets=0, value_bucket_means=None,
                        context_values=False)  # fmt: skip
    for layer in model.model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    history = build_history(model.config, [4])
    offsets = torch.tensor(model.config.level_offsets)
    first, second, other = (model(**history, labels=(torch.tensor([sid]) + offsets)) for sid in ([0, 1, 2], [3, 1, 2],
                                                                                               [0, 2, 2]))  # fmt: skip
    for level, (same, apart) in enumerate([(True, True), (False, True), (False, False)]):
        assert torch.equal(first.logits[level], second.logits[level]) == same
        assert torch.equal(first.logits[level], other.logits[level]) == apart
    model.config.fuse_prefix = False
    last_alone = [model(**history, labels=(torch.tensor([sid]) + offsets)).logits[2] for sid in ([0, 1, 2], [3, 1, 2])]
    assert torch.equal(*last_alone)
