# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""GR4AD as a pooling model of vLLM.

vLLM contributes the processes, queueing, scheduling and batching of requests, the weight loader, data-parallel
replicas, the API server and its metrics. It contributes no layers: `modeling_gr4ad` computes, in the pooler, once a
step and for all requests that finished their prompt in it. A beam search that reads one context per request and keeps
its beams as rows of one batch needs no token-by-token decoding, no paged KV cache and no sampler. vLLM is told that
the model is free of attention, so that it reserves no cache, and the forward pass that it runs on the prompt's tokens
does nothing. A step runs to completion: what bounds it are `max_batch` and `max_batch_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Set
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.model_executor.layers.pooler import Pooler
from vllm.model_executor.models.utils import AutoWeightsLoader
from vllm.v1.pool.metadata import PoolingMetadata

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import UASIDTokenizer, UserHistory

from ..answering import answer_each
from ..live_model import LiveModel
from ..recommender import Recommender, check_finite
from ..request_types import Answer, RecommendQuery, Refusal
from .options import VLLMOptions
from .query import POOLING_TASK, QUERY, REFUSAL, WIDTHS, encode_answer

NOTHING = torch.zeros(1, dtype=torch.uint8)
"""The answer to a prompt that is not complete."""


class GR4ADPooler(Pooler):
    """Runs the beam search of every request whose prompt is complete, all in one batch."""

    def __init__(self, options: VLLMOptions):
        super().__init__()
        self.options = options
        self.live: LiveModel | None = None  # not before the weights are

    def get_supported_tasks(self) -> Set[Any]:
        return {POOLING_TASK}

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata) -> list[torch.Tensor]:
        """A uint8 tensor (bytes,) a request: its answer; nothing for a request whose prompt came in part only."""
        finished = pooling_metadata.get_pooling_cursor().get_finished_mask()
        given = [params.extra_kwargs for params in pooling_metadata.pooling_params]
        if not any(given):
            return self.profile(len(given))
        answers: dict[int, Answer | Refusal] = {}
        asked: dict[int, tuple[RecommendQuery, Sequence[int] | None]] = {}
        for place, (done, extra) in enumerate(zip(finished, given, strict=True)):
            extra = extra or {}
            if not done:
                continue
            if QUERY not in extra:
                detail = "The request carries no query. Send it to /v1/recommend, or use `to_pooling_params`."
                answers[place] = Refusal(422, detail)
            elif REFUSAL in extra:
                answers[place] = Refusal(**extra[REFUSAL])
            else:
                asked[place] = RecommendQuery.from_fields(extra[QUERY]), extra.get(WIDTHS)
        assert self.live is not None
        found = answer_each(self.live.served, list(asked.values()), self.options.top_k)
        answers.update(zip(asked, found, strict=True))
        return [encode_answer(answers[place]) if place in answers else NOTHING for place in range(len(given))]

    def profile(self, requests: int) -> list[torch.Tensor]:
        """What a full step may take: vLLM's dry run, whose requests carry nothing, measures its memory."""
        assert self.live is not None
        recommender = self.live.recommender
        policy = self.options.beam_policy(recommender.beam_widths)
        widths = policy.scaled(policy.scales[-1])
        asked = min(requests, self.options.max_batch, max(1, self.options.max_batch_rows // sum(widths)))
        items = recommender.tokenizer.index.item_ids[: recommender.model.config.max_context_items].tolist()
        query = RecommendQuery(UserHistory(items))
        for answer in answer_each(self.live.served, [(query, widths)] * asked, self.options.top_k):
            if isinstance(answer, Refusal):
                raise RuntimeError(f"The model fails on a history of {len(items)} ads: {answer.detail}")
        return [NOTHING] * requests


class GR4ADForVLLM(nn.Module):
    """What vLLM's registry holds under `GR4ADForRecommendation`."""

    is_pooling_model: ClassVar[bool] = True
    is_attention_free: ClassVar[bool] = True
    attn_type: ClassVar[str] = "attention_free"
    # What vLLM's loader reads of an artifact, which also holds codebooks.
    allow_patterns_overrides: ClassVar[list[str]] = ["model*.safetensors"]

    @staticmethod
    def get_model_state_cls() -> type:
        # Of runner V2, which would give models without attention the state of Mamba.
        from vllm.v1.worker.gpu.model_states.default import DefaultModelState

        return DefaultModelState

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        self.served = vllm_config.model_config
        self.revision = self.served.revision or "main"
        self.vocab_size = self.served.hf_config.vocab_size
        self.gr4ad = GR4ADForRecommendation(GR4ADConfig.from_pretrained(self.served.model, revision=self.revision))
        self.pooler = GR4ADPooler(VLLMOptions.from_additional_config(vllm_config.additional_config))

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return torch.zeros((len(input_ids), 1), dtype=self.served.dtype, device=input_ids.device)

    def forward(
        self,
        input_ids: torch.Tensor,
        positions: torch.Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(tokens, 1) zeros: nothing is known of a history before all of it is there."""
        return self.embed_input_ids(positions)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Takes the artifact's weights from vLLM's loader, and its tokenizer and item table from the folder."""
        buffers = dict(self.gr4ad.named_buffers())  # vLLM's loader knows parameters alone
        loaded: set[str] = set()

        def parameters() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in weights:
                if name in buffers:
                    buffers[name].copy_(tensor)
                    loaded.add(name)
                else:
                    yield name, tensor

        loaded |= AutoWeightsLoader(self.gr4ad).load_weights(parameters())
        missing = sorted(self.gr4ad.state_dict().keys() - loaded)
        if missing:
            raise ValueError(f"{self.served.model}: lacks the weights {missing[0]!r}. Save the model again.")
        check_finite(self.gr4ad, self.served.model)
        self.pooler.live = LiveModel(self.pooler.options.published or self.served.model, self.read_artifact)
        return {f"gr4ad.{name}" for name in loaded}

    def read_artifact(self, name_or_path: str | Path) -> Recommender:
        """The first time around the weights that vLLM has loaded; from then on, and where another version was
        published meanwhile, an artifact of its own."""
        if self.pooler.live is not None or str(name_or_path) != self.served.model:
            weight = next(self.gr4ad.parameters())
            return Recommender.from_pretrained(name_or_path, device=weight.device, dtype=weight.dtype)
        tokenizer = UASIDTokenizer.from_pretrained(name_or_path, revision=self.revision)
        weights = RankingWeights.from_pretrained(self.served.model, revision=self.revision)
        hub = {"revision": self.revision}
        return Recommender(self.gr4ad, tokenizer, weights, Path(name_or_path).name, name_or_path, hub)
