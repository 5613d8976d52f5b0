import numpy as np
import pytest

from gr4ad.tokenization.category_vectors import CategoryVectors, labels_of

CATALOG = [["nail", "opi"], ["nail", "essie"], ["hair", "opi"], ["hair"], ["skin"], ["skin", "olay"], []]


def test_ads_with_common_labels_lie_close_and_rows_are_unit():
    vectors = CategoryVectors.fit(CATALOG, dimension=4)
    rows = vectors.transform(CATALOG)
    assert rows.shape == (7, 4) and rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows[:-1], axis=1), 1, atol=1e-5)
    assert not rows[-1].any()  # no labels
    assert rows[4] @ rows[5] > 0.5 > rows[4] @ rows[3]


def test_transform_equals_scikit_learn():
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    matrix = TfidfVectorizer(analyzer=lambda ad: ad, norm=None).fit_transform(CATALOG)
    expected = TruncatedSVD(3, random_state=0).fit(matrix).transform(matrix)[:-1]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    rows = CategoryVectors.fit(CATALOG, dimension=3).transform(CATALOG)[:-1]
    np.testing.assert_allclose(rows, expected, atol=1e-5)


def test_unknown_labels_are_left_out_and_save_load_is_exact(tmp_path):
    vectors = CategoryVectors.fit(CATALOG, dimension=3)
    np.testing.assert_array_equal(vectors.transform([["hair", "unseen"]]), vectors.transform([["hair"]]))
    vectors.save(tmp_path / "vectors.safetensors")
    again = CategoryVectors.load(tmp_path / "vectors.safetensors")
    np.testing.assert_array_equal(again.transform(CATALOG), vectors.transform(CATALOG))
    assert [path.name for path in tmp_path.iterdir()] == ["vectors.safetensors"]


def test_labels_keep_columns_apart_and_flatten_lists():
    assert labels_of([[[1, 2], None], ["1", "x"]]) == [["0:1", "0:2", "1:1"], ["1:x"]]


@pytest.mark.parametrize(("labels", "dimension"), [(CATALOG, 0), ([["a"], ["a"]], 2), ([[], []], 2)])
def test_bad_input_is_refused(labels, dimension):
    with pytest.raises(ValueError, match="Received"):
        CategoryVectors.fit(labels, dimension=dimension)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "vectors.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ValueError, match="Embed the ads again"):
        CategoryVectors.load(tmp_path / "vectors.safetensors")
