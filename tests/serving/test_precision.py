import numpy as np
import pytest
import torch

from gr4ad import Recommender
from gr4ad.serving import load_recommender
from gr4ad.serving.precision import precision_of, quantize_layers

HISTORIES = [["ad_3", "ad_7", "ad_11"], ["ad_40"], [f"ad_{n}" for n in range(50, 58)]]


def lists(recommender, **options):
    return recommender.recommend(HISTORIES, top_k=16, **options)


def test_int8_keeps_scores_close_and_heads_as_they_are(tiny_artifact):
    exact, rounded = (
        Recommender.from_pretrained(tiny_artifact),
        Recommender.from_pretrained(tiny_artifact, dtype="int8"),
    )
    linear = [module for module in rounded.model.model.layers.modules() if type(module) is torch.nn.Linear]
    assert not linear and type(rounded.model.sid_heads[0]) is torch.nn.Linear
    for ours, theirs in zip(lists(rounded), lists(exact), strict=True):
        scores = {ad.item_id: ad.score for ad in theirs}
        found = np.array([(ad.score, scores[ad.item_id]) for ad in ours if ad.item_id in scores])
        assert len(found) >= 10, "most of 16 ads are the same"
        assert 0.8 < np.corrcoef(found.T)[0, 1] < 1 - 1e-6, "rounded, though these random weights are large"


def test_int8_serves_new_ads(tiny_artifact):
    recommender = Recommender.from_pretrained(tiny_artifact, dtype=torch.int8)
    code = recommender.tokenizer.index.codes[:1]
    recommender.add_ads(["new"], code)
    recommender.remove_ads(["ad_0"])
    for ads in recommender.recommend(HISTORIES, top_k=120, beam_widths=[8, 64, 512]):
        assert {ad.item_id for ad in ads} >= {"new", "ad_1"} and "ad_0" not in {ad.item_id for ad in ads}


@pytest.mark.parametrize("dtype", ["int8", "bfloat16"])
def test_lists_restrict_in_every_precision(tiny_artifact, dtype):
    recommender = Recommender.from_pretrained(tiny_artifact, dtype=dtype)
    seen = [f"ad_{n}" for n in range(100)]
    for ads in lists(recommender, block_items=seen, beam_widths=[1, 2, 16]):
        assert len(ads) == 16 and not {ad.item_id for ad in ads} & set(seen)


def test_bfloat16_ranks_by_float32_scores(tiny_artifact):
    recommender = Recommender.from_pretrained(tiny_artifact, dtype="bfloat16")
    assert recommender.model.dtype == torch.bfloat16
    for ads in lists(recommender):
        scores = [ad.score for ad in ads]
        assert scores == sorted(scores, reverse=True) and len(set(scores)) == len(scores)


def test_another_precision_is_refused(tiny_artifact):
    with pytest.raises(ValueError, match="`dtype` must be one of float32, bfloat16, float16, int8. Received: 'int4'"):
        Recommender.from_pretrained(tiny_artifact, dtype="int4")
    with pytest.raises(ValueError, match="int8 is of `backend"):
        load_recommender(tiny_artifact, dtype="int8", backend="vllm")
    assert precision_of(torch.float16) is precision_of("torch.float16") is torch.float16


def test_int8_elsewhere_is_refused(tiny_artifact):
    model = Recommender.from_pretrained(tiny_artifact).model.to("meta")
    with pytest.raises(ValueError, match="int8 is for the CPU. Received: a model on meta"):
        quantize_layers(model)
