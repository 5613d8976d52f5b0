import math

import numpy as np
from datasets import Dataset

from gr4ad import GR4ADForRecommendation, SIDIndex, UASIDTokenizer
from gr4ad.pipeline.settings import ModelSettings
from gr4ad.pipeline.training import model_config, start_item_embeddings, start_item_head


def tokenizer(folder) -> UASIDTokenizer:
    codes = np.stack(np.unravel_index(np.arange(12), (3, 4)), 1)
    SIDIndex([f"ad_{n}" for n in range(12)], codes, np.arange(12.0)).save(folder / "items.parquet")
    return UASIDTokenizer(str(folder / "items.parquet"), codebook_sizes=[3, 4])


def test_the_item_head_starts_from_counts_and_repeats(tmp_path):
    ads = tokenizer(tmp_path)
    settings = ModelSettings(hidden_size=8, num_attention_heads=2, item_head_repeat=True)
    model = GR4ADForRecommendation(model_config(settings, ads))
    log = Dataset.from_dict({"items": [["ad_0", "ad_1", "ad_0"], ["ad_2", "ad_2", "ad_2", "ad_3"], ["ad_4"]]})
    start_item_head(model, ads, log)
    counts = np.log1p(np.arange(12.0))
    np.testing.assert_allclose(model.item_head.bias[1:].detach(), counts - counts.mean(), rtol=1e-5)
    # 3 of 5 events after a first one repeat an item; one more of each, so that a log without repeats has a logarithm.
    assert model.item_head.repeat_bias.item() == np.float32(math.log((3 + 1) / (5 + 1)))


def test_item_vectors_start_as_main_components_and_the_rest_stays_random(tmp_path):
    ads = tokenizer(tmp_path)
    model = GR4ADForRecommendation(model_config(ModelSettings(hidden_size=8, num_attention_heads=2), ads))
    before = model.item_table.detach().numpy().copy()
    vectors = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
    start_item_embeddings(model, vectors, 0.1)
    table = model.item_table.detach().numpy()
    np.testing.assert_array_equal(table[:, 5:], before[:, 5:])
    np.testing.assert_array_equal(table[0], before[0])
    assert abs(table[1:, :5].std() - 0.1) < 1e-5
    centred = vectors - vectors.mean(0)
    gram = table[1:, :5] @ table[1:, :5].T  # a rotation keeps all inner products, up to the common scale
    expected = centred @ centred.T
    np.testing.assert_allclose(gram / gram[0, 0], expected / expected[0, 0], rtol=1e-3, atol=1e-4)
