# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Item neighbours: what the log itself says of pairs of items, beside what the item head has learned.

Beyond the paper. A softmax over items that is trained on small vectors blurs which items are taken together; a counted
table of the pairs does not, and knows nothing else: `neighbour_weight`, chosen on validation, says how much it counts.

Shapes: B batch, S history items, I rows of the item table, n neighbours of an item.
"""

from collections.abc import Sequence

import torch
from torch import nn

from .configuration_gr4ad import GR4ADConfig
from .layers_gr4ad import GR4ADContext

SIMILARITY_SCALE = 0.003
"""Where evidence turns from linear to logarithmic: a tenth of what one user's pair of rare items weighs."""


class GR4ADItemNeighbours(nn.Module):
    """score(item) = log(1 + sum_j decay^(age of j) * similarity(item_j, item) / 0.003) over the history's items j, age
    0 = the newest.

    `items` (int32, (I, n)) and `similarity` (float, (I, n)) hold the neighbours of each row of the item table, 0 and
    0.0 where there are no more; row 0 has none.
    """

    items: torch.Tensor
    similarity: torch.Tensor

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.decay = config.neighbour_decay
        shape = (config.num_items, config.num_item_neighbours)
        self.register_buffer("items", torch.zeros(shape, dtype=torch.int32))
        self.register_buffer("similarity", torch.zeros(shape))

    def forward(self, context: GR4ADContext, log_probs: torch.Tensor, weight: float) -> torch.Tensor:
        """log_probs + weight * score, float (B, I'), of item rows 1..I' (the table may hold more, while it grows) and
        contexts with one query each. Only the few items that a history has for neighbours are touched: what it costs
        beside a copy of log_probs does not grow with the catalog."""
        seen = context.visible[:, 0]
        age = (seen.sum(1, keepdim=True) - seen.long().cumsum(1)).clamp(min=0)
        counts = (self.decay**age).masked_fill(~seen, 0.0).to(log_probs).unsqueeze(2)
        items = self.items[context.item_ids].long().flatten(1) - 1  # (B, S * n)
        found = (self.similarity[context.item_ids].to(log_probs) * counts).flatten(1)
        known = (items >= 0) & (items < log_probs.shape[1])
        items, found = items.where(known, 0), found.where(known, 0.0)
        total = torch.zeros_like(log_probs).scatter_add_(1, items, found).gather(1, items)
        # An item that comes up twice is written twice, with the same number.
        return log_probs.scatter(1, items, log_probs.gather(1, items) + weight * torch.log1p(total / SIMILARITY_SCALE))

    @torch.no_grad()
    def extend(self, count: int, peers: Sequence[Sequence[int]] | None = None) -> None:
        """Appends `count` items.

        Args:
            peers: Of each, rows of the table that it is most like: it takes their neighbours, and joins the items that
                they are neighbours of, with the mean of their similarities, in the place of the least similar
                neighbour. Empty for an item without any; default: none has any.
        """
        first, width = self.items.shape
        items = torch.cat([self.items, self.items.new_zeros(count, width)])
        similarity = torch.cat([self.similarity, self.similarity.new_zeros(count, width)])
        known = sorted({row for own in peers or () for row in own})
        if known:
            # Which rows have a peer among their neighbours, from one pass over the table.
            rows, slots = torch.isin(self.items, self.items.new_tensor(known)).nonzero(as_tuple=True)
            found, near = self.items[rows, slots], self.similarity[rows, slots]
        for place, own in enumerate(peers or ()):
            if not own:
                continue
            new = first + place
            mine = torch.tensor(own, device=items.device)
            others, where = self.items[mine].flatten().long().unique(return_inverse=True)
            means = self.similarity.new_zeros(len(others))
            means.index_add_(0, where, self.similarity[mine].flatten() / len(own))
            best = means.masked_fill(others == 0, 0).topk(min(width, len(others))).indices
            kept = (others[best] > 0) & (means[best] > 0)
            items[new, : len(best)] = (others[best] * kept).to(items)
            similarity[new, : len(best)] = means[best] * kept
            of = torch.isin(found, mine.to(found))
            owners, where = rows[of].unique(return_inverse=True)
            means = self.similarity.new_zeros(len(owners)).index_add_(0, where, near[of] / len(own))
            least, slot = similarity[owners].min(1)
            joins = means > least
            items[owners[joins], slot[joins]] = new
            similarity[owners[joins], slot[joins]] = means[joins]
        self.items, self.similarity = items, similarity


__all__ = ["GR4ADItemNeighbours"]
