# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Layers of the GR4AD decoder: norms, dropout, attention to the shared context, attention within a row, feed-forward.

Shapes: B batch, S history items, C context entries, R decoder rows that share one context, P decoder positions, d
hidden size, H query heads, G key/value groups, D head dimension.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput

from .beam_cache_gr4ad import BeamCache
from .configuration_gr4ad import GR4ADConfig


@dataclass
class GR4ADContext(ModelOutput):
    """What the decoder reads of a request.

    key_states, value_states (L_kv tensors of (B, G, C, D)); mask (bool, (B, 1, 1 or S, C)): True where visible; query
    (B, 1 or S, d): the last context vector of each query. For what is copied, the history itself: states (B, S, d),
    item_ids (B, S; None without an item table), sids (int64, (B, S, T): codes, negative in padding), visible (bool,
    (B, 1 or S, S)).
    """

    key_states: tuple[torch.Tensor, ...] = None
    value_states: tuple[torch.Tensor, ...] = None
    mask: torch.Tensor = None
    query: torch.Tensor = None
    states: torch.Tensor = None
    item_ids: torch.Tensor = None
    sids: torch.Tensor | None = None
    visible: torch.Tensor = None


def eager_attention_forward(
    module: "GR4ADAttention",
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    groups = module.num_key_value_groups
    key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    weights = F.softmax(scores, dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class GR4ADRMSNorm(nn.RMSNorm):
    """RMS norm in the dtype of its input: under autocast, a float32 weight would keep torch from its fused kernel."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(hidden, self.normalized_shape, self.weight.to(hidden.dtype), self.eps)


class GR4ADDropout(nn.Dropout):
    """Dropout with one mask for all SID positions of a row (variational dropout, arXiv 1512.05287): hidden (..., P,
    d), mask (..., 1, d). Drawing random numbers is what dropout costs on a CPU."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return hidden
        keep = hidden.new_empty((*hidden.shape[:-2], 1, hidden.shape[-1])).bernoulli_(1 - self.p).div_(1 - self.p)
        return hidden * keep


def attention_mask(visible: torch.Tensor) -> torch.Tensor:
    """Bool (B, queries, keys), True where a query sees a key -> mask (B, 1, queries, keys). A query that sees nothing,
    which is padding, sees all: its output is not used, but must not be NaN."""
    return (visible | ~visible.any(-1, keepdim=True)).unsqueeze(1)


class GR4ADAttention(nn.Module):
    """Query and output projections around transformers' attention interface; subclasses say where keys come from."""

    def __init__(self, config: GR4ADConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = config.num_attention_heads // config.key_value_groups
        self.scaling = self.head_dim**-0.5
        self.is_causal = False  # masks are always given
        self.q_proj = nn.Linear(config.hidden_size, config.num_attention_heads * self.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * self.head_dim, config.hidden_size, bias=False)

    def attend(
        self,
        hidden: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """hidden (B', L, d), key and value (B', G, L', D), mask broadcastable to (B', H, L, L') -> (B', L, d)."""
        batch, length, _ = hidden.shape
        query = self.q_proj(hidden).view(batch, length, -1, self.head_dim).transpose(1, 2)
        interface: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended, weights = interface(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(attended.reshape(batch, length, -1)), weights


class GR4ADCrossAttention(GR4ADAttention):
    """Attention of all rows of a request to its one set of context keys and values: rows lie along the sequence axis,
    so the context is read once a request however many beams there are."""

    def forward(
        self, hidden: torch.Tensor, context: GR4ADContext, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        batch, rows, positions, width = hidden.shape
        kv_set = self.layer_idx * self.config.num_context_kv // self.config.num_hidden_layers
        mask = context.mask
        if mask.shape[2] > 1:  # one query a prefix: every position of a row sees the row's own prefix
            mask = mask.repeat_interleave(positions, dim=2)
        attended, weights = self.attend(
            hidden.reshape(batch, rows * positions, width),
            context.key_states[kv_set],
            context.value_states[kv_set],
            mask,
            **kwargs,
        )
        return attended.view(batch, rows, positions, width), weights


class GR4ADSelfAttention(GR4ADAttention):
    """Causal attention over the at most T + 1 positions of one row."""

    def __init__(self, config: GR4ADConfig, layer_idx: int):
        super().__init__(config, layer_idx)
        self.k_proj = nn.Linear(config.hidden_size, config.key_value_groups * self.head_dim, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, config.key_value_groups * self.head_dim, bias=False)

    def forward(
        self, hidden: torch.Tensor, mask: torch.Tensor | None, cache: BeamCache | None = None, **kwargs: Any
    ) -> torch.Tensor:
        batch, rows, positions, width = hidden.shape
        hidden = hidden.reshape(batch * rows, positions, width)
        key = self.k_proj(hidden).unflatten(-1, (-1, self.head_dim))
        value = self.v_proj(hidden).unflatten(-1, (-1, self.head_dim))
        if cache is None:
            attended, _ = self.attend(hidden, key.transpose(1, 2), value.transpose(1, 2), mask, **kwargs)
        else:
            attended = self.attend_to_path(hidden, *cache.update(key.squeeze(1), value.squeeze(1), self.layer_idx))
        return attended.view(batch, rows, positions, width)

    def attend_to_path(self, hidden: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """One new position of each row, (N, 1, d), to the n keys and values (N, n, G, D) of its path, as two small
        products: kernels are made for long sequences and cost several times more with a handful of keys."""
        query = self.q_proj(hidden).view(len(hidden), key.shape[2], -1, self.head_dim)  # (N, G, H / G, D)
        scores = torch.matmul(key.transpose(1, 2), query.transpose(2, 3)) * self.scaling  # (N, G, n, H / G)
        weights = F.softmax(scores, dim=2, dtype=torch.promote_types(scores.dtype, torch.float32)).to(query.dtype)
        return self.o_proj(torch.matmul(weights.transpose(2, 3), value.transpose(1, 2)).view(len(hidden), 1, -1))


class GR4ADMLP(nn.Module):
    """Gated feed-forward layer."""

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.act_fn = ACT2FN[config.hidden_act]

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(hidden)) * self.up_proj(hidden))


class GR4ADDecoderLayer(GradientCheckpointingLayer):
    """Dec(h, X): cross-attention to the context, causal self-attention over the SID positions, feed-forward;
    pre-norm."""

    def __init__(self, config: GR4ADConfig, layer_idx: int):
        super().__init__()
        self.cross_attn = GR4ADCrossAttention(config, layer_idx)
        self.self_attn = GR4ADSelfAttention(config, layer_idx)
        self.mlp = GR4ADMLP(config)
        self.cross_attn_norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.self_attn_norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp_norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = GR4ADDropout(config.dropout)

    def forward(
        self,
        hidden: torch.Tensor,
        context: GR4ADContext,
        self_mask: torch.Tensor | None = None,
        cache: BeamCache | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        attended, _ = self.cross_attn(self.cross_attn_norm(hidden), context, **kwargs)
        hidden = hidden + self.dropout(attended)
        hidden = hidden + self.dropout(self.self_attn(self.self_attn_norm(hidden), self_mask, cache, **kwargs))
        return hidden + self.dropout(self.mlp(self.mlp_norm(hidden)))


__all__ = [
    "GR4ADContext",
    "GR4ADMLP",
    "GR4ADCrossAttention",
    "GR4ADDecoderLayer",
    "GR4ADDropout",
    "GR4ADRMSNorm",
    "GR4ADSelfAttention",
    "attention_mask",
]
