import numpy as np
import pytest

from gr4ad.pipeline import RecipeError, load_recipe, packaged_recipes
from gr4ad.pipeline.settings import EvaluateConfig


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: x", r"unknown.*nmae"),
        ("tokenizer: {}", r"unknown.*tokenizer"),
        ("embed: {encodr: x}", r"unknown field `embed\.encodr`\. Did you mean `encoder`"),
        ("embed: {nothing_like_it: x}", r"unknown field `embed\.nothing_like_it`\. Fields are: encoder, text_columns"),
        ("model: {hidden: 3}", r"unknown field `model\.hidden`"),
        ("model: 5", r"section `model` must be a map of fields\. Received: 5"),
        ("model: {hidden_size: wide}", r"`model\.hidden_size` must be a whole number\. Received: 'wide'"),
        ("model: {hidden_size: true}", r"`model\.hidden_size` must be a whole number\. Received: True"),
        ("model: {item_head: 1}", r"`model\.item_head` must be true or false\. Received: 1"),
        ("model: {context_times: 1}", r"`model\.context_times` must be true or false\. Received: 1"),
        ("tokenize: {num_time_buckets: -1}", r"section `tokenize`: `num_time_buckets` must be 0.*Received: -1"),
        (
            "lists: {source: nowhere}",
            r"section `lists`: `source` must be one of impressions, .* Received: 'nowhere'",
        ),
        ("evaluate: {item_weights: [2.0]}", r"section `evaluate`: `item_weights` are shares in \[0, 1\].*Received: 2"),
        ("evaluate: {metric: ndcg@7}", r"section `evaluate`: `metric` should be one of recall, .*Received: 'ndcg@7'"),
        ("evaluate: {metric: auc@10}", r"section `evaluate`: `metric` should be one of recall, .*Received: 'auc@10'"),
        ("market: {users: 0}", r"section `market`: .*users"),
        ("- a list", "recipe.yaml"),
        ("a: [", "recipe.yaml"),
    ],
)
def test_errors_name_file_and_field(tmp_path, text, message):
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=f"(?s){message}") as caught:
        load_recipe(path)
    assert str(path) in str(caught.value)


def test_a_missing_recipe_names_the_packaged_ones(tmp_path):
    with pytest.raises(RecipeError, match="demo"):
        load_recipe(tmp_path / "none.yaml")


def test_values_arrive_and_flags_win(tmp_path):
    path = tmp_path / "small.yaml"
    path.write_text("seed: 3\nmodel: {hidden_size: 64}\ntrain: {num_train_epochs: 2}\ndata: {catalog: c.parquet}\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.seed, recipe.model.hidden_size) == ("small", 3, 64)
    assert recipe.train == {"num_train_epochs": 2} and recipe.align is None and recipe.market is None
    assert recipe.text == path.read_text()
    moved = load_recipe(path, data_root=tmp_path / "data", seed=9)
    assert moved.seed == 9 and moved.data.root == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_ndcg_loss": 1.5}, "`max_ndcg_loss` is a share in .* Received: 1.5"),
        ({"max_ndcg_loss": 0.02, "value_weights": [0.5]}, "`value_weights` must hold 0. Received: .0.5."),
        ({"neighbour_weights": [-1.0]}, "`neighbour_weights` must be 0 or more. Received: .-1.0"),
        ({"neighbour_weights": [0.5], "item_weights": [0.0]}, "`neighbour_weights` add to .* Received: .0.5."),
        ({"item_weights": []}, "`item_weights` should hold at least one weight"),
    ],
)
def test_settings_that_mean_nothing_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        EvaluateConfig(**changes)


@pytest.mark.parametrize("name", packaged_recipes())
def test_packaged_recipes_hold_arguments_that_trainers_accept(name, tmp_path):
    from gr4ad import RSPOConfig, VSLConfig
    from gr4ad.pipeline.training import trainer_arguments

    recipe = load_recipe(name)
    assert trainer_arguments(VSLConfig, "train", recipe.train, tmp_path, 5).seed == 5
    if recipe.align is not None:
        assert trainer_arguments(RSPOConfig, "align", recipe.align, tmp_path, 5).seed == 5


def test_a_model_has_its_tokenizers_features_unless_they_are_switched_off():
    from gr4ad import UASIDTokenizer
    from gr4ad.pipeline.settings import ModelSettings
    from gr4ad.pipeline.training import model_config

    tokenizer = UASIDTokenizer(
        codebook_sizes=[4, "6*"],
        event_names=["click", "conversion"],
        user_features={"city": ["x", "y"]},
        value_bucket_edges=[1.0],
        value_bucket_means=[0.5, 2.0],
        num_time_buckets=9,
        num_cross_domain_items=7,
    )

    def features(tokenizer: UASIDTokenizer, **settings) -> list:
        config = model_config(ModelSettings(**settings), tokenizer)
        config.check_tokenizer(tokenizer)
        names = ("num_value_buckets", "context_values", "num_events", "num_time_buckets", "user_feature_sizes")
        return [getattr(config, name) for name in names]

    assert features(tokenizer) == [2, True, 2, 9, [3]]
    assert features(tokenizer, context_times=False) == [2, True, 2, 0, [3]]
    assert features(tokenizer, context_events=False, context_values=False) == [2, False, 0, 9, [3]]
    assert features(tokenizer, user_features=False) == [2, True, 2, 9, []]
    assert features(UASIDTokenizer(codebook_sizes=[4, 6])) == [0, False, 0, 0, []]
    assert model_config(ModelSettings(), tokenizer).num_cross_domain_items == 7
    assert model_config(ModelSettings(context_cross_domain=False), tokenizer).num_cross_domain_items == 0
    config = model_config(ModelSettings(), tokenizer)
    assert (config.codebook_sizes, config.value_bucket_means, config.num_items) == ([4, 6], [0.5, 2.0], 1)
    assert model_config(ModelSettings(item_embeddings=False, item_head=False), tokenizer).num_items == 0


def test_a_model_has_the_parts_of_p_of_a_catalogs_sids_unless_they_are_switched_off(tmp_path):
    from gr4ad import SIDIndex, UASIDTokenizer
    from gr4ad.pipeline.settings import ModelSettings
    from gr4ad.pipeline.training import model_config

    index = SIDIndex(["a", "b", "c", "d"], np.array([[0, 1], [0, 2], [3, 1], [0, 1]]))  # 2 first codes, 3 SIDs
    index.remove(["c"])
    index.save(tmp_path / "items.parquet")
    tokenizer = UASIDTokenizer(str(tmp_path / "items.parquet"), codebook_sizes=[4, 6])

    def parts(**settings) -> list:
        config = model_config(ModelSettings(**settings), tokenizer)
        names = ("sid_normalization", "num_prefix_vectors", "prefix_size", "sid_copy", "sid_repeat")
        return [getattr(config, name) for name in names]

    assert parts() == ["trie", 5, 64, True, True]
    assert parts(prefix_size=0) == ["trie", 5, 0, True, True]
    assert parts(hidden_size=32)[2] == 32
    assert parts(prefix_vectors=2, prefix_size=16, sid_copy=False) == ["trie", 2, 16, False, True]
    assert parts(prefix_vectors=0, sid_repeat=False) == ["trie", 0, 0, True, False]
    assert parts(sid_normalization="codebook") == ["codebook", 0, 0, False, False]
    assert model_config(ModelSettings(), UASIDTokenizer(codebook_sizes=[4, 6])).num_prefix_vectors == 0
    for settings, message in (
        ({"sid_normalization": "softmax"}, "`sid_normalization` must be .*trie.*codebook.* Received: .*softmax"),
        ({"prefix_vectors": -1}, "`prefix_vectors` must be 0 or more. Received: -1"),
        ({"prefix_size": -1}, "`prefix_size` must be 0 or more. Received: -1"),
    ):
        with pytest.raises(ValueError, match=message):
            ModelSettings(**settings)


def test_trainer_arguments_are_named(tmp_path):
    from gr4ad import VSLConfig
    from gr4ad.pipeline.training import trainer_arguments

    with pytest.raises(RecipeError, match=r"Unknown field `train\.epochs`: it is not one of VSLConfig"):
        trainer_arguments(VSLConfig, "train", {"epochs": 3}, tmp_path, 0)
    with pytest.raises(RecipeError, match="Section `train`: `target_window` must be >= 1"):
        trainer_arguments(VSLConfig, "train", {"target_window": 0}, tmp_path, 0)
