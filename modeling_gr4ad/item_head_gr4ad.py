# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The item head: a softmax over items beside the semantic IDs, for re-ranking beams.

Beyond the paper: the level-1 trunk state sees no previous token, so it is a vector of the user. With `item_head_copy`,
part of the probability is given to the items of the history themselves (a pointer mixture, See et al. 2017, arXiv
1704.04368), for logs in which users come back to the same ads or products.

Shapes: B batch, Q queries (1, or one a prefix), S history items, N chosen queries, I rows of the item table, d hidden
size.
"""

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig
from .layers_gr4ad import GR4ADContext, GR4ADRMSNorm


class GR4ADItemHead(nn.Module):
    """p(item) = (1 - g) softmax((u * gain) E^T + b) + g sum_j a_j [item_j = item], with u the normed level-1 trunk
    state, E the item embeddings, a an attention of u over the history and g a gate of u (g = 0 without
    `item_head_copy`)."""

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.gain = nn.Parameter(torch.full((config.hidden_size,), config.item_head_gain))
        self.bias = nn.Parameter(torch.zeros(config.num_items))
        self.copies = config.item_head_copy
        if self.copies:
            self.copy_query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.copy_gate = nn.Linear(config.hidden_size, 1)
        self.scale = config.hidden_size**-0.5

    def copy_weights(self, trunk: torch.Tensor, context: GR4ADContext) -> torch.Tensor:
        """log(g a_j): log-probability, float (B, Q, S), of copying history item j, from trunk states (B, Q, P, d)."""
        user = self.norm(trunk[..., 0, :])
        scores = torch.matmul(self.copy_query(user), context.states.transpose(1, 2)).float() * self.scale
        scores = scores.masked_fill(~context.visible, torch.finfo(scores.dtype).min)
        return F.log_softmax(scores, dim=-1) + F.logsigmoid(self.copy_gate(user).float())

    def keep(self, user: torch.Tensor) -> torch.Tensor:
        """log(1 - g), float (N,), of normed states (N, d)."""
        return F.logsigmoid(-self.copy_gate(user).float()).squeeze(-1)

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
        return -torch.logaddexp(self.keep(user) - nll, copied.logsumexp(-1))

    def log_probs(self, trunk: torch.Tensor, table: torch.Tensor, context: GR4ADContext) -> torch.Tensor:
        """log p(item), float (B, I), of trunk states (B, 1, P, d). Row 0 ("unknown") has the lowest number: it is
        never recommended."""
        user = self.norm(trunk[:, 0, 0])
        log_probs = F.log_softmax(F.linear(user * self.gain, table, self.bias).float(), dim=-1)
        if self.copies:
            copied = self.copy_weights(trunk, context)[:, 0].exp()
            probs = (log_probs + self.keep(user).unsqueeze(-1)).exp()
            log_probs = probs.scatter_add(1, context.item_ids, copied).clamp(min=1e-30).log()
        return F.pad(log_probs[:, 1:], (1, 0), value=torch.finfo(log_probs.dtype).min)


__all__ = ["GR4ADItemHead"]
