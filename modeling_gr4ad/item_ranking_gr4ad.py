# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""From the beams of a request to a ranking of the items behind them.

Shapes: B batch, W beams, T levels, E further SIDs, I items of one SID at most.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import torch
from transformers.utils import ModelOutput

from .beam_search_gr4ad import GR4ADBeamSearchMixin
from .beam_selection_gr4ad import beam_rows
from .configuration_gr4ad import HistoryInputs
from .item_head_gr4ad import first_places
from .ranking_weights_gr4ad import RankingWeights
from .trie_gr4ad import SIDTrie


@dataclass
class ItemRanking(ModelOutput):
    """items (int64, (B, k)): item rows, -1 where nothing is left; scores (float, (B, k)); expected_values
    (float, (B, k)); sequences (int64, (B, k, T)): the SID each item came from."""

    items: torch.Tensor = None
    scores: torch.Tensor = None
    expected_values: torch.Tensor = None
    sequences: torch.Tensor = None


class GR4ADItemRankingMixin(GR4ADBeamSearchMixin):
    """Item ranking of [`GR4ADForRecommendation`]."""

    @staticmethod
    def likeliest_leaves(log_probs: torch.Tensor, count: int, trie: SIDTrie) -> torch.Tensor:
        """Leaves (int64, (B, n)), n = `count` or all, of the trie's items that the item head finds likeliest, from its
        log p(item) (float, (B, item rows)); items newer than its table come last."""
        rows = trie.leaf_items
        newer = rows >= log_probs.shape[-1]
        known = log_probs.index_select(1, rows.masked_fill(newer, 0)).masked_fill(newer, -torch.inf)
        return trie.item_leaves[known.topk(min(count, len(rows)), dim=-1).indices]

    @torch.no_grad()
    def recommend(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        trie: SIDTrie,
        top_k: int,
        weights: RankingWeights | None = None,
        beam_widths: Sequence[int] | Sequence[Sequence[int]] | None = None,
        exclude_items: torch.Tensor | None = None,
        item_groups: torch.Tensor | None = None,
        max_per_group: int | None = None,
        **history: Unpack[HistoryInputs],
    ) -> ItemRanking:
        """Ranks items: beam search, the items of every SID found, then one top-k by the score that
        [`RankingWeights`] defines.

        Items that share an SID keep the order of the trie's leaves unless the item head tells them apart.

        Args:
            input_ids, attention_mask, **history: The histories, as in [`GR4ADModel.forward`].
            trie ([`SIDTrie`]): The valid SIDs, on the model's device.
            top_k (`int`): Items to return; fewer where the beams hold fewer, the rest marked -1.
            weights ([`RankingWeights`]): Of the score; default those of the model's `generation_config`, which an
                artifact carries. `exclude_history` is not read here: see `exclude_items`.
            beam_widths: In place of those of `weights`: W_1..W_T, or a line of T widths for each request.
            exclude_items (int64, (B, E), *optional*): Item rows never to return, -1 = padding.
            item_groups (int64, (item rows,), *optional*): Group of each item row, e.g. its account; -1 =
                none, which is not limited.
            max_per_group (`int`, *optional*): Items of one group that a list may hold, the best of them; needs
                `item_groups`.

        Raises:
            ValueError: As `beam_search` and `RankingWeights.check`; or if `max_per_group` is below 1 or has no groups.
        """
        if weights is None:
            weights = RankingWeights.from_generation_config(self.generation_config)
        weights.check(self.config)
        if max_per_group is not None and (max_per_group < 1 or item_groups is None):
            raise ValueError(
                f"`max_per_group` must be at least 1 and needs `item_groups`. Received: {max_per_group}, "
                f"{'no groups' if item_groups is None else 'with groups'}."
            )
        levels, item_weight = self.config.num_levels, weights.item_weight
        chosen = weights.widths(levels) if beam_widths is None else beam_widths
        widths, limits = beam_rows(chosen, input_ids.shape[0], levels, input_ids.device)
        self.check_trie(trie)
        context = self.read_histories(input_ids, attention_mask, history)
        trunk = self.model.trunk(context)
        log_probs = None
        if item_weight and self.item_head is not None:
            log_probs = self.item_head.log_probs(trunk, self.item_table, context)[:, 1:]
            if weights.neighbour_weight and self.item_neighbours is not None:
                log_probs = self.item_neighbours(context, log_probs, weights.neighbour_weight)
        more = []
        if weights.score_history:
            own = input_ids.view(len(input_ids), -1, levels)
            more.append(trie.find(own - torch.tensor(self.config.level_offsets, device=own.device)))
        if weights.item_candidates and log_probs is not None:
            more.append(self.likeliest_leaves(log_probs, weights.item_candidates, trie))
        leaves = torch.cat(more, dim=1) if more else None
        beams = self.decode_levels(
            context,
            trunk,
            trie,
            widths,
            limits=limits,
            leaves=None if leaves is None else leaves.masked_fill(~first_places(leaves), -1),
            bucket_means=self.bucket_means(),
        )
        items, valid = trie.items(beams.leaves.clamp(min=0))  # (B, W, M)
        valid = valid & (beams.leaves >= 0).unsqueeze(-1)
        scores = beams.scores.unsqueeze(-1).expand_as(items)
        if log_probs is not None:
            rows = items.flatten(1)
            newer = rows >= log_probs.shape[-1]  # than the table: as unlikely as the least likely item
            item_scores = log_probs.gather(1, rows.masked_fill(newer, 0))
            item_scores = torch.where(newer, log_probs.amin(1, keepdim=True), item_scores)
            scores = (1 - item_weight) * scores + item_weight * item_scores.view_as(scores)
        if weights.value_weight:
            scores = scores + weights.value_weight * beams.expected_values.clamp(min=1e-12).log().unsqueeze(-1)
        if exclude_items is not None:
            valid = valid & ~(items.flatten(1).unsqueeze(-1) == exclude_items.unsqueeze(1)).any(-1).view_as(valid)
        scores = scores.masked_fill(~valid, -torch.inf).flatten(1)
        # A stable sort, so that equal scores keep the order of beams and leaves; topk promises no order among ties.
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        if max_per_group is not None and item_groups is not None:
            groups = item_groups[items.flatten(1).gather(1, order)]
            beyond = (places_in_group(groups) >= max_per_group) & (groups >= 0)
            scores, places = scores.masked_fill(beyond, -torch.inf).sort(dim=-1, descending=True, stable=True)
            order = order.gather(1, places)
        scores, order = scores[:, :top_k], order[:, :top_k]
        beam = order // items.shape[-1]
        kept = scores > -torch.inf
        return ItemRanking(
            items=items.flatten(1).gather(1, order).masked_fill(~kept, -1),
            scores=scores,
            expected_values=beams.expected_values.gather(1, beam).masked_fill(~kept, 0.0),
            sequences=beams.sequences.gather(1, beam.unsqueeze(-1).expand(-1, -1, beams.sequences.shape[-1])),
        )


def places_in_group(groups: torch.Tensor) -> torch.Tensor:
    """How many earlier entries of its line have the same group, int64 (B, n), of groups (int64, (B, n))."""
    sorted_groups, order = groups.sort(dim=-1, stable=True)
    place = torch.arange(groups.shape[1], device=groups.device).expand_as(groups)
    starts = torch.ones_like(groups, dtype=torch.bool)
    starts[:, 1:] = sorted_groups[:, 1:] != sorted_groups[:, :-1]
    first = place.where(starts, 0).cummax(dim=-1).values
    return torch.empty_like(groups).scatter_(1, order, place - first)


__all__ = ["GR4ADItemRankingMixin", "ItemRanking"]
