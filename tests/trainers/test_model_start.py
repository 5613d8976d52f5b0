"""Where a fresh model starts, and that no other one is started again."""

import logging
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from safetensors.numpy import save_file

from gr4ad import GR4ADForRecommendation, SIDIndex, UASIDTokenizer
from gr4ad.pipeline.settings import ModelSettings
from gr4ad.pipeline.training import model_config
from gr4ad.trainers import VSLConfig, VSLTrainer
from gr4ad.trainers.vsl import start_item_embeddings, start_item_head, start_model
from gr4ad.trainers.vsl.model_start import never_trained

VECTORS = np.random.default_rng(0).normal(size=(12, 5)).astype(np.float32)
LOG = Dataset.from_dict({"items": [["ad_0", "ad_1", "ad_0"], ["ad_2", "ad_2", "ad_2", "ad_3"], ["ad_4"]]})


@pytest.fixture(params=[True, False], ids=["vectors", "no vectors"])
def with_vectors(request) -> bool:
    return request.param


def tokenizer(folder, with_vectors: bool = True) -> UASIDTokenizer:
    codes = np.stack(np.unravel_index(np.arange(12), (3, 4)), 1)
    SIDIndex([f"ad_{n}" for n in range(12)], codes, np.arange(12.0)).save(folder / "items.parquet")
    save_file({"item_vectors": VECTORS}, folder / "item_vectors.safetensors")
    ads = UASIDTokenizer(
        str(folder / "items.parquet"),
        codebook_sizes=[3, 4],
        item_vectors_file=str(folder / "item_vectors.safetensors") if with_vectors else None,
    )
    ads.save_pretrained(folder / "tokenizer")  # the vectors go with it
    return UASIDTokenizer.from_pretrained(folder / "tokenizer")


def fresh_model(ads: UASIDTokenizer, **changes) -> GR4ADForRecommendation:
    torch.manual_seed(0)
    settings = ModelSettings(**{"hidden_size": 8, "num_attention_heads": 2, "item_head_repeat": True, **changes})
    return GR4ADForRecommendation(model_config(settings, ads))


def trainer(model, ads, folder, **changes) -> VSLTrainer:
    args = VSLConfig(str(folder), use_cpu=True, max_steps=2, save_strategy="no", disable_tqdm=True, **changes)
    return VSLTrainer(model, args, LOG, ads)


def test_the_item_head_starts_from_counts_and_repeats(tmp_path):
    ads = tokenizer(tmp_path)
    model = fresh_model(ads)
    start_item_head(model, ads)
    counts = np.log1p(np.arange(12.0))
    np.testing.assert_allclose(model.item_head.bias[1:].detach(), counts - counts.mean(), rtol=1e-5)
    # 3 of 5 events after a first one repeat an item; one more of each, so that a log without repeats has a logarithm.
    assert model.item_head.repeat_bias.item() == np.float32(math.log((3 + 1) / (5 + 1)))


def test_item_vectors_start_as_main_components_and_the_rest_stays_random(tmp_path):
    ads = tokenizer(tmp_path)
    model = fresh_model(ads)
    before = model.item_table.detach().numpy().copy()
    start_item_embeddings(model, VECTORS, 0.1)
    table = model.item_table.detach().numpy()
    np.testing.assert_array_equal(table[:, 5:], before[:, 5:])
    np.testing.assert_array_equal(table[0], before[0])
    assert abs(table[1:, :5].std() - 0.1) < 1e-5
    centred = VECTORS - VECTORS.mean(0)
    gram = table[1:, :5] @ table[1:, :5].T  # a rotation keeps all inner products, up to the common scale
    expected = centred @ centred.T
    np.testing.assert_allclose(gram / gram[0, 0], expected / expected[0, 0], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="carries 13 item vectors, the model has 12 items"):
        start_item_embeddings(model, np.ones((13, 2), np.float32), 0.1)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_plain_trainer_starts_a_fresh_model_bit_for_bit(tmp_path, with_vectors, streaming, caplog):
    caplog.set_level(logging.WARNING)
    ads = tokenizer(tmp_path, with_vectors)
    wanted, model = fresh_model(ads), fresh_model(ads)
    if with_vectors:
        start_item_embeddings(wanted, VECTORS, 0.08)
    start_item_head(wanted, ads)
    args = VSLConfig(str(tmp_path), use_cpu=True, max_steps=2, item_embedding_std=0.08)
    VSLTrainer(model, args, LOG.to_iterable_dataset() if streaming else LOG, ads)
    state = model.state_dict()
    for name, value in wanted.state_dict().items():
        assert torch.equal(value, state[name]), name
    told = [message for message in caplog.messages if "carries no item vectors" in message]
    assert len(told) == (0 if with_vectors else 1)


@pytest.mark.parametrize("item_head", [True, False])
def test_a_trained_model_is_not_started_again(tmp_path, item_head):
    ads = tokenizer(tmp_path)
    model = fresh_model(ads, item_head=item_head, item_head_repeat=item_head)
    assert never_trained(model)
    trainer(model, ads, tmp_path).train()
    assert not never_trained(model)
    model.save_pretrained(tmp_path / "model")
    for tuned in (model, GR4ADForRecommendation.from_pretrained(tmp_path / "model")):
        before = {name: value.clone() for name, value in tuned.state_dict().items()}
        trainer(tuned, ads, tmp_path, item_embedding_std=0.5)
        assert all(torch.equal(value, tuned.state_dict()[name]) for name, value in before.items())
    adapted = get_peft_model(fresh_model(ads), LoraConfig(target_modules=["q_proj"]))
    assert not start_model(adapted, ads, LOG, 0.1)  # adapters are of a model that is there


def test_vectors_of_ones_own_stay(tmp_path):
    ads = tokenizer(tmp_path)
    model = fresh_model(ads)
    own = model.item_table.detach().clone()
    assert start_model(model, ads, LOG, 0.0)
    assert torch.equal(model.item_table, own) and model.item_head.bias.any()
