# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Changes of ads and weights in running engines, by vLLM's `collective_rpc`.

vLLM runs these between two steps of every engine, data-parallel replicas included: a request is answered from the ads
and weights as they were before or as they are after. Arguments are plain values; nothing is pickled. If one raises,
nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..recommender import Recommender


class GR4ADWorkerExtension:
    """Methods added to vLLM's workers.

    ```python
    >>> llm.collective_rpc("gr4ad_remove_ads", args=(["ad_3"],))
    >>> llm.collective_rpc("gr4ad_reload", args=("out/beauty",))
    ```
    """

    def gr4ad_reload(self, name_or_path: str) -> None:
        """Serves another artifact of as many SID levels, or the same one anew. Both are in memory for a moment.

        Raises:
            ValueError: If it is damaged or does not fit; the old one is still served.
        """
        served = self.model_runner.get_model()  # type: ignore[attr-defined]
        weight = next(served.gr4ad.parameters())
        fresh = Recommender.from_pretrained(name_or_path, device=weight.device, dtype=weight.dtype)
        old = served.pooler.recommender
        if fresh.tokenizer.num_levels != old.tokenizer.num_levels:
            raise ValueError(
                f"{name_or_path} has SIDs of {fresh.tokenizer.num_levels} levels, the artifact being served "
                f"{old.tokenizer.num_levels}. Start another server for it."
            )
        served.serve(fresh)

    def gr4ad_add_ads(
        self,
        item_ids: Sequence[str],
        codes: Sequence[Sequence[int]],
        priority: Sequence[float] | None = None,
        attributes: Mapping[str, Sequence] | None = None,
    ) -> None:
        """As `Recommender.add_ads`."""
        self.gr4ad_recommender().add_ads(item_ids, np.array(codes), priority=as_array(priority), attributes=attributes)

    def gr4ad_replace_ads(
        self,
        item_ids: Sequence[str],
        codes: Sequence[Sequence[int]] | None = None,
        priority: Sequence[float] | None = None,
        attributes: Mapping[str, Sequence] | None = None,
    ) -> None:
        """As `Recommender.replace_ads`."""
        self.gr4ad_recommender().replace_ads(
            item_ids, as_array(codes), priority=as_array(priority), attributes=attributes
        )

    def gr4ad_remove_ads(self, item_ids: Sequence[str]) -> None:
        """As `Recommender.remove_ads`."""
        self.gr4ad_recommender().remove_ads(item_ids)

    def gr4ad_recommender(self) -> Recommender:
        return self.model_runner.get_model().pooler.recommender  # type: ignore[attr-defined]


def as_array(values: Any) -> np.ndarray | None:
    return None if values is None else np.array(values)


__all__ = ["GR4ADWorkerExtension"]
