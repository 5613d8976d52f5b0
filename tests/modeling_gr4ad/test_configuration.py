import json

import pytest

from gr4ad.modeling_gr4ad import NUM_SPECIAL_TOKENS, GR4ADConfig


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codebook_sizes": []}, "`codebook_sizes` needs at least one level"),
        ({"codebook_sizes": [4, 0]}, r"`codebook_sizes`.*Received: \[4, 0\]"),
        ({"num_hidden_layers": 3, "num_parallel_layers": 3}, r"`num_parallel_layers`.*K = 3, L = 3"),
        ({"num_parallel_layers": -1}, r"`num_parallel_layers`.*K = -1"),
        ({"hidden_size": 30, "num_attention_heads": 4}, "`hidden_size` must be a multiple.*30 and 4"),
        ({"num_attention_heads": 4, "num_key_value_heads": 3}, "`num_attention_heads` must be a multiple.*4 and 3"),
        ({"num_context_kv": 0}, "`num_context_kv` must be in 1..num_hidden_layers. Received: 0"),
        ({"num_context_kv": 7}, "`num_context_kv`.*Received: 7 with 6 layers"),
        ({"item_head": True}, "`item_head`.*num_items = 0"),
        ({"item_head_repeat": True}, "`item_head_repeat`.*item_head = False"),
        ({"num_item_neighbours": 3}, "`num_item_neighbours` is part of the item head.*3 with item_head = False"),
        ({"neighbour_decay": 1.5}, r"`neighbour_decay` must be in \(0, 1\]"),
        ({"sid_normalization": "level"}, "`sid_normalization` must be one of trie, codebook. Received: 'level'"),
        (
            {"num_prefix_vectors": 9},
            "`num_prefix_vectors` is part of .*Received: 9 with.*'codebook'. Set that to 'trie'",
        ),
        ({"sid_copy": True}, "`sid_copy` is part of .*Received: True with.*'codebook'"),
        ({"sid_repeat": True, "sid_normalization": "codebook"}, "`sid_repeat` is part of .*Received: True with"),
        (
            {"num_prefix_vectors": -1, "sid_normalization": "trie"},
            r"`num_prefix_vectors` must be 0 \(left out\) or more",
        ),
        ({"prefix_size": -3}, "`prefix_size` must be 0 .*Received: -3"),
        ({"prefix_size": 129}, "`prefix_size` must be at most `hidden_size` = 128. Received: 129"),
        ({"context_values": True}, "`context_values`.*num_value_buckets = 0"),
        ({"num_value_buckets": 3, "value_bucket_means": [1.0]}, "`value_bucket_means` needs one mean.*3.*Received: 1"),
    ],
)
def test_what_cannot_be_built_is_refused_by_field(changes, message):
    with pytest.raises(Exception, match=f"(?s){message}") as caught:
        GR4ADConfig(**changes)
    errors = [caught.value, caught.value.__cause__]
    assert any(isinstance(error, ValueError) for error in errors), "users catch ValueError"


def test_wrong_types_are_refused():
    with pytest.raises(Exception, match="hidden_size"):
        GR4ADConfig(hidden_size="128")


def test_vocabulary_layout():
    config = GR4ADConfig(codebook_sizes=[5, 3, 7], num_value_buckets=2)
    assert config.level_offsets == [NUM_SPECIAL_TOKENS, NUM_SPECIAL_TOKENS + 5, NUM_SPECIAL_TOKENS + 8]
    assert config.value_offset == NUM_SPECIAL_TOKENS + 15
    assert config.vocab_size == NUM_SPECIAL_TOKENS + 17
    assert (config.num_levels, config.num_key_value_heads, config.user_feature_sizes) == (3, 4, [])
    assert config.num_layers == config.num_hidden_layers


def test_save_and_load_keep_every_field(tmp_path):
    config = GR4ADConfig(
        codebook_sizes=[8, 4],
        num_value_buckets=2,
        value_bucket_means=[0.5, 3.25],
        num_items=11,
        item_head=True,
        num_hidden_layers=4,
        num_parallel_layers=0,
        num_key_value_heads=2,
        num_context_kv=3,
        separate_context_values=True,
        num_context_layers=2,
        num_events=3,
        context_values=True,
        user_feature_sizes=[4, 6],
        query_from_context=False,
        fuse_prefix=True,
        sid_normalization="trie",
        num_prefix_vectors=30,
        prefix_size=7,
        sid_copy=True,
        sid_repeat=True,
        dropout=0.25,
        label_smoothing=0.1,
        hidden_act="gelu",
    )
    config.save_pretrained(tmp_path)
    again = GR4ADConfig.from_pretrained(tmp_path)
    assert again.to_dict() == config.to_dict()
    saved = json.loads((tmp_path / "config.json").read_text())
    fields = ("sid_normalization", "num_prefix_vectors", "prefix_size", "sid_copy", "sid_repeat")
    assert [saved[name] for name in fields] == ["trie", 30, 7, True, True]
    assert saved["model_type"] == "gr4ad"
    with pytest.raises(Exception, match="num_parallel_layers"):  # a damaged file is refused like bad arguments
        (tmp_path / "config.json").write_text(json.dumps({**saved, "num_parallel_layers": 4}))
        GR4ADConfig.from_pretrained(tmp_path)


def test_a_stored_config_without_the_fields_keeps_its_meaning(tmp_path):
    """Models of earlier versions were trained with softmaxes over whole codebooks; new ones are over a catalog."""
    saved = {"model_type": "gr4ad", "codebook_sizes": [8, 4], "hidden_size": 16, "num_attention_heads": 2}
    (tmp_path / "config.json").write_text(json.dumps(saved))
    old = GR4ADConfig.from_pretrained(tmp_path)
    assert (old.sid_normalization, old.num_prefix_vectors, old.sid_copy, old.sid_repeat) == (
        "codebook",
        0,
        False,
        False,
    )

    class Tokenizer:
        level_sizes, value_bucket_means, event_names, user_features = [8, 4], [], [], {}
        num_time_buckets = num_cross_domain_items = 0

    assert GR4ADConfig.from_tokenizer(Tokenizer()).sid_normalization == "trie"
    assert GR4ADConfig.from_tokenizer(Tokenizer(), sid_normalization="codebook").sid_normalization == "codebook"
