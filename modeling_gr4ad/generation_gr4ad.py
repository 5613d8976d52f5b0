# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Level-wise beam search over valid semantic IDs, and the ranking of the items behind them.

Shapes: B batch, W beams, T levels, M children of a trie node at most, V_t codes of a level, P decoder positions, G
key/value groups, D head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .trie_gr4ad import SIDTrie


@dataclass
class BeamSearchOutput(ModelOutput):
    """Result of `beam_search`, best first.

    sequences (int64, (B, W, T)): token ids of valid SIDs; `pad_token_id` throughout a place that holds none.
    scores (float, (B, W)): log p(SID | context) + value_weight * log E[value]; -inf where there is no SID.
    expected_values (float, (B, W)): in the unit of the logs; 0 without a value head or an SID.
    leaves (int64, (B, W)): leaf of the trie; -1 where there is no SID.
    widths (tuple of int): beams in use after each level.
    trunk (float, (B, 1, P, d)) and context: what the request was decoded from.
    """

    sequences: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    expected_values: torch.Tensor | None = None
    leaves: torch.Tensor | None = None
    widths: tuple[int, ...] | None = None
    trunk: torch.Tensor | None = None
    context: ModelOutput | None = None


@dataclass
class ItemRanking(ModelOutput):
    """items (int64, (B, k)): item rows, -1 where nothing is left; scores (float, (B, k)); expected_values
    (float, (B, k)); sequences (int64, (B, k, T)): the SID each item came from."""

    items: torch.Tensor | None = None
    scores: torch.Tensor | None = None
    expected_values: torch.Tensor | None = None
    sequences: torch.Tensor | None = None


class BeamCache:
    """Self-attention keys and values of the levels already decoded, one entry a row of that level.

    Beams are never copied: when rows are chosen, only the indices of their ancestors are, and the keys of earlier
    levels are gathered through them.
    """

    def __init__(self) -> None:
        self.levels: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self.ancestors: list[torch.Tensor] = []

    def descend(self, parents: torch.Tensor) -> None:
        """Makes the rows of the next level children of `parents` (int64, (B, W)), indices into the current rows."""
        self.ancestors = [rows.gather(1, parents) for rows in self.ancestors] + [parents]

    def update(self, key: torch.Tensor, value: torch.Tensor, layer_idx: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends this level's (B, W, 1, G, D) and returns all levels', (B, W, levels so far, G, D)."""
        levels = self.levels.setdefault(layer_idx, [])
        levels.append((key, value))

        def along_path(which: int, own: torch.Tensor) -> torch.Tensor:
            past = [
                level[which].gather(1, rows[:, :, None, None, None].expand(-1, -1, 1, *own.shape[3:]))
                for level, rows in zip(levels[:-1], self.ancestors, strict=True)
            ]
            return torch.cat([*past, own], dim=2)

        return along_path(0, key), along_path(1, value)


class GR4ADGenerationMixin:
    """Beam search and item ranking of [`GR4ADForRecommendation`]."""

    @torch.no_grad()
    def beam_search(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        beam_widths: Sequence[int],
        trie: SIDTrie,
        value_weight: float = 0.0,
        **history: torch.Tensor | None,
    ) -> BeamSearchOutput:
        """Decodes the most likely valid SIDs of each history.

        The trunk runs once for all levels; at each level the live rows of all requests go through the upper layers in
        one batch; their children in the trie are scored, cut to the best `W_t` of each row (exact: no row can place
        more) and then to the best `W_t` of the request. Every SID returned is in the trie, each at most once; a
        request with fewer valid SIDs than beams is padded and marked.

        Args:
            input_ids, attention_mask, **history: The histories, as in [`GR4ADModel.forward`].
            beam_widths (`Sequence[int]`): W_t >= 1, beams kept after each of the T levels, e.g. `[128, 256, 512]`.
            trie ([`SIDTrie`]): The valid SIDs, on the model's device.
            value_weight (`float`): Weight of log expected value in the final score; needs a value head.

        Raises:
            ValueError: If widths, trie and model disagree on T, a width is below 1, or `value_weight` has no value
                head.
        """
        config = self.config
        levels = config.num_levels
        if len(beam_widths) != levels or min(beam_widths) < 1:
            raise ValueError(f"`beam_widths` needs {levels} widths >= 1, one a level. Received: {list(beam_widths)}.")
        if trie.num_levels != levels:
            raise ValueError(
                f"`trie` has {trie.num_levels} levels, the model {levels}: build it from this model's tokenizer."
            )
        self.check_value_weight(value_weight)
        context = self.model.encode(input_ids, attention_mask, **history)
        trunk = self.model.trunk(context)  # (B, 1, P, d)
        batch, device = input_ids.shape[0], input_ids.device
        dtype = torch.promote_types(
            trunk.dtype, torch.float32
        )  # scores of 512 beams differ by less than bf16 resolves
        cache = BeamCache()
        nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
        scores = torch.zeros((batch, 1), dtype=dtype, device=device)
        tokens = torch.full((batch, 1), config.bos_token_id, dtype=torch.int64, device=device)
        sequences = torch.empty((batch, 1, 0), dtype=torch.int64, device=device)
        widths = []
        for level, width in enumerate(beam_widths):
            state = self.model.autoregress(trunk[:, :, level : level + 1], tokens.unsqueeze(-1), context, cache)
            log_probs = F.log_softmax(self.sid_heads[level](state[:, :, 0]).to(dtype), dim=-1)  # (B, W, V_t)
            codes, children, valid = trie.children(level, nodes)  # (B, W, M)
            totals = (scores.unsqueeze(-1) + log_probs.gather(-1, codes)).masked_fill(~valid, -torch.inf)
            cut = min(width, totals.shape[-1])
            row_scores, places = totals.topk(cut, dim=-1)  # each row's best: no row can place more than `width`
            kept = min(width, row_scores.shape[1] * cut)
            scores, flat = row_scores.flatten(1).topk(kept, dim=-1)
            parents = flat // cut
            places = places.flatten(1).gather(1, flat) + parents * totals.shape[-1]
            codes, nodes = codes.flatten(1).gather(1, places), children.flatten(1).gather(1, places)
            tokens = codes + config.level_offsets[level]
            sequences = torch.cat(
                [sequences.gather(1, parents.unsqueeze(-1).expand(-1, -1, level)), tokens.unsqueeze(-1)], dim=-1
            )
            cache.descend(parents)
            widths.append(kept)

        alive = scores > -torch.inf
        values = torch.zeros_like(scores)
        if self.value_head is not None:
            state = self.model.autoregress(trunk[:, :, levels : levels + 1], tokens.unsqueeze(-1), context, cache)
            values = self.expected_value(self.value_head(state[:, :, 0])).masked_fill(~alive, 0.0)
            if value_weight:
                scores = scores + value_weight * values.clamp(min=1e-12).log()
                scores = scores.masked_fill(~alive, -torch.inf)
                scores, order = scores.sort(dim=-1, descending=True, stable=True)
                values, nodes, alive = values.gather(1, order), nodes.gather(1, order), alive.gather(1, order)
                sequences = sequences.gather(1, order.unsqueeze(-1).expand_as(sequences))
        return BeamSearchOutput(
            sequences=sequences.masked_fill(~alive.unsqueeze(-1), config.pad_token_id),
            scores=scores,
            expected_values=values,
            leaves=nodes.masked_fill(~alive, -1),
            widths=tuple(widths),
            trunk=trunk,
            context=context,
        )

    def check_value_weight(self, value_weight: float) -> None:
        """Raises ValueError if values are to count in a model that has no value head."""
        if value_weight and self.value_head is None:
            raise ValueError(
                f"`value_weight` = {value_weight} needs a value head: train with `num_value_buckets` > 0."
            )

    def expected_value(self, value_logits: torch.Tensor) -> torch.Tensor:
        """E[value] from bucket logits (..., buckets), in the unit of `config.value_bucket_means`; float32 (...).

        Raises:
            ValueError: If the config carries no `value_bucket_means`.
        """
        means = self.config.value_bucket_means
        if means is None:
            raise ValueError(
                "`config.value_bucket_means` is not set: copy the tokenizer's, fitted on the training values."
            )
        return value_logits.float().softmax(-1) @ torch.tensor(means, dtype=torch.float32, device=value_logits.device)

    def with_history(self, beams: BeamSearchOutput, input_ids: torch.Tensor, trie: SIDTrie) -> BeamSearchOutput:
        """The beams, followed by the SIDs of the history (B, S * T) that are in the trie and not among them; scored in
        one teacher-forced pass, in the same terms."""
        config = self.config
        batch, levels = input_ids.shape[0], config.num_levels
        sids = input_ids.view(batch, -1, levels)
        leaves = trie.find(sids - torch.tensor(config.level_offsets, device=sids.device))
        earlier = torch.cat([beams.leaves, leaves], dim=1).unsqueeze(1) == leaves.unsqueeze(2)  # (B, S, W + S)
        places = torch.arange(earlier.shape[2], device=sids.device) - beams.leaves.shape[1]
        own = torch.arange(leaves.shape[1], device=sids.device).unsqueeze(1)
        alive = (leaves >= 0) & ~(earlier & (places < own)).any(-1)

        known = torch.where(alive.unsqueeze(-1), sids, beams.sequences[:, :1])  # any valid SID: its score is not used
        states = self.model.autoregress(beams.trunk, self.shift_right(known), beams.context)
        scores = self.sid_log_probs(states, known)
        values = torch.zeros_like(scores)
        if self.value_head is not None:
            values = self.expected_value(self.value_head(states[:, :, levels])).masked_fill(~alive, 0.0)
        return BeamSearchOutput(
            sequences=torch.cat([beams.sequences, sids.masked_fill(~alive.unsqueeze(-1), config.pad_token_id)], 1),
            scores=torch.cat([beams.scores, scores.masked_fill(~alive, -torch.inf)], 1),
            expected_values=torch.cat([beams.expected_values, values.to(beams.expected_values)], 1),
            leaves=torch.cat([beams.leaves, leaves.masked_fill(~alive, -1)], 1),
            widths=beams.widths,
            trunk=beams.trunk,
            context=beams.context,
        )

    @torch.no_grad()
    def recommend(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        beam_widths: Sequence[int],
        trie: SIDTrie,
        top_k: int,
        value_weight: float = 0.0,
        item_weight: float = 0.0,
        score_history: bool = False,
        exclude_items: torch.Tensor | None = None,
        **history: torch.Tensor | None,
    ) -> ItemRanking:
        """Ranks items: beam search, the items of every SID found, then one top-k.

        An item scores (1 - item_weight) * log p(SID) + item_weight * log p(item) + value_weight * log E[value], its
        log p from the item head: at `value_weight` = 1 the list is ordered by expected value per position shown.
        Items that share an SID keep the order of the trie's leaves unless the item head tells them apart.

        Args:
            top_k (`int`): Items to return; fewer where the beams hold fewer, the rest marked -1.
            exclude_items (int64, (B, E), *optional*): Item rows never to return, -1 = padding.
            item_weight (`float`): In [0, 1]; above 0 it needs `config.item_head`, whose rows are item rows + 1. At 1
                the beams are candidates only.
            value_weight (`float`): Exponent of the expected value; needs a value head.
            score_history (`bool`): Also rank the history's own SIDs, beside those that the beams found, by the same
                score: for logs in which users come back.

        Raises:
            ValueError: As `beam_search`; or if `item_weight` is outside [0, 1] or has no item head.
        """
        if not 0 <= item_weight <= 1:
            raise ValueError(f"`item_weight` must be in [0, 1]: it is a share. Received: {item_weight}.")
        self.check_value_weight(value_weight)
        if item_weight and not self.config.item_head:
            raise ValueError(f"`item_weight` = {item_weight} needs an item head: train with `item_head` = True.")
        beams = self.beam_search(input_ids, attention_mask, beam_widths=beam_widths, trie=trie, **history)
        if score_history:
            beams = self.with_history(beams, input_ids, trie)
        items, valid = trie.items(beams.leaves.clamp(min=0))  # (B, W, M)
        valid = valid & (beams.leaves >= 0).unsqueeze(-1)
        scores = beams.scores.unsqueeze(-1).expand_as(items)
        if item_weight:
            log_probs = self.item_head.log_probs(beams.trunk, self.item_table, beams.context)[:, 1:]
            rows = items.flatten(1)
            newer = rows >= log_probs.shape[-1]  # than the table: as unlikely as the least likely item
            item_scores = log_probs.gather(1, rows.masked_fill(newer, 0))
            item_scores = torch.where(newer, log_probs.amin(1, keepdim=True), item_scores)
            scores = (1 - item_weight) * scores + item_weight * item_scores.view_as(scores)
        if value_weight:
            scores = scores + value_weight * beams.expected_values.clamp(min=1e-12).log().unsqueeze(-1)
        if exclude_items is not None:
            valid = valid & ~(items.flatten(1).unsqueeze(-1) == exclude_items.unsqueeze(1)).any(-1).view_as(valid)
        scores = scores.masked_fill(~valid, -torch.inf).flatten(1)
        # A stable sort, so that equal scores keep the order of beams and leaves; topk promises no order among ties.
        scores, order = scores.sort(dim=-1, descending=True, stable=True)
        scores, order = scores[:, :top_k], order[:, :top_k]
        beam = order // items.shape[-1]
        kept = scores > -torch.inf
        return ItemRanking(
            items=items.flatten(1).gather(1, order).masked_fill(~kept, -1),
            scores=scores,
            expected_values=beams.expected_values.gather(1, beam).masked_fill(~kept, 0.0),
            sequences=beams.sequences.gather(1, beam.unsqueeze(-1).expand(-1, -1, beams.sequences.shape[-1])),
        )


__all__ = ["BeamCache", "BeamSearchOutput", "GR4ADGenerationMixin", "ItemRanking"]
