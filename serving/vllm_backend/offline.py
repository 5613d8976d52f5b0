# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The recommender on vLLM's offline engine: many histories, no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vllm import LLM

from ..recommender import Recommendation, UnknownItemError, of_each
from .answering import FIELDS
from .options import VLLMOptions
from .query import POOLING_TASK, decode_answer, to_pooling_params, to_prompt

NO_DEADLINE_MS = 1e12  # offline, all requests arrive at once and none is late


class VLLMRecommender:
    """An artifact on vLLM, asked as a [`Recommender`] is: `recommend`, `add_ads`, `replace_ads`, `remove_ads`.

    ```python
    >>> recommender = Recommender.from_pretrained("out/beauty", backend="vllm")
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

    def recommend(
        self,
        histories: Sequence[Sequence[str]],
        *,
        events: Sequence[Sequence[str]] | None = None,
        values: Sequence[Sequence[float]] | None = None,
        user_features: Mapping[str, Sequence[str | None]] | None = None,
        times: Sequence[Sequence[float | None]] | None = None,
        cross_domain: Sequence[Sequence[str]] | None = None,
        top_k: int | Sequence[int] = 10,
        beam_widths: Sequence[int] | Sequence[Sequence[int]] | None = None,
        exclude_history: bool | Sequence[bool] | None = None,
        max_per_account: int | None = None,
    ) -> list[list[Recommendation]]:
        """As [`Recommender.recommend`], for any number of histories: vLLM makes batches of them."""
        users = len(histories)
        for name, lists in (("events", events), ("values", values), ("times", times), ("cross_domain", cross_domain)):
            if lists is not None and len(lists) != users:
                raise ValueError(f"`{name}` needs one list for each of the {users} users. Received: {len(lists)}.")
        each = beam_widths is not None and len(beam_widths) > 0 and isinstance(beam_widths[0], Sequence)
        widths: list = of_each(beam_widths, users, "beam_widths") if each else [beam_widths] * users
        lengths, exclude = of_each(top_k, users, "top_k"), of_each(exclude_history, users, "exclude_history")
        queries = []
        for user, history in enumerate(histories):
            query = {
                "history": list(history),
                "events": None if events is None else list(events[user]),
                "values": None if values is None else [float(value) for value in values[user]],
                "times": None if times is None else list(times[user]),
                "cross_domain": None if cross_domain is None else list(cross_domain[user]),
                "user_features": {name: of_users[user] for name, of_users in (user_features or {}).items()},
                "top_k": int(lengths[user]),
                "beam_widths": None if widths[user] is None else [int(width) for width in widths[user]],
                "exclude_history": exclude[user],
                "max_per_account": max_per_account,
            }
            queries.append({name: value for name, value in query.items() if value is not None})
        outputs = self.llm.encode(
            [to_prompt(query, self.levels, self.max_items) for query in queries],
            [to_pooling_params(query) for query in queries],
            pooling_task=POOLING_TASK,
            use_tqdm=False,
        )
        return [to_recommendations(decode_answer(output.outputs.data)) for output in outputs]

    def add_ads(self, item_ids: Sequence[str], codes: Any, **kwargs: Any) -> None:
        """As [`Recommender.add_ads`]."""
        self._change("add", item_ids, codes=codes, **kwargs)

    def replace_ads(self, item_ids: Sequence[str], codes: Any = None, **kwargs: Any) -> None:
        """As [`Recommender.replace_ads`]."""
        self._change("replace", item_ids, codes=codes, **kwargs)

    def remove_ads(self, item_ids: Sequence[str]) -> None:
        """As [`Recommender.remove_ads`]."""
        self._change("remove", item_ids)

    def reload(self, name_or_path: str | Path | None = None) -> None:
        """Serves another artifact, or the same one anew, with the ads as they were changed; the engine goes on
        running."""
        self.llm.collective_rpc("gr4ad_reload", args=(None if name_or_path is None else str(name_or_path),))

    def _change(self, op: str, item_ids: Sequence[str], **kwargs: Any) -> None:
        given = {name: plain_lists(value) for name, value in kwargs.items() if value is not None}
        self.llm.collective_rpc("gr4ad_change_ads", args=({"op": op, "item_ids": list(item_ids), **given},))


def plain_lists(value: Any) -> Any:
    """Lists of arrays, and of the arrays in a mapping: what crosses to another process without pickle."""
    if isinstance(value, Mapping):
        return {name: plain_lists(part) for name, part in value.items()}
    return list(value) if isinstance(value, Sequence) else value.tolist()


def to_recommendations(answer: dict[str, Any]) -> list[Recommendation]:
    """Raises what the native recommender raises, where the engine refused."""
    if "status" not in answer:
        return [Recommendation(**dict(zip(FIELDS, ad, strict=True))) for ad in answer["ads"]]
    if answer["field"] == "history":
        raise UnknownItemError(answer["detail"])
    if answer["status"] == 422:
        raise ValueError(answer["detail"])
    raise RuntimeError(answer["detail"])


__all__ = ["VLLMRecommender"]
