# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The `custom_generate` of GR4AD repositories: beam search over valid semantic IDs (SIDs), also for other models.

A GR4AD model runs its own search. Any decoder-only model of transformers that writes SIDs as tokens (one token a
level, behind a prompt) runs a tree search with the same trie, widths and selection: the prompt is read once, and the
beams of a level lie along the sequence axis of that one cache, each seeing the prompt and its own ancestors. Nothing
is expanded, copied or reordered: the prompt's keys and values are stored and read once for all beams.

Shapes: B batch, C prompt tokens, W beams, T SID levels, V vocabulary.
"""

from typing import Any

import torch
from transformers import GenerationConfig
from transformers.generation import GenerateBeamDecoderOnlyOutput
from transformers.utils import ModelOutput

from .beam_selection_gr4ad import next_beams, open_children, width_table
from .trie_gr4ad import SIDTrie
from .trie_restriction_gr4ad import TrieRestriction


def generate(
    inputs: torch.Tensor | None = None,
    generation_config: GenerationConfig | None = None,
    *,
    model: Any,
    trie: SIDTrie | None = None,
    tokenizer: Any = None,
    valid_sids: torch.Tensor | None = None,
    restriction: TrieRestriction | None = None,
    **kwargs: Any,
) -> torch.Tensor | ModelOutput:
    """What `model.generate(..., custom_generate=REPOSITORY, trust_remote_code=True)` calls.

    ```python
    >>> best = llama.generate(**prompt, custom_generate="you/gr4ad", trust_remote_code=True,
    ...                       valid_sids=sids, num_beams=128, num_return_sequences=10)
    ```

    Args:
        inputs, or `input_ids` (int64, (B, C)), and `attention_mask`: The prompts, padded on the left.
        generation_config: Not read for decoder-only models, whose defaults (sampling, end tokens) mean nothing here.
        valid_sids (int64, (N, T)): Token ids of every valid SID; or a `trie` of them, built once for many calls.
        restriction ([`TrieRestriction`]): What each prompt may not be given; of `trie`, which it needs.
        num_beams (`int`) or beam_widths (`list[int]`): The same width at each level, or T widths.
        num_return_sequences (`int`): Default 1. return_dict_in_generate (`bool`): Adds `sequences_scores`.

    Returns:
        Of a GR4AD model, what its `generate` returns. Else (B * num_return_sequences, C + T): prompt and SID, best
        first; padding where fewer SIDs are valid. `sequences_scores`: log p(SID | prompt), not divided by its length,
        with each token's softmax over the tokens that a valid SID continues with.

    Raises:
        ValueError: If it is not said what is valid, an argument means nothing here, or the model's cache does not hold
            the whole prompt in every layer.
    """
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    if model.config.model_type == "gr4ad":
        own = type(model).generate
        return own(model, inputs, generation_config, trie=trie, tokenizer=tokenizer, restriction=restriction, **kwargs)
    inputs = kwargs.pop("input_ids", inputs)
    attention_mask = kwargs.pop("attention_mask", None)
    if trie is None:
        if restriction is not None:
            raise ValueError("`restriction` is of one trie: pass that as `trie=`, in place of `valid_sids=`.")
        if valid_sids is None:
            raise ValueError(
                "This search needs to know which semantic IDs are valid: pass `valid_sids` (int64, (N, T) token ids), "
                "or `trie=SIDTrie.from_codes(valid_sids)`."
            )
        trie = SIDTrie.from_codes(valid_sids).to(inputs.device)
    if restriction is not None:
        restriction.check(trie, inputs.shape[0])
    beams = kwargs.pop("num_beams", 1)
    [widths] = width_table(kwargs.pop("beam_widths", [beams] * trie.num_levels), 1, trie.num_levels)
    count, as_dict = kwargs.pop("num_return_sequences", 1), kwargs.pop("return_dict_in_generate", False)
    if kwargs:
        raise ValueError(f"This search takes no {', '.join(sorted(kwargs))}: it is a beam search over valid SIDs.")
    if not 1 <= count <= widths[-1]:
        raise ValueError(f"`num_return_sequences` must be in 1..{widths[-1]} (beams). Received: {count}.")
    sids, scores = tree_search(model, inputs, attention_mask, trie, widths, restriction)
    pad = model.config.pad_token_id or 0
    missing = max(0, count - sids.shape[1])
    sids = torch.nn.functional.pad(sids[:, :count], (0, 0, 0, missing), value=pad)
    scores = torch.nn.functional.pad(scores[:, :count], (0, missing), value=-torch.inf)
    sids = sids.masked_fill((scores == -torch.inf).unsqueeze(-1), pad)
    sequences = torch.cat([inputs.repeat_interleave(count, dim=0), sids.flatten(0, 1)], dim=1)
    if not as_dict:
        return sequences
    return GenerateBeamDecoderOnlyOutput(sequences=sequences, sequences_scores=scores.flatten())  # type: ignore[arg-type]


@torch.no_grad()
def tree_search(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    trie: SIDTrie,
    widths: list[int],
    restriction: TrieRestriction | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """SIDs (int64, (B, k, T)) and their log-probabilities (float, (B, k)), best first, -inf where there is none.

    Args:
        model: A decoder-only model whose layers all attend to the whole prompt and which takes `position_ids`.
        input_ids, attention_mask (int64, (B, C)): Prompts, padded on the left. widths: T beams. restriction: What
            each may not be given.
    """
    if model.config.is_encoder_decoder or getattr(model.config, "sliding_window", None):
        raise ValueError(
            f"{type(model).__name__} does not keep the whole prompt in one decoder cache (encoder-decoder, or "
            "`sliding_window` set), which this search needs. Use a decoder-only model with full attention."
        )
    attention_mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
    if not bool(attention_mask[:, -1].all()):
        raise ValueError("Prompts must be padded on the left: `tokenizer.padding_side = 'left'`.")
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    output = model(
        input_ids=input_ids, attention_mask=attention_mask, position_ids=positions, use_cache=True, logits_to_keep=1
    )
    batch, device = input_ids.shape[0], input_ids.device
    prompt = attention_mask.bool().unsqueeze(1)  # (B, 1, C)
    ancestors = torch.zeros((batch, 1, 0), dtype=torch.bool, device=device)  # (B, W, rows of the levels before)
    nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
    dtype = torch.promote_types(model.dtype, torch.float32)
    scores = torch.zeros((batch, 1), dtype=dtype, device=device)
    path: list[torch.Tensor] = []
    for level, width in enumerate(widths):
        codes, first, valid = trie.children(level, nodes)
        steps = output.logits.to(dtype).gather(-1, codes).masked_fill(~valid, -torch.inf).log_softmax(-1)  # (B, W, M)
        closed = None if restriction is None else restriction.closed[level]
        total = open_children(scores.unsqueeze(-1) + steps, first, closed)
        scores, rows, tokens, nodes, _ = next_beams((codes, first), total, width)
        path = [tokens_before.gather(1, rows) for tokens_before in path] + [tokens]
        if level + 1 < len(widths):
            kept = scores.shape[1]
            ancestors = ancestors.gather(1, rows.unsqueeze(-1).expand(-1, -1, ancestors.shape[2]))
            itself = torch.eye(kept, dtype=torch.bool, device=device).expand(batch, -1, -1)
            ancestors = torch.cat([ancestors, itself], dim=2)
            visible = torch.cat([prompt.expand(-1, kept, -1), ancestors], dim=2).unsqueeze(1)
            hidden = torch.finfo(model.dtype).min
            output = model(
                input_ids=tokens,
                attention_mask=torch.zeros_like(visible, dtype=model.dtype).masked_fill(~visible, hidden),
                position_ids=positions[:, -1:] + 1 + level + torch.zeros_like(tokens),
                past_key_values=output.past_key_values,
                use_cache=True,
            )
    return torch.stack(path, dim=-1), scores


__all__ = ["generate", "tree_search"]
