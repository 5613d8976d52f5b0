# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Changes of ads and weights in running engines, by vLLM's `collective_rpc`.

vLLM runs these between two steps of every engine, data-parallel replicas included: a request is answered from the ads
and weights as they were before or as they are after. Arguments are plain values; nothing is pickled. If one raises,
nothing has changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Literal

from ..index_change import IndexChange
from ..live_model import LiveModel
from ..new_ads import AdRecords
from ..request_types import ReloadError


class GR4ADWorkerExtension:
    """Methods added to vLLM's workers; each returns the fields of the [`ServedModel`] that is served then.

    ```python
    >>> llm.collective_rpc("gr4ad_change_ads", args=({"op": "remove", "item_ids": ["ad_3"]},))
    >>> llm.collective_rpc("gr4ad_reload", args=("out/beauty",))
    ```
    """

    def gr4ad_change_ads(self, change: Mapping[str, Any]) -> dict[str, Any]:
        """Applies the fields of an [`IndexChange`], or `{"records": [...]}`, which are embedded here, between two
        steps of the engine: requests wait for them. Of several replicas of a published model the first one writes it
        into the folder, from which `gr4ad_follow` brings it to the others.

        Raises:
            ValueError: As `IndexChange` and `IndexChange.apply`.
        """
        live = self.gr4ad_live_model()
        if live.published is None or not self.parallel_config.data_parallel_index:  # type: ignore[attr-defined]
            live.change(AdRecords(change["records"]) if "records" in change else IndexChange(**change))
        return asdict(live.served.described)

    def gr4ad_reload(self, name_or_path: str | None = None) -> dict[str, Any]:
        """Serves another artifact, or the same one anew, with the changes made here. Both are in memory for a moment.

        Raises:
            ReloadError: As `LiveModel.reload`; the old one is still served.
        """
        live = self.gr4ad_live_model()
        live.reload(name_or_path)
        return self.gr4ad_exchanged(live)

    def gr4ad_follow(self) -> dict[str, Any]:
        """Takes what was published since the last look, where the model is a published one.

        Raises:
            ValueError: As `LiveModel.follow`; what was served still is.
        """
        live = self.gr4ad_live_model()
        live.follow()
        return self.gr4ad_exchanged(live)

    def gr4ad_exchanged(self, live: LiveModel) -> dict[str, Any]:
        self.model_runner.get_model().gr4ad = live.recommender.model  # type: ignore[attr-defined]  # frees the old one
        return asdict(live.served.described)

    def gr4ad_administer(self, action: Literal["change_ads", "reload", "follow"], argument: Any) -> dict[str, Any]:
        """One of the methods above for clients that need to know why it was refused: what an engine raises comes out
        of vLLM as text. `status` 200 and what is served, or 422 or 409 and `detail`."""
        try:
            if action == "change_ads":
                served = self.gr4ad_change_ads(argument)
            else:
                served = self.gr4ad_follow() if action == "follow" else self.gr4ad_reload(argument)
        except ReloadError as error:
            return {"status": 409, "detail": str(error)}
        except ValueError as error:
            return {"status": 422, "detail": str(error)}
        return {"status": 200, **served}

    def gr4ad_served(self) -> dict[str, Any]:
        return asdict(self.gr4ad_live_model().served.described)

    def gr4ad_live_model(self) -> LiveModel:
        return self.model_runner.get_model().pooler.live  # type: ignore[attr-defined]
