# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""GR4AD below its heads: a context processor and the LazyAR decoder (arXiv 2602.22732, section "LazyAR").

Shapes: B batch, S history items, X cross-domain entries, T SID levels, P decoder positions (T, or T + 1 with the value
token), R decoder rows that share one context (beams, candidates, or history prefixes), d hidden size.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Unpack

import torch
from torch import nn
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .beam_cache_gr4ad import BeamCache
from .configuration_gr4ad import HISTORY_INPUTS, GR4ADConfig, HistoryKwargs
from .context_gr4ad import GR4ADContextProcessor
from .history_sids_gr4ad import GR4ADHistorySIDs
from .item_head_gr4ad import COPY_BIAS, GR4ADItemHead
from .item_neighbours_gr4ad import GR4ADItemNeighbours
from .item_values_gr4ad import GR4ADItemValues
from .layers_gr4ad import GR4ADContext, GR4ADCrossAttention, GR4ADDecoderLayer, GR4ADDropout, GR4ADRMSNorm
from .new_items_gr4ad import GR4ADNewItems
from .prefix_vectors_gr4ad import UNUSED, GR4ADPrefixVectors


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

    def of_tokens(self, tokens: torch.Tensor) -> torch.Tensor:
        """What the fusion makes of tokens (..., d) alone, (..., 2 d): the gate without its bias, and the second half
        of the product with W_f. Both are linear: of a sum of tokens they are the sums."""
        return torch.cat([self.gate_proj(tokens), F.linear(tokens, self.weight[:, tokens.shape[-1] :])], dim=-1)

    def with_tokens(self, trunk: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
        """`forward` from what `of_tokens` has made."""
        gate, part = made.chunk(2, dim=-1)
        return F.linear(trunk * (gate + self.gate_bias), self.weight[:, : trunk.shape[-1]]) + part


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
    # By name: transformers casts everything below a module that stands here, whole numbers too.
    _keep_in_fp32_modules_strict = ["item_values.means", "item_values.prior"]
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
        if isinstance(module, GR4ADPrefixVectors):
            init.constant_(module.keys, UNUSED)
            init.zeros_(module.places)
            init.zeros_(module.vectors)
            init.zeros_(module.bias)
            if module.projects:
                init.eye_(module.query)
            if module.tells_values:
                init.eye_(module.token)
        if isinstance(module, GR4ADHistorySIDs):
            if module.copies:
                init.constant_(module.copy_bias, COPY_BIAS)
            if module.repeats:
                init.zeros_(module.repeat_bias)
        if isinstance(module, GR4ADItemNeighbours):
            init.zeros_(module.items)
            init.zeros_(module.similarity)
        if isinstance(module, GR4ADItemValues):
            init.zeros_(module.events)
            init.zeros_(module.means)
            init.ones_(module.prior)
        if isinstance(module, GR4ADNewItems):
            init.zeros_(module.contents)
            init.zeros_(module.share)
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

    @torch.no_grad()
    def token_table(self) -> torch.Tensor:
        """What the fusion makes of every token, (vocabulary, 2 d): made once for many searches with the same weights,
        which look it up in place of two products a beam."""
        return self.fusion.of_tokens(self.embed_tokens.weight)

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
        sids = input_ids.view(batch, length, levels)
        return self.context_processor(
            self.embed_tokens(input_ids).view(batch, length, levels, -1),
            attention_mask.view(batch, length, levels)[..., 0].bool(),
            sids=sids - torch.tensor(self.config.level_offsets, device=sids.device),
            per_prefix=per_prefix,
            **history,
        )

    def trunk(self, context: GR4ADContext, **kwargs: Any) -> torch.Tensor:
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
        token_table: torch.Tensor | None = None,
        value_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Layers K + 1..L. trunk (B, 1 or R, P', d) and the previous tokens (B, R, P') -> normed states (B, R, P', d);
        with `tokens=None` nothing is injected (h^K := m^K, the MTP path). With a cache, P' = 1 new position, and
        tokens may be looked up in a `token_table`. value_tokens (B, R, d) are added to the token of the last
        position."""
        hidden = trunk
        if tokens is not None and token_table is not None and cache is not None:
            made = F.embedding(tokens, token_table)
            made = cache.sum_along_path(made) if self.config.fuse_prefix else made
            if value_tokens is not None:
                made = made + self.fusion.of_tokens(value_tokens).unsqueeze(2)
            hidden = self.fusion.with_tokens(trunk, made)
        elif tokens is not None:
            injected = self.embed_tokens(tokens)
            if self.config.fuse_prefix:
                injected = injected.cumsum(dim=2) if cache is None else cache.sum_along_path(injected)
            if value_tokens is not None:
                injected = injected + F.pad(value_tokens.unsqueeze(2), (0, 0, injected.shape[2] - 1, 0))
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
        value_tokens: torch.Tensor | None = None,
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
            value_tokens (float, (B, R, d)): Added to the token of the last position of each row.
        """
        context = self.encode(input_ids, attention_mask, per_prefix=per_prefix, **kwargs)
        rest: dict[str, Any] = {name: value for name, value in kwargs.items() if name not in HISTORY_INPUTS}
        trunk = self.trunk(context, **rest)
        if decoder_input_ids is None:
            decoder_input_ids = input_ids.new_full((*trunk.shape[:2], self.num_positions), self.config.pad_token_id)
            decoder_input_ids[..., 0] = self.config.bos_token_id
        return GR4ADModelOutput(
            last_hidden_state=self.autoregress(trunk, decoder_input_ids, context, value_tokens=value_tokens, **rest),
            trunk_hidden_state=trunk,
            token_free_hidden_state=self.autoregress(trunk, None, context, **rest) if token_free_pass else None,
            context=context,
        )


class GR4ADHeads:
    """Base of the mixins of [`GR4ADForRecommendation`]: names the parts that they rely on."""

    config: GR4ADConfig
    model: GR4ADModel
    device: torch.device
    generation_config: GenerationConfig
    sid_heads: nn.ModuleList
    prefix_vectors: GR4ADPrefixVectors | None
    history_sids: GR4ADHistorySIDs | None
    value_head: nn.Linear | None
    item_head: GR4ADItemHead | None
    item_neighbours: GR4ADItemNeighbours | None
    item_values: GR4ADItemValues | None
    new_items: GR4ADNewItems | None

    @property
    def item_table(self) -> torch.Tensor:
        """Item embeddings (num_items, d), which the item head is tied to."""
        embeddings = self.model.context_processor.item_embeddings
        assert embeddings is not None, "only models with an item table have an item head"
        return embeddings.weight


__all__ = [
    "GR4ADFusion",
    "GR4ADHeads",
    "GR4ADModel",
    "GR4ADModelOutput",
    "GR4ADPreTrainedModel",
    "names_history_inputs",
]
