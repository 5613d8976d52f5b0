# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the mixins of [`GR4ADForRecommendation`] rely on: its parts, by name and type."""

import torch
from torch import nn

from .backbone_gr4ad import GR4ADModel
from .configuration_gr4ad import GR4ADConfig
from .item_head_gr4ad import GR4ADItemHead
from .item_neighbours_gr4ad import GR4ADItemNeighbours


class GR4ADHeads:
    """Base of the mixins: names the backbone and the heads, and adds nothing when it runs."""

    config: GR4ADConfig
    model: GR4ADModel
    device: torch.device
    sid_heads: nn.ModuleList
    value_head: nn.Linear | None
    item_head: GR4ADItemHead | None
    item_neighbours: GR4ADItemNeighbours | None

    @property
    def item_table(self) -> torch.Tensor:
        """Item embeddings (num_items, d), which the item head is tied to."""
        embeddings = self.model.context_processor.item_embeddings
        assert embeddings is not None, "only models with an item table have an item head"
        return embeddings.weight


__all__ = ["GR4ADHeads"]
