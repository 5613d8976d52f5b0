import numpy as np
import pytest

from gr4ad.serving import IndexChange, Recommender
from gr4ad.tokenization import SIDIndex

CODES = [[1, 2, 3], [4, 5, 6]]


@pytest.fixture
def recommender(tiny_artifact) -> Recommender:
    return Recommender.from_pretrained(tiny_artifact)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"op": "drop", "item_ids": ["a"]}, "`op` must be one of add, replace, remove"),
        ({"op": "remove", "item_ids": "abc"}, "`item_ids` must be a list of strings"),
        ({"op": "remove", "item_ids": []}, r"`item_ids` must hold 1\.\.10000"),
        ({"op": "remove", "item_ids": ["a", "a"]}, "1 of them distinct"),
        ({"op": "remove", "item_ids": [f"{n}" for n in range(10_001)]}, "Split a larger change"),
        ({"op": "remove", "item_ids": ["x" * 1001]}, "1..1000 characters"),
        ({"op": "remove", "item_ids": ["\ud800"]}, "Unicode text"),
        ({"op": "remove", "item_ids": ["a"], "priority": [1]}, "`priority` must be left out"),
        ({"op": "add", "item_ids": ["a"]}, "`codes` are needed"),
        ({"op": "add", "item_ids": ["a"], "codes": CODES}, "one list of codes an ad, 1"),
        ({"op": "add", "item_ids": ["a", "b"], "codes": [[1, 2, 3], [4, 5]]}, r"`codes\[1\]`"),
        ({"op": "add", "item_ids": ["a"], "codes": [[1, 2, 2**31]]}, r"`codes\[0\]`"),
        ({"op": "add", "item_ids": ["a"], "codes": [[1, 2, True]]}, r"`codes\[0\]`"),
        ({"op": "add", "item_ids": ["a"], "codes": [[1, 2, -1]]}, r"`codes\[0\]`"),
        ({"op": "replace", "item_ids": ["a"]}, "Received: none of them"),
        ({"op": "replace", "item_ids": ["a"], "priority": [float("nan")]}, "one finite number an ad"),
        ({"op": "replace", "item_ids": ["a"], "attributes": {"title": ["x", "y"]}}, "one value an ad, 1"),
        ({"op": "replace", "item_ids": ["a"], "attributes": {"title": [["x"]]}}, "must hold strings"),
    ],
)
def test_what_is_no_change_is_refused_by_field(given, message):
    with pytest.raises(ValueError, match=message):
        IndexChange(**given)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"op": "add"}', '{"op": "remove", "item_ids": ["a"], "x": 1}', "[" * 9999]
)
def test_text_that_is_no_change_is_refused(text):
    with pytest.raises(ValueError, match="A change must be"):
        IndexChange.from_json(text)


def test_json_keeps_all_of_a_change():
    change = IndexChange("add", ["a", "é"], CODES, [1.5, 0], {"title": ["x", None], "price": [1, 2.5]})
    assert IndexChange.from_json(change.to_json()) == change


def test_a_change_that_stands_leaves_everything_alone(recommender):
    change = IndexChange("add", ["new", "newer"], CODES, attributes={"title": ["New", "Newer"]})
    assert change.apply(recommender)
    trie, version = recommender.trie, recommender.tokenizer.index.version
    assert recommender.tokenizer.index.sid_of("newer") == (4, 5, 6)
    assert not change.apply(recommender)
    assert recommender.trie is trie and recommender.tokenizer.index.version == version
    assert IndexChange("remove", ["new"]).apply(recommender)
    assert not IndexChange("remove", ["new"]).apply(recommender)
    assert IndexChange("replace", ["newer"], priority=[3.0]).apply(recommender)
    assert not IndexChange("replace", ["newer"], priority=[3.0]).apply(recommender)


def test_an_ad_that_is_served_is_added_again_as_the_change_says(recommender):
    IndexChange("add", ["new"], [[1, 2, 3]], [2.0], {"title": ["New"]}).apply(recommender)
    IndexChange("add", ["ad_0", "new", "other"], [*CODES, [7, 7, 7]]).apply(recommender)
    index = recommender.tokenizer.index
    assert [index.sid_of(item) for item in ("ad_0", "new", "other")] == [(1, 2, 3), (4, 5, 6), (7, 7, 7)]
    assert index.priority[index.rows["new"]] == 0 and index.columns["title"][index.rows["new"]] is None


def test_replaying_changes_from_any_point_ends_in_the_same_index(recommender):
    changes = [
        IndexChange("add", ["new", "newer"], CODES, attributes={"title": ["New", "Newer"]}),
        IndexChange("replace", ["new", "ad_3"], [[0, 0, 1], [0, 0, 2]]),
        IndexChange("remove", ["new", "ad_4"]),
        IndexChange("replace", ["new"], priority=[5.0]),  # removed just before: nothing to change
        IndexChange("add", ["ad_4"], [[1, 1, 1]], attributes={"title": ["Back"]}),
    ]
    for change in changes:
        change.apply(recommender)
    once = recommender.tokenizer.index
    for start in range(len(changes)):
        for change in changes[start:]:
            change.apply(recommender)
        again = recommender.tokenizer.index
        assert again.item_ids.tolist() == once.item_ids.tolist()
        for name in ("codes", "priority", "active"):
            np.testing.assert_array_equal(getattr(again, name), getattr(once, name))
        assert again.columns == once.columns


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (IndexChange("add", ["x", "y"], [[1, 2, 3], [4, 8, 6]]), r"`codes\[1\]` has code 8 at level 2"),
        (IndexChange("add", ["x"], [[1, 2]]), "shape"),
        (IndexChange("add", ["x"], [[1, 2, 3]], attributes={"colour": ["red"]}), "no column 'colour'"),
        (
            IndexChange("add", ["x"], [[1, 2, 3]], attributes={"title": [3]}),
            "numbers, e.g. 3; the item table's",
        ),
        (IndexChange("replace", ["ad_1", "x"], priority=[1, 1]), "'x' is not in the index"),
        (IndexChange("remove", ["ad_1", "x"]), "'x' is not in the index"),
        (IndexChange("remove", [f"ad_{n}" for n in range(120)]), "item"),
    ],
)
def test_a_change_that_does_not_fit_changes_nothing(recommender, change, message):
    index, trie = recommender.tokenizer.index, recommender.trie
    with pytest.raises(ValueError, match=message):
        change.apply(recommender)
    assert recommender.tokenizer.index is index and recommender.trie is trie
    assert index.num_active == 120 and index.version == 0


def test_what_is_applied_can_be_saved(recommender, tmp_path):
    IndexChange("add", ["x"], [[1, 2, 3]], attributes={"title": [None]}).apply(recommender)
    recommender.tokenizer.index.save(tmp_path / "items.parquet")
    assert SIDIndex.load(tmp_path / "items.parquet").sid_of("x") == (1, 2, 3)
