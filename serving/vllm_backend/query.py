# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""A query and its answer on their way between vLLM's processes.

vLLM's requests are token ids. The engine, not the API server, looks item ids up, so that one process knows which index
is served and no answer mixes two versions. Hence

- the prompt is as long as the SIDs of the history, T tokens an item, and holds `<unk>`: vLLM's token budget and length
  limit count what will be read;
- the query's fields travel in `PoolingParams.extra_kwargs` under `QUERY`;
- the scheduler writes the beam widths it chose beside it, under `WIDTHS`, or why it refuses, under `REFUSAL`;
- the answer comes back as the pooled "tensor": msgpack in uint8.
"""

from __future__ import annotations

from dataclasses import asdict

import msgspec
import torch
from vllm import PoolingParams
from vllm.inputs import TokensPrompt

from ..request_types import Answer, RecommendQuery, Refusal

# The default V2 runner of vLLM knows embed, classify, token_embed and token_classify; only this one is neither pooled
# over the sequence nor normalized, nor read from a prefix cache.
POOLING_TASK = "token_classify"
UNKNOWN_TOKEN = 3
QUERY, WIDTHS, REFUSAL = "gr4ad_query", "gr4ad_widths", "gr4ad_refusal"


def to_prompt(query: RecommendQuery, num_levels: int, max_items: int) -> TokensPrompt:
    """T tokens for each history item that the model will read, at least one item."""
    items = min(max(len(query.user), 1), max_items)
    return TokensPrompt(prompt_token_ids=[UNKNOWN_TOKEN] * (num_levels * items))


def to_pooling_params(query: RecommendQuery) -> PoolingParams:
    """Parameters of a query. Each needs its own: the scheduler writes into them."""
    return PoolingParams(task=POOLING_TASK, extra_kwargs={QUERY: query.to_fields()})


def encode_answer(answer: Answer | Refusal) -> torch.Tensor:
    """uint8 (bytes,), on the CPU."""
    fields = {"refusal": asdict(answer)} if isinstance(answer, Refusal) else {"answer": answer.to_fields()}
    # Item tables hold numpy's values, which msgpack takes as Python's own.
    encoded = msgspec.msgpack.encode(fields, enc_hook=lambda value: value.tolist())
    return torch.frombuffer(bytearray(encoded), dtype=torch.uint8)


def decode_answer(pooled: torch.Tensor) -> Answer | Refusal:
    """The answer of `encode_answer`."""
    fields = msgspec.msgpack.decode(pooled.numpy().tobytes())
    return Answer.from_fields(fields["answer"]) if "answer" in fields else Refusal(**fields["refusal"])
