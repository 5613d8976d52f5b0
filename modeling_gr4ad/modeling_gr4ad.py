# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""PyTorch GR4AD model: a context processor and the LazyAR decoder (arXiv 2602.22732, section "LazyAR").

Shapes: B batch, S history items, X cross-domain entries, T SID levels, P decoder positions (T, or T + 1 with the value
token), R decoder rows that share one context (beams, candidates, or history prefixes), d hidden size, V_t codes of
level t, N targets.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .beam_cache_gr4ad import BeamCache
from .configuration_gr4ad import HISTORY_INPUTS, GR4ADConfig, HistoryKwargs
from .context_gr4ad import GR4ADContextProcessor
from .generation_gr4ad import GR4ADGenerationMixin
from .item_head_gr4ad import COPY_BIAS, GR4ADItemHead
from .item_neighbours_gr4ad import GR4ADItemNeighbours
from .layers_gr4ad import GR4ADContext, GR4ADCrossAttention, GR4ADDecoderLayer, GR4ADDropout, GR4ADRMSNorm
from .resizing_gr4ad import GR4ADResizingMixin
from .vsl_loss_gr4ad import VSLLossWeights, vsl_loss


def names_history_inputs(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `inspect.signature` of a forward method name every input of [`HistoryInputs`]: Trainer drops the columns of
    a data set that the signature does not name."""
    signature = inspect.signature(forward)
    parameters = list(signature.parameters.values())
    named = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in HISTORY_INPUTS
        if name not in signature.parameters
    ]
    forward.__signature__ = signature.replace(parameters=[*parameters[:-1], *named, parameters[-1]])  # type: ignore[attr-defined]
    return forward


@dataclass
class GR4ADModelOutput(ModelOutput):
    """last_hidden_state (B, R, P, d): normed decoder states, with the previous tokens. trunk_hidden_state (B, 1 or R,
    P, d): the token-free states m^K. token_free_hidden_state: the same positions run through the upper layers without
    injection (MTP)."""

    last_hidden_state: torch.Tensor = None
    trunk_hidden_state: torch.Tensor = None
    token_free_hidden_state: torch.Tensor | None = None
    context: GR4ADContext = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class GR4ADRecommendationOutput(ModelOutput):
    """Output of [`GR4ADForRecommendation`].

    loss: scalar, L_VSL of the labelled targets (eq. 15). losses: its parts, detached: `sid`, `value`, `mtp`, `item`.
    logits: T tensors (N, V_t) over the codes of each level, for the N labelled targets in row-major order.
    value_logits (N, buckets). candidate_logps (B, n): sum over levels of the candidates' token log-probabilities.
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


class GR4ADFusion(nn.Module):
    """Late injection of the previous token: Fuse(m, s) = W_f [m * (W_g s) ; s] (eq. 9).

    W_g is affine here, its bias starts at 1 and W_f at [I I]: training starts from m + s. Without the bias a fresh
    gate all but silences the trunk, whose work the upper layers would have to do again.
    """

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)
        # Parameters of this module, not of linear layers in it, so that `_init_weights` is asked about them.
        self.gate_bias = nn.Parameter(torch.empty(config.hidden_size))
        self.weight = nn.Parameter(torch.empty(config.hidden_size, 2 * config.hidden_size))

    def forward(self, trunk: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        gate = self.gate_proj(token) + self.gate_bias
        return F.linear(torch.cat([trunk * gate, token], dim=-1), self.weight)


class GR4ADEmbedding(nn.Embedding):
    """Embedding of SID tokens or levels. They are added to the trunk and start nearer its scale than other weights
    (`embedding_initializer_range`): beside a trunk tens of times larger they would take many epochs to be seen."""


class GR4ADPreTrainedModel(PreTrainedModel):
    config: GR4ADConfig
    config_class = GR4ADConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _no_split_modules = ["GR4ADDecoderLayer", "GR4ADContextLayer"]
    _skip_keys_device_placement = ["context", "cache"]
    _supports_sdpa = True
    _supports_flash_attn = False  # prefix masks are arbitrary; flash kernels take none
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": GR4ADDecoderLayer, "attentions": GR4ADCrossAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, GR4ADItemHead):
            init.zeros_(module.bias)
            init.constant_(module.gain, self.config.item_head_gain)
            if module.copies:
                init.constant_(module.copy_bias, COPY_BIAS)
            if module.repeats:
                init.zeros_(module.repeat_bias)
        if isinstance(module, GR4ADItemNeighbours):
            init.zeros_(module.items)
            init.zeros_(module.similarity)
        if isinstance(module, GR4ADEmbedding):
            init.normal_(module.weight, std=self.config.embedding_initializer_range)
            if module.padding_idx is not None:
                init.zeros_(module.weight[module.padding_idx])
        if isinstance(module, GR4ADFusion):
            init.ones_(module.gate_bias)
            init.copy_(module.weight, torch.eye(self.config.hidden_size).repeat(1, 2).to(module.weight))


class GR4ADModel(GR4ADPreTrainedModel):
    """Context processor and LazyAR decoder, without heads.

    Layers 1..K run on the level positions alone (eqs. 5-8) and once a request; the previous token enters before layer
    K + 1 (eq. 9); layers K + 1..L run for every row (eqs. 10-11).
    """

    def __init__(self, config: GR4ADConfig):
        super().__init__(config)
        self.num_positions = config.num_levels + (1 if config.num_value_buckets else 0)
        self.embed_tokens = GR4ADEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.level_embeddings = GR4ADEmbedding(self.num_positions, config.hidden_size)
        self.context_processor = GR4ADContextProcessor(config)
        self.layers = nn.ModuleList(GR4ADDecoderLayer(config, i) for i in range(config.num_hidden_layers))
        self.fusion = GR4ADFusion(config)
        self.norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = GR4ADDropout(config.dropout)
        self.gradient_checkpointing = False
        self.post_init()

    def encode(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        *,
        per_prefix: bool = False,
        **history: Unpack[HistoryKwargs],
    ) -> GR4ADContext:
        """Reads the histories: arguments as in `forward`.

        Raises:
            ValueError: If `input_ids` is not a whole number of SIDs, or longer than `max_context_items`, or a feature
                that the model needs is missing.
        """
        levels, limit = self.config.num_levels, self.config.max_context_items
        if input_ids.shape[1] % levels or not 0 < input_ids.shape[1] <= levels * limit:
            raise ValueError(
                f"`input_ids` must hold 1..{limit} items of {levels} tokens each. Received: "
                f"{input_ids.shape[1]} tokens. Keep the last `max_context_items` items of each history."
            )
        if attention_mask is None:
            attention_mask = input_ids != self.config.pad_token_id
        batch, length = input_ids.shape[0], input_ids.shape[1] // levels
        return self.context_processor(
            self.embed_tokens(input_ids).view(batch, length, levels, -1),
            attention_mask.view(batch, length, levels)[..., 0].bool(),
            per_prefix=per_prefix,
            **history,
        )

    def trunk(self, context: GR4ADContext, **kwargs) -> torch.Tensor:
        """m^K of all positions at once, (B, 1 or S, P, d): no previous token, hence shared by every row of a query."""
        levels = self.level_embeddings(torch.arange(self.num_positions, device=context.query.device))
        if self.config.query_from_context:
            hidden = levels + context.query.unsqueeze(2)
        else:
            hidden = levels.expand(*context.query.shape[:2], -1, -1)
        hidden = self.dropout(hidden)
        for layer in self.layers[: self.config.num_parallel_layers]:
            hidden = layer(hidden, context, self.causal_mask(hidden), **kwargs)
        return hidden

    def autoregress(
        self,
        trunk: torch.Tensor,
        tokens: torch.Tensor | None,
        context: GR4ADContext,
        cache: BeamCache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Layers K + 1..L. trunk (B, 1 or R, P', d) and the previous tokens (B, R, P') -> normed states (B, R, P', d);
        with `tokens=None` nothing is injected (h^K := m^K, the MTP path). With a cache, P' = 1 new position."""
        hidden = trunk
        if tokens is not None:
            injected = self.embed_tokens(tokens)
            if self.config.fuse_prefix:
                injected = injected.cumsum(dim=2) if cache is None else cache.sum_along_path(injected)
            hidden = self.fusion(trunk, self.dropout(injected))
        mask = None if cache is not None else self.causal_mask(hidden)
        for layer in self.layers[self.config.num_parallel_layers :]:
            hidden = layer(hidden, context, mask, cache, **kwargs)
        return self.norm(hidden)

    @staticmethod
    def causal_mask(hidden: torch.Tensor) -> torch.Tensor:
        positions = hidden.shape[2]
        return torch.ones((1, 1, positions, positions), dtype=torch.bool, device=hidden.device).tril()

    @names_history_inputs
    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        per_prefix: bool = False,
        token_free_pass: bool = False,
        **kwargs: Unpack[HistoryKwargs],
    ) -> GR4ADModelOutput:
        """
        Args:
            input_ids (int64, (B, S * T)): SID tokens of the history, oldest first; either padding side.
            attention_mask (int64 or bool, (B, S * T)): 1 on real tokens; default `input_ids != pad_token_id`.
            decoder_input_ids (int64, (B, R, P)): Previous token of each position of each row, BOS first; R = S when
                `per_prefix`. Default: one row of BOS and padding.
            item_ids, event_ids, value_ids, time_ids, cross_domain_ids, cross_domain_places, user_feature_ids: What
                else is known of the histories, see [`HistoryInputs`].
            per_prefix (`bool`): One query for every prefix of the history (row i sees items 0..i), not one for the
                whole.
            token_free_pass (`bool`): Also run the upper layers without injection.
        """
        context = self.encode(input_ids, attention_mask, per_prefix=per_prefix, **kwargs)
        rest: dict[str, Any] = {name: value for name, value in kwargs.items() if name not in HISTORY_INPUTS}
        trunk = self.trunk(context, **rest)
        if decoder_input_ids is None:
            decoder_input_ids = input_ids.new_full((*trunk.shape[:2], self.num_positions), self.config.pad_token_id)
            decoder_input_ids[..., 0] = self.config.bos_token_id
        return GR4ADModelOutput(
            last_hidden_state=self.autoregress(trunk, decoder_input_ids, context, **rest),
            trunk_hidden_state=trunk,
            token_free_hidden_state=self.autoregress(trunk, None, context, **rest) if token_free_pass else None,
            context=context,
        )


class GR4ADForRecommendation(GR4ADGenerationMixin, GR4ADResizingMixin, GR4ADPreTrainedModel):
    """GR4AD with one head per SID level, and optional value and item heads.

    ```python
    >>> output = model.beam_search(batch["input_ids"], batch["attention_mask"], beam_widths=[128, 256, 512], trie=trie)
    >>> output.sequences.shape  # (B, 512, 3) token ids, every one a valid SID
    ```
    """

    config: GR4ADConfig
    model: GR4ADModel

    def __init__(self, config: GR4ADConfig):
        super().__init__(config)
        self.model = GR4ADModel(config)
        self.sid_heads = nn.ModuleList(
            nn.Linear(config.hidden_size, size, bias=False) for size in config.codebook_sizes
        )
        self.value_head = (
            nn.Linear(config.hidden_size, config.num_value_buckets, bias=False) if config.num_value_buckets else None
        )
        self.item_head = GR4ADItemHead(config) if config.item_head else None
        self.item_neighbours = GR4ADItemNeighbours(config) if config.num_item_neighbours else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

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
        """
        if candidate_ids is not None and labels is None:
            outputs = self.model(input_ids, attention_mask, self.shift_right(candidate_ids), **kwargs)
            return GR4ADRecommendationOutput(
                candidate_logps=self.sid_log_probs(outputs.last_hidden_state, candidate_ids),
                candidate_item_logps=self.item_log_probs(outputs, candidate_items),
                hidden_states=outputs.hidden_states,
                attentions=outputs.attentions,
            )

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
        rows = labels
        if labels is not None and candidate_ids is not None:
            rows = torch.cat([labels, candidate_ids], dim=1)
        outputs = self.model(
            input_ids,
            attention_mask,
            None if rows is None else self.shift_right(rows),
            per_prefix=per_prefix,
            token_free_pass=wants_mtp,
            **kwargs,
        )
        candidate_logps = None
        if candidate_ids is not None:
            candidate_logps = self.sid_log_probs(outputs.last_hidden_state[:, 1:], candidate_ids)
            outputs.last_hidden_state = outputs.last_hidden_state[:, :1]
        chosen = (
            torch.ones(outputs.last_hidden_state.shape[:2], dtype=torch.bool, device=input_ids.device)
            if labels is None
            else labels[..., 0] >= 0
        )
        states = outputs.last_hidden_state[chosen]
        logits, value_logits = self.sid_logits(states), self.value_logits(states)
        result = GR4ADRecommendationOutput(
            logits=logits,
            value_logits=value_logits,
            candidate_logps=candidate_logps,
            candidate_item_logps=self.item_log_probs(outputs, candidate_items),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        if labels is not None:
            targets = labels[chosen]
            free = outputs.token_free_hidden_state[chosen] if wants_mtp else None
            loss, losses, target_losses = vsl_loss(
                loss_weights if self.training else replace(loss_weights, label_smoothing=0.0),
                (logits, value_logits),
                None if free is None else (self.sid_logits(free), self.value_logits(free)),
                targets - torch.tensor(self.config.level_offsets, device=targets.device),
                None if value_labels is None else value_labels[chosen],
                item_losses=self.item_loss(outputs, item_labels, chosen) if loss_weights.item else None,
                weight=None if sample_weight is None else sample_weight[chosen],
                num_targets=(
                    len(targets) if num_items_in_batch is None else num_items_in_batch / self.config.num_levels
                ),
            )
            # A tuple's order is that of setting.
            result = GR4ADRecommendationOutput(loss=loss, losses=losses, **result, target_losses=target_losses)
        return result

    def sid_logits(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """T tensors (N, V_t) from the decoder states (N, P, d) of N targets."""
        return tuple(head(states[:, level]) for level, head in enumerate(self.sid_heads))

    def value_logits(self, states: torch.Tensor) -> torch.Tensor | None:
        """(N, buckets) from the decoder states (N, P, d) of N targets; None without a value head."""
        return None if self.value_head is None else self.value_head(states[:, -1])

    def sid_log_probs(self, states: torch.Tensor, sids: torch.Tensor) -> torch.Tensor:
        """log p(SID | context), (B, R), of SID tokens (B, R, T) from their teacher-forced states (B, R, P, d)."""
        total = states.new_zeros(sids.shape[:-1], dtype=torch.promote_types(states.dtype, torch.float32))
        for level, (head, offset) in enumerate(zip(self.sid_heads, self.config.level_offsets, strict=True)):
            log_probs = F.log_softmax(head(states[:, :, level]).to(total.dtype), dim=-1)
            total = total + log_probs.gather(-1, (sids[..., level] - offset).unsqueeze(-1)).squeeze(-1)
        return total

    def item_log_probs(self, outputs: GR4ADModelOutput, items: torch.Tensor | None) -> torch.Tensor | None:
        """log p(item | context) of items (int64, (B, n), rows + 1), by the item head; None without items."""
        if items is None:
            return None
        if self.item_head is None:
            raise ValueError("`candidate_items` needs an item head: train with `item_head` = True.")
        log_probs = self.item_head.log_probs(outputs.trunk_hidden_state, self.item_table, outputs.context)
        return log_probs.gather(1, items)

    def item_loss(
        self, outputs: GR4ADModelOutput, item_labels: torch.Tensor | None, chosen: torch.Tensor
    ) -> torch.Tensor | None:
        """The item head's -log p(item), (N,), of the chosen queries (bool, (B, Q)); None where it is not trained."""
        if self.item_head is None or item_labels is None:
            return None
        trunk, context = outputs.trunk_hidden_state, outputs.context
        seen_items = self.item_head.seen_items(context)[chosen] if self.item_head.repeats else None
        copy_weights = item_ids = None
        if self.item_head.copies:
            copy_weights = self.item_head.copy_weights(trunk, context)[chosen]
            item_ids = context.item_ids.unsqueeze(1).expand(-1, chosen.shape[1], -1)[chosen]
        return self.item_head.negative_log_likelihood(
            trunk[chosen], self.item_table, item_labels[chosen], seen_items, copy_weights, item_ids
        )


__all__ = [
    "GR4ADContext",
    "GR4ADForRecommendation",
    "GR4ADModel",
    "GR4ADModelOutput",
    "GR4ADPreTrainedModel",
    "GR4ADRecommendationOutput",
]
