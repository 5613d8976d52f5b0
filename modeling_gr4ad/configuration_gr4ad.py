# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""GR4AD model configuration, and what the model reads of a history."""

from dataclasses import field
from typing import Any, Protocol, TypedDict

import torch
from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

SID_NORMALIZATIONS = ("trie", "codebook")
NUM_SPECIAL_TOKENS = 4  # <pad>, <bos>, <eos>, <unk>: the ids in front of the first codebook


class HistoryInputs(TypedDict, total=False):
    """What the model reads of B histories of S items beside their SID tokens; each may be left out.

    item_ids (int64, (B, S)): Rows of the item-embedding table, 0 = unknown.
    event_ids, value_ids, time_ids (int64, (B, S)): Event kind; value bucket + 1 and bucket of the time since the item
        before + 1, 0 = not known. -1 leaves the feature out of an item, as not giving it leaves it out of all.
    cross_domain_ids (int64, (B, X)): What the user did elsewhere, oldest first; 0 = padding.
    cross_domain_places (int64, (B, X)): How many items of the history came before each of these entries: a prefix sees
        those that happened before its target. Default: all see all.
    user_feature_ids (int64, (B, features)): Structured user features, 0 = missing.
    """

    item_ids: torch.Tensor | None
    event_ids: torch.Tensor | None
    value_ids: torch.Tensor | None
    time_ids: torch.Tensor | None
    cross_domain_ids: torch.Tensor | None
    cross_domain_places: torch.Tensor | None
    user_feature_ids: torch.Tensor | None


class HistoryKwargs(HistoryInputs, total=False):
    """The histories, and what transformers lets callers ask of a forward pass."""

    output_hidden_states: bool | None
    output_attentions: bool | None
    return_dict: bool | None


class SIDTokenizer(Protocol):
    """What a model asks of a [`UASIDTokenizer`]."""

    level_sizes: list[int]
    value_bucket_means: list[float]
    event_names: list[str]
    num_time_buckets: int
    num_cross_domain_items: int
    user_features: dict[str, list[str]]
    index: Any


HISTORY_INPUTS: tuple[str, ...] = ("attention_mask", *HistoryInputs.__annotations__)


@strict
class GR4ADConfig(PreTrainedConfig):
    r"""
    Configuration of [`GR4ADModel`] and [`GR4ADForRecommendation`] (GR4AD, arXiv 2602.22732).

    Token ids are laid out as `[special | level 1 | ... | level T | value buckets]`; code `c` of level `t` (0-based)
    has the token id `level_offsets[t] + c`.

    Args:
        codebook_sizes (`list[int]`): Sizes V_t of the T semantic-ID levels, in tokens. Must equal the tokenizer's.
        num_value_buckets (`int`): Equal-frequency value (eCPM) buckets; 0 builds no value head.
        value_bucket_means (`list[float]`): Mean value of each bucket, in the unit of the logs; turns bucket
            probabilities into an expected value.
        num_items (`int`): Rows of the optional item-embedding table (row 0 is "unknown or new"); 0 builds none.
        hidden_size (`int`): d, the width of every layer.
        intermediate_size (`int`): Width of the gated feed-forward layers.
        num_hidden_layers (`int`): L, all decoder layers.
        num_parallel_layers (`int`): K in 0..L-1, the first layers, which see no previous token and are shared by all
            beams (eqs. 5-8); 0 is vanilla autoregression with fused input.
        num_attention_heads (`int`), num_key_value_heads (`int`, *optional*): Query heads and key/value groups (GQA).
        num_context_kv (`int`): L_kv, distinct sets of context keys/values; decoder layer l (0-based) reads set
            `l * L_kv // L`.
        separate_context_values (`bool`): S_kv = 2 (keys and values projected apart) instead of 1 (one shared tensor).
        num_context_layers (`int`): Causal encoder layers over the context; 0 is the paper's linear context processor.
        max_context_items (`int`): S, the longest history in items.
        num_events (`int`): Event kinds of history items; 0 leaves the feature out.
        context_values (`bool`): Whether history items carry their value bucket as a feature.
        num_time_buckets (`int`): Buckets of the time that passed before each history item; 0 leaves the feature out.
        num_cross_domain_items (`int`): Rows of the embedding table of the cross-domain sequence (what the user did
            elsewhere, e.g. videos watched; row 0 is padding); 0 builds none.
        max_cross_domain_items (`int`): X, the longest cross-domain sequence.
        user_feature_sizes (`list[int]`): Categories of each structured user feature (index 0 = missing).
        query_from_context (`bool`): Adds the last context vector to every trunk query, m_t^0 = p_t + x_last. The trunk
            stays token-free. Needed when all prefixes of a history are trained in one pass: otherwise a query does not
            know how long its prefix is.
        fuse_prefix (`bool`): Injects the sum of all previous tokens of the SID, not the last one alone: s_{t-1} of eq.
            9 becomes s_1 + ... + s_{t-1}. The upper layers, of which LazyAR leaves few, need not learn to fetch the
            earlier tokens by attention.
        sid_normalization (`str`): What the probabilities of a level's codes sum to one over: `"trie"`, the codes that
            some SID of the catalog continues with, or `"codebook"`, all codes, as models of 0.1.0 were trained.
            With `"trie"` the log-probabilities of all SIDs of a catalog sum to one, and whatever asks for one needs
            the catalog's [`SIDTrie`].
        num_prefix_vectors (`int`): Prefixes of SIDs that have a vector of their own, see [`GR4ADPrefixVectors`]; 0
            builds none. prefix_size (`int`): Width of these vectors; 0 = `hidden_size`.
        sid_copy, sid_repeat (`bool`): Let p(SID) copy SIDs of the history, and learn how much rarer a repeat is, see
            [`GR4ADHistorySIDs`].
        item_head (`bool`): Adds a softmax over items on the level-1 trunk state, tied to the item embeddings.
        item_head_copy (`bool`): Lets the item head copy items of the history, for logs in which users come back to the
            same ads or products.
        item_head_repeat (`bool`): Adds one learned number to the item head's logit of each item that the history
            holds, for logs in which users rarely come back to an item.
        item_head_gain (`float`): Start of the gain on the item head's user vector. At 0 a fresh head is its bias (log
            popularity in the recipes) and learns slowly: for small logs, which do not pay for random user vectors.
        num_item_neighbours (`int`): Neighbours of each item in the table that [`GR4ADItemNeighbours`] counts evidence
            from, for re-ranking beside the item head; 0 builds none.
        item_values (`bool`): Whether expected values rest on the values that each item had in the log too, see
            [`GR4ADItemValues`]; needs `num_items` and a value head.
        num_new_items (`int`): Items at the end of the item table that came after training, which [`GR4ADNewItems`]
            ranks by what they say; `extend_item_tables` counts them. content_size (`int`): Width of what they say.
        neighbour_decay (`float`): In (0, 1]: what an item of the history counts there against the next newer one.
        value_loss_weight, mtp_loss_weight, item_loss_weight (`float`): lambda_e, lambda_mtp (eqs. 14-15) and the
            weight of the item head's loss.
        label_smoothing (`float`): Of the SID and item softmaxes, in [0, 1).
        embedding_initializer_range (`float`): Standard deviation of fresh SID-token and level embeddings;
            `initializer_range` is that of all other weights.
        dropout (`float`): On embeddings and residual branches, in [0, 1).

    ```python
    >>> from gr4ad import GR4ADConfig, GR4ADForRecommendation
    >>> model = GR4ADForRecommendation(GR4ADConfig(codebook_sizes=[256, 256, 256], num_hidden_layers=6,
    num_parallel_layers=4))
    ```
    """

    model_type = "gr4ad"
    keys_to_ignore_at_inference = ["losses"]
    attribute_map = {"num_layers": "num_hidden_layers"}

    codebook_sizes: list[int] = field(default_factory=lambda: [256, 256, 256])
    num_value_buckets: int = 0
    value_bucket_means: list[float] | None = None
    num_items: int = 0
    hidden_size: int = 128
    intermediate_size: int = 384
    num_hidden_layers: int = 6
    num_parallel_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int | None = None
    num_context_kv: int = 1
    separate_context_values: bool = False
    num_context_layers: int = 0
    max_context_items: int = 50
    num_events: int = 0
    context_values: bool = False
    num_time_buckets: int = 0
    num_cross_domain_items: int = 0
    max_cross_domain_items: int = 50
    user_feature_sizes: list[int] = field(default_factory=list)
    query_from_context: bool = True
    fuse_prefix: bool = False
    sid_normalization: str = "codebook"
    num_prefix_vectors: int = 0
    prefix_size: int = 0
    sid_copy: bool = False
    sid_repeat: bool = False
    item_head: bool = False
    item_head_copy: bool = False
    item_head_repeat: bool = False
    item_head_gain: float = 1.0
    num_item_neighbours: int = 0
    neighbour_decay: float = 0.8
    item_values: bool = False
    num_new_items: int = 0
    content_size: int = 0
    value_loss_weight: float = 0.1
    mtp_loss_weight: float = 0.3
    item_loss_weight: float = 0.5
    label_smoothing: float = 0.0
    hidden_act: str = "silu"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    rms_norm_eps: float = 1e-6
    initializer_range: float = 0.02
    embedding_initializer_range: float = 0.1
    tie_word_embeddings: bool = False
    is_encoder_decoder: bool = True
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int | list[int] | None = 2
    decoder_start_token_id: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)

    @property
    def num_levels(self) -> int:
        """T, the tokens of one semantic ID."""
        return len(self.codebook_sizes)

    @property
    def level_offsets(self) -> list[int]:
        """Token id of code 0 of each level, T ints."""
        offsets = [NUM_SPECIAL_TOKENS]
        for size in self.codebook_sizes[:-1]:
            offsets.append(offsets[-1] + size)
        return offsets

    @property
    def value_offset(self) -> int:
        """Token id of value bucket 0."""
        return NUM_SPECIAL_TOKENS + sum(self.codebook_sizes)

    @property
    def vocab_size(self) -> int:
        return self.value_offset + self.num_value_buckets

    @property
    def item_feature_sizes(self) -> dict[str, int]:
        """Rows of the embedding table of each feature of a history item; 0 = left out. The input of a feature is
        `NAME_ids`, its table `NAME_embeddings`."""
        return {
            "event": self.num_events,
            # bucket 0 stands for "not known"
            "value": self.num_value_buckets + 1 if self.context_values else 0,
            "time": self.num_time_buckets + 1 if self.num_time_buckets else 0,
        }

    @property
    def history_inputs(self) -> list[str]:
        """The inputs of [`HistoryInputs`] that this model reads, beside `item_ids`."""
        features = [f"{name}_ids" for name, size in self.item_feature_sizes.items() if size]
        elsewhere = ["cross_domain_ids", "cross_domain_places"] if self.num_cross_domain_items else []
        return [*features, *elsewhere, *(["user_feature_ids"] if self.user_feature_sizes else [])]

    @property
    def key_value_groups(self) -> int:
        """G, sets of keys and values that the query heads share."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_tokenizer(cls, tokenizer: "SIDTokenizer", **kwargs: Any) -> "GR4ADConfig":
        """The configuration of a model for a [`UASIDTokenizer`]: codebooks, value buckets, events, time buckets,
        cross-domain rows and user features are the tokenizer's, p(SID) is one over its catalog, all else is
        `kwargs`.

        ```python
        >>> config = GR4ADConfig.from_tokenizer(tokenizer, hidden_size=256, num_items=len(tokenizer.index) + 1)
        ```
        """
        return cls(**{"sid_normalization": "trie", **tokenizer_fields(tokenizer), **kwargs})

    def check_tokenizer(self, tokenizer: "SIDTokenizer") -> None:
        """Raises ValueError, naming field, values and remedy, unless this model's token ids and features are those of
        a [`UASIDTokenizer`]."""
        for name, theirs in tokenizer_fields(tokenizer).items():
            ours = getattr(self, name)
            if (ours or name not in OPTIONAL_FEATURES) and ours != theirs:
                raise ValueError(
                    f"`{name}` of the model is {shortened(ours)}, but the tokenizer has {shortened(theirs)}. Load "
                    "both from one folder, or build the model with `GR4ADConfig.from_tokenizer(tokenizer)`; where the "
                    "tokenizer's codebooks have grown, `model.resize_codebooks` follows them."
                )

    def validate_architecture(self) -> None:
        """Part of `@strict` validation: rejects combinations that cannot be built, naming the field and the remedy."""
        if not self.codebook_sizes or min(self.codebook_sizes) < 1:
            raise ValueError(
                f"`codebook_sizes` needs at least one level of at least one code. Received: {self.codebook_sizes}. "
                "Copy the tokenizer's `codebook_sizes`."
            )
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads",
                     "max_context_items", "max_cross_domain_items"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1. Received: {getattr(self, name)}.")
        for name in ("num_value_buckets", "num_items", "num_context_layers", "num_events", "num_time_buckets",
                     "num_cross_domain_items", "num_item_neighbours", "num_new_items", "content_size",
                     "num_prefix_vectors", "prefix_size"):  # fmt: skip
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 (left out) or more. Received: {getattr(self, name)}.")
        for name in ("dropout", "attention_dropout", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in [0, 1). Received: {getattr(self, name)}.")
        if not 0 <= self.num_parallel_layers < self.num_hidden_layers:
            raise ValueError(
                "`num_parallel_layers` (K) must be in 0..num_hidden_layers-1, so that at least one layer sees "
                f"the previous token. Received: K = {self.num_parallel_layers}, L = {self.num_hidden_layers}."
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                "`hidden_size` must be a multiple of `num_attention_heads`. "
                f"Received: {self.hidden_size} and {self.num_attention_heads}."
            )
        if self.num_attention_heads % self.key_value_groups:
            raise ValueError(
                "`num_attention_heads` must be a multiple of `num_key_value_heads`. "
                f"Received: {self.num_attention_heads} and {self.num_key_value_heads}."
            )
        if not 1 <= self.num_context_kv <= self.num_hidden_layers:
            raise ValueError(
                f"`num_context_kv` must be in 1..num_hidden_layers. Received: {self.num_context_kv} "
                f"with {self.num_hidden_layers} layers."
            )
        if self.item_head and not self.num_items:
            raise ValueError(
                "`item_head` scores the rows of the item-embedding table. Received: item_head = True with "
                "num_items = 0. Set `num_items` to the catalog size + 1, or `item_head` to False."
            )
        for name in ("item_head_copy", "item_head_repeat", "num_item_neighbours"):
            if getattr(self, name) and not self.item_head:
                raise ValueError(
                    f"`{name}` is part of the item head. Received: {getattr(self, name)} with item_head = False."
                )
        if self.item_values and not (self.num_items and self.num_value_buckets):
            raise ValueError(
                "`item_values` counts values of the rows of the item table, beside the value head's. Received: "
                f"item_values = True with num_items = {self.num_items} and num_value_buckets = "
                f"{self.num_value_buckets}. Set both, or `item_values` to False."
            )
        if self.num_new_items and not (self.item_head and self.num_new_items < self.num_items and self.content_size):
            raise ValueError(
                "`num_new_items` counts rows of the item table of an item head, of known `content_size`. Received: "
                f"{self.num_new_items} of num_items = {self.num_items}, item_head = {self.item_head}, content_size = "
                f"{self.content_size}. Leave it 0: `extend_item_tables` sets it."
            )
        if self.sid_normalization not in SID_NORMALIZATIONS:
            raise ValueError(
                f"`sid_normalization` must be one of {', '.join(SID_NORMALIZATIONS)}. Received: "
                f"{self.sid_normalization!r}."
            )
        for name in ("num_prefix_vectors", "sid_copy", "sid_repeat"):
            if getattr(self, name) and self.sid_normalization != "trie":
                raise ValueError(
                    f"`{name}` is part of the probability over the catalog's SIDs. Received: {getattr(self, name)} "
                    f"with `sid_normalization` = {self.sid_normalization!r}. Set that to 'trie'."
                )
        if self.prefix_size > self.hidden_size:
            raise ValueError(
                f"`prefix_size` must be at most `hidden_size` = {self.hidden_size}. Received: {self.prefix_size}."
            )
        if not 0 < self.neighbour_decay <= 1:
            raise ValueError(f"`neighbour_decay` must be in (0, 1]. Received: {self.neighbour_decay}.")
        if self.context_values and not self.num_value_buckets:
            raise ValueError(
                "`context_values` embeds value buckets. Received: context_values = True with num_value_buckets = 0. "
                "Set `num_value_buckets`, or `context_values` to False."
            )
        means = self.value_bucket_means
        if means is not None and len(means) != self.num_value_buckets:
            raise ValueError(
                f"`value_bucket_means` needs one mean for each of the {self.num_value_buckets} value buckets. "
                f"Received: {len(means)}. Copy the tokenizer's `value_bucket_means`."
            )


# What a tokenizer can give and a model may leave out.
OPTIONAL_FEATURES = (
    "num_value_buckets",
    "value_bucket_means",
    "num_events",
    "num_time_buckets",
    "num_cross_domain_items",
    "user_feature_sizes",
)


def tokenizer_fields(tokenizer: SIDTokenizer) -> dict[str, Any]:
    """What a model must have in common with its tokenizer, as fields of [`GR4ADConfig`]."""
    means = list(tokenizer.value_bucket_means)
    return {
        "codebook_sizes": list(tokenizer.level_sizes),
        "num_value_buckets": len(means),
        "value_bucket_means": means or None,
        "num_events": len(tokenizer.event_names),
        "num_time_buckets": tokenizer.num_time_buckets,
        "num_cross_domain_items": tokenizer.num_cross_domain_items,
        "user_feature_sizes": [len(categories) + 1 for categories in tokenizer.user_features.values()],
    }


def shortened(value: object) -> str:
    """`value` as text of at most 80 characters, for messages."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


__all__ = ["HISTORY_INPUTS", "NUM_SPECIAL_TOKENS", "GR4ADConfig", "HistoryInputs", "HistoryKwargs", "SIDTokenizer"]
