import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from gr4ad import modeling_gr4ad
from gr4ad.modeling_gr4ad import SIDTrie, TrieRestriction
from gr4ad.modeling_gr4ad.custom_generate_gr4ad import generate, tree_search
from gr4ad.pipeline.artifact import CUSTOM_GENERATE

LEVELS = [range(10, 14), range(14, 19), range(19, 22)]
SPACE = torch.cartesian_prod(*(torch.tensor(list(level)) for level in LEVELS))
SHAPE = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
SHAPE |= {"vocab_size": 24, "num_key_value_heads": 2, "initializer_range": 0.5, "bos_token_id": 1, "eos_token_id": 2}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=4)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(vocab_size=24, n_embd=16, n_layer=2, n_head=4, n_positions=32, initializer_range=0.5,
                   bos_token_id=1, eos_token_id=2)
    ),
}  # fmt: skip
CATALOGS = st.lists(st.integers(0, len(SPACE) - 1), min_size=1, max_size=30, unique=True)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().double().eval()


@pytest.fixture(scope="module")
def prompt() -> dict[str, torch.Tensor]:
    """Three prompts of 9, 5 and 1 tokens, padded on the left."""
    ids = torch.randint(3, 10, (3, 9), generator=torch.Generator().manual_seed(1))
    mask = (torch.arange(9) >= torch.tensor([[0], [4], [8]])).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


def full_forward_scores(model, prompt) -> torch.Tensor:
    """log p of each token of every SID of the space, (B, SIDs, T): one plain forward of prompt and SID, unpadded."""
    scores = []
    for ids, mask in zip(prompt["input_ids"], prompt["attention_mask"], strict=True):
        ids = ids[mask.bool()]
        batch = torch.cat([ids.expand(len(SPACE), -1), SPACE], dim=1)
        log_probs = model(input_ids=batch).logits[:, len(ids) - 1 : -1].log_softmax(-1)
        scores.append(log_probs.gather(-1, SPACE.unsqueeze(-1)).squeeze(-1))
    return torch.stack(scores).detach()


@pytest.fixture(scope="module")
def truth(model, prompt) -> torch.Tensor:
    return full_forward_scores(model, prompt)


def legal_steps(steps: torch.Tensor, catalog: list[int]) -> dict[tuple[int, ...], float]:
    """log p of the last token of each prefix of a catalog, from one user's steps (SIDs, T) over the vocabulary: each
    divided by what all tokens have that some SID of the catalog continues with."""
    raw = {
        tuple(sid[: level + 1]): steps[place, level].item()
        for place, sid in zip(catalog, SPACE[catalog].tolist(), strict=True)
        for level in range(3)
    }
    return {
        prefix: score - math.log(sum(math.exp(other) for p, other in raw.items() if p[:-1] == prefix[:-1]))
        for prefix, score in raw.items()
    }


def legal_scores(steps: torch.Tensor, catalog: list[int]) -> torch.Tensor:
    """log p of each SID of a catalog, (SIDs,), from one user's steps."""
    found = legal_steps(steps, catalog)
    lines = [[found[tuple(sid[: level + 1])] for level in range(3)] for sid in SPACE[catalog].tolist()]
    return torch.tensor(lines, dtype=torch.float64).sum(-1)


# Not eager and float64: transformers takes that softmax in float32, where float64's lowest number is -inf.
@pytest.mark.parametrize(
    ("implementation", "dtype", "tolerance"),
    [("eager", torch.float32, 1e-4), ("sdpa", torch.float32, 1e-4), ("sdpa", torch.float64, 1e-9)],
)
@settings(max_examples=10, deadline=None)
@given(catalog=CATALOGS)
def test_wide_beams_equal_an_exhaustive_search_by_full_forwards(
    model, prompt, truth, implementation, dtype, tolerance, catalog
):
    model.to(dtype).set_attn_implementation(implementation)
    sids, scores = tree_search(model, **prompt, trie=SIDTrie.from_codes(SPACE[catalog]), widths=[60, 60, 60])
    for user in range(3):
        expected, order = legal_scores(truth[user], catalog).sort(descending=True)
        count = len(catalog)
        assert scores[user, :count].exp().sum().item() == pytest.approx(1, rel=10 * tolerance)
        assert torch.equal(sids[user, :count], SPACE[catalog][order])
        torch.testing.assert_close(scores[user, :count], expected.to(dtype), rtol=tolerance, atol=tolerance)
        assert (scores[user, count:] == -math.inf).all()


@settings(max_examples=10, deadline=None)
@given(CATALOGS, st.tuples(*[st.integers(1, 7)] * 3))
def test_narrow_beams_equal_a_plain_beam_search(model, prompt, truth, catalog, widths):
    trie = SIDTrie.from_codes(SPACE[catalog])
    sids, scores = tree_search(model.double(), **prompt, trie=trie, widths=list(widths))
    valid = [tuple(sid) for sid in SPACE[catalog].tolist()]
    for user in range(3):
        steps = legal_steps(truth[user], catalog)
        beams: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        for level, width in enumerate(widths, start=1):
            prefixes = {sid[:level] for sid in valid}
            grown = [(score + steps[p], p) for score, before in beams for p in prefixes if p[:-1] == before]
            beams = sorted(grown, reverse=True)[:width]
        found = scores[user] > -math.inf
        assert [tuple(sid) for sid in sids[user][found].tolist()] == [sid for _, sid in beams]
        assert scores[user][found].tolist() == pytest.approx([score for score, _ in beams], abs=1e-9)


def test_a_restriction_leaves_what_is_open(model, prompt, truth):
    trie, catalog = SIDTrie.from_codes(SPACE), torch.arange(60)
    blocked, allowed = [catalog[::3], None, catalog[:50]], [None, catalog[5:25], catalog[40:]]
    restriction = TrieRestriction.from_items(trie, 3, blocked=blocked, allowed=allowed)
    given = {"trie": trie, "num_beams": 60, "num_return_sequences": 60, "return_dict_in_generate": True}
    found = generate(model=model.double(), **prompt, **given, restriction=restriction)
    sids, scores = found.sequences.view(3, 60, -1)[..., -3:], found.sequences_scores.view(3, 60)
    for user, rows in enumerate((catalog[catalog % 3 > 0], catalog[5:25], catalog[50:])):
        # A restriction does not change what the softmaxes run over: all SIDs of the trie.
        expected, order = legal_scores(truth[user], list(range(60)))[rows].sort(descending=True)
        assert torch.equal(sids[user, : len(rows)], SPACE[rows][order]) and not sids[user, len(rows) :].any()
        torch.testing.assert_close(scores[user, : len(rows)], expected.double(), rtol=1e-9, atol=1e-9)
    with pytest.raises(ValueError, match="`restriction` is of one trie: pass that as `trie=`"):
        generate(model=model, **prompt, valid_sids=SPACE, num_beams=4, restriction=restriction)
    with pytest.raises(ValueError, match="`restriction` must be of the trie and batch"):
        generate(model=model, **prompt, trie=trie, num_beams=4, restriction=restriction.take([0]))


def test_it_finds_what_generate_of_transformers_finds(prompt):
    torch.manual_seed(0)
    llama = MODELS["llama"]().eval()
    llama.generation_config.eos_token_id = None  # SIDs have no end token
    catalog = SPACE[::2]
    allowed: dict[tuple[int, ...], set[int]] = {}
    for sid in catalog.tolist():
        for level in range(3):
            allowed.setdefault(tuple(sid[:level]), set()).add(sid[level])
    shared = {"num_beams": 8, "num_return_sequences": 8, "return_dict_in_generate": True}
    theirs = llama.generate(
        **prompt,
        **shared,
        max_new_tokens=3,
        do_sample=False,
        pad_token_id=0,
        length_penalty=0.0,
        output_scores=True,
        renormalize_logits=True,
        prefix_allowed_tokens_fn=lambda _, ids: list(allowed[tuple(ids[9:].tolist())]),
    )
    ours = generate(model=llama, **prompt, **shared, valid_sids=catalog)
    assert torch.equal(ours.sequences, theirs.sequences)
    torch.testing.assert_close(ours.sequences_scores, theirs.sequences_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("own_remote_modules")
def test_it_loads_from_a_repository_by_name(prompt, tmp_path):
    folder = tmp_path / "repository" / "custom_generate"
    folder.mkdir(parents=True)
    for name, source in CUSTOM_GENERATE.items():
        shutil.copyfile(Path(modeling_gr4ad.__file__).with_name(source), folder / name)
    torch.manual_seed(0)
    llama = MODELS["llama"]().eval()
    given = {"valid_sids": SPACE[:7], "beam_widths": [3, 7, 9], "num_return_sequences": 9}
    found = llama.generate(**prompt, **given, custom_generate=str(folder.parent), trust_remote_code=True)
    assert torch.equal(found, generate(model=llama, **prompt, **given)) and found.shape == (27, 12)
    assert (found.view(3, 9, 12)[:, 7:, 9:] == 0).all(), "seven SIDs are valid: two places are padding"
    with pytest.raises(ValueError, match="trust_remote_code"):
        llama.generate(**prompt, **given, custom_generate=str(folder.parent), trust_remote_code=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"valid_sids": None}, "pass `valid_sids`"),
        ({"temperature": 0.7}, "takes no temperature"),
        ({"num_return_sequences": 5}, r"`num_return_sequences` must be in 1\.\.4.*Received: 5"),
        ({"num_beams": 0}, "`beam_widths` needs 3 widths >= 1"),
        ({"attention_mask": torch.tensor([[1, 1, 0]])}, "padded on the left"),
    ],
)
def test_bad_arguments_are_named(change, message):
    given = {"input_ids": torch.tensor([[3, 4, 5]]), "valid_sids": SPACE, "num_beams": 4, "num_return_sequences": 4}
    with pytest.raises(ValueError, match=message):
        generate(model=MODELS["llama"]().eval(), **{**given, **change})


def test_a_model_that_forgets_its_prompt_is_refused():
    model = MODELS["llama"]().eval()
    model.config.sliding_window = 8
    with pytest.raises(ValueError, match="`sliding_window` set"):
        generate(model=model, input_ids=torch.tensor([[3, 4, 5]]), valid_sids=SPACE, num_beams=4)
