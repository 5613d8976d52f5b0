# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""GR4AD as a pooling model of vLLM.

vLLM contributes the processes, queueing, scheduling and batching of requests, the weight loader, data-parallel
replicas, the API server and its metrics. It contributes no layers: `modeling_gr4ad` computes, in the pooler, once a
step and for all requests that finished their prompt in it. A beam search that reads one context per request and keeps
its beams as rows of one batch needs no token-by-token decoding, no paged KV cache and no sampler. vLLM is told that
the model is free of attention, so that it reserves no cache, and the forward pass that it runs on the prompt's tokens
does nothing. A step runs to completion: what bounds it are `max_step_requests` and `max_step_rows`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import GenerationConfig
from vllm.config import VllmConfig
from vllm.model_executor.layers.pooler import Pooler
from vllm.model_executor.models.utils import AutoWeightsLoader
from vllm.v1.pool.metadata import PoolingMetadata

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation
from gr4ad.tokenization import UASIDTokenizer

from ..live_model import LiveModel
from ..recommender import Recommender
from ..server_config import ServerConfig
from .answering import Query, answer_queries
from .options import VLLMOptions
from .query import POOLING_TASK, QUERY, REFUSAL, WIDTHS, encode_answer


class GR4ADPooler(Pooler):
    """Runs the beam search of every request whose prompt is complete, all in one batch."""

    def __init__(self, options: VLLMOptions):
        super().__init__()
        self.options = options
        self.config = ServerConfig(top_k=options.top_k)
        self.live: LiveModel | None = None  # not before the weights are

    def get_supported_tasks(self) -> Set[Any]:
        return {POOLING_TASK}

    def forward(self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata) -> list[torch.Tensor]:
        """A uint8 tensor (bytes,) a request: its answer; nothing for a request whose prompt came in part only."""
        finished = pooling_metadata.get_pooling_cursor().get_finished_mask()
        given = [params.extra_kwargs for params in pooling_metadata.pooling_params]
        if not any(given):
            return self.profile(len(given))
        answers: list[dict] = [{} for _ in given]
        asked, places = [], []
        for place, (done, extra) in enumerate(zip(finished, given, strict=True)):
            extra = extra or {}
            if not done:
                continue
            if QUERY not in extra:
                detail = "The request carries no query. Send it to /v1/recommend, or use `to_pooling_params`."
                answers[place] = {"status": 422, "field": None, "detail": detail}
            elif REFUSAL in extra:
                answers[place] = extra[REFUSAL]
            else:
                asked.append(Query(extra[QUERY], extra.get(WIDTHS)))
                places.append(place)
        assert self.live is not None
        for place, answer in zip(places, answer_queries(self.live.served, self.config, asked), strict=True):
            answers[place] = answer
        return [encode_answer(answer) for answer in answers]

    def profile(self, requests: int) -> list[torch.Tensor]:
        """What a full step may take: vLLM's dry run, whose requests carry nothing, measures its memory."""
        assert self.live is not None
        recommender = self.live.recommender
        widths = [max(1, round(width * self.options.max_scale)) for width in recommender.beam_widths]
        asked = min(requests, self.options.max_step_requests, max(1, self.options.max_step_rows // sum(widths)))
        items = recommender.tokenizer.index.item_ids[: recommender.model.config.max_context_items].tolist()
        query = Query({"history": items}, widths)
        for answer in answer_queries(self.live.served, self.config, [query] * asked):
            if "status" in answer:
                raise RuntimeError(f"The model fails on a history of {len(items)} ads: {answer['detail']}")
        return [torch.zeros(1, dtype=torch.uint8)] * requests


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
        self.vocab_size = self.served.hf_config.vocab_size
        self.gr4ad = GR4ADForRecommendation(GR4ADConfig.from_pretrained(self.served.model, **self.hub_kwargs))
        self.pooler = GR4ADPooler(VLLMOptions.from_additional_config(vllm_config.additional_config))

    @property
    def hub_kwargs(self) -> dict[str, Any]:
        return {"revision": self.served.revision} if self.served.revision else {}

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
        self.pooler.live = LiveModel(self.served.model, self.read_artifact)
        return {f"gr4ad.{name}" for name in loaded}

    def read_artifact(self, name_or_path: str | Path) -> Recommender:
        """The first time around the weights that vLLM has loaded, from then on an artifact of its own."""
        if self.pooler.live is not None:
            weight = next(self.gr4ad.parameters())
            return Recommender.from_pretrained(name_or_path, device=weight.device, dtype=weight.dtype)
        tokenizer = UASIDTokenizer.from_pretrained(name_or_path, **self.hub_kwargs)
        generation_config = GenerationConfig.from_pretrained(name_or_path, **self.hub_kwargs)
        return Recommender(self.gr4ad, tokenizer, generation_config, name=Path(name_or_path).name)


__all__ = ["GR4ADForVLLM", "GR4ADPooler"]
