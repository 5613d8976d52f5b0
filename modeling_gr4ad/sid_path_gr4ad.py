# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""p(SID): the one definition that training, beam search, scoring of candidates and alignment share.

With `sid_normalization` "trie", p(SID | context) is a product over the levels of softmaxes over the children of a node
of the catalog's trie, mixed with what is copied from the history ([`GR4ADHistorySIDs`]). The logit of a child is that
of its code by the level's head, and what [`GR4ADPrefixVectors`] and the history add to it. The probabilities of all
SIDs of the trie sum to one. With "codebook", each softmax runs over all codes of the level, whether or not an SID
continues with them.

Shapes: B batch, Q queries, N targets, R decoder rows, P decoder positions, M children of a node at most, T SID levels,
V_t codes of level t, d hidden size.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from .backbone_gr4ad import GR4ADHeads
from .history_sids_gr4ad import HistoryPlaces, HistorySIDs
from .layers_gr4ad import GR4ADContext
from .prefix_vectors_gr4ad import sampled_products, samples_products
from .trie_gr4ad import SIDTrie

DENSER = 8
"""So many products of a whole matrix are taken to cost as much as one at a chosen place of it: an estimate."""

Rows = list[torch.Tensor]
"""Rows of the prefix vectors of a trie's nodes, as [`GR4ADPrefixVectors.rows`] finds them."""


class GR4ADSIDPathMixin(GR4ADHeads):
    """The probability of SIDs of [`GR4ADForRecommendation`]."""

    def prefix_rows(self, trie: SIDTrie) -> Rows | None:
        """What `decode_levels` needs to know of a trie; None of a model without prefix vectors."""
        return None if self.prefix_vectors is None else self.prefix_vectors.rows(trie)

    def read_history_sids(
        self, context: GR4ADContext, trunk: torch.Tensor, trie: SIDTrie, chosen: torch.Tensor | None = None
    ) -> HistorySIDs | None:
        """The SIDs of the histories, see [`GR4ADHistorySIDs`]; None of a model whose p(SID) does not know them."""
        return None if self.history_sids is None else self.history_sids(context, trunk, trie, chosen)

    def child_log_probs(
        self,
        level: int,
        states: torch.Tensor,
        children: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
        rows: Rows | None = None,
        held: tuple[torch.Tensor, HistoryPlaces, torch.Tensor | None] | None = None,
    ) -> torch.Tensor:
        """Log-probabilities of the children of nodes, before anything is copied: float32 or wider (B, R, M), -inf
        where there is no child.

        Args:
            states (float, (B, R, d)): Decoder states of `level`. children: Of their nodes, from `SIDTrie.children`.
            rows: From `prefix_rows`, if the model has them.
            held: Of the history's items, if the model tells repeats apart: what they add to the logit of their node
                (float, (B, S)), and where they stand; and the `leading_rows`, None where all rows stand apart.
        """
        codes, first, valid = children
        most = codes.shape[-1]
        if self.config.sid_normalization == "codebook":
            logits = self.sid_heads[level](states)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            return F.log_softmax(logits, dim=-1).gather(-1, codes).masked_fill(~valid, -torch.inf)
        logits = self.code_logits(level, states, codes)
        table = self.prefix_vectors
        if table is not None and rows is not None:
            nodes = first + torch.arange(most, device=first.device)
            own = rows[level].index_select(0, nodes.flatten()).view(nodes.shape)
            added = table.of_children(table.queries(states), own) if level else table.bias[own]
            logits = logits + added.to(logits.dtype)
        if held is not None:
            repeats, places, leaders = held
            if leaders is None:
                places.add(logits, repeats)
            else:
                added = torch.zeros_like(logits)
                places.add(added, repeats)
                logits = logits + added.gather(1, leaders.unsqueeze(2).expand(-1, -1, most))
        return F.log_softmax(logits.masked_fill(~valid, -torch.inf), dim=-1)

    def code_logits(self, level: int, states: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
        """Logits of codes (int64, (B, R, M)) of a level by its head, float32 or wider (B, R, M). Where a node has few
        children beside the codes of the level, theirs alone are computed."""
        head = self.sid_heads[level]
        few = codes.shape[-1] * DENSER <= self.config.codebook_sizes[level]
        # Where weights are offloaded, replaced or cast while they are used, the head has to be called.
        if few and type(head) is nn.Linear and samples_products(states, head.weight):
            own, queries = codes.flatten(), states.reshape(-1, states.shape[-1])
            ends = torch.arange(0, len(own) + 1, codes.shape[-1])
            return sampled_products(queries, head.weight, ends, own).view(codes.shape)
        logits = head(states)
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).gather(-1, codes)

    def target_logits(
        self,
        states: torch.Tensor,
        paths: torch.Tensor | None,
        trie: SIDTrie | None,
        history: HistorySIDs | None = None,
    ) -> tuple[torch.Tensor, ...]:
        """The logits of `child_log_probs` along the paths of N targets, for training: T tensors (N, V_t), float32 or
        wider, -inf for codes that no SID of the trie continues with.

        Args:
            states (float, (N, P, d)): Teacher-forced. paths (int64, (N, T)): Nodes of the targets in the trie; below a
                node -1 nothing is of use. history: Of the N targets.
        """
        levels = []
        for level, head in enumerate(self.sid_heads):
            logits = head(states[:, level])
            levels.append(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        if self.config.sid_normalization == "codebook":
            return tuple(levels)
        assert trie is not None and paths is not None
        children = [
            children_of(nodes, level, trie)
            for level, nodes in enumerate(paths[:, :-1].clamp(min=0).unbind(1), start=1)
        ]
        added = self.added_by_prefixes(states, children, trie)
        found = [self.root_logits(levels[0], trie, added[0])]
        for own, logits, more in zip(children, levels[1:], added[1:], strict=True):
            places = own.owners * logits.shape[1] + own.codes
            values = logits.flatten().index_select(0, places)
            values = values if more is None else values + more
            found.append(torch.full_like(logits, -torch.inf).flatten().index_copy(0, places, values).view_as(logits))
        if history is not None and history.repeats is not None:
            found = [
                self.with_repeats(level, logits, paths, trie, history, history.repeats[:, level])
                for level, logits in enumerate(found)
            ]
        return tuple(found)

    @staticmethod
    def root_logits(logits: torch.Tensor, trie: SIDTrie, added: torch.Tensor | None) -> torch.Tensor:
        """Logits (N, V_1) of the first codes that SIDs begin with."""
        codes = trie.codes[0][: len(trie.parents[0])]
        values = logits.index_select(1, codes)
        values = values if added is None else values + added
        return torch.full_like(logits, -torch.inf).index_copy(1, codes, values)

    def added_by_prefixes(
        self, states: torch.Tensor, children: Sequence["Children"], trie: SIDTrie
    ) -> list[torch.Tensor | None]:
        """What the prefix vectors add to the logits of the root's children (M,), and of the children of each target's
        node at the further levels (F,); None without prefix vectors."""
        table, rows = self.prefix_vectors, self.prefix_rows(trie)
        if table is None or rows is None:
            return [None] * (len(children) + 1)
        biases = table.biases(rows[0][: len(trie.parents[0])]).to(torch.promote_types(states.dtype, torch.float32))
        if not children:
            return [biases]
        # All levels in one call: each makes a gradient as large as the table.
        queries = torch.cat([table.queries(states[:, level]) for level in range(1, len(children) + 1)])
        counts = torch.cat([own.counts for own in children])
        own_rows = [rows[level][own.nodes] for level, own in enumerate(children, start=1)]
        added = table.of_all_children(queries, counts, torch.cat(own_rows))
        return [biases, *added.split([len(own) for own in own_rows])]

    @staticmethod
    def with_repeats(
        level: int,
        logits: torch.Tensor,
        paths: torch.Tensor,
        trie: SIDTrie,
        history: HistorySIDs,
        repeats: torch.Tensor,
    ) -> torch.Tensor:
        """logits (N, V_t) with what items of the history add to them: repeats (float, (N, S))."""
        below = history.nodes[:, level]
        child = below >= 0
        if level:
            child = child & (history.nodes[:, level - 1] == paths[:, level - 1 : level])
        found = child.flatten().nonzero()[:, 0]
        owners = found // below.shape[1]
        places = owners * logits.shape[1] + trie.codes[level][below.flatten()[found]]
        added = repeats.flatten().index_select(0, found).to(logits.dtype)
        return logits.flatten().index_add(0, places, added).view_as(logits)

    def prefix_log_probs(
        self,
        states: torch.Tensor,
        sids: torch.Tensor,
        trie: SIDTrie | None = None,
        history: HistorySIDs | None = None,
    ) -> torch.Tensor:
        """log p of each prefix of SIDs, float32 or wider (B, R, T): the last is log p(SID). -inf from the first prefix
        on that the trie does not hold.

        Args:
            states (float, (B, R, P, d)): Teacher-forced. sids (int64, (B, R, T)): Token ids.
            trie: The catalog; of a model with `sid_normalization` "codebook" not needed. history: Of the B histories.
        """
        codes = (sids - torch.tensor(self.config.level_offsets, device=sids.device)).flatten(0, 1)
        paths = None if self.config.sid_normalization == "codebook" else self.known_trie(trie).paths(codes)
        own = None
        if history is not None:
            own = history.take(torch.arange(len(sids), device=sids.device).repeat_interleave(sids.shape[1]))
        logits = self.target_logits(states.flatten(0, 1), paths, trie, own)
        steps = [
            F.log_softmax(level, dim=-1).gather(1, codes[:, place : place + 1].clamp(min=0))
            for place, level in enumerate(logits)
        ]
        total = torch.cat(steps, dim=1)
        if paths is None:
            return total.cumsum(1).view(sids.shape)
        total = total.masked_fill(paths < 0, 0.0).cumsum(1)
        if own is not None and own.log_masses is not None:
            copied = [own.log_copied(level, paths[:, level : level + 1]) for level in range(paths.shape[1])]
            total = torch.logaddexp(total, torch.cat(copied, dim=1).to(total.dtype))
            assert own.log_total is not None
            total = total - own.log_total.unsqueeze(1).to(total.dtype)
        return total.masked_fill(paths < 0, -torch.inf).view(sids.shape)

    def value_tokens(self, sids: torch.Tensor) -> torch.Tensor | None:
        """What the value token is given of SIDs (int64, (..., T), token ids) beside their last token: (..., d), from
        the prefix vectors. Where these tell SIDs apart, the path no longer teaches the decoder to read its tokens, and
        the value would not know of which SID it is. None of a model without these vectors, or without values."""
        if self.prefix_vectors is None or self.value_head is None:
            return None
        codes = sids - torch.tensor(self.config.level_offsets, device=sids.device)
        return self.prefix_vectors.tokens(self.prefix_vectors.sid_rows(codes))

    def value_logits(self, states: torch.Tensor) -> torch.Tensor | None:
        """(N, buckets) from the decoder states (N, P, d) of N targets; None without a value head."""
        return None if self.value_head is None else self.value_head(states[:, -1])

    def known_trie(self, trie: SIDTrie | None) -> SIDTrie:
        """The trie that p(SID) is defined over. Raises ValueError without one."""
        if trie is None:
            raise ValueError(
                "This model's p(SID) is defined over the SIDs of a catalog (`sid_normalization` = 'trie'): pass "
                "`trie=model.build_trie(tokenizer)`; to train, with `removed=True`, as `VSLTrainer` does."
            )
        return trie


class Children(NamedTuple):
    """All F children of N nodes of a level, node after node: whose child each is (int64, (F,)), how many each node has
    (int64, (N,)), their nodes and their codes (int64, (F,))."""

    owners: torch.Tensor
    counts: torch.Tensor
    nodes: torch.Tensor
    codes: torch.Tensor


def children_of(parents: torch.Tensor, level: int, trie: SIDTrie) -> Children:
    """The children of nodes (int64, (N,)) of a level."""
    first = trie.offsets[level][parents]
    counts = trie.offsets[level][parents + 1] - first
    owners = torch.arange(len(parents), device=parents.device).repeat_interleave(counts)
    shift = first - (counts.cumsum(0) - counts)
    nodes = torch.arange(len(owners), device=parents.device) + shift.index_select(0, owners)
    return Children(owners, counts, nodes, trie.codes[level][nodes])


__all__ = ["GR4ADSIDPathMixin"]
