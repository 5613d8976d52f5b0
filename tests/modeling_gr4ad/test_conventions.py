"""What users of transformers take for granted of any model (the ideas of its common tests, which are not in the
wheel)."""

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, set_seed

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, GR4ADModel, SIDTrie

LENGTHS = [3, 6, 1, 4]
SPACE = torch.cartesian_prod(*(torch.arange(n) for n in (4, 5, 3)))


@pytest.fixture
def saved(build_model, tmp_path):
    """A float32 model with every optional part and the folder it was saved to."""
    model = build_model().float()
    model.save_pretrained(tmp_path / "model")
    return model, tmp_path / "model"


def same_logits(first, second, **tolerance) -> None:
    for a, b in zip(first.logits, second.logits, strict=True):
        torch.testing.assert_close(a.float(), b.float(), **tolerance)


def test_weights_that_are_all_missing_are_those_of_a_fresh_model(build_model):
    config = build_model().config
    set_seed(3)
    fresh = GR4ADForRecommendation(config)
    set_seed(3)
    missing = GR4ADForRecommendation.from_pretrained(None, config=config, state_dict={})
    assert fresh.state_dict().keys() == missing.state_dict().keys()
    for name, value in fresh.state_dict().items():
        # The order of the draws may differ: their distribution and what is constant may not.
        other = missing.state_dict()[name]
        assert other.shape == value.shape and not other.is_meta, name
        if value.std(correction=0) == 0:
            assert torch.equal(value, other), name
        elif value.numel() > 100:
            assert other.std().item() == pytest.approx(value.std().item(), rel=0.4), name


def test_a_model_made_on_meta_runs_once_its_weights_are_drawn(build_model, build_history):
    config = build_model().config
    with torch.device("meta"):
        model = GR4ADForRecommendation(config)
    assert all(parameter.is_meta for parameter in model.parameters())
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        parameter.data.fill_(float("nan"))
        parameter._is_hf_initialized = False
    model.init_weights()
    logits = model.eval()(**build_history(config, LENGTHS)).logits
    assert all(level.isfinite().all() for level in logits)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_maps(saved, build_history, device_map):
    model, folder = saved
    again = AutoModelForSeq2SeqLM.from_pretrained(folder, device_map=device_map)
    history = build_history(model.config, LENGTHS)
    same_logits(again(**history), model(**history), rtol=0, atol=0)


def test_layers_offloaded_to_disk_give_the_same_beams(saved, build_history, tmp_path):
    model, folder = saved
    parts = {name: "cpu" for name, _ in model.named_children() if name != "model"}
    parts |= {f"model.{name}": "cpu" for name, _ in model.model.named_children() if name != "layers"}
    parts |= {f"model.layers.{number}": "disk" if number else "cpu" for number in range(3)}
    again = GR4ADForRecommendation.from_pretrained(folder, device_map=parts, offload_folder=tmp_path / "offload")
    assert again.model.layers[1].mlp.up_proj.weight.is_meta
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(SPACE)
    ours, theirs = (m.beam_search(**history, beam_widths=[3, 7, 9], trie=trie) for m in (model, again))
    assert torch.equal(ours.sequences, theirs.sequences) and torch.equal(ours.scores, theirs.scores)


def test_offloaded_heads_of_large_codebooks_are_called(build_model, build_history, tmp_path):
    model = build_model(codebook_sizes=[64, 64, 64], sid_normalization="trie")
    model.save_pretrained(tmp_path)
    parts = {name: "disk" if name == "sid_heads" else "cpu" for name, _ in model.named_children()}
    again = GR4ADForRecommendation.from_pretrained(tmp_path, device_map=parts, offload_folder=tmp_path / "offload")
    assert again.sid_heads[0].weight.is_meta
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(SPACE)
    ours, theirs = (m.beam_search(**history, beam_widths=[3, 7, 9], trie=trie) for m in (model, again))
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.scores, theirs.scores)


def test_an_offloaded_table_of_prefixes_is_named(build_model, build_history, tmp_path):
    model = build_model(sid_normalization="trie", num_prefix_vectors=5)
    model.save_pretrained(tmp_path)
    parts = {name: "disk" if name == "prefix_vectors" else "cpu" for name, _ in model.named_children()}
    again = GR4ADForRecommendation.from_pretrained(tmp_path, device_map=parts, offload_folder=tmp_path / "offload")
    with pytest.raises(ValueError, match="`prefix_vectors` is offloaded.*'prefix_vectors': 'cpu'"):
        again.beam_search(
            **build_history(model.config, LENGTHS), beam_widths=[3, 7, 9], trie=SIDTrie.from_codes(SPACE)
        )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_loads_and_searches(saved, build_history, dtype):
    model, folder = saved
    half = GR4ADForRecommendation.from_pretrained(folder, dtype=dtype)
    assert {parameter.dtype for parameter in half.parameters()} == {dtype} and half.dtype == dtype
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(SPACE[::2])
    found = half.beam_search(**history, beam_widths=[4, 20, 30], trie=trie)
    assert found.scores.dtype == torch.float32 and found.scores.isfinite().all()
    exact = model.beam_search(**history, beam_widths=[4, 20, 30], trie=trie)
    scores = dict(zip(exact.leaves[0].tolist(), exact.scores[0].tolist(), strict=True))
    for leaf, score in zip(found.leaves[0].tolist(), found.scores[0].tolist(), strict=True):
        assert score == pytest.approx(scores[leaf], abs=0.3), "all 30 SIDs are found; only their scores are rounded"


def test_eager_beams_equal_sdpa_beams(build_model, build_history):
    model = build_model()
    history, trie = build_history(model.config, LENGTHS), SIDTrie.from_codes(SPACE)
    found = []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        found.append(model.beam_search(**history, beam_widths=[3, 7, 9], trie=trie))
    assert torch.equal(found[0].sequences, found[1].sequences)
    torch.testing.assert_close(found[0].scores, found[1].scores, rtol=1e-9, atol=1e-9)


def test_flash_attention_is_refused_by_name(build_model):
    with pytest.raises((ValueError, ImportError), match=r"(?i)flash"):
        build_model().set_attn_implementation("flash_attention_2")


def test_base_and_head_load_each_others_checkpoints(saved, build_history, tmp_path):
    model, folder = saved
    base = GR4ADModel.from_pretrained(folder)
    base.save_pretrained(tmp_path / "base")
    with_head = GR4ADForRecommendation.from_pretrained(tmp_path / "base")
    history = build_history(model.config, LENGTHS)
    expected = model.model(**history).last_hidden_state
    for other in (base, with_head.model):
        assert torch.equal(other.eval()(**history).last_hidden_state, expected)


def test_hooks_see_their_arguments_by_keyword(build_model, build_history):
    """FSDP, PEFT and offloading wrap layers: hidden states are positional, all else by keyword or position alike."""
    model = build_model()
    seen = []
    model.model.layers[0].register_forward_pre_hook(lambda _, args, kwargs: seen.append(args[0]), with_kwargs=True)
    model(**build_history(model.config, LENGTHS))
    assert seen and seen[0].shape == (4, 1, 4, 16)
