import copy

import pytest
import torch

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, SIDTrie

LENGTHS = [3, 6, 1]
SPACE = torch.cartesian_prod(*(torch.arange(n) for n in (4, 5, 3)))


def moved(token_ids: torch.Tensor, old, new) -> torch.Tensor:
    """Token ids of SIDs (..., T) in the layout of a grown model."""
    return token_ids - torch.tensor(old.level_offsets) + torch.tensor(new.level_offsets)


@pytest.mark.parametrize("sizes", [[4, 5, 3], [6, 5, 3], [4, 9, 4], [7, 8, 9]])
def test_grown_codebooks_keep_every_old_code(build_model, build_history, tmp_path, sizes):
    before = build_model()
    model = copy.deepcopy(before)
    model.resize_codebooks(sizes)
    config = model.config
    assert config.codebook_sizes == sizes and model.get_input_embeddings().num_embeddings == config.vocab_size
    history = build_history(before.config, LENGTHS)
    real = history["attention_mask"].bool()
    shifted = moved(history["input_ids"].view(3, -1, 3), before.config, config).view(3, -1)
    grown_history = {**history, "input_ids": shifted.where(real, 0)}
    for level, (ours, theirs) in enumerate(zip(model(**grown_history).logits, before(**history).logits, strict=True)):
        old = before.config.codebook_sizes[level]
        # Without labels the previous tokens are the start token and padding, which do not move.
        torch.testing.assert_close(ours[:, :old], theirs, rtol=1e-9, atol=1e-9)
        new = ours[:, old:]
        torch.testing.assert_close(new, theirs.mean(1, keepdim=True).expand_as(new), rtol=1e-9, atol=1e-9)
    # The trie of the old catalog still serves it.
    trie = SIDTrie.from_codes(SPACE)
    found = model.beam_search(**grown_history, beam_widths=[4, 20, 60], trie=trie)
    assert (found.leaves >= 0).all()
    candidates = moved(found.sequences, config, before.config)
    assert int(candidates.min()) >= 4 and int(candidates.max()) < before.config.value_offset

    model.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path, dtype=torch.float64)
    for ours, theirs in zip(again(**grown_history).logits, model(**grown_history).logits, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("sizes", [[6, 5, 3], [4, 9, 4], [7, 8, 9]])
def test_grown_codebooks_keep_p_of_every_old_sid(build_model, build_history, catalog_parts, tmp_path, sizes):
    """Bit for bit the same prefixes: their hashes are of codes, which do not move; of what the catalog does not hold
    nothing is taken."""
    before = build_model(**catalog_parts)
    model = copy.deepcopy(before)
    model.resize_codebooks(sizes)
    trie = SIDTrie.from_codes(SPACE[5:50])
    for ours, theirs in zip(model.prefix_rows(trie), before.prefix_rows(trie), strict=True):
        assert torch.equal(ours, theirs) and (ours > 0).any()
    history = build_history(before.config, LENGTHS)
    real = history["attention_mask"].bool()
    shifted = moved(history["input_ids"].view(3, -1, 3), before.config, model.config).view(3, -1)
    grown_history = {**history, "input_ids": shifted.where(real, 0)}
    old = (SPACE[5:50] + torch.tensor(before.config.level_offsets)).expand(3, -1, -1)
    expected = before(**history, candidate_ids=old, trie=trie).candidate_logps
    new = moved(old, before.config, model.config)
    found = model(**grown_history, candidate_ids=new, trie=trie).candidate_logps
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    beams = model.beam_search(**grown_history, beam_widths=[60] * 3, trie=trie)
    torch.testing.assert_close(beams.scores[:, :45], expected.sort(1, descending=True).values, rtol=1e-9, atol=1e-9)
    model.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path, dtype=torch.float64)
    stored = model.state_dict()
    assert all(torch.equal(part, stored[name]) for name, part in again.state_dict().items())
    model.load_state_dict(again.state_dict())
    assert torch.equal(model(**grown_history, candidate_ids=new, trie=trie).candidate_logps, found)
    found_again = again(**grown_history, candidate_ids=new, trie=trie).candidate_logps
    torch.testing.assert_close(found_again, found, rtol=1e-12, atol=1e-12)  # where weights lie decides on the last bit
    # A new SID takes from its siblings alone, and can be learned: its prefix has no row of its own.
    newest = torch.tensor([[size - 1 for size in sizes]])
    wider = SIDTrie.from_codes(torch.cat([SPACE[5:50], newest]))
    token = newest + torch.tensor(model.config.level_offsets)
    loss = model(**grown_history, labels=token.expand(3, -1), trie=wider).loss
    loss.backward()
    assert loss.isfinite() and model.sid_heads[2].weight.grad[sizes[2] - 1].isfinite().all()


def test_new_codes_learn(build_model, build_history):
    model = build_model()
    model.resize_codebooks([6, 5, 3])
    model.train()
    history = build_history(build_model().config, [3])
    history["input_ids"] = torch.tensor([[9, 12, 15, 4, 11, 16, 8, 10, 17]])  # first a new code of level 1
    labels = torch.tensor([[8, 12, 15]])
    model(**history, labels=labels).loss.backward()
    assert model.get_input_embeddings().weight.grad[9].any() and model.sid_heads[0].weight.grad[4].any()


def test_shrinking_and_other_levels_are_refused_and_change_nothing(build_model):
    model = build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for sizes in ([4, 4, 3], [4, 5], [4, 5, 3, 2]):
        with pytest.raises(
            ValueError, match=r"`codebook_sizes` must keep 3 levels and may only grow from \[4, 5, 3\]"
        ):
            model.resize_codebooks(sizes)
    assert model.config.codebook_sizes == [4, 5, 3]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_one_number_of_tokens_is_refused_with_the_remedy(build_model):
    model = build_model()
    assert model.resize_token_embeddings(model.config.vocab_size) is model.get_input_embeddings()
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    with pytest.raises(ValueError, match=r"which codebook should grow from 20 to 25.*resize_codebooks"):
        model.resize_token_embeddings(25)
