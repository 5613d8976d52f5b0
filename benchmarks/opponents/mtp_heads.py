"""Heads of DeepSeek-MTP in the place of LazyAR, for its benchmarks: decoding (`decode.py`), accuracy (`decoders.py`).

P positions (the T levels of an SID, and the value token if there is one). L - P + 1 layers run once a request, on the
first position alone. Every later position has one layer of its own, which runs for each beam on the state of the
position before, fused with the token chosen there (arXiv 2412.19437, section 2.2); it attends to the context and to
its one position. Layers, context, heads and search are those of gr4ad.
"""

from typing import Any

import torch
from torch import nn

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, GR4ADModel
from gr4ad.modeling_gr4ad.modeling_gr4ad import GR4ADFusion


class OnePositionAttention(nn.Module):
    """Causal self-attention of a position that is alone: its weight is 1, so only values and output are left."""

    def __init__(self, config: GR4ADConfig) -> None:
        super().__init__()
        self.head_dim, self.repeats = config.head_dim, config.num_attention_heads // config.num_key_value_heads
        self.v_proj = nn.Linear(config.hidden_size, config.num_key_value_heads * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, hidden: torch.Tensor, mask: Any = None, cache: Any = None, **kwargs: Any) -> torch.Tensor:
        value = self.v_proj(hidden).unflatten(-1, (-1, self.head_dim))
        return self.o_proj(value.repeat_interleave(self.repeats, dim=-2).flatten(-2))


class MTPModel(GR4ADModel):
    """See above. Raises ValueError if there are more positions than layers."""

    def __init__(self, config: GR4ADConfig) -> None:
        super().__init__(config)
        self.num_shared = config.num_hidden_layers - (self.num_positions - 1)
        if self.num_shared < 1:
            raise ValueError(
                f"`num_hidden_layers` must be at least the {self.num_positions} positions: one layer a head after the "
                f"first. Received: {config.num_hidden_layers}."
            )
        for layer in self.layers:
            layer.self_attn = OnePositionAttention(config)  # no parameters, and no time, for what cannot do anything
        # The second position fuses as LazyAR's positions do; each later one has a fusion of its own.
        self.later_fusions = nn.ModuleList(GR4ADFusion(config) for _ in range(self.num_positions - 2))
        self.post_init()

    def trunk(self, context: Any, **kwargs: Any) -> torch.Tensor:
        """The first position's state (B, 1 or S, 1, d), as a view in the place of all P positions."""
        hidden = self.dropout(self.level_embeddings.weight[None, None, :1] + context.query.unsqueeze(2))
        for layer in self.layers[: self.num_shared]:
            hidden = layer(hidden, context, self.causal_mask(hidden), **kwargs)
        return hidden.expand(-1, -1, self.num_positions, -1)

    def autoregress(
        self,
        trunk: torch.Tensor,
        tokens: torch.Tensor,
        context: Any,
        cache: Any = None,
        token_table: Any = None,
        value_tokens: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """All positions with the true tokens (B, R, P) before them -> (B, R, P, d); with a cache one, from the state
        of the position before, which this object keeps, -> (B, W, 1, d). Every position has a fusion of its own: no
        table of tokens serves all."""
        last = None if value_tokens is None else value_tokens.unsqueeze(2)
        if cache is None:
            states = [trunk[:, :, :1].expand(-1, tokens.shape[1], -1, -1)]
            for position in range(1, self.num_positions):
                told = last if position == self.num_positions - 1 else None
                states.append(
                    self.next_state(position, states[-1], tokens[..., position, None], context, told, **kwargs)
                )
            return self.norm(torch.cat(states, dim=2))
        position = len(cache.ancestors)
        if position == 0:
            self.state = trunk
        else:
            before = self.state.flatten(0, 1).index_select(0, cache.ancestors[-1]).view(*tokens.shape, -1)
            self.state = self.next_state(position, before, tokens, context, last, **kwargs)
        return self.norm(self.state)

    def next_state(
        self,
        position: int,
        before: torch.Tensor,
        tokens: torch.Tensor,
        context: Any,
        told: torch.Tensor | None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """One position (B, R, 1, d), from the state (B, R, 1, d) and token (B, R, 1) of the one before, to which
        `told` (B, R, 1, d) is added."""
        fusion = self.fusion if position == 1 else self.later_fusions[position - 2]
        embedded = self.embed_tokens(tokens)
        fused = fusion(before, self.dropout(embedded if told is None else embedded + told))
        return self.layers[self.num_shared + position - 1](fused, context, self.causal_mask(fused), **kwargs)


class MTPForRecommendation(GR4ADForRecommendation):
    def __init__(self, config: GR4ADConfig) -> None:
        super().__init__(config)
        self.model = MTPModel(config)
