# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""New items: those that came after training, found for a user by what they say. Beyond the paper.

The item vector of a new item is a guess from the items nearest to it, and a log without it cannot tell whom it suits.
What it says can: a user's next item is often like one that they had before.

Shapes: B batch, S history items, I rows of the item table, c content size, n new items.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig
from .layers_gr4ad import GR4ADContext

SHARPNESS = 0.07
"""Cosine distance at which an item of the history counts 1/e of one that says the same; chosen on validation users of
three logs, where .05 to .1 are alike."""
LARGEST_SHARE = 0.05
"""Probability that all new items together are given for what they say, at most: with more of it, lists of users who
want what is known grow worse."""


class GR4ADNewItems(nn.Module):
    """p(item) + s q(item) for the new items, the last `config.num_new_items` rows of the item table.

    q(item) = a / (sum of a over the new items), a = mean over the history's items j of exp((cos(item, j) - 1) / .07).

    `contents` (float16, (I, c)) holds a unit row for each row of the item table, zeros where what it says is not
    known; `share` (float, (1,)) is s, half of what the ads most like the new ones have of the log's events, .05 at
    most.
    """

    contents: torch.Tensor
    share: torch.Tensor

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.count = config.num_new_items
        self.register_buffer("contents", torch.zeros((config.num_items, config.content_size), dtype=torch.float16))
        self.register_buffer("share", torch.zeros(1))

    @property
    def first(self) -> int:
        """Item row (0-based, without the row "unknown") of the first new item."""
        return len(self.contents) - 1 - self.count

    def forward(self, context: GR4ADContext, log_probs: torch.Tensor) -> torch.Tensor:
        """log_probs with the evidence added, float (B, I'), of item rows 1..I' (the table may hold more, while it
        grows) and contexts with one query each."""
        first = self.first
        new = self.contents[first + 1 : log_probs.shape[1] + 1].to(log_probs)
        if not len(new):
            return log_probs
        seen = context.visible[:, 0] & (context.item_ids > 0)
        own = self.contents[context.item_ids.clamp(max=len(self.contents) - 1)].to(log_probs)
        near = (torch.matmul(own, new.T) - 1) / SHARPNESS  # (B, S, n)
        known = new.any(1) & seen.any(1, keepdim=True)
        affinity = near.masked_fill(~seen.unsqueeze(2), -torch.inf).logsumexp(1).masked_fill(~known, -torch.inf)
        evidence = F.log_softmax(affinity, dim=1).nan_to_num(nan=-torch.inf) + self.share.to(log_probs).log()
        return torch.cat([log_probs[:, :first], torch.logaddexp(log_probs[:, first:], evidence)], dim=1)


__all__ = ["GR4ADNewItems"]
