from collections.abc import Callable

import numpy as np
import pytest
import torch
from datasets import Dataset, disable_progress_bars
from transformers import set_seed

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation, SIDTrie
from gr4ad.tokenization import SIDIndex, UASIDTokenizer

disable_progress_bars()
NUM_ITEMS = 24


@pytest.fixture(scope="session")
def build_ring_tokenizer(tmp_path_factory) -> Callable[..., UASIDTokenizer]:
    """24 items `ad_0`.. with distinct SIDs of 2 x (4 and 6 codes), two events, one user feature, three buckets."""
    table = tmp_path_factory.mktemp("ring") / "items.parquet"
    codes = np.stack(np.unravel_index(np.arange(NUM_ITEMS), (4, 6)), 1)
    SIDIndex([f"ad_{n}" for n in range(NUM_ITEMS)], codes).save(table)

    def build(**changes) -> UASIDTokenizer:
        return UASIDTokenizer(
            str(table),
            codebook_sizes=[4, 6],
            event_names=["click", "conversion"],
            user_features={"city": ["x", "y"]},
            value_bucket_edges=[1.0, 3.0],
            value_bucket_means=[0.0, 1.5, 4.0],
            **changes,
        )

    return build


@pytest.fixture(scope="session")
def ring_tokenizer(build_ring_tokenizer) -> UASIDTokenizer:
    return build_ring_tokenizer()


@pytest.fixture(scope="session")
def timed_tokenizer(build_ring_tokenizer) -> UASIDTokenizer:
    """The ring's, with 8 time buckets and 50 rows for the cross-domain sequence."""
    return build_ring_tokenizer(num_time_buckets=8, num_cross_domain_items=50)


@pytest.fixture(scope="session")
def ring_log() -> Dataset:
    """80 users who walk around the ring of items in steps of 5: the next item follows from the last."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(80):
        start, length = rng.integers(NUM_ITEMS), rng.integers(2, 9)
        items = [f"ad_{(start + 5 * step) % NUM_ITEMS}" for step in range(length)]
        values = rng.integers(0, 5, length).astype(float).tolist()
        events = rng.choice(["click", "conversion"], length).tolist()
        rows.append(
            {"user_id": str(user), "items": items, "events": events, "values": values, "city": rng.choice(["x", "y"])}
        )
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def timed_log(ring_log) -> Dataset:
    """The ring's log, with an item every few seconds and something elsewhere before, between, at and after them; the
    first user did nothing elsewhere."""
    rng = np.random.default_rng(1)
    rows = []
    for number, row in enumerate(ring_log):
        times = np.cumsum(rng.integers(0, 40, len(row["items"]))).tolist()
        moments = np.sort(np.r_[times[::2], rng.integers(-5, times[-1] + 30, 4)]) if number else np.empty(0)
        watched = [f"video {n}" for n in rng.integers(0, 1000, len(moments))]
        rows.append({**row, "times": times, "cross_domain": watched, "cross_domain_times": moments.tolist()})
    return Dataset.from_list(rows)


@pytest.fixture(scope="session")
def build_ring_model(ring_tokenizer) -> Callable[..., GR4ADForRecommendation]:
    """A seeded model with every part of p(SID); `codebook=True`: with none, as models of earlier versions are."""

    def build(*, codebook: bool = False, **changes) -> GR4ADForRecommendation:
        set_seed(0)
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_parallel_layers": 1}
        shape |= {"num_items": NUM_ITEMS + 1, "item_head": True}
        shape |= {"sid_normalization": "trie", "sid_copy": True, "sid_repeat": True}
        shape |= {"num_prefix_vectors": 4 + NUM_ITEMS, "prefix_size": 5}
        if codebook:
            shape |= {"sid_normalization": "codebook", "sid_copy": False, "sid_repeat": False, "num_prefix_vectors": 0}
        model = GR4ADForRecommendation(
            GR4ADConfig(
                codebook_sizes=ring_tokenizer.level_sizes,
                num_value_buckets=3,
                value_bucket_means=ring_tokenizer.value_bucket_means,
                num_events=2,
                context_values=True,
                user_feature_sizes=[3],
                num_attention_heads=2,
                num_context_layers=1,
                max_context_items=6,
                **{**shape, **changes},
            )
        )
        if model.prefix_vectors is not None:  # VSL would fill its table anew; other trainers take it as it is
            trie = SIDTrie.from_index(ring_tokenizer.index)
            model.prefix_vectors.set_prefixes(trie, torch.ones(NUM_ITEMS))
        return model

    return build
