import pytest
import torch

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, GR4ADModel, SIDTrie

LENGTHS = [3, 6, 1, 4]
TOLERANCE = {"rtol": 1e-6, "atol": 1e-8}  # losses are taken in float32, everything else in float64


def last_labels(labels: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Labels of the whole history only: `labels` (B, T), the others (B,)."""
    last = torch.tensor(LENGTHS) - 1
    return {name: value[torch.arange(len(last)), last] for name, value in labels.items()}


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
