# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Item neighbours: what the log itself says of pairs of items, beside what the item head has learned.

Beyond the paper. A softmax over items that is trained on small vectors blurs which items are taken together; a table
of the pairs does not, and knows nothing else. Counted, not trained: it takes seconds, and a weight chosen on
validation says how much of it is believed (`neighbour_weight` of [`~GR4ADForRecommendation.recommend`]).

Shapes: B batch, S history items, I rows of the item table, n neighbours of an item.
"""

import torch
from torch import nn

from .configuration_gr4ad import GR4ADConfig
from .layers_gr4ad import GR4ADContext

SIMILARITY_SCALE = 0.003
"""Where evidence turns from linear to logarithmic. Ten times more or less moved NDCG by less than 1% on validation."""


class GR4ADItemNeighbours(nn.Module):
    """score(item) = log(1 + sum_j decay^(age of j) * similarity(item_j, item) / 0.003) over the history's items j, age
    0 = the newest.

    `items` (int32, (I, n)) and `similarity` (float, (I, n)) hold the neighbours of each row of the item table, 0 and
    0.0 where there are no more; row 0 has none.
    """

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.decay = config.neighbour_decay
        shape = (config.num_items, config.num_item_neighbours)
        self.register_buffer("items", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(shape))

    def forward(self, context: GR4ADContext, num_items: int) -> torch.Tensor:
        """Scores (float32, (B, num_items)), 0 where the log says nothing, of contexts with one query each; `num_items`
        may be less than the tables hold, while they grow."""
        seen = context.visible[:, 0]
        age = seen.sum(1, keepdim=True) - seen.long().cumsum(1)
        weight = (self.decay ** age.clamp(min=0)).masked_fill(~seen, 0.0)
        items = self.items[context.item_ids].long().flatten(1)  # (B, S * n)
        found = self.similarity[context.item_ids].float() * weight.float().unsqueeze(2)
        found = found.flatten(1).masked_fill(items >= num_items, 0.0)
        total = found.new_zeros(len(seen), num_items).scatter_add_(1, items.clamp(max=num_items - 1), found)
        return torch.log1p(total / SIMILARITY_SCALE)

    @torch.no_grad()
    def extend(self, count: int) -> None:
        """Appends `count` items without neighbours."""
        self.items = torch.cat([self.items, self.items.new_zeros(count, self.items.shape[1])])
        self.similarity = torch.cat([self.similarity, self.similarity.new_zeros(count, self.similarity.shape[1])])


__all__ = ["GR4ADItemNeighbours"]
