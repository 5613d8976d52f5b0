# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Item values: what the log itself says an item is worth, beside what the value token has learned.

Beyond the paper. The value token learns from the codes of an ad and from its user, through buckets; the mean of an
ad's own events knows its price. With many events the mean is better, with few the token; how many is read off the log.
"""

from collections.abc import Callable

import torch
from torch import nn

from .configuration_gr4ad import GR4ADConfig

LEAST_PRIOR, LARGEST_PRIOR = 0.1, 100.0
"""Bounds of the events that the value token's estimate counts for."""
LEAST_VALUE = 1e-12
"""What has no value is worth so much, where values are multiplied."""
LARGEST_VALUE = 1e30
"""Of one event: far above any money, and far below what float32 holds."""


class GR4ADItemValues(nn.Module):
    """E[value | user, item] = (k E_token + n m) / (k + n): an empirical Bayes estimate.

    `events` (int64, (num_items,)) and `means` (float32, (num_items,)): n and m of each row of the item table, m in the
    unit of the logs; row 0, the unknown item, has none. `prior` (float32, (1,)): k, the variance of values within an
    item over that of the items' means: few events tell what an item is worth where its price hardly changes, and many
    are needed where it does. They keep these dtypes, in whatever precision the model is.
    """

    events: torch.Tensor
    means: torch.Tensor
    prior: torch.Tensor

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.register_buffer("events", torch.zeros(config.num_items, dtype=torch.int64))
        self.register_buffer("means", torch.zeros(config.num_items, dtype=torch.float32))
        self.register_buffer("prior", torch.ones(1, dtype=torch.float32))

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "GR4ADItemValues":
        before = dict(self.named_buffers())
        super()._apply(fn, recurse)
        for name, buffer in self.named_buffers():
            if buffer.dtype != before[name].dtype:
                setattr(self, name, before[name].to(buffer.device))
        return self

    def forward(self, rows: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
        """Expected values of rows of the item table (int64, (...); it may hold more, while it grows) from the value
        token's (float, (...)), float32 or wider."""
        events, means = self.events, self.means
        rows = rows.where(rows < len(means), 0)
        return (self.prior * expected + events[rows] * means[rows]) / (self.prior + events[rows])

    def log_means(self) -> torch.Tensor:
        """Log of what items are worth without the token, float32 (num_items,): the mean of all events stands in."""
        sums = self.events * self.means
        mean = sums.sum() / self.events.sum().clamp(min=1)
        return ((self.prior * mean + sums) / (self.prior + self.events)).clamp(min=LEAST_VALUE).log()

    @torch.no_grad()
    def count(self, rows: torch.Tensor, values: torch.Tensor) -> None:
        """Counts events of rows (int64, (n,)) with their values (float, (n,)); events of row 0 are left out. Raises
        ValueError for a value that is negative, not finite or above 1e30, and counts none then."""
        rows, values = rows.cpu(), values.cpu().double()
        bad = ~((values >= 0) & (values <= LARGEST_VALUE))
        if bad.any():
            place = int(bad.nonzero()[0])
            raise ValueError(
                f"`values` must be finite numbers from 0 to {LARGEST_VALUE:g}. Received: {float(values[place])} at "
                f"place {place}, of item row {int(rows[place])}. Mend the log."
            )
        known = (rows > 0) & (rows < len(self.means))
        changed, owners = rows[known].unique(return_inverse=True)
        counts = torch.zeros(len(changed), dtype=torch.float64).index_add_(0, owners, torch.ones_like(values[known]))
        sums = torch.zeros(len(changed), dtype=torch.float64).index_add_(0, owners, values[known])
        places = changed.to(self.events.device)
        before, means = self.events[places].cpu(), self.means[places].cpu().double()
        total = before + counts
        self.events[places] = total.to(self.events)
        self.means[places] = (means + (sums - counts * means) / total).to(self.means)

    @torch.no_grad()
    def set_prior(self, squares: torch.Tensor) -> None:
        """Sets k from what was counted, by an analysis of variance; 1 where no item has two events.

        Args:
            squares (float64, (num_items,)): Sum of the squared deviations of each row's values from its mean.
        """
        events, means = self.events.cpu().double(), self.means.cpu().double()
        total, items = events.sum(), (events > 0).sum()
        if total <= items:
            self.prior.fill_(1.0)
            return
        within = squares.sum() / (total - items)
        mean = (events * means).sum() / total
        spread = (events * (means - mean).square()).sum() - (items - 1) * within
        between = spread / (total - events.square().sum() / total).clamp(min=1e-12)
        # As shares of one another: k does not depend on the unit of money.
        ratio = within / between if between > 0 else torch.tensor(LARGEST_PRIOR if within > 0 else LEAST_PRIOR)
        self.prior.copy_(ratio.clamp(LEAST_PRIOR, LARGEST_PRIOR))

    @torch.no_grad()
    def extend(self, count: int) -> None:
        """Appends `count` items without events."""
        self.events = torch.cat([self.events, self.events.new_zeros(count)])
        self.means = torch.cat([self.means, self.means.new_zeros(count)])


__all__ = ["LARGEST_PRIOR", "LARGEST_VALUE", "LEAST_PRIOR", "LEAST_VALUE", "GR4ADItemValues"]
