import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, GenerationConfig, set_seed

from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation
from gr4ad.modeling_gr4ad.prefix_vectors_gr4ad import count_prefixes
from gr4ad.tokenization import MGMRQuantizer, SIDIndex, UASIDTokenizer, fit_value_buckets

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_artifact(tmp_path_factory) -> Path:
    """A folder with everything `Recommender.from_pretrained` reads: 120 ads `ad_0`.. with titles, random seeded
    weights, value head, item head, every part of p(SID), values in the context, no events and no user features."""
    folder = tmp_path_factory.mktemp("tiny_artifact")
    rng = np.random.default_rng(0)
    ids = [f"ad_{number}" for number in range(120)]
    quantizer = MGMRQuantizer([8, 8, "8*"], distinct_last=True)
    codes = quantizer.fit(rng.normal(size=(len(ids), 16)).astype(np.float32), ids)
    parts = tmp_path_factory.mktemp("tiny_parts")
    quantizer.save(parts / "codebooks.safetensors")
    SIDIndex(ids, codes, columns={"title": [f"Title <b>{item}</b>" for item in ids]}).save(parts / "items.parquet")
    edges, means = fit_value_buckets(rng.integers(0, 5, 1000).astype(np.float64), 4)
    tokenizer = UASIDTokenizer(
        str(parts / "items.parquet"),
        str(parts / "codebooks.safetensors"),
        codebook_sizes=["8", "8", "8*"],
        value_bucket_edges=edges,
        value_bucket_means=means,
        value_unit="cents",
    )
    set_seed(0)
    model = GR4ADForRecommendation(
        GR4ADConfig(
            codebook_sizes=tokenizer.level_sizes,
            num_value_buckets=len(means),
            value_bucket_means=means,
            context_values=True,
            num_items=len(ids) + 1,
            item_head=True,
            item_values=True,
            sid_normalization="trie",
            num_prefix_vectors=150,  # the catalog has some more prefixes
            prefix_size=8,
            sid_copy=True,
            sid_repeat=True,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_parallel_layers=2,
            num_attention_heads=2,
            num_context_layers=1,
            max_context_items=10,
            initializer_range=0.5,  # scores far enough apart to rank alike in batches of any size
        )
    )
    trie = model.build_trie(tokenizer)
    assert model.prefix_vectors is not None and model.history_sids is not None and count_prefixes(trie) > 150
    model.prefix_vectors.set_prefixes(trie, torch.from_numpy(rng.random(len(ids))))
    for parameter in model.prefix_vectors.parameters():
        torch.nn.init.normal_(parameter)
    torch.nn.init.constant_(model.history_sids.repeat_bias, -1.0)
    assert model.item_values is not None
    model.item_values.count(torch.from_numpy(rng.integers(1, 120, 300)), torch.from_numpy(rng.random(300) * 5))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    GenerationConfig(
        beam_widths=[8, 16, 16], item_weight=0.0, value_weight=0.0, score_history=False, exclude_history=False
    ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory) -> Path:
    """A BERT of 16 dimensions with random seeded weights and a vocabulary of characters."""
    folder = tmp_path_factory.mktemp("encoder")
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(words))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=128,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(folder)
    BertTokenizer(str(folder / "vocab.txt"), model_max_length=128).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def ad_records() -> Callable[[int], dict[str, Any]]:
    """The ads of `encoding_artifact`, `ad_0` to `ad_59`, and as many new ones as are wanted, by number."""
    words, brands = ("red", "blue", "lamp", "shoe", "soap", "cup", "nail", "tea"), ("acme", "opi", "nord", "zen")

    def record(number: int) -> dict[str, Any]:
        rng = np.random.default_rng(number)
        title = " ".join(rng.choice(words, 4)) + f" {number}"
        account = f"{number % 5:07d}"  # a business key with zeros, which no reader may lose
        return {"item_id": f"ad_{number}", "title": title, "brand": brands[number % 4], "account_id": account}

    return record


@pytest.fixture(scope="session")
def encoding_artifact(tiny_encoder, ad_records, tmp_path_factory) -> Path:
    """An artifact, of random seeded weights, whose 60 ads were embedded by the stages: their title and brand by
    `tiny_encoder`, and the brand's category; hashed by account and id. It shows title and account."""
    from gr4ad.data import DataConfig, prepare
    from gr4ad.modeling_gr4ad import RankingWeights
    from gr4ad.pipeline.artifact import save_artifact
    from gr4ad.pipeline.embedding import embed_ads
    from gr4ad.pipeline.settings import EmbedConfig, TokenizeConfig
    from gr4ad.pipeline.tokenizing import build_tokenizer

    root = tmp_path_factory.mktemp("encoding")
    for name in ("emb", "tok", "model", "artifact"):
        (root / name).mkdir()
    pd.DataFrame([ad_records(number) for number in range(60)]).to_parquet(root / "catalog.parquet")
    rng = np.random.default_rng(0)
    events = [(f"u{n // 6}", f"ad_{rng.integers(60)}", n) for n in range(240)]
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp"]).to_parquet(root / "events.parquet")
    prepare(DataConfig(root=str(root)), root / "data")
    embed = EmbedConfig(
        encoder=str(tiny_encoder), text_columns=["title", "brand"], category_columns=["brand"], category_dimension=3
    )
    embed_ads(embed, {}, data_dir=root / "data", out_dir=root / "emb", seed=0)
    tokenize = TokenizeConfig(
        codebook_sizes=["8", "8", "16*"], business_fields=["account_id", "item_id"], num_value_buckets=0, min_used=0.1
    )
    build_tokenizer(tokenize, data_dir=root / "data", embeddings_dir=root / "emb", out_dir=root / "tok", seed=0)
    set_seed(0)
    config = GR4ADConfig(
        codebook_sizes=[8, 8, 16],
        num_items=61,
        item_head=True,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_parallel_layers=2,
        num_attention_heads=2,
        num_context_layers=1,
        max_context_items=10,
        initializer_range=0.5,
    )
    GR4ADForRecommendation(config).save_pretrained(root / "model")
    weights = RankingWeights(
        beam_widths=(8, 32, 64), item_weight=0.5, value_weight=0.0, score_history=False, exclude_history=False
    )
    save_artifact(root / "model", root / "tok" / "tokenizer", weights, root / "artifact")
    return root / "artifact"
