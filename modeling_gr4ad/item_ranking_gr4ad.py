# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""From the beams of a request to a ranking of the items behind them.

Shapes: B batch, W beams, T levels, S history items, E further SIDs, I items of one SID at most, n items found.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch.nn import functional as F

from .beam_search_gr4ad import GR4ADBeamSearchMixin
from .beam_selection_gr4ad import beam_rows, width_table
from .configuration_gr4ad import HistoryInputs
from .item_head_gr4ad import first_places
from .item_lists_gr4ad import GroupLimit, ItemRanking, best_places, merged, padded
from .item_values_gr4ad import LEAST_VALUE
from .layers_gr4ad import GR4ADContext
from .ranking_weights_gr4ad import RankingWeights
from .trie_gr4ad import SIDTrie
from .trie_restriction_gr4ad import ItemLists, TrieRestriction, request_lists

FILL_ROUNDS = 4
"""Further searches for a short list, at most."""
NEW_CANDIDATES = 64
"""New items that join the beams of a request, at least; a list that is longer gets as many as it has places."""
CLOSED_SHARE = 1 / 16
"""Of the items, closed by the lists of a request: with more, what is left does not tell the place of new items."""


@dataclass
class HistoryReading:
    """What a ranking has read of the histories of a batch.

    context, trunk: as `decode_levels` takes them; log_probs (float, (B, item rows)): of the item head, None without
    one; own_leaves (int64, (B, S), -1 = none): leaves of the history's SIDs, None where they are not ranked; gaps
    (float, (B,)): see `score_gaps`, None or NaN until a search has found them; token_table: as `decode_levels` takes
    it.
    """

    context: GR4ADContext
    trunk: torch.Tensor
    log_probs: torch.Tensor | None
    own_leaves: torch.Tensor | None
    gaps: torch.Tensor | None = None
    token_table: torch.Tensor | None = None

    def take(self, requests: Sequence[int]) -> "HistoryReading":
        """That of some requests of the batch."""
        places = torch.tensor(requests, device=self.trunk.device)

        def part(value: Any) -> Any:
            if isinstance(value, tuple):
                return tuple(map(part, value))
            return None if value is None else value.index_select(0, places)

        context = GR4ADContext(**{name: part(value) for name, value in self.context.items()})
        trunk, log_probs, own_leaves, gaps = map(part, (self.trunk, self.log_probs, self.own_leaves, self.gaps))
        return HistoryReading(context, trunk, log_probs, own_leaves, gaps, self.token_table)


class GR4ADItemRankingMixin(GR4ADBeamSearchMixin):
    """Item ranking of [`GR4ADForRecommendation`]."""

    @staticmethod
    def likeliest_leaves(
        log_probs: torch.Tensor,
        count: int,
        trie: SIDTrie,
        restriction: TrieRestriction | None = None,
        first: int = 0,
    ) -> torch.Tensor:
        """Leaves (int64, (B, n)), n = `count` or all, of the trie's items that the item head finds likeliest, from its
        log p(item), or what else orders them (float, (B, item rows)), among the rows from `first` on; items newer than
        its table come last, with those that are closed."""
        places = (trie.leaf_items >= first).nonzero()[:, 0] if first else slice(None)
        rows, leaves = trie.leaf_items[places], trie.item_leaves[places]
        newer = rows >= log_probs.shape[-1]
        known = log_probs.index_select(1, rows.masked_fill(newer, 0)).masked_fill(newer, -torch.inf)
        if restriction is not None:
            known = known.masked_fill(restriction.closed_items[:, rows], -torch.inf)
        return leaves[known.topk(min(count, len(rows)), dim=-1).indices]

    @torch.no_grad()
    def recommend(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        trie: SIDTrie,
        top_k: int | Sequence[int],
        weights: RankingWeights | None = None,
        beam_widths: Sequence[int] | Sequence[Sequence[int]] | None = None,
        exclude_items: ItemLists | None = None,
        allow_items: ItemLists | None = None,
        item_groups: torch.Tensor | None = None,
        max_per_group: int | None = None,
        token_table: torch.Tensor | None = None,
        **history: Unpack[HistoryInputs],
    ) -> ItemRanking:
        """Ranks items: beam search, the items of every SID found, then one top-k by the score that
        [`RankingWeights`] defines.

        Items that share an SID keep the order of the trie's leaves unless the item head tells them apart.

        What a request may not be given is closed in the trie before the search ([`TrieRestriction`]). Where the list
        of such a request is short although more may be given, it is searched for again (`fill_lists`): it is full
        whenever enough items may be given. Scores are those of a search without lists: nothing is renormalised. A
        batch without lists and `max_per_group` is searched once, by the same operations as if neither existed.

        Args:
            input_ids, attention_mask, **history: The histories, as in [`GR4ADModel.forward`].
            trie ([`SIDTrie`]): The valid SIDs, on the model's device.
            top_k (`int`): Items to return, or a number for each request; lists are as long as the longest. The rest is
                marked -1 where no more may be given, or where the beams of a request without lists hold no more.
            weights ([`RankingWeights`]): Of the score; default those of the model's `generation_config`, which an
                artifact carries. `exclude_history` is not read here: see `exclude_items`.
            beam_widths: In place of those of `weights`: W_1..W_T, or a line of T widths for each request.
            exclude_items: Item rows never to return, int64: a tensor (n,) or None for each request, or all as (B, n);
                -1 = padding.
            allow_items: Item rows that alone may be returned, in the same form; None allows all, a list without items
                nothing.
            item_groups (int64, (item rows,), *optional*): Group of each item row, e.g. its account; -1 =
                none, which is not limited.
            max_per_group (`int`, *optional*): Items of one group that a list may hold, the best of them; needs
                `item_groups`.
            token_table: `model.token_table()`, if many calls share it.

        Raises:
            ValueError: As `beam_search` and `RankingWeights.check`; if `max_per_group` is below 1 or has no groups; or
                if there is not one list of items, or number, for each request.
        """
        if weights is None:
            weights = RankingWeights.from_generation_config(self.generation_config)
        weights.check(self.config)
        if max_per_group is not None and (max_per_group < 1 or item_groups is None):
            raise ValueError(
                f"`max_per_group` must be at least 1 and needs `item_groups`. Received: {max_per_group}, "
                f"{'no groups' if item_groups is None else 'with groups'}."
            )
        batch, levels = input_ids.shape[0], self.config.num_levels
        widths = width_table(weights.widths(levels) if beam_widths is None else beam_widths, batch, levels)
        widths = widths * (batch // len(widths))
        lengths = [top_k] * batch if isinstance(top_k, int) else list(top_k)
        if len(lengths) != batch:
            raise ValueError(f"`top_k` needs one number, or one for each of the {batch} requests. Received: {top_k}.")
        blocked = request_lists("exclude_items", exclude_items, batch, input_ids.device)
        allowed = request_lists("allow_items", allow_items, batch, input_ids.device)
        self.check_trie(trie)
        context = self.read_histories(input_ids, attention_mask, history)
        trunk = self.model.trunk(context)
        log_probs = None
        if weights.item_weight and self.item_head is not None:
            log_probs = self.item_head.log_probs(trunk, self.item_table, context)[:, 1:]
            if weights.neighbour_weight and self.item_neighbours is not None:
                log_probs = self.item_neighbours(context, log_probs, weights.neighbour_weight)
            if self.new_items is not None:
                log_probs = self.new_items(context, log_probs)
        own_leaves = None
        if weights.score_history:
            own = input_ids.view(batch, -1, levels)
            own_leaves = trie.find(own - torch.tensor(self.config.level_offsets, device=own.device))
        reading = HistoryReading(context, trunk, log_probs, own_leaves, token_table=token_table)
        listed = [not (out is None and only is None) for out, only in zip(blocked, allowed, strict=True)]
        restriction = None
        if any(listed):
            restriction = TrieRestriction.from_items(trie, batch, blocked=blocked, allowed=allowed)
        limit = None if max_per_group is None or item_groups is None else GroupLimit(item_groups, max_per_group)
        if restriction is not None and self.new_items is not None and log_probs is not None:
            left = (restriction.open_items < (1 - CLOSED_SHARE) * len(trie.leaf_items)).nonzero()[:, 0].tolist()
            if left:  # scores are those of a search without lists, by which new items are placed
                part, lines = reading.take(left), [widths[place] for place in left]
                self.ranked_items(part, trie, weights, lines, [1] * len(left), 1, None, None)
                assert part.gaps is not None
                reading.gaps = torch.full((batch,), torch.nan, dtype=part.gaps.dtype, device=part.gaps.device)
                reading.gaps[left] = part.gaps
        ranking, found = self.ranked_items(reading, trie, weights, widths, lengths, max(lengths), limit, restriction)
        if limit is None and restriction is None:
            return ranking
        wanted = [length if filled or limit else 0 for length, filled in zip(lengths, listed, strict=True)]
        return self.fill_lists(
            reading, trie, weights, widths, ranking, found, wanted, limit=limit, blocked=blocked, allowed=allowed
        )

    def ranked_items(
        self,
        reading: HistoryReading,
        trie: SIDTrie,
        weights: RankingWeights,
        widths: Sequence[Sequence[int]],
        lengths: Sequence[int],
        top_k: int,
        limit: GroupLimit | None,
        restriction: TrieRestriction | None,
    ) -> tuple[ItemRanking, torch.Tensor]:
        """One search and its ranking, `top_k` items long; and all items that it found, int64 (B, n), -1 = none: those
        of the ranking, and those that it has no place for. `lengths`: of the list that each request asks for, which
        alone decides on its candidates, whatever the others of the batch ask for."""
        trunk, log_probs = reading.trunk, reading.log_probs
        rows, limits = beam_rows(widths, trunk.shape[0], self.config.num_levels, trunk.device)
        more = [] if reading.own_leaves is None else [reading.own_leaves]
        if weights.item_candidates and log_probs is not None:
            worth = log_probs
            if weights.value_weight and self.item_values is not None:
                means = weights.value_weight * self.item_values.log_means()[1 : log_probs.shape[1] + 1]
                worth = log_probs + F.pad(means, (0, log_probs.shape[1] - len(means)))
            more.append(self.likeliest_leaves(worth, weights.item_candidates, trie, restriction))
        if self.new_items is not None and log_probs is not None:  # beams seldom find what training never saw
            counts = torch.tensor(lengths, device=trunk.device).clamp(min=NEW_CANDIDATES)
            likeliest = self.likeliest_leaves(log_probs, int(counts.max()), trie, restriction, self.new_items.first)
            beyond = torch.arange(likeliest.shape[1], device=trunk.device) >= counts.unsqueeze(1)
            likeliest = likeliest.masked_fill(beyond, -1)
            more.append(F.pad(likeliest, (0, max(0, 2 - likeliest.shape[1])), value=-1))  # one is a size of its own
        leaves = torch.cat(more, dim=1) if more else None
        if leaves is not None:
            leaves = leaves.masked_fill(~first_places(leaves), -1)
            if restriction is not None:
                leaves = leaves.masked_fill(restriction.closes(leaves), -1)
        options: dict[str, Any] = {"limits": limits, "leaves": leaves, "bucket_means": self.bucket_means()}
        options |= {"rows": self.prefix_rows(trie), "history": self.read_history_sids(reading.context, trunk, trie)}
        options["token_table"] = reading.token_table
        if restriction is not None:
            options["closed"] = restriction.closed
        beams = self.decode_levels(reading.context, trunk, trie, rows, **options)
        items, valid = trie.items(beams.leaves.clamp(min=0))  # (B, W + E, I)
        valid = valid & (beams.leaves >= 0).unsqueeze(-1)
        scores = beams.scores.unsqueeze(-1).expand_as(items)
        if log_probs is not None:
            own = items.flatten(1)
            newer = own >= log_probs.shape[-1]  # than the table: as unlikely as the least likely item
            item_scores = log_probs.gather(1, own.masked_fill(newer, 0))
            item_scores = torch.where(newer, log_probs.amin(1, keepdim=True), item_scores).view_as(scores)
            if self.new_items is not None:
                new = valid & (items >= self.new_items.first) & (items < log_probs.shape[-1])
                gaps = score_gaps(scores, item_scores, valid & ~new)
                reading.gaps = gaps if reading.gaps is None else reading.gaps.where(~reading.gaps.isnan(), gaps)
                scores = torch.where(new, item_scores + reading.gaps.view(-1, 1, 1), scores)
            scores = (1 - weights.item_weight) * scores + weights.item_weight * item_scores
        expected = beams.expected_values.unsqueeze(-1).expand_as(items)
        if self.item_values is not None:
            expected = self.item_values(items + 1, expected)
        if weights.value_weight:
            scores = scores + weights.value_weight * expected.clamp(min=LEAST_VALUE).log()
        per_leaf, items, valid = items.shape[-1], items.flatten(1), valid.flatten(1)
        if restriction is not None:
            valid = valid & ~restriction.closes_items(items)
        scores = scores.flatten(1).masked_fill(~valid, -torch.inf)
        scores, order = best_places(scores, items, top_k, limit)
        beam = order // per_leaf
        kept = scores > -torch.inf
        ranking = ItemRanking(
            items=items.gather(1, order).masked_fill(~kept, -1),
            scores=scores,
            expected_values=expected.flatten(1).gather(1, order).masked_fill(~kept, 0.0),
            sequences=beams.sequences.gather(1, beam.unsqueeze(-1).expand(-1, -1, beams.sequences.shape[-1])),
        )
        return ranking, items.masked_fill(~valid, -1)

    def fill_lists(
        self,
        reading: HistoryReading,
        trie: SIDTrie,
        weights: RankingWeights,
        widths: Sequence[Sequence[int]],
        ranking: ItemRanking,
        found: torch.Tensor,
        wanted: Sequence[int],
        *,
        limit: GroupLimit | None,
        blocked: Sequence[torch.Tensor | None],
        allowed: Sequence[torch.Tensor | None],
    ) -> ItemRanking:
        """The ranking with short lists filled, as long as there are items to fill them with.

        Each round closes what the short lists have found and the groups of which they hold enough, searches again for
        these requests alone, and merges by score. The history is not read again. A search is as wide as before, and at
        each level at least as wide as the list lacks items: with that many beams among nodes that all lead to open
        items it finds as many SIDs. So lists without a limit take one round at most. With one, what is found may be of
        one group; the last of `FILL_ROUNDS` therefore opens no more of each group than the list has room for.

        Args:
            reading, trie, weights, widths, limit, blocked, allowed: Of the search of the batch.
            ranking, found: What `ranked_items` gave. wanted: Length that each list should have.
        """
        closed: list[list[torch.Tensor]] = [[] if rows is None else [rows] for rows in blocked]
        held = (ranking.items >= 0).sum(1).tolist()
        lists = {request: found[request] for request, length in enumerate(wanted) if held[request] < length}
        for number in range(FILL_ROUNDS):
            if not lists:
                break
            for request, rows in lists.items():
                closed[request].append(rows)
                if limit is not None:
                    closed[request].append(limit.rows_of_full_groups(ranking.items[request]))
            short = list(lists)
            restriction = TrieRestriction.from_items(
                trie,
                len(short),
                blocked=[torch.cat(closed[request]) for request in short],
                allowed=[allowed[request] for request in short],
            )
            left = [place for place, count in enumerate(restriction.open_items.tolist()) if count]
            if not left:
                break
            if len(left) < len(short):
                restriction, short = restriction.take(left), [short[place] for place in left]
            part = reading.take(short)
            if limit is not None and number == FILL_ROUNDS - 1:
                fitting = [
                    limit.fitting(self.open_rows(part, trie, restriction, place), ranking.items[request])
                    for place, request in enumerate(short)
                ]
                restriction = TrieRestriction.from_items(trie, len(short), allowed=fitting)
            lines = [[max(width, wanted[request] - held[request]) for width in widths[request]] for request in short]
            own = [wanted[request] for request in short]
            more, found = self.ranked_items(part, trie, weights, lines, own, max(wanted), limit, restriction)
            places = torch.tensor(short, device=found.device)
            before = ItemRanking(**{name: tensor[places] for name, tensor in ranking.parts().items()})
            filled = merged(before, more, max(wanted), limit)
            ranking = padded(ranking, filled.items.shape[1])
            new = padded(filled, ranking.items.shape[1]).parts()
            ranking = ItemRanking(
                **{name: tensor.index_copy(0, places, new[name]) for name, tensor in ranking.parts().items()}
            )
            lists = {}
            for request, rows, count in zip(short, found, (filled.items >= 0).sum(1).tolist(), strict=True):
                if held[request] < count < wanted[request]:  # none is added where scores are no numbers
                    lists[request] = rows
                held[request] = count
        return ranking

    @staticmethod
    def open_rows(reading: HistoryReading, trie: SIDTrie, restriction: TrieRestriction, request: int) -> torch.Tensor:
        """Rows (int64, (n,)) of the items that are open to a request, the likeliest of the item head first; without
        one, in the order of the trie."""
        rows = trie.leaf_items[~restriction.closed_items[request, trie.leaf_items]]
        if reading.log_probs is None:
            return rows
        log_probs = reading.log_probs[request]
        newer = rows >= len(log_probs)
        known = log_probs[rows.masked_fill(newer, 0)].masked_fill(newer, -torch.inf)
        return rows[known.argsort(descending=True, stable=True)]


def score_gaps(scores: torch.Tensor, item_scores: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """How far the scores by SID of items are from their scores by the item head, float (B,), on average of those of a
    request that training knew, 0 where there are none. It is added to the score of new items by the item head, in the
    place of their score by SID, which no training has seen. All (B, W, I); `others` bool."""
    compared = others & (scores > -torch.inf)
    return torch.where(compared, scores - item_scores, 0.0).sum((1, 2)) / compared.sum((1, 2)).clamp(min=1)


__all__ = ["GR4ADItemRankingMixin", "HistoryReading", "ItemRanking"]
