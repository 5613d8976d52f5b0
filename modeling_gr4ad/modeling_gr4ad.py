# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""PyTorch GR4AD model: a context processor and the LazyAR decoder (arXiv 2602.22732, section "LazyAR").

Shapes: B batch, S history items, C = S (+ 1 with user features) context entries, T SID levels, P decoder positions (T,
or T + 1 with the value token), R decoder rows that share one context (beams, candidates, or history prefixes), d
hidden size, H query heads, G key/value groups, D head dimension, V_t codes of level t, N targets.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .configuration_gr4ad import GR4ADConfig
from .generation_gr4ad import BeamCache, GR4ADGenerationMixin
from .item_head_gr4ad import COPY_BIAS, GR4ADItemHead
from .layers_gr4ad import (
    GR4ADContext,
    GR4ADContextLayer,
    GR4ADCrossAttention,
    GR4ADDecoderLayer,
    GR4ADDropout,
    GR4ADRMSNorm,
    additive_mask,
)


@dataclass
class GR4ADModelOutput(ModelOutput):
    """last_hidden_state (B, R, P, d): normed decoder states, with the previous tokens. trunk_hidden_state (B, 1 or R,
    P, d): the token-free states m^K. token_free_hidden_state: the same positions run through the upper layers without
    injection (MTP)."""

    last_hidden_state: torch.Tensor | None = None
    trunk_hidden_state: torch.Tensor | None = None
    token_free_hidden_state: torch.Tensor | None = None
    context: GR4ADContext | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class GR4ADRecommendationOutput(ModelOutput):
    """Output of [`GR4ADForRecommendation`].

    loss: scalar, L_VSL of the labelled targets (eq. 15). losses: its parts, detached: `sid`, `value`, `mtp`, `item`.
    logits: T tensors (N, V_t) over the codes of each level, for the N labelled targets in row-major order.
    value_logits (N, buckets). candidate_logps (B, n): sum over levels of the candidates'
    token log-probabilities.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: tuple[torch.Tensor, ...] | None = None
    value_logits: torch.Tensor | None = None
    candidate_logps: torch.Tensor | None = None
    hidden_states: tuple[torch.Tensor, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


class GR4ADContextProcessor(nn.Module):
    """Folds each history item (T SID tokens, optional item embedding, event, value) into one vector and projects it to
    the keys and values that every decoder layer uses directly (no per-layer projection, as in OneRec-V2)."""

    def __init__(self, config: GR4ADConfig):
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.fold = nn.Linear(config.num_levels * width, width, bias=False)
        self.position_embeddings = nn.Embedding(config.max_context_items, width)
        self.item_embeddings = nn.Embedding(config.num_items, width, padding_idx=0) if config.num_items else None
        self.event_embeddings = nn.Embedding(config.num_events, width) if config.num_events else None
        # bucket 0 stands for "value not known"
        self.value_embeddings = nn.Embedding(config.num_value_buckets + 1, width) if config.context_values else None
        self.user_embeddings = nn.ModuleList(nn.Embedding(size, width) for size in config.user_feature_sizes)
        self.layers = nn.ModuleList(GR4ADContextLayer(config, i) for i in range(config.num_context_layers))
        self.norm = GR4ADRMSNorm(width, eps=config.rms_norm_eps)
        self.tensors_per_entry = 2 if config.separate_context_values else 1
        self.kv_proj = nn.Linear(
            width,
            self.tensors_per_entry * config.num_context_kv * config.num_key_value_heads * config.head_dim,
            bias=False,
        )
        self.kv_norm = GR4ADRMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        token_embeds: torch.Tensor,
        item_mask: torch.Tensor,
        *,
        item_ids: torch.Tensor | None,
        event_ids: torch.Tensor | None,
        value_ids: torch.Tensor | None,
        user_feature_ids: torch.Tensor | None,
        per_prefix: bool,
        **kwargs,
    ) -> GR4ADContext:
        """token_embeds (B, S, T, d), item_mask (B, S) bool -> [`GR4ADContext`]."""
        batch, length = item_mask.shape
        hidden = self.fold(token_embeds.flatten(2))
        positions = (item_mask.long().cumsum(1) - 1).clamp(
            min=0
        )  # counted over real items: padding side does not matter
        hidden = hidden + self.position_embeddings(positions)
        if self.item_embeddings is not None:
            if item_ids is None:
                raise ValueError("This model has item embeddings: pass `item_ids` (B, S), 0 where an item is unknown.")
            hidden = hidden + self.item_embeddings(item_ids)
        if self.event_embeddings is not None and event_ids is not None:
            hidden = hidden + self.event_embeddings(event_ids)
        if self.value_embeddings is not None and value_ids is not None:
            hidden = hidden + self.value_embeddings(value_ids)
        hidden = self.dropout(hidden)

        index = torch.arange(length, device=hidden.device)
        visible = item_mask[:, None, :] & (index[None, :, None] >= index[None, None, :])  # (B, query S, key S)
        if self.layers:
            causal = additive_mask(visible, hidden.dtype)
            for layer in self.layers:
                hidden = layer(hidden, causal, **kwargs)
        query = hidden
        if not per_prefix:
            last = torch.where(item_mask, index, -1).amax(1).clamp(min=0)
            query = hidden[torch.arange(batch, device=hidden.device), last].unsqueeze(1)
            visible = item_mask[:, None, :]
        states, items_visible = hidden, visible
        if len(self.user_embeddings):
            if user_feature_ids is None:
                raise ValueError(
                    "This model has user features: pass `user_feature_ids` (B, features), 0 where missing."
                )
            user = sum(table(user_feature_ids[:, i]) for i, table in enumerate(self.user_embeddings))
            hidden = torch.cat([self.dropout(user).unsqueeze(1), hidden], dim=1)
            visible = F.pad(visible, (1, 0), value=True)
        mask = additive_mask(visible, hidden.dtype)

        entries = self.kv_norm(
            self.kv_proj(self.norm(hidden)).view(batch, hidden.shape[1], -1, self.config.head_dim)
        ).transpose(1, 2)
        sets = entries.chunk(self.config.num_context_kv * self.tensors_per_entry, dim=1)
        keys, values = sets[:: self.tensors_per_entry], sets[self.tensors_per_entry - 1 :: self.tensors_per_entry]
        return GR4ADContext(
            key_states=keys,
            value_states=values,
            mask=mask,
            query=query,
            states=states,
            item_ids=item_ids,
            visible=items_visible,
        )


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
        item_ids: torch.Tensor | None = None,
        event_ids: torch.Tensor | None = None,
        value_ids: torch.Tensor | None = None,
        user_feature_ids: torch.Tensor | None = None,
        per_prefix: bool = False,
        **kwargs,
    ) -> GR4ADContext:
        """Reads the histories: arguments as in `forward`.

        Raises:
            ValueError: If `input_ids` is not a whole number of SIDs, or longer than `max_context_items`.
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
            item_ids=item_ids,
            event_ids=event_ids,
            value_ids=value_ids,
            user_feature_ids=user_feature_ids,
            per_prefix=per_prefix,
            **kwargs,
        )

    def trunk(self, context: GR4ADContext, **kwargs) -> torch.Tensor:
        """m^K of all positions at once, (B, 1 or S, P, d): no previous token, hence shared by every row of a query."""
        hidden = self.level_embeddings.weight[None, None]
        if self.config.query_from_context:
            hidden = hidden + context.query.unsqueeze(2)
        else:
            hidden = hidden.expand(context.query.shape[0], context.query.shape[1], -1, -1)
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
        hidden = trunk if tokens is None else self.fusion(trunk, self.dropout(self.embed_tokens(tokens)))
        mask = None if cache is not None else self.causal_mask(hidden)
        for layer in self.layers[self.config.num_parallel_layers :]:
            hidden = layer(hidden, context, mask, cache, **kwargs)
        return self.norm(hidden)

    @staticmethod
    def causal_mask(hidden: torch.Tensor) -> torch.Tensor:
        positions = hidden.shape[2]
        mask = torch.full(
            (positions, positions), torch.finfo(hidden.dtype).min, dtype=hidden.dtype, device=hidden.device
        )
        return mask.triu(1)[None, None]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        item_ids: torch.Tensor | None = None,
        event_ids: torch.Tensor | None = None,
        value_ids: torch.Tensor | None = None,
        user_feature_ids: torch.Tensor | None = None,
        per_prefix: bool = False,
        token_free_pass: bool = False,
        **kwargs,
    ) -> GR4ADModelOutput:
        """
        Args:
            input_ids (int64, (B, S * T)): SID tokens of the history, oldest first; either padding side.
            attention_mask (int64 or bool, (B, S * T)): 1 on real tokens; default `input_ids != pad_token_id`.
            decoder_input_ids (int64, (B, R, P)): Previous token of each position of each row, BOS first; R = S when
                `per_prefix`. Default: one row of BOS and padding.
            item_ids (int64, (B, S)): Rows of the item-embedding table, 0 = unknown.
            event_ids, value_ids (int64, (B, S)): Event kind; value bucket + 1, 0 = not known.
            user_feature_ids (int64, (B, features)): Structured user features, 0 = missing.
            per_prefix (`bool`): One query for every prefix of the history (row i sees items 0..i), not one for the
                whole.
            token_free_pass (`bool`): Also run the upper layers without injection.
        """
        context = self.encode(
            input_ids,
            attention_mask,
            item_ids=item_ids,
            event_ids=event_ids,
            value_ids=value_ids,
            user_feature_ids=user_feature_ids,
            per_prefix=per_prefix,
            **kwargs,
        )
        trunk = self.trunk(context, **kwargs)
        if decoder_input_ids is None:
            decoder_input_ids = input_ids.new_full((*trunk.shape[:2], self.num_positions), self.config.pad_token_id)
            decoder_input_ids[..., 0] = self.config.bos_token_id
        return GR4ADModelOutput(
            last_hidden_state=self.autoregress(trunk, decoder_input_ids, context, **kwargs),
            trunk_hidden_state=trunk,
            token_free_hidden_state=self.autoregress(trunk, None, context, **kwargs) if token_free_pass else None,
            context=context,
        )


class GR4ADForRecommendation(GR4ADGenerationMixin, GR4ADPreTrainedModel):
    """GR4AD with one head per SID level, and optional value and item heads.

    ```python
    >>> output = model.beam_search(batch["input_ids"], batch["attention_mask"], beam_widths=[128, 256, 512], trie=trie)
    >>> output.sequences.shape  # (B, 512, 3) token ids, every one a valid SID
    ```
    """

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
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.model.embed_tokens = value

    @property
    def item_table(self) -> torch.Tensor:
        """Item embeddings (num_items, d), which the item head is tied to."""
        return self.model.context_processor.item_embeddings.weight

    @torch.no_grad()
    def extend_item_tables(self, vectors: torch.Tensor, biases: torch.Tensor | None = None) -> None:
        """Appends n items to the item embeddings and to the item head's bias; `config.num_items` follows, so that a
        saved model has them.

        Requests that run meanwhile stay right: they see a table without the new items, or with them. An optimizer that
        holds the earlier parameters does not learn the new ones: build it again.

        Args:
            vectors (float, (n, d)): Embeddings of the new items, in the order of their rows; cast to the table's
                dtype and device. The table is copied: for a moment it takes its memory twice.
            biases (float, (n,), *optional*): Their biases (log popularity); default 0. Not used without an item head.

        Raises:
            ValueError: If the model has no item embeddings, or a shape is wrong. Nothing has changed then.
        """
        embeddings = self.model.context_processor.item_embeddings
        if embeddings is None:
            raise ValueError("This model has no item tables (`num_items` = 0): there is nothing to extend.")
        biases = vectors.new_zeros(len(vectors)) if biases is None else biases
        if vectors.ndim != 2 or vectors.shape[1] != self.config.hidden_size or biases.shape != vectors.shape[:1]:
            raise ValueError(
                f"`vectors` must have shape (n, {self.config.hidden_size}) and `biases` (n,). "
                f"Received: {tuple(vectors.shape)} and {tuple(biases.shape)}."
            )

        def longer(old: nn.Parameter, new: torch.Tensor) -> nn.Parameter:
            return nn.Parameter(torch.cat([old.data, new.to(old)]), requires_grad=old.requires_grad)

        table = longer(embeddings.weight, vectors)
        if self.item_head is not None:
            self.item_head.bias = longer(self.item_head.bias, biases)
        # After the bias: whoever has read a table finds a bias that is as long at least.
        embeddings.weight = table
        embeddings.num_embeddings = self.config.num_items = len(table)

    def shift_right(self, sids: torch.Tensor) -> torch.Tensor:
        """SID tokens (..., T), -100 where unlabelled -> previous tokens of each position (..., P)."""
        sids = sids.masked_fill(sids < 0, self.config.pad_token_id)
        previous = F.pad(sids, (1, 0), value=self.config.bos_token_id)
        return previous[..., : self.model.num_positions]

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        item_ids: torch.Tensor | None = None,
        event_ids: torch.Tensor | None = None,
        value_ids: torch.Tensor | None = None,
        user_feature_ids: torch.Tensor | None = None,
        value_labels: torch.Tensor | None = None,
        item_labels: torch.Tensor | None = None,
        sample_weight: torch.Tensor | None = None,
        candidate_ids: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs,
    ) -> GR4ADRecommendationOutput:
        """
        Args:
            input_ids, attention_mask, item_ids, event_ids, value_ids, user_feature_ids: The history, see
            [`GR4ADModel`]. labels (int64, (B, T) or (B, S, T)): Token ids of the target SID after the whole history,
                or after each prefix of it (row i: the target once items 0..i are known); -100 = no target. One pass
                trains every prefix.
            value_labels, item_labels (int64, labels' shape less T): Value bucket 0..buckets-1 and item row; -100 =
                none.
            sample_weight (float, labels' shape less T): w of eq. 15, multiplies every term of its target; default 1.
            candidate_ids (int64, (B, n, T)): SIDs to score, all against one reading of the context.
            num_items_in_batch (`int`): Label tokens of the whole accumulated batch, as Trainer counts them; default:
                the ones given here. Makes 1x8 and 8x1 accumulation one trajectory.
        """
        history = {
            "attention_mask": attention_mask,
            "item_ids": item_ids,
            "event_ids": event_ids,
            "value_ids": value_ids,
            "user_feature_ids": user_feature_ids,
        }
        if candidate_ids is not None:
            outputs = self.model(input_ids, decoder_input_ids=self.shift_right(candidate_ids), **history, **kwargs)
            return GR4ADRecommendationOutput(
                candidate_logps=self.sid_log_probs(outputs.last_hidden_state, candidate_ids),
                hidden_states=outputs.hidden_states,
                attentions=outputs.attentions,
            )

        per_prefix = labels is not None and labels.ndim == 3
        if labels is not None and not per_prefix:
            labels = labels.unsqueeze(1)
            value_labels, item_labels, sample_weight = (
                None if x is None else x.unsqueeze(1) for x in (value_labels, item_labels, sample_weight)
            )
        wants_mtp = self.training and labels is not None and self.config.mtp_loss_weight > 0
        outputs = self.model(
            input_ids,
            decoder_input_ids=None if labels is None else self.shift_right(labels),
            per_prefix=per_prefix,
            token_free_pass=wants_mtp,
            **history,
            **kwargs,
        )
        chosen = (
            torch.ones(outputs.last_hidden_state.shape[:2], dtype=torch.bool, device=input_ids.device)
            if labels is None
            else labels[..., 0] >= 0
        )
        states = outputs.last_hidden_state[chosen]
        result = GR4ADRecommendationOutput(
            logits=tuple(head(states[:, t]) for t, head in enumerate(self.sid_heads)),
            value_logits=None if self.value_head is None else self.value_head(states[:, -1]),
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
        if labels is not None:
            targets = labels[chosen]
            free = outputs.token_free_hidden_state[chosen] if wants_mtp else None
            loss, losses = self.vsl_loss(
                result,
                free,
                targets,
                None if value_labels is None else value_labels[chosen],
                self.item_loss(outputs, item_labels, chosen),
                None if sample_weight is None else sample_weight[chosen],
                len(targets) if num_items_in_batch is None else num_items_in_batch / self.config.num_levels,
            )
            result = GR4ADRecommendationOutput(
                loss=loss, losses=losses, **result
            )  # a tuple's order is that of setting
        return result

    def sid_log_probs(self, states: torch.Tensor, sids: torch.Tensor) -> torch.Tensor:
        """log p(SID | context), (B, R), of SID tokens (B, R, T) from their teacher-forced states (B, R, P, d)."""
        total = states.new_zeros(sids.shape[:-1], dtype=torch.promote_types(states.dtype, torch.float32))
        for level, (head, offset) in enumerate(zip(self.sid_heads, self.config.level_offsets, strict=True)):
            log_probs = F.log_softmax(head(states[:, :, level]).to(total.dtype), dim=-1)
            total = total + log_probs.gather(-1, (sids[..., level] - offset).unsqueeze(-1)).squeeze(-1)
        return total

    def item_loss(
        self, outputs: GR4ADModelOutput, item_labels: torch.Tensor | None, chosen: torch.Tensor
    ) -> torch.Tensor | None:
        """The item head's -log p(item), (N,), of the chosen queries (bool, (B, Q)); None where it is not trained."""
        if self.item_head is None or item_labels is None or self.config.item_loss_weight == 0:
            return None
        trunk, context = outputs.trunk_hidden_state, outputs.context
        copy_weights = item_ids = None
        if self.item_head.copies:
            copy_weights = self.item_head.copy_weights(trunk, context)[chosen]
            item_ids = context.item_ids.unsqueeze(1).expand(-1, chosen.shape[1], -1)[chosen]
        return self.item_head.negative_log_likelihood(
            trunk[chosen], self.item_table, item_labels[chosen], copy_weights, item_ids
        )

    def vsl_loss(
        self,
        output: GR4ADRecommendationOutput,
        token_free: torch.Tensor | None,
        targets: torch.Tensor,
        value_targets: torch.Tensor | None,
        item_losses: torch.Tensor | None,
        weight: torch.Tensor | None,
        num_targets: torch.Tensor | float,
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """L_VSL (eqs. 12-15) over N targets, with the item head's loss: sum_i w_i (L_SID + lambda_e L_eCPM +
        lambda_mtp L_MTP + lambda_item L_item) / num_targets. Returns the scalar and its detached, weighted parts."""
        config = self.config
        codes = targets - torch.tensor(config.level_offsets, device=targets.device)

        def weighted(losses: torch.Tensor) -> torch.Tensor:
            return (losses if weight is None else losses * weight).sum() / num_targets

        def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, smoothing: float = 0.0) -> torch.Tensor:
            return weighted(F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=smoothing))

        smoothing = config.label_smoothing if self.training else 0.0

        def sid_and_value(states_logits, value_logits) -> dict[str, torch.Tensor]:
            parts = {
                "sid": torch.stack(
                    [cross_entropy(logits, codes[:, t], smoothing) for t, logits in enumerate(states_logits)]
                ).sum()
            }
            if value_logits is not None and value_targets is not None:
                parts["value"] = cross_entropy(value_logits, value_targets)
            return parts

        def next_token_loss(parts: dict[str, torch.Tensor]) -> torch.Tensor:
            return parts["sid"] + config.value_loss_weight * parts.get("value", 0.0)

        parts = sid_and_value(output.logits, output.value_logits)
        loss = next_token_loss(parts)
        if token_free is not None:
            free_parts = sid_and_value(
                [head(token_free[:, t]) for t, head in enumerate(self.sid_heads)],
                None if self.value_head is None else self.value_head(token_free[:, -1]),
            )
            parts["mtp"] = next_token_loss(free_parts)
            loss = loss + config.mtp_loss_weight * parts["mtp"]
        if item_losses is not None:
            parts["item"] = weighted(item_losses)
            loss = loss + config.item_loss_weight * parts["item"]
        return loss, {name: part.detach() for name, part in parts.items()}


__all__ = [
    "GR4ADContext",
    "GR4ADForRecommendation",
    "GR4ADModel",
    "GR4ADModelOutput",
    "GR4ADPreTrainedModel",
    "GR4ADRecommendationOutput",
]
