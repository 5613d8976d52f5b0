import numpy as np
import pytest

from gr4ad.online import CatalogChanges
from gr4ad.serving import IndexChange
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.embedding_fusion import FUSION_FILE, EmbeddingFusion
from gr4ad.trainers.continual import RecordError

EMBEDDING = np.random.default_rng(5).normal(size=16).tolist()


@pytest.fixture
def tokenizer(tiny_artifact) -> UASIDTokenizer:
    return UASIDTokenizer.from_pretrained(tiny_artifact)


@pytest.fixture
def changes(tokenizer, tiny_artifact) -> CatalogChanges:
    return CatalogChanges(tokenizer, tiny_artifact)


def test_an_embedding_gets_the_sid_of_the_quantizer(changes, tokenizer):
    record = {"item_id": "new", "embedding": EMBEDDING, "business_key": "k", "attributes": {"title": "New"}}
    change = changes.change(record, tokenizer.index)
    expected = changes.encoder.quantizer.encode(np.array([EMBEDDING], np.float32), ["k"], taken=tokenizer.index.codes)
    assert change == IndexChange("add", ["new"], [expected[0].tolist()], None, {"title": ["New"]})
    assert not tokenizer.index.items_of(change.codes[0])  # the quantizer is collision-aware


def test_an_ad_that_is_served_keeps_its_sid_until_its_content_changes(changes, tokenizer):
    record = {"item_id": "new", "embedding": EMBEDDING, "business_key": "k"}
    index = tokenizer.index
    change = changes.change(record, index)
    change.apply_to(index)
    version = index.version
    # Its first choice of a last code is its own now; another ad's arrival does not move it either.
    changes.change(record, index).apply_to(index)
    assert index.version == version
    other = {**record, "embedding": [-part for part in EMBEDDING]}
    changes.change(other, index).apply_to(index)
    assert index.sid_of("new")[:2] != tuple(change.codes[0][:2])


def test_the_fusion_of_the_artifact_is_used(tokenizer, tmp_path):
    content = np.random.default_rng(0).normal(size=(50, 16)).astype(np.float32)
    EmbeddingFusion.fit(content, None, collaborative_weight=1.0, seed=0).save(tmp_path / FUSION_FILE)
    fused = CatalogChanges(tokenizer, tmp_path)
    assert fused.encoder.fusion is not None
    record = {"item_id": "new", "embedding": (content[3] * 2).tolist(), "business_key": "k"}
    vector = fused.encoder.fusion.transform(content[3:4] * 2)
    expected = fused.encoder.quantizer.encode(vector, ["k"], taken=tokenizer.index.codes)[0].tolist()
    assert fused.change(record, tokenizer.index).codes == [expected]


def test_removal_needs_the_id_alone(changes, tokenizer):
    assert changes.change({"item_id": "ad_3", "remove": True}, tokenizer.index) == IndexChange("remove", ["ad_3"])


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({}, "`item_id` must be a string"),
        ({"item_id": "x"}, "either `codes` or `embedding`"),
        ({"item_id": "x", "codes": [1, 2, 3], "embedding": [1.0]}, "either `codes` or `embedding`"),
        ({"item_id": "x", "codes": [1, 2, 8]}, r"`codes` must be 3 codes below \[8, 8, 8\]"),
        ({"item_id": "x", "codes": [1, 2]}, "`codes` must be 3 codes"),
        ({"item_id": "x", "codes": [1, 2, 3], "title": "T"}, "`title` is no field of a catalog record"),
        ({"item_id": "x", "codes": [1, 2, 3], "attributes": ["T"]}, "`attributes` must be an object"),
        ({"item_id": "x", "codes": [1, 2, 3], "priority": "high"}, "one finite number an ad"),
        ({"item_id": "ad_3", "remove": "false"}, "`remove` must be true or false. Received: 'false'"),
        ({"item_id": "ad_3", "remove": float("nan")}, "`remove` must be true or false. Received: nan"),
        ({"item_id": "x", "embedding": EMBEDDING, "attributes": {"priority": 1.0}}, "'priority', which has a field"),
        ({"item_id": "x", "embedding": EMBEDDING}, "needs a `business_key`"),
        ({"item_id": "x", "embedding": [float("nan")] * 16, "business_key": "k"}, "`embedding` must be finite"),
        ({"item_id": "x", "embedding": ["a"] * 16, "business_key": "k"}, "must be a list of floats"),
        ({"item_id": "x", "embedding": [1.0] * 3, "business_key": "k"}, "3 dimensions, the codebooks 16"),
    ],
)
def test_what_is_no_ad_is_refused_by_field(changes, tokenizer, record, message):
    with pytest.raises(RecordError, match=message):
        changes.change(record, tokenizer.index)
