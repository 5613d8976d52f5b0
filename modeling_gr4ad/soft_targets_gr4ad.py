# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Soft targets: the SID path learns from a teacher that ranks items, the model's own item head or any other.

Beyond the paper. A teacher's probabilities of items are summed for every prefix of SIDs. Along the path of a target,
each level's softmax over the children of a trie node learns what the teacher thinks of these children.

Shapes: N targets, n of them with soft targets, S history items, I items, T SID levels, V_t codes of level t, M
children of a trie node at most.
"""

from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from .history_sids_gr4ad import HistorySIDs
from .layers_gr4ad import GR4ADContext
from .trie_gr4ad import SIDTrie

Teacher = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From histories, item rows + 1 (int64, (n, S); 0 = unknown), and which of them count (bool, (n, S)), the scores of
all items (float, (n, I), by item row): log-probabilities up to a constant, -inf for items that it does not rank."""


def queries_of(context: GR4ADContext, chosen: torch.Tensor) -> GR4ADContext:
    """What the item head reads of chosen queries (int64, (n,), row-major places among (B, Q)), a query each."""
    rows, queries = chosen // context.visible.shape[1], chosen % context.visible.shape[1]
    return GR4ADContext(
        states=context.states[rows],
        item_ids=context.item_ids[rows],
        visible=context.visible[rows, queries].unsqueeze(1),
    )


def soft_target_losses(
    scores: torch.Tensor,
    levels: Sequence[torch.Tensor],
    codes: torch.Tensor,
    paths: torch.Tensor,
    trie: SIDTrie,
    history: HistorySIDs | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """-sum over levels of sum over the children of the target's node of p_teacher log p, float (n,).

    p_teacher of a child is the teacher's probability of the items below it, as a share of those below its node; where
    the teacher gives none to the node, the level is left out. p is that of the SID path with what it copies.

    Args:
        scores (float, (n, I)): The teacher's, see `Teacher`. temperature: They are divided by it.
        levels: T tensors (n, V_t), logits of the path as `GR4ADSIDPathMixin.target_logits` has them.
        codes, paths (int64, (n, T)): Of the target SIDs. history: Of the n targets, if the path copies.
    """
    ranked = (scores != -torch.inf).any(1, keepdim=True)  # of a teacher that ranks nothing there is nothing to learn
    probs = (scores.double() / temperature).softmax(1).where(ranked, 0.0)[:, trie.leaf_items]
    masses = [sums_below(probs, trie.item_leaves, trie.num_sids)]  # of the nodes, level by level from the last
    for parents in reversed(trie.parents[1:]):
        masses.insert(0, sums_below(masses[0], parents, int(parents[-1]) + 1))
    copies = history is not None and history.log_masses is not None
    loss = path = levels[0].new_zeros(len(codes), 1, dtype=torch.promote_types(levels[0].dtype, torch.float32))
    nodes = torch.zeros(len(codes), dtype=torch.int64, device=codes.device)
    for level, logits in enumerate(levels):
        own, first, valid = trie.children(level, nodes)
        children = (first + torch.arange(own.shape[1], device=own.device)).where(valid, 0)
        shares = masses[level].gather(1, children).where(valid, 0.0)
        shares = shares / shares.sum(1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        steps = F.log_softmax(logits.to(path.dtype), dim=1)
        log_probs = path + steps.gather(1, own)
        if copies:
            assert history is not None
            copied = history.log_copied(level, children.where(valid, -1))
            log_probs = torch.logaddexp(log_probs, copied.to(log_probs.dtype))
        log_probs = F.log_softmax(log_probs.masked_fill(~valid, -torch.inf), dim=1)
        loss = loss - (shares.to(log_probs.dtype) * log_probs.where(valid, 0.0)).sum(1, keepdim=True)
        path = path + steps.gather(1, codes[:, level : level + 1])
        nodes = paths[:, level]
    return loss.squeeze(1)


def sums_below(values: torch.Tensor, owners: torch.Tensor, count: int) -> torch.Tensor:
    """Sums (n, `count`) of values (float, (n, m)) by their owners (int64, (m,)). Differences of one running sum would
    lose what is small beside what stands before it."""
    return values.new_zeros(len(values), count).index_add_(1, owners, values)


__all__ = ["Teacher", "queries_of", "soft_target_losses"]
