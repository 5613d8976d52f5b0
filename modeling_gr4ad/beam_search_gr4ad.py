# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Level-wise beam search over valid semantic IDs (SIDs).

Shapes: B batch, W beams, T levels, M children of a trie node at most, V_t codes of a level, P decoder positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from .beam_cache_gr4ad import BeamCache
from .beam_selection_gr4ad import beam_rows, next_beams, open_children
from .configuration_gr4ad import HISTORY_INPUTS, HistoryInputs
from .history_sids_gr4ad import HistorySIDs, leading_rows
from .layers_gr4ad import GR4ADContext
from .sid_path_gr4ad import GR4ADSIDPathMixin, Rows
from .trie_gr4ad import SIDTrie
from .trie_restriction_gr4ad import TrieRestriction


@dataclass
class BeamSearchOutput(ModelOutput):
    """Result of `beam_search`, best first. From `decode_levels` with E leaves, these are E further places.

    sequences (int64, (B, W, T)): token ids of valid SIDs; `pad_token_id` throughout a place that holds none.
    scores (float, (B, W)): log p(SID | context) + value_weight * log E[value]; -inf where there is no SID.
    expected_values (float, (B, W)): in the unit of the logs; 0 without a value head or an SID.
    leaves (int64, (B, W)): leaf of the trie; -1 where there is no SID.
    widths (tuple of int): rows in use after each level.
    """

    sequences: torch.Tensor = None
    scores: torch.Tensor = None
    expected_values: torch.Tensor = None
    leaves: torch.Tensor = None
    widths: tuple[int, ...] = None


class KnownRows:
    """Rows beside the beams that lead to leaves (int64, (B, E), -1 = none), and their log-probabilities so far."""

    def __init__(self, trie: SIDTrie, leaves: torch.Tensor, dtype: torch.dtype):
        self.leaves = leaves
        self.nodes = trie.ancestors(leaves.clamp(min=0))  # where there is no leaf, of any: its score is not used
        self.codes = trie.sids(leaves.clamp(min=0))
        self.scores = torch.zeros(leaves.shape, dtype=dtype, device=leaves.device)
        self.places = torch.arange(leaves.shape[1], device=leaves.device).expand_as(leaves)

    def step(self, level: int, steps: torch.Tensor, first: torch.Tensor) -> None:
        """Takes in a level: the log-probabilities (float, (B, E or 1, M)) of the children of their nodes, of which
        `first` (int64, (B, E or 1, 1)) are the first."""
        places = self.nodes[..., level : level + 1] - first
        own = steps.expand(-1, places.shape[1], -1)
        self.scores = self.scores + own.gather(2, places).squeeze(2)

    def append(
        self, level: int, rows: torch.Tensor, codes: torch.Tensor, nodes: torch.Tensor, beams: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Parent rows, codes and nodes of the next level's beams, all (B, W), with those of the known rows behind
        them; at level 0 all rows have the first for their parent."""
        parents = self.places + beams if level else torch.zeros_like(self.places)
        own = (parents, self.codes[..., level], self.nodes[..., level])
        rows, codes, nodes = (torch.cat(pair, dim=1) for pair in zip((rows, codes, nodes), own, strict=True))
        return rows, codes, nodes

    def appended_to(
        self, scores: torch.Tensor, nodes: torch.Tensor, history: HistorySIDs | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and leaves of the beams, both (B, W), and behind them those of the known rows; -inf for what is no
        leaf or stands among the beams."""
        own = self.scores
        if history is not None and history.log_masses is not None:
            own = torch.logaddexp(own, history.log_copied(self.nodes.shape[2] - 1, self.leaves).to(own.dtype))
        found = nodes.masked_fill(~(scores > -torch.inf), -1)
        there = (self.leaves.unsqueeze(2) == found.unsqueeze(1)).any(-1)
        own = own.masked_fill((self.leaves < 0) | there, -torch.inf)
        return torch.cat([scores, own], dim=1), torch.cat([nodes, self.leaves], dim=1)


class GR4ADBeamSearchMixin(GR4ADSIDPathMixin):
    """Beam search of [`GR4ADForRecommendation`]."""

    @torch.no_grad()
    def beam_search(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        beam_widths: Sequence[int] | Sequence[Sequence[int]],
        trie: SIDTrie,
        value_weight: float = 0.0,
        return_values: bool = True,
        restriction: TrieRestriction | None = None,
        token_table: torch.Tensor | None = None,
        **history: Unpack[HistoryInputs],
    ) -> BeamSearchOutput:
        """Decodes the most likely valid SIDs of each history.

        The trunk runs once for all levels; at each level the rows of all requests go through the upper layers in one
        batch, reading the one context of their request; their children in the trie are scored and cut to the level's
        width. Every SID returned is in the trie, each at most once; a request with fewer valid SIDs than beams is
        padded and marked. Nothing is copied to the host.

        Args:
            input_ids, attention_mask, **history: The histories, as in [`GR4ADModel.forward`].
            beam_widths (`Sequence[int]`): W_t >= 1, beams kept after each of the T levels, e.g. `[128, 256, 512]`; or
                a line of T widths for each request: the result is that of each alone, padded to the widest.
            trie ([`SIDTrie`]): The valid SIDs, on the model's device.
            value_weight (`float`): Weight of log expected value in the final score; needs a value head.
            return_values (`bool`): Whether to run the value token of a model that has one: one more pass of the last
                level's rows through the upper layers.
            restriction ([`TrieRestriction`]): What each request may not be given. Scores are those of a search without
                it: nothing is renormalised.
            token_table: `model.token_table()`, if many searches share it.

        Raises:
            ValueError: If widths, trie and model disagree on T, a code of the trie is beyond the model's codebooks, a
                width is below 1, `value_weight` has no value head, or the restriction is of another trie or batch.
        """
        widths, limits = beam_rows(beam_widths, input_ids.shape[0], self.config.num_levels, input_ids.device)
        self.check_trie(trie)
        if restriction is not None:
            restriction.check(trie, input_ids.shape[0])
        if value_weight and self.value_head is None:
            raise ValueError(
                f"`value_weight` = {value_weight} needs a value head: train with `num_value_buckets` > 0."
            )
        context = self.read_histories(input_ids, attention_mask, history)
        trunk = self.model.trunk(context)
        return self.decode_levels(
            context,
            trunk,
            trie,
            widths,
            rows=self.prefix_rows(trie),
            history=self.read_history_sids(context, trunk, trie),
            token_table=token_table,
            limits=limits,
            closed=None if restriction is None else restriction.closed,
            bucket_means=self.bucket_means() if return_values or value_weight else None,
            value_weight=value_weight,
        )

    def read_histories(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None, history: Mapping[str, Any]
    ) -> GR4ADContext:
        """The context of histories. Raises TypeError for an argument that is no input of a history: the network, which
        hands what it does not know to the attention, would take it without a word."""
        unknown = sorted(set(history) - set(HISTORY_INPUTS))
        if unknown:
            raise TypeError(
                f"`{unknown[0]}` is no input of a history. Allowed: {', '.join(HISTORY_INPUTS)}. Weights of a ranking "
                "stand in `weights`."
            )
        return self.model.encode(input_ids, attention_mask, **history)

    def decode_levels(
        self,
        context: GR4ADContext,
        trunk: torch.Tensor,
        trie: SIDTrie,
        widths: tuple[int, ...],
        *,
        rows: Rows | None = None,
        history: HistorySIDs | None = None,
        token_table: torch.Tensor | None = None,
        limits: torch.Tensor | None = None,
        leaves: torch.Tensor | None = None,
        closed: Sequence[torch.Tensor] | None = None,
        bucket_means: torch.Tensor | None = None,
        value_weight: float = 0.0,
    ) -> BeamSearchOutput:
        """The level loop of `beam_search` from an encoded context and its trunk: tensors of fixed shapes, no host
        synchronisation, no data-dependent branch, so that it can be compiled or captured in a CUDA graph.

        Args:
            widths: W_t, the rows that are computed.
            rows, history: Of this trie, from `prefix_rows` and `read_history_sids`. token_table: From the method.
            limits (int64, (B, T)): How many of them each request may use.
            leaves (int64, (B, E)): Of the trie, distinct, -1 = none: SIDs that are scored whether or not a beam finds
                them. They are rows beside the beams whose next code is known, and stand behind them in the result;
                one that a beam has found is marked as missing.
            closed: As of [`TrieRestriction`]: nodes that no beam of a request enters. It does not hold for `leaves`.
            bucket_means (float, (buckets,)): Runs the value token and weighs its buckets; None leaves it out.
        """
        config = self.config
        batch, device = trunk.shape[0], trunk.device
        # Scores of 512 beams differ by less than bf16 resolves.
        dtype = torch.promote_types(trunk.dtype, torch.float32)
        cache = BeamCache()
        nodes = torch.zeros((batch, 1), dtype=torch.int64, device=device)
        alone = torch.zeros((batch, 1), dtype=dtype, device=device)  # log-probabilities before anything is copied
        scores = alone
        tokens = torch.full((batch, 1), config.bos_token_id, dtype=torch.int64, device=device)
        known = KnownRows(trie, leaves, dtype) if leaves is not None else None
        path: list[torch.Tensor] = []  # tokens (B, W + E) of each level so far, in the order of the rows of the last
        used = []
        for level, width in enumerate(widths):
            state = self.model.autoregress(
                trunk[:, :, level : level + 1], tokens.unsqueeze(-1), context, cache, token_table
            )
            children = trie.children(level, nodes)
            codes, first, _ = children
            rows_used, beams = nodes.shape[1], scores.shape[1]  # behind the beams stand the known rows
            held = places = None
            if history is not None:
                standing = nodes
                if level:  # a dead row stands at a node that is not its own
                    standing = nodes.masked_fill(F.pad(~(scores > -torch.inf), (0, rows_used - beams)), -1)
                places = history.places(level, standing, first, codes.shape[2])
                if history.repeats is not None:
                    leaders = leading_rows(standing) if known is not None and level else None
                    held = history.repeats[:, level], places, leaders
            steps = self.child_log_probs(level, state[:, :, 0], children, rows, held)
            if known is not None:
                known.step(level, steps[:, beams if level else 0 :], first[:, beams if level else 0 :])
            total = alone.unsqueeze(-1) + steps[:, :beams]
            if history is not None and history.log_masses is not None and places is not None:
                places.add_copies(total, history.log_masses[:, level])
            total = open_children(total, first[:, :beams], None if closed is None else closed[level])
            limit = None if limits is None else limits[:, level]
            scores, parents, codes, nodes, chosen = next_beams(
                (codes[:, :beams], first[:, :beams]), total, width, limit
            )
            # A row that is dead, or closed to the request, may have a probability of its own.
            alone = alone.gather(1, parents) + steps.flatten(1).gather(1, chosen)
            alone = alone.masked_fill(~(scores > -torch.inf), -torch.inf)
            used.append(scores.shape[1])
            if known is not None:
                parents, codes, nodes = known.append(level, parents, codes, nodes, beams)
            tokens = codes + config.level_offsets[level]
            path = [tokens_before.gather(1, parents) for tokens_before in path] + [tokens]
            cache.descend(parents, rows_used)
        nodes = nodes[:, : used[-1]]
        if known is not None:
            scores, nodes = known.appended_to(scores, nodes, history)
        if history is not None and history.log_total is not None:
            scores = scores - history.log_total.to(dtype).unsqueeze(1)

        sequences, alive = torch.stack(path, dim=-1), scores > -torch.inf
        values = torch.zeros_like(scores)
        if bucket_means is not None and self.value_head is not None:
            position = config.num_levels
            told = None
            if self.prefix_vectors is not None and rows is not None:
                told = self.prefix_vectors.tokens(rows[-1][nodes.clamp(min=0)])
            state = self.model.autoregress(
                trunk[:, :, position : position + 1], tokens.unsqueeze(-1), context, cache, token_table, told
            )
            expected = self.value_head(state[:, :, 0]).float().softmax(-1) @ bucket_means
            values = expected.to(dtype).masked_fill(~alive, 0.0)
            if value_weight:
                scores = (scores + value_weight * values.clamp(min=1e-12).log()).masked_fill(~alive, -torch.inf)
                scores, order = scores.sort(dim=-1, descending=True, stable=True)
                values, nodes, alive = values.gather(1, order), nodes.gather(1, order), alive.gather(1, order)
                sequences = sequences.gather(1, order.unsqueeze(-1).expand_as(sequences))
        missing = widths[-1] - used[-1]  # the trie holds fewer SIDs than there are beams
        return BeamSearchOutput(
            sequences=F.pad(
                sequences.masked_fill(~alive.unsqueeze(-1), config.pad_token_id),
                (0, 0, 0, missing),
                value=config.pad_token_id,
            ),
            scores=F.pad(scores, (0, missing), value=-torch.inf),
            expected_values=F.pad(values, (0, missing)),
            leaves=F.pad(nodes.masked_fill(~alive, -1), (0, missing), value=-1),
            widths=tuple(used),
        )

    def token_table(self) -> torch.Tensor | None:
        """What searches may share as long as the weights do not change, see [`GR4ADModel.token_table`]. None with
        `sid_normalization` "codebook": models of 0.1.0 rank as they did to the bit, and sums are rounded otherwise."""
        return None if self.config.sid_normalization == "codebook" else self.model.token_table()

    def check_trie(self, trie: SIDTrie) -> None:
        """Raises ValueError if a trie cannot be of this model's codebooks."""
        sizes = self.config.codebook_sizes
        if trie.num_levels != len(sizes):
            raise ValueError(
                f"`trie` has {trie.num_levels} levels, the model {len(sizes)}: build it from this model's tokenizer."
            )
        if any(limit > size for limit, size in zip(trie.code_limits, sizes, strict=True)):
            raise ValueError(
                f"`trie` needs codebooks of at least {trie.code_limits} codes; the model's `codebook_sizes` are "
                f"{sizes}. Build it from this model's tokenizer, or grow the model with `resize_codebooks`."
            )

    def bucket_means(self) -> torch.Tensor | None:
        """Mean value of each value bucket (float32, (buckets,)) on the model's device; None without a value head.

        Raises:
            ValueError: If the config carries no `value_bucket_means`.
        """
        if self.value_head is None:
            return None
        means = self.config.value_bucket_means
        if means is None:
            raise ValueError(
                "`config.value_bucket_means` is not set: copy the tokenizer's, fitted on the training values."
            )
        return torch.tensor(means, dtype=torch.float32, device=self.value_head.weight.device)


__all__ = ["BeamSearchOutput", "GR4ADBeamSearchMixin"]
