# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Changes of ads and weights in running engines, by vLLM's `collective_rpc`.

vLLM runs these between two steps of every engine, data-parallel replicas included: a request is answered from the ads
and weights as they were before or as they are after. Arguments are plain values; nothing is pickled. If one raises,
nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from ..index_change import IndexChange
from ..live_model import LiveModel, ReloadError


class GR4ADWorkerExtension:
    """Methods added to vLLM's workers; each returns what is served then: `model`, `model_version`, `index_changes` and
    `ads`, those that can be recommended.

    ```python
    >>> llm.collective_rpc("gr4ad_change_ads", args=({"op": "remove", "item_ids": ["ad_3"]},))
    >>> llm.collective_rpc("gr4ad_reload", args=("out/beauty",))
    ```
    """

    def gr4ad_change_ads(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """Applies the fields of an [`IndexChange`].

        Raises:
            ValueError: As `IndexChange` and `IndexChange.apply`.
        """
        live = self.gr4ad_live_model()
        live.change(IndexChange(**change))
        return described(live)

    def gr4ad_reload(self, name_or_path: str | None = None) -> dict[str, Any]:
        """Serves another artifact, or the same one anew, with the changes made here. Both are in memory for a moment.

        Raises:
            ReloadError: As `LiveModel.reload`; the old one is still served.
        """
        live = self.gr4ad_live_model()
        live.reload(name_or_path)
        self.model_runner.get_model().gr4ad = live.recommender.model  # type: ignore[attr-defined]  # frees the old one
        return described(live)

    def gr4ad_administer(self, action: Literal["change_ads", "reload"], argument: Any) -> dict[str, Any]:
        """`gr4ad_change_ads` or `gr4ad_reload` for clients that need to know why one was refused: what an engine
        raises comes out of vLLM as text. `status` 200 and what is served, or 422 or 409 and `detail`."""
        try:
            served = self.gr4ad_reload(argument) if action == "reload" else self.gr4ad_change_ads(argument)
        except ReloadError as error:
            return {"status": 409, "detail": str(error)}
        except ValueError as error:
            return {"status": 422, "detail": str(error)}
        return {"status": 200, **served}

    def gr4ad_served(self) -> dict[str, Any]:
        return described(self.gr4ad_live_model())

    def gr4ad_live_model(self) -> LiveModel:
        return self.model_runner.get_model().pooler.live  # type: ignore[attr-defined]


def described(live: LiveModel) -> dict[str, Any]:
    served = live.served
    return {
        "model": served.recommender.name,
        "model_version": served.version,
        "index_changes": served.changes,
        "ads": int(served.recommender.tokenizer.index.num_active),
    }


__all__ = ["GR4ADWorkerExtension"]
