# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the semantic IDs (SIDs) of a history say of the next one: a user may come back to an ad, or never. Beyond the
paper.

Shapes: B batch, Q queries (1, or one a prefix), N of them, R decoder rows, S history items, M children of a trie node
at most, T SID levels, d hidden size.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig
from .item_head_gr4ad import COPY_BIAS, first_places, history_log_weights
from .layers_gr4ad import GR4ADContext, GR4ADRMSNorm
from .trie_gr4ad import SIDTrie

SMALLEST_SHARE = 1e-7
"""What is left at least of the probability of an SID that would be a repeat."""


@dataclass
class HistorySIDs:
    """The SIDs of the histories of N queries, as nodes of a trie.

    nodes (int64, (N, S, T)): nodes of levels 1..T; -1 for an item that the query does not see, or whose SID the trie
    does not hold. repeats (float, (N, S, T)): what is added to the logit of the node, 0 for an item behind another one
    below it; None without a repeat bias. log_weights (float, (N, S)): log of how much of each item is copied, the
    lowest number for none; None without copying.
    """

    nodes: torch.Tensor
    repeats: torch.Tensor | None
    log_weights: torch.Tensor | None

    def take(self, queries: torch.Tensor) -> "HistorySIDs":
        """Those of some queries (int64, (n,))."""
        repeats, log_weights = (
            None if part is None else part.index_select(0, queries) for part in (self.repeats, self.log_weights)
        )
        return HistorySIDs(self.nodes.index_select(0, queries), repeats, log_weights)

    def places(self, level: int, parents: torch.Tensor, first: torch.Tensor, most: int) -> torch.Tensor:
        """Which child of each row's node each item lies below, int64 (N, R, S); `most` for none.

        Args:
            parents (int64, (N, R)): Nodes of `level`. first (int64, (N, R, 1)): Their first children.
        """
        below = self.nodes[:, None, :, level]
        child = below >= 0
        if level:
            child = child & (self.nodes[:, None, :, level - 1] == parents.unsqueeze(2))
        return (below - first).where(child, most)

    def log_copied(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Log of what is copied to nodes of `level` + 1 (int64, (N, R)), float (N, R); the lowest number for
        nothing."""
        assert self.log_weights is not None
        below = (self.nodes[:, None, :, level] == nodes.unsqueeze(2)) & (nodes >= 0).unsqueeze(2)
        lowest = torch.finfo(self.log_weights.dtype).min
        return self.log_weights.unsqueeze(1).masked_fill(~below, lowest).logsumexp(-1).clamp(min=lowest)

    @property
    def log_total(self) -> torch.Tensor:
        """log(1 + what all items together have), (N,)."""
        assert self.log_weights is not None
        return F.softplus(self.log_weights.logsumexp(-1))


class GR4ADHistorySIDs(nn.Module):
    """Two ways in which p(SID) knows the SIDs of the history.

    `sid_repeat` adds log(1 - f + f exp(r)) to the logit of a trie node, with f the share of the SIDs below it that the
    history holds: r nats for every SID that would be a repeat, as seen from a prefix whose SIDs are alike.

    `sid_copy` mixes: p(SID) = (path(SID) + sum_j w_j [SID_j = SID]) / (1 + sum_j w_j), with `path` the product of the
    levels' softmaxes, w_j = exp((u W) h_j / sqrt(d) + c) for history state h_j and u the normed level-1 trunk state:
    as the item head copies items (CopyNet, arXiv 1603.06393), over the items whose SID the trie holds. A prefix has
    what the SIDs below it have, so that beams follow what is going to be copied.
    """

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.copies, self.repeats = config.sid_copy, config.sid_repeat
        if self.copies:
            self.norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
            self.copy_query = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
            self.copy_bias = nn.Parameter(torch.full((1,), COPY_BIAS))
        if self.repeats:
            self.repeat_bias = nn.Parameter(torch.zeros(1))

    def forward(
        self, context: GR4ADContext, trunk: torch.Tensor, trie: SIDTrie, chosen: torch.Tensor | None = None
    ) -> HistorySIDs:
        """The histories as the chosen queries (bool, (B, Q)) see them, in row-major order; without `chosen`, as
        contexts with one query each do. trunk (B, Q, P, d)."""
        paths = trie.paths(context.sids)  # (B, S, T)
        paths = paths.masked_fill(paths[..., -1:] < 0, -1)  # what is not in the trie has no share of its prefixes
        seen = context.visible & (paths[..., -1] >= 0).unsqueeze(1)  # (B, Q, S)
        repeats = self.repeat_logits(paths, seen, trie) if self.repeats else None
        log_weights = None
        if self.copies:
            query = self.copy_query(self.norm(trunk[..., 0, :]))
            log_weights = history_log_weights(query, context.states, self.copy_bias, seen)

        def queries(values: torch.Tensor) -> torch.Tensor:
            return values[:, 0] if chosen is None else values[chosen]

        nodes = paths.unsqueeze(1).masked_fill(~seen.unsqueeze(3), -1)
        return HistorySIDs(
            queries(nodes),
            None if repeats is None else queries(repeats),
            None if log_weights is None else queries(log_weights),
        )

    def repeat_logits(self, paths: torch.Tensor, seen: torch.Tensor, trie: SIDTrie) -> torch.Tensor:
        """`repeats` of [`HistorySIDs`], float (B, Q, S, T), of paths (int64, (B, S, T)) and which items each query
        sees (bool, (B, Q, S))."""
        bias = self.repeat_bias.to(torch.promote_types(self.repeat_bias.dtype, torch.float32))
        distinct = (seen & first_places(paths[..., -1]).unsqueeze(1)).to(bias.dtype)
        logits = []
        for nodes, counts in zip(paths.unbind(2), trie.sid_counts, strict=True):
            below = (nodes.unsqueeze(2) == nodes.unsqueeze(1)).to(bias.dtype)
            share = torch.matmul(distinct, below) / counts[nodes.clamp(min=0)].unsqueeze(1)  # (B, Q, S)
            logit = torch.log1p((share * bias.expm1()).clamp(min=SMALLEST_SHARE - 1))
            logits.append(logit * (seen & first_places(nodes).unsqueeze(1)))
        return torch.stack(logits, dim=3)


__all__ = ["GR4ADHistorySIDs", "HistorySIDs"]
