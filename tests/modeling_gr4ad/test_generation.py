import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights, SIDTrie, TrieRestriction
from gr4ad.tokenization import SIDIndex

LENGTHS = [3, 6, 1]
SPACE = torch.cartesian_prod(*(torch.arange(n) for n in (4, 5, 3)))
TRIE = SIDTrie.from_codes(SPACE[::3])


def tokenizer_of(model, **changes) -> SimpleNamespace:
    """What `generate` reads of a tokenizer."""
    config = model.config
    codes = SPACE[::3].numpy()
    fields = {
        "level_sizes": list(config.codebook_sizes),
        "value_bucket_means": list(config.value_bucket_means),
        "event_names": ["a", "b", "c"],
        "num_time_buckets": 3,
        "num_cross_domain_items": 7,
        "user_features": {"x": list("abc"), "y": list("abcd")},
        "index": SIDIndex([f"ad_{row}" for row in range(len(codes))], codes),
    }
    return SimpleNamespace(**{**fields, **changes})


def test_generate_is_the_beam_search_behind_a_start_token(model, history):
    beams = model.beam_search(**history, beam_widths=[4, 9, 9], trie=TRIE)
    found = model.generate(**history, trie=TRIE, beam_widths=[4, 9, 9], num_return_sequences=5)
    assert found.shape == (15, 4) and (found[:, 0] == model.config.decoder_start_token_id).all()
    assert torch.equal(found[:, 1:].view(3, 5, 3), beams.sequences[:, :5])
    output = model.generate(
        history["input_ids"],
        **{name: value for name, value in history.items() if name != "input_ids"},
        trie=TRIE,
        beam_widths=[4, 9, 9],
        num_return_sequences=5,
        return_dict_in_generate=True,
    )
    assert torch.equal(output.sequences, found)
    assert torch.equal(output.sequences_scores.view(3, 5), beams.scores[:, :5])


def test_a_restriction_closes_what_generate_may_not_find(model, history):
    blocked = [torch.arange(0, TRIE.num_sids, 2), None, torch.arange(TRIE.num_sids)]
    restriction = TrieRestriction.from_items(TRIE, 3, blocked=blocked)
    given = {"trie": TRIE, "num_beams": 20, "num_return_sequences": 20}
    found = model.generate(**history, **given, restriction=restriction)[:, 1:].view(3, 20, 3)
    free = model.generate(**history, **given)[:, 1:].view(3, 20, 3)
    assert torch.equal(found[1], free[1]) and not found[2].any()
    leaves = TRIE.find(found[0][found[0].any(-1)] - torch.tensor(model.config.level_offsets))
    assert (leaves % 2 == 1).all() and len(leaves) == min(20, TRIE.num_sids // 2)
    with pytest.raises(ValueError, match="`restriction` is of one trie"):
        model.generate(**history, **{**given, "trie": None}, tokenizer=tokenizer_of(model), restriction=restriction)


def test_num_beams_is_the_width_of_every_level_and_the_default_is_one(model, history):
    wide = model.beam_search(**history, beam_widths=[7, 7, 7], trie=TRIE).sequences
    assert torch.equal(model.generate(**history, trie=TRIE, num_beams=7)[:, 1:], wide[:, 0])
    greedy = model.beam_search(**history, beam_widths=[1, 1, 1], trie=TRIE).sequences
    assert torch.equal(model.generate(**history, trie=TRIE)[:, 1:], greedy[:, 0])


def test_a_tokenizer_says_what_is_valid(model, history):
    given = {"num_beams": 20, "num_return_sequences": 20}
    expected = model.generate(**history, trie=TRIE, **given)
    tokenizer = tokenizer_of(model)
    assert torch.equal(model.generate(**history, tokenizer=tokenizer, **given), expected)
    tokenizer.index.remove(["ad_0", "ad_1"])
    found = model.generate(**history, tokenizer=tokenizer, **given)[:, 1:] - torch.tensor(model.config.level_offsets)
    removed = {tuple(sid) for sid in SPACE[::3][:2].tolist()}
    assert not removed & {tuple(sid) for sid in found.tolist()}
    lines = found.view(3, 20, 3)
    assert (lines[:, 18:] == -torch.tensor(model.config.level_offsets)).all(), "padding where fewer are valid"


def test_settings_come_from_the_generation_config(model, history, tmp_path):
    saved = GenerationConfig(beam_widths=[2, 6, 9], num_beams=9, num_return_sequences=4, value_weight=1.5)
    expected = model.beam_search(**history, beam_widths=[2, 6, 9], trie=TRIE, value_weight=1.5)
    found = model.generate(**history, trie=TRIE, generation_config=saved, return_dict_in_generate=True)
    assert torch.equal(found.sequences[:, 1:].view(3, 4, 3), expected.sequences[:, :4])
    torch.testing.assert_close(found.sequences_scores.view(3, 4), expected.scores[:, :4])

    model.save_pretrained(tmp_path)
    saved.save_pretrained(tmp_path)
    again = GR4ADForRecommendation.from_pretrained(tmp_path, dtype=torch.float64)
    assert again.can_generate() and again.generation_config.beam_widths == [2, 6, 9]
    assert torch.equal(again.generate(**history, trie=TRIE), found.sequences)
    narrower = again.generate(**history, trie=TRIE, num_beams=3, num_return_sequences=1, value_weight=0.0)
    assert torch.equal(narrower, model.generate(**history, trie=TRIE, num_beams=3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trie": None}, "pass `tokenizer=`"),
        ({"temperature": 0.3}, "takes no temperature.*It knows"),
        ({"do_sample": True}, "takes no sampling"),
        ({"max_new_tokens": 9}, "takes no max_new_tokens"),
        ({"num_return_sequences": 5}, r"`num_return_sequences` must be in 1\.\.4.*Received: 5"),
        ({"num_beams": 0}, "`beam_widths` needs 3 widths >= 1"),
        ({"input_ids": None}, "pass `input_ids`"),
        ({"num_return_sequences": 0}, r"`num_return_sequences` must be in 1\.\.4.*Received: 0"),
        ({"num_beams": None, "beam_widths": [4, 4]}, r"`beam_widths` needs 3 widths >= 1.*\[4, 4\]"),
        ({"trie": SIDTrie.from_codes(torch.tensor([[0, 5, 0]]))}, r"codebooks of at least \[1, 6, 1\] codes"),
    ],
)
def test_what_would_have_to_be_ignored_is_refused(model, history, changes, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**{**history, "trie": TRIE, "num_beams": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        (
            {"level_sizes": [4, 5, 4]},
            r"`codebook_sizes` of the model is \[4, 5, 3\].*has \[4, 5, 4\].*resize_codebooks",
        ),
        ({"value_bucket_means": [0.0, 1.0]}, "`num_value_buckets` of the model is 4.*has 2"),
        ({"value_bucket_means": [0.0, 1.0, 2.0, 6.0]}, r"`value_bucket_means` of the model is \[0.0, 1.0, 2.0, 5.0\]"),
        ({"event_names": []}, "`num_events` of the model is 3.*has 0"),
        ({"user_features": {"x": ["a"]}}, "`user_feature_sizes`"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(model, history, changes, field):
    with pytest.raises(ValueError, match=field):
        model.generate(**history, tokenizer=tokenizer_of(model, **changes), num_beams=4)


def test_a_model_may_leave_out_what_its_tokenizer_has(build_model):
    bare = build_model(num_events=0, user_feature_sizes=[], num_time_buckets=0, num_cross_domain_items=0)
    bare.config.check_tokenizer(tokenizer_of(build_model()))


@pytest.mark.usefixtures("own_remote_modules")
def test_another_search_comes_from_a_folder_and_only_if_trusted(model, history, tmp_path):
    code = tmp_path / "first_valid" / "custom_generate" / "generate.py"
    code.parent.mkdir(parents=True)
    code.write_text("def generate(model, trie, **kwargs):\n    return [int(codes[0]) for codes in trie.codes]\n")
    given = {**history, "trie": TRIE, "custom_generate": str(code.parent.parent)}
    assert model.generate(**given, trust_remote_code=True) == [0, 0, 0]
    with pytest.raises(ValueError, match="trust_remote_code"):
        model.generate(**given, trust_remote_code=False)
    with pytest.raises(ValueError, match="`custom_generate` must name a folder"):
        model.generate(**{**given, "custom_generate": print})


def test_scores_of_padding_are_the_lowest(model, history):
    one = SIDTrie.from_codes(torch.tensor([[1, 2, 0]]))
    output = model.generate(**history, trie=one, num_beams=3, num_return_sequences=3, return_dict_in_generate=True)
    assert output.sequences.view(3, 3, 4)[:, 0].tolist() == [[1, 5, 10, 13]] * 3
    assert (output.sequences.view(3, 3, 4)[:, 1:, 1:] == 0).all()
    assert np.isfinite(output.sequences_scores.view(3, 3)[:, 0].numpy()).all()
    assert (output.sequences_scores.view(3, 3)[:, 1:] == -math.inf).all()


def test_scores_over_a_catalog_are_those_of_candidates(
    build_model, build_history, catalog_parts, plain_item_log_probs
):
    """`generate` and `recommend` of a model whose p(SID) knows its catalog: what is best and what was asked for."""
    model = build_model(**catalog_parts)
    history = build_history(model.config, [3, 6, 1])
    codes = torch.cartesian_prod(*map(torch.arange, (4, 5, 3)))[:40]
    trie = SIDTrie.from_codes(codes)
    sids = codes + torch.tensor(model.config.level_offsets)
    with torch.no_grad():
        expected = model(**history, candidate_ids=sids.expand(3, -1, -1), trie=trie).candidate_logps
    best, order = expected.sort(dim=1, descending=True)
    given = {"num_beams": 40, "num_return_sequences": 7, "return_dict_in_generate": True, "trie": trie}
    found = model.generate(**history, **given)
    assert torch.equal(found.sequences.view(3, 7, 4)[..., 1:], sids[order[:, :7]])
    torch.testing.assert_close(found.sequences_scores.view(3, 7), best[:, :7])
    allowed = [torch.arange(5, 12), torch.arange(40), torch.tensor([39])]
    restriction = TrieRestriction.from_items(trie, 3, allowed=allowed)
    held = model.generate(**history, **given, restriction=restriction).sequences_scores.view(3, 7)
    for user, rows in enumerate(allowed):
        wanted = expected[user, rows].sort(descending=True).values[:7]
        torch.testing.assert_close(held[user, : len(wanted)], wanted)
    items = plain_item_log_probs(model, history)[:, 1:]
    for widths, candidates, share in (((40, 40, 40), 0, 0.0), ((40, 40, 40), 0, 0.3), ((1, 1, 1), 40, 0.3)):
        weights = RankingWeights(widths, item_candidates=candidates, item_weight=share, score_history=True)
        ranking = model.recommend(**history, trie=trie, top_k=40, weights=weights)
        wanted = ((1 - share) * expected + share * items[:, :40]).sort(dim=1, descending=True)
        assert torch.equal(ranking.items, wanted.indices)
        torch.testing.assert_close(ranking.scores, wanted.values, rtol=1e-5, atol=1e-5)
