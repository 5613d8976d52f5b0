# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The recommender on vLLM's offline engine: many histories, no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm import LLM

from gr4ad.tokenization.ad_records import plain

from ..ad_recommender import AdRecommender
from ..request_types import Answer, Recommendation, RecommendQuery, Refusal, UnknownItemError
from .options import VLLMOptions
from .query import POOLING_TASK, decode_answer, to_pooling_params, to_prompt

NO_DEADLINE_MS = 1e12  # offline, all requests arrive at once and none is late


class VLLMRecommender(AdRecommender):
    """An artifact on vLLM.

    ```python
    >>> recommender = load_recommender("out/beauty", backend="vllm")
    >>> recommender.recommend([["B001", "B002"]], top_k=10)[0][0].item_id
    ```

    Args:
        name_or_path: A folder written by `gr4ad run` or `push_to_hub`, or a hub id.
        dtype: Of weights and activations; `float32` ranks as the native engine does by default.
        options: Of the backend; without a server, beam widths are constant and no request is late.
        llm_options: Of `vllm.LLM`, e.g. `max_num_batched_tokens`, `revision`.

    Raises:
        ValueError: If the artifact or an option does not fit, with the reason.
    """

    def __init__(
        self,
        name_or_path: str | Path,
        *,
        dtype: Any = "float32",
        options: VLLMOptions | None = None,
        **llm_options: Any,
    ):
        options = replace(options or VLLMOptions(), slo_ms=None, deadline_ms=NO_DEADLINE_MS)
        self.llm = LLM(
            str(name_or_path),
            dtype=str(dtype).removeprefix("torch."),
            additional_config=options.to_additional_config(),
            **llm_options,
        )
        config = self.llm.llm_engine.vllm_config.model_config.hf_config
        self.levels, self.max_items = config.num_levels, config.max_context_items

    def rank(self, queries: Sequence[RecommendQuery]) -> list[list[Recommendation]]:
        """For any number of queries: vLLM makes batches of them."""
        outputs = self.llm.encode(
            [to_prompt(query, self.levels, self.max_items) for query in queries],
            [to_pooling_params(query) for query in queries],
            pooling_task=POOLING_TASK,
            use_tqdm=False,
        )
        return [ranked_of(decode_answer(output.outputs.data)) for output in outputs]

    def reload(self, name_or_path: str | Path | None = None) -> None:
        """Serves another artifact, or the same one anew, with the ads as they were changed; the engine goes on
        running."""
        self.llm.collective_rpc("gr4ad_reload", args=(None if name_or_path is None else str(name_or_path),))

    def change_ads(self, op: str, item_ids: Sequence[str], **given: Any) -> None:
        plain = {name: plain_lists(value) for name, value in given.items() if value is not None}
        self.llm.collective_rpc("gr4ad_change_ads", args=({"op": op, "item_ids": list(item_ids), **plain},))

    def add_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        plain_records = [{name: plain(value) for name, value in record.items()} for record in records]
        self.llm.collective_rpc("gr4ad_change_ads", args=({"records": plain_records},))


def plain_lists(value: Any) -> Any:
    """Lists of arrays, and of the arrays in a mapping: what crosses to another process without pickle."""
    if isinstance(value, Mapping):
        return {name: plain_lists(part) for name, part in value.items()}
    return list(value) if isinstance(value, Sequence) else value.tolist()


def ranked_of(answer: Answer | Refusal) -> list[Recommendation]:
    """Raises what the native recommender raises, where the engine refused."""
    if isinstance(answer, Answer):
        return answer.ranked
    if answer.field == "history":
        raise UnknownItemError(answer.detail)
    if answer.status == 422:
        raise ValueError(answer.detail)
    raise RuntimeError(answer.detail)
