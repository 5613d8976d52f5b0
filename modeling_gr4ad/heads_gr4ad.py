# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the mixins of [`GR4ADForRecommendation`] rely on: its parts, by name and type.

Shapes: B batch, R decoder rows, P decoder positions, d hidden size.
"""

from typing import Any, Protocol

import torch
from torch import nn

from .beam_cache_gr4ad import BeamCache
from .configuration_gr4ad import GR4ADConfig
from .item_head_gr4ad import GR4ADItemHead
from .item_neighbours_gr4ad import GR4ADItemNeighbours
from .layers_gr4ad import GR4ADContext


class GR4ADContextTables(Protocol):
    item_embeddings: nn.Embedding | None


class GR4ADBackbone(Protocol):
    """[`GR4ADModel`], as its heads and searches use it."""

    embed_tokens: nn.Embedding
    context_processor: GR4ADContextTables
    num_positions: int

    def encode(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, **history: Any
    ) -> GR4ADContext: ...

    def trunk(self, context: GR4ADContext) -> torch.Tensor: ...

    def autoregress(
        self,
        trunk: torch.Tensor,
        tokens: torch.Tensor | None,
        context: GR4ADContext,
        cache: BeamCache | None = None,
    ) -> torch.Tensor: ...


class GR4ADHeads:
    """Base of the mixins: names the backbone and the heads, and adds nothing when it runs."""

    config: GR4ADConfig
    model: GR4ADBackbone
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


__all__ = ["GR4ADBackbone", "GR4ADHeads"]
