import numpy as np
import pytest

from gr4ad.tokenization import embedding_fusion
from gr4ad.tokenization.embedding_fusion import EmbeddingFusion, unit_rows


def vectors(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_parts_are_centred_and_weighted():
    content, collaborative = vectors(0, 30, 6), vectors(1, 30, 4)
    joined = EmbeddingFusion.fit(content, collaborative, collaborative_weight=0.5).transform(content, collaborative)
    np.testing.assert_allclose(joined[:, :6], unit_rows(content - content.mean(0)), rtol=1e-5)
    np.testing.assert_allclose(joined[:, 6:], 0.5 * unit_rows(collaborative - collaborative.mean(0)), rtol=1e-5)


def test_an_ad_without_log_takes_what_its_neighbours_have_before_and_after_fitting():
    content, collaborative = vectors(0, 30, 6), vectors(1, 30, 4)
    collaborative[3] = 0
    fusion = EmbeddingFusion.fit(content, collaborative, collaborative_weight=1.0)
    joined = fusion.transform(content, collaborative)
    unit = unit_rows(content - content.mean(0))
    others = np.delete(np.arange(30), 3)
    nearest = others[((unit[others] - unit[3]) ** 2).sum(1).argsort()[:10]]
    known = unit_rows(collaborative[others] - collaborative[others].mean(0))
    expected = unit_rows(known[np.searchsorted(others, nearest)].mean(0, keepdims=True))[0]
    np.testing.assert_allclose(joined[3, 6:], expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fusion.transform(content[3:4])[0], joined[3], rtol=1e-5)  # the same ad, brought later


@pytest.mark.parametrize("collaborative", [None, vectors(1, 30, 4)])
def test_save_and_load(tmp_path, collaborative):
    content = vectors(0, 30, 6)
    fusion = EmbeddingFusion.fit(content, collaborative, collaborative_weight=0.7)
    fusion.save(tmp_path / "fusion.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["fusion.safetensors"]
    again = EmbeddingFusion.load(tmp_path / "fusion.safetensors")
    new = vectors(5, 3, 6)
    np.testing.assert_array_equal(again.transform(new), fusion.transform(new))
    (tmp_path / "fusion.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="not a readable embedding fusion"):
        EmbeddingFusion.load(tmp_path / "fusion.safetensors")


def test_references_are_bounded(monkeypatch):
    monkeypatch.setattr(embedding_fusion, "MAX_REFERENCES", 8)
    fusion = EmbeddingFusion.fit(vectors(0, 30, 6), vectors(1, 30, 4), collaborative_weight=1.0)
    assert len(fusion.reference_content) == 8
    with pytest.raises(ValueError, match=r"`content` must have shape \(ads, 6\).*Received: \(2, 5\)"):
        fusion.transform(vectors(2, 2, 5))
    with pytest.raises(ValueError, match="`collaborative_weight` must be >= 0. Received: -1"):
        EmbeddingFusion.fit(vectors(0, 3, 2), None, collaborative_weight=-1)
