# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Item values: what the log itself says an item is worth, beside what the value token has learned.

Beyond the paper. The value token learns from the codes of an ad and from its user, through buckets; the mean of an
ad's own events knows its price. With many events the mean is better, with few the token; how many is read off the log.
"""

import torch
from torch import nn

from .configuration_gr4ad import GR4ADConfig

LEAST_PRIOR, LARGEST_PRIOR = 0.1, 100.0
"""Bounds of the events that the value token's estimate counts for."""
LEAST_VALUE = 1e-12
"""What has no value is worth so much, where values are multiplied."""


class GR4ADItemValues(nn.Module):
    """E[value | user, item] = (k E_token + sum of the item's values) / (k + its events): an empirical Bayes estimate.

    `events` and `sums` (float, (num_items,)): of each row of the item table, in the unit of the logs; row 0, the
    unknown item, has none. `prior` (float, (1,)): k, the variance of values within an item over that of the items'
    means: few events tell what an item is worth where its price hardly changes, and many are needed where it does.
    """

    events: torch.Tensor
    sums: torch.Tensor
    prior: torch.Tensor

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.register_buffer("events", torch.zeros(config.num_items))
        self.register_buffer("sums", torch.zeros(config.num_items))
        self.register_buffer("prior", torch.ones(1))

    def forward(self, rows: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Expected values of rows of the item table (int64, (...); it may hold more, while it grows) from the value
        token's (float, (...))."""
        events, sums = self.events, self.sums
        rows = rows.where(rows < len(sums), 0)
        return (self.prior * expected + sums[rows]) / (self.prior + events[rows])

    def log_means(self) -> torch.Tensor:
        """Log of what items are worth without the token, float (num_items,): the mean of all events stands in."""
        mean = self.sums.sum() / self.events.sum().clamp(min=1)
        return ((self.prior * mean + self.sums) / (self.prior + self.events)).clamp(min=LEAST_VALUE).log()

    @torch.no_grad()
    def count(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Counts events of rows (int64, (n,)) with their values (float, (n,)); events of row 0 are left out."""
        known = (rows > 0) & (rows < len(self.sums))
        rows, values = rows[known], values[known].to(self.sums)
        self.events.index_add_(0, rows, torch.ones_like(values))
        self.sums.index_add_(0, rows, values)

    @torch.no_grad()
    def set_prior(self, squares: torch.Tensor) -> None:
        """Sets k from what was counted, by an analysis of variance; 1 where no item has two events.

        Args:
            squares (float64, (num_items,)): Sum of the squared values of each row.
        """
        events, sums = self.events.double(), self.sums.double()
        total, items = events.sum(), (events > 0).sum()
        if total <= items:
            self.prior.fill_(1.0)
            return
        means = sums / events.clamp(min=1)
        within = (squares - sums * means).clamp(min=0).sum() / (total - items)
        spread = (events * (means - sums.sum() / total).square()).sum() - (items - 1) * within
        between = spread / (total - events.square().sum() / total).clamp(min=1e-12)
        ratio = within / between.clamp(min=1e-12)
        self.prior.copy_(ratio.clamp(LEAST_PRIOR, LARGEST_PRIOR))

    @torch.no_grad()
    def extend(self, count: int) -> None:
        """Appends `count` items without events."""
        self.events = torch.cat([self.events, self.events.new_zeros(count)])
        self.sums = torch.cat([self.sums, self.sums.new_zeros(count)])


__all__ = ["LARGEST_PRIOR", "LEAST_PRIOR", "LEAST_VALUE", "GR4ADItemValues"]
