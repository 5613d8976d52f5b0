# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The item head: a softmax over items beside the semantic IDs, for re-ranking beams. Beyond the paper.

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
    """A softmax over items on the level-1 trunk state, which sees no previous token: it is a vector of the user.

    p(item) = (softmax((u * gain) E^T + b)[item] + sum_j w_j [item_j = item]) / (1 + sum_j w_j), with u the normed
    state, E the item embeddings, w_j = exp((u W) h_j / sqrt(d) + c) the weight of history state h_j (w = 0 without
    `item_head_copy`) and b the bias of each item, plus r where the history holds it (`item_head_repeat`).

    Copied items compete with the catalog under one normalizer (CopyNet, arXiv 1603.06393): a long history speaks
    louder than a short one, as counts do against a prior. Without r, tied embeddings score what was just taken
    highest, and nothing in the head could take that back."""

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gain = nn.Parameter(torch.full((config.hidden_size,), config.item_head_gain))
        self.bias = nn.Parameter(torch.zeros(config.num_items))
        self.copies = config.item_head_copy
        if self.copies:
            self.copy_query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.copy_bias = nn.Parameter(torch.full((1,), COPY_BIAS))
        self.repeats = config.item_head_repeat
        if self.repeats:
            self.repeat_bias = nn.Parameter(torch.zeros(1))

    def copy_weights(self, trunk: torch.Tensor, context: GR4ADContext) -> torch.Tensor:
        """log w_j, float (B, Q, S), of history item j from trunk states (B, Q, P, d); the lowest number where it is
        padding or later than the query."""
        query = self.copy_query(self.norm(trunk[..., 0, :]))
        return history_log_weights(query, context.states, self.copy_bias, context.visible).float()

    def seen_items(self, context: GR4ADContext) -> torch.Tensor:
        """The distinct items that each query has seen, int64 (B, Q, S); 0 on padding, later items and repeats."""
        distinct = context.item_ids.masked_fill(~first_places(context.item_ids), 0)
        return distinct.unsqueeze(1).masked_fill(~context.visible, 0)

    def logits(self, trunk: torch.Tensor, table: torch.Tensor, seen_items: torch.Tensor | None) -> torch.Tensor:
        """Logits of the catalog, float (N, I), from trunk states (N, P, d) and, with `item_head_repeat`, from
        `seen_items` (N, S)."""
        user = self.norm(trunk[..., 0, :])
        bias = self.bias[: len(table)]  # the tables may grow while a request holds the older table
        logits = F.linear(user * self.gain, table, bias).float()
        if not self.repeats:
            return logits
        assert seen_items is not None, "what the history holds has a bias of its own"
        return logits.scatter_add_(1, seen_items, torch.where(seen_items > 0, self.repeat_bias.float(), 0.0))

    def negative_log_likelihood(
        self,
        trunk: torch.Tensor,
        table: torch.Tensor,
        context: GR4ADContext,
        targets: torch.Tensor,
        chosen: torch.Tensor,
    ) -> torch.Tensor:
        """-log p(target), float (N,), of N chosen queries (bool, (B, Q)): trunk states (B, Q, P, d), the item table
        (I, d) and targets (int64, (B, Q))."""
        seen_items = self.seen_items(context)[chosen] if self.repeats else None
        copy_weights = self.copy_weights(trunk, context)[chosen] if self.copies else None
        nll = F.cross_entropy(self.logits(trunk[chosen], table, seen_items), targets[chosen], reduction="none")
        if copy_weights is None:
            return nll
        copied_from = (context.item_ids.unsqueeze(1) == targets.unsqueeze(2))[chosen]
        copied = copy_weights.masked_fill(~copied_from, torch.finfo(copy_weights.dtype).min)
        return F.softplus(copy_weights.logsumexp(-1)) - torch.logaddexp(-nll, copied.logsumexp(-1))

    def log_probs(self, trunk: torch.Tensor, table: torch.Tensor, context: GR4ADContext) -> torch.Tensor:
        """log p(item), float (B, I), of trunk states (B, 1, P, d). Row 0 ("unknown") has the lowest number: it is
        never recommended."""
        seen_items = self.seen_items(context)[:, 0] if self.repeats else None
        log_probs = F.log_softmax(self.logits(trunk[:, 0], table, seen_items), dim=-1)
        if self.copies:
            weights = self.copy_weights(trunk, context)[:, 0].exp()
            probs = log_probs.exp().scatter_add(1, context.item_ids, weights) / (1 + weights.sum(1, keepdim=True))
            log_probs = probs.clamp(min=1e-30).log()
        return F.pad(log_probs[:, 1:], (1, 0), value=torch.finfo(log_probs.dtype).min)


def history_log_weights(
    query: torch.Tensor, states: torch.Tensor, bias: torch.Tensor, visible: torch.Tensor
) -> torch.Tensor:
    """Log of how much of each history item is copied, float (B, Q, S), from queries (B, Q, d) and history states (B,
    S, d); the lowest number where an item is not `visible` (bool, (B, Q, S))."""
    scores = torch.matmul(query, states.transpose(1, 2))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * query.shape[-1] ** -0.5
    return (scores + bias.to(scores.dtype)).masked_fill(~visible, torch.finfo(scores.dtype).min)


def first_places(item_ids: torch.Tensor) -> torch.Tensor:
    """Bool (B, S), True where no earlier place of its line holds the same, of item_ids (int64, (B, S)): an item counts
    once however often it stands in a history. Leaves of a trie do as well."""
    same = item_ids.unsqueeze(2) == item_ids.unsqueeze(1)
    return ~(same & same.new_ones(same.shape[1:]).tril(-1)).any(-1)


__all__ = ["COPY_BIAS", "GR4ADItemHead", "first_places", "history_log_weights"]
