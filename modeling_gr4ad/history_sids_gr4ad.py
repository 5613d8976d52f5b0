# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""What the semantic IDs (SIDs) of a history say of the next one: a user may come back to an ad, or never. Beyond the
paper.

Shapes: B batch, Q queries (1, or one a prefix), N of them, R decoder rows, S history items, M children of a trie node
at most, T SID levels, d hidden size.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .configuration_gr4ad import GR4ADConfig
from .item_head_gr4ad import COPY_BIAS, history_log_weights
from .layers_gr4ad import GR4ADContext, GR4ADRMSNorm
from .trie_gr4ad import SIDTrie

SMALLEST_SHARE = 1e-7
"""What is left at least of the probability of an SID that would be a repeat."""


@dataclass
class HistorySIDs:
    """The SIDs of the histories of N queries, as nodes of a trie.

    nodes (int64, (N, T, S)): nodes of levels 1..T, in ascending order along the items; -1 for an item without a place
    in the trie. repeats (float, (N, T, S)): what is added to the logit of the node, 0 for an item that the query does
    not see or that stands behind another one below the node; None without a repeat bias. log_masses (float, (N, T,
    S)): log of how much is copied of all items below the node, the lowest number for nothing; log_total (float, (N,)):
    log(1 + what all items have together); None without copying.
    """

    nodes: torch.Tensor
    repeats: torch.Tensor | None
    log_masses: torch.Tensor | None
    log_total: torch.Tensor | None

    def take(self, queries: torch.Tensor) -> "HistorySIDs":
        """Those of some queries (int64, (n,))."""
        given = (self.repeats, self.log_masses, self.log_total)
        parts = [None if part is None else part.index_select(0, queries) for part in given]
        return HistorySIDs(self.nodes.index_select(0, queries), *parts)

    def log_copied(self, level: int, nodes: torch.Tensor) -> torch.Tensor:
        """Log of what is copied to nodes of `level` + 1 (int64, (N, R)), (N, R); the lowest number for nothing."""
        assert self.log_masses is not None
        below = self.nodes[:, level].contiguous()
        place = torch.searchsorted(below, nodes.contiguous()).clamp(max=below.shape[1] - 1)
        found = (below.gather(1, place) == nodes) & (nodes >= 0)
        masses = self.log_masses[:, level].gather(1, place)
        return masses.masked_fill(~found, torch.finfo(masses.dtype).min)

    def places(self, level: int, nodes: torch.Tensor, first: torch.Tensor, most: int) -> "HistoryPlaces":
        """Where the items stand among the R * `most` children of rows.

        Args:
            nodes (int64, (N, R)): Nodes of `level` of the rows, negative for a row without one.
            first (int64, (N, R, 1)): Their first children, of `most` at most.
        """
        below, rows = self.nodes[:, level], nodes.shape[1]
        if level == 0:  # all are children of the root, numbered as they stand
            return HistoryPlaces(below.clamp(min=0), below >= 0)
        ascending, order = nodes.sort(dim=1, stable=True)
        parents = self.nodes[:, level - 1].contiguous()
        place = torch.searchsorted(ascending, parents).clamp(max=rows - 1)
        owner = order.gather(1, place)
        child = torch.add(below, owner, alpha=most) - first.squeeze(2).gather(1, owner)
        found = (ascending.gather(1, place) == parents) & (below >= 0)
        return HistoryPlaces(child.where(found, 0), found)


class HistoryPlaces(NamedTuple):
    """The place of each item (int64, (N, S)) among the children of the first row at its node, of any where no row has
    it; and whether one has it (bool, (N, S))."""

    places: torch.Tensor
    found: torch.Tensor

    def add(self, scores: torch.Tensor, added: torch.Tensor) -> None:
        """Adds what each item has (float, (N, S)) to the scores (float, (N, R, M)) at its place, in place."""
        added = added.masked_fill(~self.found, 0.0).to(scores.dtype)
        scores.view(len(scores), -1).scatter_add_(1, self.places, added)

    def add_copies(self, scores: torch.Tensor, log_masses: torch.Tensor) -> None:
        """Adds probabilities, both as logs: log_masses (float, (N, S)) to the scores (float, (N, R, M)) of the first
        R rows, in place."""
        flat = scores.view(len(scores), -1)
        there = self.found & (self.places < flat.shape[1])
        places = self.places.where(there, 0)
        masses = log_masses.to(flat.dtype).masked_fill(~there, -torch.inf)
        # The largest: what is not copied writes what stands there.
        flat.scatter_reduce_(1, places, torch.logaddexp(flat.gather(1, places), masses), "amax")


def leading_rows(nodes: torch.Tensor) -> torch.Tensor:
    """The first row at the node of each row, int64 (N, R), of nodes (int64, (N, R))."""
    ascending, order = nodes.sort(dim=1, stable=True)
    return order.gather(1, torch.searchsorted(ascending, nodes.contiguous()))


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
        assert context.sids is not None
        visible, paths = context.visible, trie.paths(context.sids)  # (B, Q, S) and (B, S, T)
        # What the trie does not hold has no place among its prefixes either.
        leaves = paths[..., -1].masked_fill(~visible.any(1), -1)
        leaves, order = leaves.sort(dim=1, stable=True)
        nodes = paths.transpose(1, 2).gather(2, order.unsqueeze(1).expand(-1, paths.shape[2], -1))
        nodes = nodes.masked_fill((leaves < 0).unsqueeze(1), -1)  # (B, T, S)
        seen = at(visible, order) & (leaves >= 0).unsqueeze(1)
        # Items below one node stand side by side: where each one's run begins, and what stands behind it.
        runs = nodes.flatten(0, 1)
        first, last = (torch.searchsorted(runs, runs, right=right).view(nodes.shape[0], -1) for right in (False, True))
        asked = None if chosen is None else chosen.flatten().nonzero()[:, 0]

        def queries(values: torch.Tensor) -> torch.Tensor:
            return values[:, 0] if asked is None else values.flatten(0, 1).index_select(0, asked)

        repeats = log_masses = log_total = None
        if self.repeats:
            known = nodes.clamp(min=0).unbind(1)
            counts = torch.stack([sids[below] for sids, below in zip(trie.sid_counts, known, strict=True)], dim=1)
            repeats = queries(self.repeat_logits(seen, first, last, counts))
        if self.copies:
            query = self.copy_query(self.norm(trunk[..., 0, :]))
            log_weights = history_log_weights(query, context.states, self.copy_bias, visible)
            log_masses, log_total = map(queries, self.masses(at(log_weights, order), seen, first, last))
        if asked is not None:
            nodes = nodes.index_select(0, asked // visible.shape[1])
        return HistorySIDs(nodes, repeats, log_masses, log_total)

    def repeat_logits(
        self, seen: torch.Tensor, first: torch.Tensor, last: torch.Tensor, counts: torch.Tensor
    ) -> torch.Tensor:
        """`repeats` of [`HistorySIDs`], float (B, Q, T, S), from which items each query sees (bool, (B, Q, S)), the
        bounds of their runs (int64, (B, T * S)), and how many SIDs lie below the nodes (int64, (B, T, S))."""
        bias = self.repeat_bias.to(torch.promote_types(self.repeat_bias.dtype, torch.float32))
        shape = (*seen.shape[:2], *counts.shape[1:])
        before = running(seen)
        # No seen item before it below the node: at the last level, such items are the distinct SIDs.
        alone = seen.unsqueeze(2) & (before[:, :, None, :-1] == at(before, first).view(shape))
        distinct = running(alone[:, :, -1])
        share = (at(distinct, last) - at(distinct, first)).view(shape) / counts.unsqueeze(1)
        return torch.log1p((share.to(bias.dtype) * bias.expm1()).clamp(min=SMALLEST_SHARE - 1)) * alone

    @staticmethod
    def masses(
        log_weights: torch.Tensor, seen: torch.Tensor, first: torch.Tensor, last: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`log_masses` (B, Q, T, S) and `log_total` (B, Q) of [`HistorySIDs`], from the log of how much each item is
        copied (float, (B, Q, S)). What lies below a node is a difference of running sums, which are float64."""
        dtype, least = log_weights.dtype, torch.finfo(torch.float64).tiny
        lowest = torch.finfo(dtype).min
        log_weights = log_weights.double().masked_fill(~seen, lowest)
        peak = log_weights.detach().amax(2, keepdim=True)
        sums = running((log_weights - peak).exp() * seen)
        masses = at(sums, last) - at(sums, first)
        logs = (masses.clamp(min=least).log() + peak).masked_fill(masses <= 0, lowest).to(dtype)
        total = F.softplus(sums[..., -1].clamp(min=least).log() + peak.squeeze(2))
        return logs.view(*seen.shape[:2], -1, seen.shape[2]), total.to(dtype)


def running(values: torch.Tensor) -> torch.Tensor:
    """Sums of what stands before each place of (B, Q, S): (B, Q, S + 1)."""
    return F.pad(values.cumsum(2), (1, 0))


def at(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """values (B, Q, n) at places (int64, (B, m)): (B, Q, m)."""
    return values.gather(2, places.unsqueeze(1).expand(-1, values.shape[1], -1))


__all__ = ["GR4ADHistorySIDs", "HistoryPlaces", "HistorySIDs", "leading_rows"]
