# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The item head: a softmax over items beside the semantic IDs, for re-ranking beams.

Beyond the paper: the level-1 trunk state sees no previous token, so it is a vector of the user. With `item_head_copy`,
items of the history compete with the catalog under one normalizer (CopyNet, arXiv 1603.06393), for logs
in which users come back to the same ads or products: a long history speaks louder than a short one, as counts do
against a prior.

Shapes: B batch, Q queries (1, or one a prefix), S history items, N chosen queries, I rows of the item table, d hidden
size.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig
from .layers_gr4ad import GR4ADContext, GR4ADRMSNorm

COPY_BIAS = -5.0  # a fresh model weighs one event of a history as 1 / 150 of the catalog


class GR4ADItemHead(nn.Module):
    """p(item) = (softmax((u * gain) E^T + b)[item] + sum_j w_j [item_j = item]) / (1 + sum_j w_j), with u the normed
    level-1 trunk state, E the item embeddings and w_j = exp((u W) h_j / sqrt(d) + c) the weight of history state h_j
    (w = 0 without `item_head_copy`)."""

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gain = nn.Parameter(torch.full((config.hidden_size,), config.item_head_gain))
        self.bias = nn.Parameter(torch.zeros(config.num_items))
        self.copies = config.item_head_copy
        if self.copies:
            self.copy_query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.copy_bias = nn.Parameter(torch.full((1,), COPY_BIAS))
        self.scale = config.hidden_size**-0.5

    def copy_weights(self, trunk: torch.Tensor, context: GR4ADContext) -> torch.Tensor:
        """log w_j, float (B, Q, S), of history item j from trunk states (B, Q, P, d); the lowest number where it is
        padding or later than the query."""
        user = self.norm(trunk[..., 0, :])
        scores = torch.matmul(self.copy_query(user), context.states.transpose(1, 2)).float() * self.scale
        return (scores + self.copy_bias.float()).masked_fill(~context.visible, torch.finfo(scores.dtype).min)

    def negative_log_likelihood(
        self,
        trunk: torch.Tensor,
        table: torch.Tensor,
        targets: torch.Tensor,
        copy_weights: torch.Tensor | None,
        item_ids: torch.Tensor | None,
    ) -> torch.Tensor:
        """-log p(target), float (N,), of trunk states (N, P, d), the item table (I, d) and targets (int64, (N,)); with
        copying, of `copy_weights` (N, S) and the history's `item_ids` (N, S) too."""
        user = self.norm(trunk[..., 0, :])
        nll = F.cross_entropy(F.linear(user * self.gain, table, self.bias).float(), targets, reduction="none")
        if not self.copies:
            return nll
        copied = copy_weights.masked_fill(item_ids != targets.unsqueeze(-1), torch.finfo(copy_weights.dtype).min)
        return F.softplus(copy_weights.logsumexp(-1)) - torch.logaddexp(-nll, copied.logsumexp(-1))

    def log_probs(self, trunk: torch.Tensor, table: torch.Tensor, context: GR4ADContext) -> torch.Tensor:
        """log p(item), float (B, I), of trunk states (B, 1, P, d). Row 0 ("unknown") has the lowest number: it is
        never recommended."""
        user = self.norm(trunk[:, 0, 0])
        bias = self.bias[: len(table)]  # the tables may grow while a request holds the older table
        log_probs = F.log_softmax(F.linear(user * self.gain, table, bias).float(), dim=-1)
        if self.copies:
            weights = self.copy_weights(trunk, context)[:, 0].exp()
            probs = log_probs.exp().scatter_add(1, context.item_ids, weights) / (1 + weights.sum(1, keepdim=True))
            log_probs = probs.clamp(min=1e-30).log()
        return F.pad(log_probs[:, 1:], (1, 0), value=torch.finfo(log_probs.dtype).min)


__all__ = ["GR4ADItemHead"]
