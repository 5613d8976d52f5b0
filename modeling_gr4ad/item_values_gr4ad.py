# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Item values: what the log itself says an item is worth, beside what the value token has learned.

Beyond the paper. The value token learns from the codes of an ad and from its user, through buckets; the mean of an
ad's own events knows its price. With many events the mean is better, with few the token.
"""

import torch
from torch import nn

from .configuration_gr4ad import GR4ADConfig

PRIOR_EVENTS = 5.0
"""Events that the value token's estimate counts for, beside those of the item."""
LEAST_VALUE = 1e-12
"""What has no value is worth so much, where values are multiplied."""


class GR4ADItemValues(nn.Module):
    """E[value | user, item] = (5 E_token + sum of the item's values) / (5 + its events).

    `events` and `sums` (float, (num_items,)): of each row of the item table, in the unit of the logs; row 0, the
    unknown item, has none.
    """

    events: torch.Tensor
    sums: torch.Tensor

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.register_buffer("events", torch.zeros(config.num_items))
        self.register_buffer("sums", torch.zeros(config.num_items))

    def forward(self, rows: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Expected values of rows of the item table (int64, (...); it may hold more, while it grows) from the value
        token's (float, (...))."""
        events, sums = self.events, self.sums
        rows = rows.where(rows < len(sums), 0)
        return (PRIOR_EVENTS * expected + sums[rows]) / (PRIOR_EVENTS + events[rows])

    def log_means(self) -> torch.Tensor:
        """Log of what items are worth without the token, float (num_items,): the mean of all events stands in."""
        mean = self.sums.sum() / self.events.sum().clamp(min=1)
        return ((PRIOR_EVENTS * mean + self.sums) / (PRIOR_EVENTS + self.events)).clamp(min=LEAST_VALUE).log()

    @torch.no_grad()
    def count(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Counts events of rows (int64, (n,)) with their values (float, (n,)); events of row 0 are left out."""
        known = (rows > 0) & (rows < len(self.sums))
        rows, values = rows[known], values[known].to(self.sums)
        self.events.index_add_(0, rows, torch.ones_like(values))
        self.sums.index_add_(0, rows, values)

    @torch.no_grad()
    def extend(self, count: int) -> None:
        """Appends `count` items without events."""
        self.events = torch.cat([self.events, self.events.new_zeros(count)])
        self.sums = torch.cat([self.sums, self.sums.new_zeros(count)])


__all__ = ["LEAST_VALUE", "PRIOR_EVENTS", "GR4ADItemValues"]
