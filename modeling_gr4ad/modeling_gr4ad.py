# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The GR4AD model that is trained and served: [`GR4ADModel`] with its heads and losses.

Shapes: B batch, S history items, T SID levels, P decoder positions, R decoder rows that share one context, d hidden
size, V_t codes of level t, N targets.
"""

import math
from dataclasses import dataclass, replace
from typing import Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from .backbone_gr4ad import GR4ADFusion, GR4ADModel, GR4ADModelOutput, GR4ADPreTrainedModel, names_history_inputs
from .configuration_gr4ad import GR4ADConfig, HistoryKwargs
from .generation_gr4ad import GR4ADGenerationMixin
from .history_sids_gr4ad import GR4ADHistorySIDs
from .item_head_gr4ad import GR4ADItemHead
from .item_neighbours_gr4ad import GR4ADItemNeighbours
from .item_values_gr4ad import GR4ADItemValues
from .layers_gr4ad import GR4ADContext
from .new_items_gr4ad import GR4ADNewItems
from .prefix_vectors_gr4ad import GR4ADPrefixVectors
from .resizing_gr4ad import GR4ADResizingMixin
from .soft_targets_gr4ad import Teacher, queries_of, soft_target_losses
from .trie_gr4ad import SIDTrie
from .vsl_loss_gr4ad import VSLLossWeights, vsl_loss


@dataclass
class GR4ADRecommendationOutput(ModelOutput):
    """Output of [`GR4ADForRecommendation`].

    loss: scalar, L_VSL of the labelled targets (eq. 15). losses: its parts, detached: `sid`, `value`, `mtp`, `item`,
    `teacher`.
    logits: T tensors (N, V_t) over the codes of each level, for the N labelled targets in row-major order; -inf for
    codes that no SID continues with. Without labels, of the first position, and none with `sid_normalization` "trie".
    value_logits (N, buckets). candidate_logps (B, n): log p(SID) of the candidates.
    candidate_item_logps (B, n): log p of the candidates by the item head.
    target_losses (N,): what each target adds to the loss, before the division by their number.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    value_logits: torch.Tensor | None = None
    candidate_logps: torch.Tensor | None = None
    candidate_item_logps: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None
    target_losses: torch.Tensor | None = None


class GR4ADForRecommendation(GR4ADGenerationMixin, GR4ADResizingMixin, GR4ADPreTrainedModel):
    """GR4AD with one head per SID level, and optional value and item heads.

    ```python
    >>> output = model.beam_search(batch["input_ids"], batch["attention_mask"], beam_widths=[128, 256, 512], trie=trie)
    >>> output.sequences.shape  # (B, 512, 3) token ids, every one a valid SID
    ```
    """

    config: GR4ADConfig

    def __init__(self, config: GR4ADConfig):
        super().__init__(config)
        self.model = GR4ADModel(config)
        self.sid_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, size, bias=False) for size in config.codebook_sizes
        )
        self.prefix_vectors = GR4ADPrefixVectors(config) if config.num_prefix_vectors else None
        self.history_sids = GR4ADHistorySIDs(config) if config.sid_copy or config.sid_repeat else None
        self.value_head = (
            nn.Linear(config.hidden_size, config.num_value_buckets, bias=False) if config.num_value_buckets else None
        )
        self.item_head = GR4ADItemHead(config) if config.item_head else None
        self.item_neighbours = GR4ADItemNeighbours(config) if config.num_item_neighbours else None
        self.item_values = GR4ADItemValues(config) if config.item_values else None
        self.new_items = GR4ADNewItems(config) if config.num_new_items else None
        self.post_init()

    def shift_right(self, sids: torch.Tensor) -> torch.Tensor:
        """SID tokens (..., T), -100 where unlabelled -> previous tokens of each position (..., P)."""
        sids = sids.masked_fill(sids < 0, self.config.pad_token_id)
        previous = F.pad(sids, (1, 0), value=self.config.bos_token_id)
        return previous[..., : self.model.num_positions]

    @names_history_inputs
    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        value_labels: torch.Tensor | None = None,
        item_labels: torch.Tensor | None = None,
        sample_weight: torch.Tensor | None = None,
        candidate_ids: torch.Tensor | None = None,
        candidate_items: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        loss_weights: VSLLossWeights | None = None,
        trie: SIDTrie | None = None,
        teacher: Teacher | None = None,
        **kwargs: Unpack[HistoryKwargs],
    ) -> GR4ADRecommendationOutput:
        """
        Args:
            input_ids (int64, (B, S * T)), attention_mask, item_ids, event_ids, value_ids, time_ids, cross_domain_ids,
                cross_domain_places, user_feature_ids: The histories, see [`GR4ADModel`] and [`HistoryInputs`].
            labels (int64, (B, T) or (B, S, T)): Token ids of the target SID after the whole history,
                or after each prefix of it (row i: the target once items 0..i are known); -100 = no target. One pass
                trains every prefix.
            value_labels, item_labels (int64, labels' shape less T): Value bucket 0..buckets-1 and item row; -100 =
                none.
            sample_weight (float, labels' shape less T): w of eq. 15, multiplies every term of its target; default 1.
            candidate_ids (int64, (B, n, T)): SIDs to score, all against one reading of the context. With `labels` of
                shape (B, T) beside them, both come from that reading.
            candidate_items (int64, (B, n)): Item rows + 1 of the candidates, to score them by the item head too.
            num_items_in_batch (`int`): Label tokens of the whole accumulated batch, as Trainer counts them; default:
                the ones given here. Makes 1x8 and 8x1 accumulation one trajectory.
            loss_weights ([`VSLLossWeights`]): Weights of the parts of the loss; default the configuration's.
            trie ([`SIDTrie`]): The catalog that p(SID) is defined over, see [`GR4ADSIDPathMixin`]: needed for labels
                and candidates with `sid_normalization` "trie". Candidates that it does not hold have log p = -inf.
            teacher: Of the soft targets that `loss_weights` ask for, see `Teacher`; default the item head.

        Raises:
            ValueError: If that is missing, or a label is an SID that it does not hold.
        """
        per_prefix = labels is not None and labels.ndim == 3
        if labels is not None and per_prefix and candidate_ids is not None:
            raise ValueError(
                f"`labels` beside `candidate_ids` must be (B, {self.config.num_levels}), one target after the whole "
                f"history. Received: {tuple(labels.shape)}."
            )
        if labels is not None and not per_prefix:
            labels = labels.unsqueeze(1)
            value_labels, item_labels, sample_weight = (
                None if x is None else x.unsqueeze(1) for x in (value_labels, item_labels, sample_weight)
            )
        loss_weights = VSLLossWeights.of(self.config) if loss_weights is None else loss_weights
        wants_mtp = self.training and labels is not None and loss_weights.mtp > 0
        rows = [part for part in (labels, candidate_ids) if part is not None]
        outputs = self.model(
            input_ids,
            attention_mask,
            self.shift_right(torch.cat(rows, dim=1)) if rows else None,
            per_prefix=per_prefix,
            token_free_pass=wants_mtp,
            value_tokens=self.value_tokens(torch.cat(rows, dim=1)) if rows else None,
            **kwargs,
        )
        states, context, trunk = outputs.last_hidden_state, outputs.context, outputs.trunk_hidden_state
        candidate_logps = None
        if candidate_ids is not None:
            first = 0 if labels is None else 1
            history = None
            if self.history_sids is not None:
                history = self.read_history_sids(context, trunk, self.known_trie(trie))
            candidate_logps = self.prefix_log_probs(states[:, first:], candidate_ids, trie, history)[..., -1]
            states = states[:, :first]
        result = GR4ADRecommendationOutput(
            candidate_logps=candidate_logps,
            candidate_item_logps=self.item_log_probs(outputs, candidate_items),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        if labels is None:
            if candidate_ids is None:
                states = states.flatten(0, 1)
                in_codebooks = self.config.sid_normalization == "codebook"
                result = GR4ADRecommendationOutput(
                    logits=self.target_logits(states, None, None) if in_codebooks else None,
                    value_logits=self.value_logits(states),
                    **result,
                )
            return result
        chosen = labels[..., 0] >= 0
        codes = labels[chosen] - torch.tensor(self.config.level_offsets, device=labels.device)
        paths = history = None
        if self.config.sid_normalization == "trie":
            paths = self.known_trie(trie).paths(codes)
            check_labels(codes, paths)
            if self.history_sids is not None:
                history = self.read_history_sids(context, trunk, self.known_trie(trie), chosen)
        states = states[chosen]
        logits, value_logits = self.target_logits(states, paths, trie, history), self.value_logits(states)
        free = None
        if wants_mtp:
            free_states = outputs.token_free_hidden_state[chosen]
            free = self.target_logits(free_states, paths, trie, history), self.value_logits(free_states)
        item_losses = None
        if self.item_head is not None and item_labels is not None and loss_weights.item:
            item_losses = self.item_head.negative_log_likelihood(trunk, self.item_table, context, item_labels, chosen)
        soft_losses = None
        if self.training and loss_weights.teacher and paths is not None and len(codes):
            count = math.ceil(len(codes) * loss_weights.teacher_share)
            picked = torch.randperm(len(codes), device=codes.device)[:count]
            asked = chosen.flatten().nonzero()[:, 0][picked]
            own = None if history is None else history.take(picked)
            soft_losses = (
                picked,
                soft_target_losses(
                    self.teacher_scores(teacher, outputs, asked, loss_weights.teacher_neighbour_weight),
                    [level[picked] for level in logits],
                    codes[picked],
                    paths[picked],
                    self.known_trie(trie),
                    own,
                    loss_weights.teacher_temperature,
                ),
            )
        copied = None
        if history is not None and history.log_total is not None and paths is not None:
            copied = history.log_copied(len(logits) - 1, paths[:, -1:])[:, 0], history.log_total
        loss, losses, target_losses = vsl_loss(
            loss_weights if self.training else replace(loss_weights, label_smoothing=0.0),
            (logits, value_logits),
            free,
            codes,
            None if value_labels is None else value_labels[chosen],
            copied=copied,
            item_losses=item_losses,
            soft_losses=soft_losses,
            weight=None if sample_weight is None else sample_weight[chosen],
            num_targets=len(codes) if num_items_in_batch is None else num_items_in_batch / self.config.num_levels,
        )
        return GR4ADRecommendationOutput(
            loss=loss, losses=losses, logits=logits, value_logits=value_logits, **result, target_losses=target_losses
        )

    @torch.no_grad()
    def teacher_scores(
        self, teacher: Teacher | None, outputs: GR4ADModelOutput, asked: torch.Tensor, neighbour_weight: float
    ) -> torch.Tensor:
        """Scores of the items (n, num_items - 1), by item row, of queries (int64, (n,), places among all)."""
        if outputs.context.item_ids is None:
            raise ValueError(
                "A teacher ranks items, and this model has no item table (`num_items` = 0). Build it with one, or set "
                "the teacher's weight to 0."
            )
        context = queries_of(outputs.context, asked)
        if teacher is not None:
            scores, shape = teacher(context.item_ids, context.visible[:, 0]), (len(asked), self.config.num_items - 1)
            if tuple(scores.shape) != shape:
                raise ValueError(f"The teacher's scores must have shape {shape}. Received: {tuple(scores.shape)}.")
            return scores
        if self.item_head is None:
            raise ValueError(
                "Soft targets need a teacher: the model has no item head. Pass `teacher`, train with `item_head` = "
                "True, or set the teacher's weight to 0."
            )
        trunk = outputs.trunk_hidden_state.flatten(0, 1)[asked].unsqueeze(1)
        scores = self.item_head.log_probs(trunk, self.item_table, context)[:, 1:]
        if self.item_neighbours is not None and neighbour_weight:
            scores = self.item_neighbours(context, scores, neighbour_weight)
        return scores

    def item_log_probs(self, outputs: GR4ADModelOutput, items: torch.Tensor | None) -> torch.Tensor | None:
        """log p(item | context) of items (int64, (B, n), rows + 1), by the item head; None without items."""
        if items is None:
            return None
        if self.item_head is None:
            raise ValueError("`candidate_items` needs an item head: train with `item_head` = True.")
        log_probs = self.item_head.log_probs(outputs.trunk_hidden_state, self.item_table, outputs.context)
        return log_probs.gather(1, items)


def check_labels(codes: torch.Tensor, paths: torch.Tensor) -> None:
    """Raises ValueError if an SID (codes, int64, (N, T)) is not in the trie that gave its path (int64, (N, T))."""
    unknown = (paths[:, -1] < 0).nonzero()[:, 0]
    if len(unknown):
        raise ValueError(
            f"`labels` hold the SID with codes {codes[unknown[0]].tolist()}, which `trie` does not, so that it has no "
            "probability. Train with `model.build_trie(tokenizer, removed=True)`, of the tokenizer that made the "
            "labels."
        )


__all__ = [
    "GR4ADContext",
    "GR4ADForRecommendation",
    "GR4ADFusion",
    "GR4ADModel",
    "GR4ADModelOutput",
    "GR4ADPreTrainedModel",
    "GR4ADRecommendationOutput",
]
