"""Transformers' constrained beam search, which `decode.py`, `serving.py` and `vllm_beams.py` hold LazyAR against.

Hugging Face models decode as their users decode semantic IDs (SIDs): `generate` with beams and a
`prefix_allowed_tokens_fn`, which looks the prefix up in a dictionary of ready index tensors (lists of token ids would
cost 50 times as much at the root). There is no end token: every beam holds the T tokens of an SID. Llama reads the
history and goes on writing; T5 reads it with its encoder, once a request. `generate` expands the prompt to the beams
*before* it reads it; `prefill_once`, the fairer opponent, reads it at batch 1 and repeats the cache, with the same
beams and scores, which is checked. gr4ad's `custom_generate` runs on the same Llama, to tell search from model.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config
from transformers import T5ForConditionalGeneration as T5

from gr4ad.modeling_gr4ad import GR4ADConfig, SIDTrie
from gr4ad.modeling_gr4ad.custom_generate_gr4ad import generate as tree_generate

MAX_POSITIONS = 1024
Model = TypeVar("Model", bound=PreTrainedModel)
NO_SPECIAL_TOKENS = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": 0, "tie_word_embeddings": False}


def llama(config: GR4ADConfig) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=MAX_POSITIONS,
            **NO_SPECIAL_TOKENS,
        )
    )


def t5(config: GR4ADConfig) -> T5:
    """As many decoder layers as `config` has, and as many encoder layers: T5's habit, and TIGER's."""
    model = T5(
        T5Config(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            d_kv=config.head_dim,
            d_ff=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            num_heads=config.num_attention_heads,
            feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
            **NO_SPECIAL_TOKENS,
        )
    )
    # `T5Config` ties the head to the embeddings whatever it is told; the parameters saved would make slower layers.
    model.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
    return model


def with_parameters(build: Callable[[GR4ADConfig], Model], config: GR4ADConfig, count: int) -> Model:
    """`build(config)` with the intermediate size, a multiple of 8, that brings it nearest to `count` parameters."""

    def resized(size: int) -> GR4ADConfig:
        return GR4ADConfig(**{**config.to_dict(), "intermediate_size": size})

    with torch.device("meta"):
        small, large = (build(resized(size)).num_parameters() for size in (8, 16))
    steps = 1 + round((count - small) / (large - small))
    if steps < 1:
        raise SystemExit(f"{build.__name__} has {small} parameters without feed-forward layers, more than {count}.")
    return build(resized(8 * steps))


def allowed_tokens(sids: torch.Tensor) -> dict[tuple[int, ...], torch.Tensor]:
    """Prefix -> token ids (int64, (children,)) that may follow, of SIDs (int64, (N, T)) as token ids in lexicographic
    order."""
    allowed = {(): torch.unique_consecutive(sids[:, 0])}
    for level in range(1, sids.shape[1]):
        nodes = torch.unique_consecutive(sids[:, : level + 1], dim=0)
        prefixes, children = torch.unique_consecutive(nodes[:, :level], dim=0, return_counts=True)
        allowed.update(zip(map(tuple, prefixes.tolist()), nodes[:, level].split(children.tolist()), strict=True))
    return allowed


def generate(
    model: PreTrainedModel, prompt: torch.Tensor, allowed: dict, *, beams: int, levels: int, **options: Any
) -> Any:
    """Beam search of transformers over SIDs; prompt (int64, (1, S)) -> sequences (beams, start + levels)."""
    start = 1 if model.config.is_encoder_decoder else prompt.shape[1]
    return model.generate(
        prompt,
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=levels,
        do_sample=False,
        length_penalty=0.0,
        prefix_allowed_tokens_fn=lambda _, sequence: allowed[tuple(sequence[start:].tolist())],
        **options,
    )


@torch.no_grad()
def prefill_once(
    model: LlamaForCausalLM, prompt: torch.Tensor, allowed: dict, *, beams: int, levels: int, **options: Any
) -> Any:
    """The same search, with the prompt read at batch 1."""
    cache = DynamicCache(config=model.config)
    # The last token stays: `generate` needs one to begin with. The heads are not asked about the others.
    model.model(prompt[:, :-1], past_key_values=cache, use_cache=True)
    cache.batch_repeat_interleave(beams)
    return generate(model, prompt, allowed, beams=beams, levels=levels, past_key_values=cache, **options)


def check_prefill_once(
    model: LlamaForCausalLM, prompt: torch.Tensor, allowed: dict, *, beams: int, levels: int
) -> None:
    """Raises SystemExit unless `prefill_once` finds what `generate` does: the same scores, and the same sequences but
    for those that the last digits of two scores decide on."""
    scored = {"return_dict_in_generate": True, "output_scores": True}
    found = [
        search(model, prompt, allowed, beams=beams, levels=levels, **scored) for search in (generate, prefill_once)
    ]
    apart = (found[0].sequences_scores - found[1].sequences_scores).abs().max().item()
    sids = [{tuple(sid) for sid in output.sequences[:, -levels:].tolist()} for output in found]
    shared = len(sids[0] & sids[1]) / beams
    tolerance, least = (1e-4, 0.97) if model.dtype == torch.float32 else (0.05, 0.5)
    if apart > tolerance or shared < least:
        raise SystemExit(
            f"Reading the prompt once changes what `generate` finds: scores {apart:.2g} apart (at most {tolerance}), "
            f"{shared:.0%} of the sequences shared (at least {least:.0%})."
        )


def hugging_face_systems(
    config: GR4ADConfig, count: int, history: torch.Tensor, sids: torch.Tensor, dtype: torch.dtype, beams: int
) -> Iterator[tuple[str, PreTrainedModel, Callable[[], torch.Tensor]]]:
    """Name, model and one request, which returns token ids (beams, ...) that end in an SID; of `count` parameters.

    The history (int64, (1, S * T)) is fed in two ways: as one position an item (its first token stands for it: the
    cost is that of any embedding), and with all of its tokens.
    """
    allowed, levels = allowed_tokens(sids), config.num_levels
    trie = SIDTrie.from_codes(sids)
    models = {
        name: with_parameters(build, config, count).eval().to(history.device, dtype)
        for name, build in (("Llama", llama), ("T5", t5))
    }
    positions = history[:, ::levels].contiguous()
    for prompt, length in (positions, f"{positions.shape[1]} positions"), (history, f"{history.shape[1]} tokens"):
        check_prefill_once(models["Llama"], prompt, allowed, beams=beams, levels=levels)
        for how, name, search in (
            ("generate", "Llama", generate),
            ("generate after one prefill", "Llama", prefill_once),
            ("generate", "T5", generate),
        ):
            request = partial(search, models[name], prompt, allowed, beams=beams, levels=levels)
            yield f"{how}, {name}, {length}", models[name], request
        options = {"trie": trie, "num_beams": beams, "num_return_sequences": beams}
        request = partial(tree_generate, prompt, model=models["Llama"], **options)
        yield f"gr4ad's custom_generate, Llama, {length}", models["Llama"], request
