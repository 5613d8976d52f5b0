# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""The context processor: what a request says of its user, as the keys and values that every decoder layer reads.

Shapes: B batch, S history items, X cross-domain entries, C = S + X (+ 1 with user features) context entries, T SID
levels, d hidden size, G key/value groups, D head dimension.
"""

from typing import Any, Unpack

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .configuration_gr4ad import GR4ADConfig, HistoryKwargs
from .layers_gr4ad import GR4ADMLP, GR4ADContext, GR4ADRMSNorm, GR4ADSelfAttention, attention_mask


class GR4ADContextLayer(GradientCheckpointingLayer):
    """Causal encoder layer over the history, one of `num_context_layers`."""

    def __init__(self, config: GR4ADConfig, layer_idx: int):
        super().__init__()
        self.self_attn = GR4ADSelfAttention(config, layer_idx)
        self.mlp = GR4ADMLP(config)
        self.self_attn_norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.mlp_norm = GR4ADRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden: torch.Tensor, mask: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        attended = self.self_attn(self.self_attn_norm(hidden).unsqueeze(1), mask, **kwargs).squeeze(1)
        hidden = hidden + self.dropout(attended)
        return hidden + self.dropout(self.mlp(self.mlp_norm(hidden)))


class GR4ADContextProcessor(nn.Module):
    """Folds each history item (T SID tokens and its optional features) into one vector, puts the cross-domain sequence
    and the user features before them, and projects all to the keys and values that every decoder layer uses directly
    (no per-layer projection, as in OneRec-V2)."""

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size

        def optional(size: int, padding_idx: int | None = None) -> nn.Embedding | None:
            return nn.Embedding(size, width, padding_idx=padding_idx) if size else None

        self.fold = nn.Linear(config.num_levels * width, width, bias=False)
        self.position_embeddings = nn.Embedding(config.max_context_items, width)
        self.item_embeddings = optional(config.num_items, padding_idx=0)
        self.item_features = [name for name, size in config.item_feature_sizes.items() if size]
        for name in self.item_features:
            self.add_module(f"{name}_embeddings", optional(config.item_feature_sizes[name]))
        self.cross_domain_embeddings = optional(config.num_cross_domain_items, padding_idx=0)
        self.cross_domain_position_embeddings = optional(
            config.max_cross_domain_items if config.num_cross_domain_items else 0
        )
        self.user_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in config.user_feature_sizes)
        self.layers = nn.ModuleList(GR4ADContextLayer(config, i) for i in range(config.num_context_layers))
        self.norm = GR4ADRMSNorm(width, eps=config.rms_norm_eps)
        self.tensors_per_entry = 2 if config.separate_context_values else 1
        self.kv_proj = nn.Linear(
            width,
            self.tensors_per_entry * config.num_context_kv * config.key_value_groups * config.head_dim,
            bias=False,
        )
        self.kv_norm = GR4ADRMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        token_embeds: torch.Tensor,
        item_mask: torch.Tensor,
        *,
        sids: torch.Tensor | None = None,
        per_prefix: bool = False,
        **history: Unpack[HistoryKwargs],
    ) -> GR4ADContext:
        """token_embeds (B, S, T, d), item_mask (B, S) bool, sids (B, S, T) int64 as codes (what p(SID) asks for), the
        features as in [`HistoryInputs`] -> [`GR4ADContext`]."""
        given: dict[str, Any] = dict(history)
        item_ids: torch.Tensor = given.pop("item_ids", None)
        item_feature_ids = {name: given.pop(f"{name}_ids", None) for name in self.config.item_feature_sizes}
        cross_domain = given.pop("cross_domain_ids", None), given.pop("cross_domain_places", None)
        user_feature_ids: torch.Tensor | None = given.pop("user_feature_ids", None)
        batch, length = item_mask.shape
        # Counted over real items: the padding side does not matter.
        positions = (item_mask.long().cumsum(1) - 1).clamp(min=0)
        hidden = self.fold(token_embeds.flatten(2)) + self.position_embeddings(positions)
        if self.item_embeddings is not None:
            if item_ids is None:
                raise ValueError("This model has item embeddings: pass `item_ids` (B, S), 0 where an item is unknown.")
            hidden = hidden + self.item_embeddings(item_ids)
        for name in self.item_features:
            ids = item_feature_ids[name]
            if ids is not None:
                embedded = self.get_submodule(f"{name}_embeddings")(ids.clamp(min=0))
                hidden = torch.addcmul(hidden, embedded, (ids >= 0).to(hidden.dtype).unsqueeze(-1))
        hidden = self.dropout(hidden)

        index = torch.arange(length, device=hidden.device)
        visible = item_mask[:, None, :] & (index[None, :, None] >= index[None, None, :])  # (B, query S, key S)
        if self.layers:
            causal = attention_mask(visible)
            for layer in self.layers:
                hidden = layer(hidden, causal, **given)
        query, known = hidden, positions + 1  # known: items of the history that each query has seen
        if not per_prefix:
            last = torch.where(item_mask, index, -1).amax(1).clamp(min=0).unsqueeze(1)
            query = hidden.gather(1, last.unsqueeze(2).expand(-1, -1, hidden.shape[2]))
            visible, known = item_mask[:, None, :], known.gather(1, last)
        states, items_visible = hidden, visible
        for part in (self.cross_domain_entries(*cross_domain, known), self.user_entry(user_feature_ids)):
            if part is not None:
                hidden = torch.cat([self.dropout(part[0]), hidden], dim=1)
                visible = torch.cat([part[1].expand(-1, visible.shape[1], -1), visible], dim=2)

        entries = self.kv_norm(
            self.kv_proj(self.norm(hidden)).view(batch, hidden.shape[1], -1, self.config.head_dim)
        ).transpose(1, 2)
        sets = entries.chunk(self.config.num_context_kv * self.tensors_per_entry, dim=1)
        keys, values = sets[:: self.tensors_per_entry], sets[self.tensors_per_entry - 1 :: self.tensors_per_entry]
        return GR4ADContext(
            key_states=keys,
            value_states=values,
            mask=attention_mask(visible),
            query=query,
            states=states,
            item_ids=item_ids,
            sids=sids,
            visible=items_visible,
        )

    def cross_domain_entries(
        self, ids: torch.Tensor | None, places: torch.Tensor | None, known: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Vectors (B, X, d) of the cross-domain sequence, and which of them each query sees (bool, (B, queries, X)):
        what happened while no more than its `known` (int64, (B, queries)) items had."""
        tables = self.cross_domain_embeddings, self.cross_domain_position_embeddings
        if tables[0] is None or tables[1] is None or ids is None:
            return None
        limit = self.config.max_cross_domain_items
        if ids.shape[1] > limit:
            raise ValueError(
                f"`cross_domain_ids` may hold {limit} entries a user. Received: {ids.shape[1]}. Keep the last "
                "`max_cross_domain_items` of each."
            )
        present = ids > 0
        positions = (present.long().cumsum(1) - 1).clamp(min=0)
        visible = present.unsqueeze(1)
        if places is not None:
            visible = visible & (places.unsqueeze(1) <= known.unsqueeze(2))
        return tables[0](ids) + tables[1](positions), visible

    def user_entry(self, ids: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The vector (B, 1, d) of the structured user features, visible to all: bool (B, 1, 1)."""
        if not len(self.user_embeddings):
            return None
        if ids is None:
            raise ValueError("This model has user features: pass `user_feature_ids` (B, features), 0 where missing.")
        user = self.user_embeddings[0](ids[:, 0])
        for place, table in enumerate(self.user_embeddings[1:], start=1):
            user = user + table(ids[:, place])
        return user.unsqueeze(1), torch.ones_like(ids[:, :1, None], dtype=torch.bool)


__all__ = ["GR4ADContextLayer", "GR4ADContextProcessor"]
