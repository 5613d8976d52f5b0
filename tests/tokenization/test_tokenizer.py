import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from gr4ad.modeling_gr4ad import GR4ADConfig
from gr4ad.tokenization import MGMRQuantizer, SIDIndex, UASIDTokenizer, fit_value_buckets
from gr4ad.tokenization.user_history import HistoryError, history_places

CODES = np.array([[0, 0], [2, 3], [1, 1], [2, 3], [2, 3]])  # three items share an SID
IDS = ["a", "b", "c", "d", "e"]
PRIORITY = np.array([0.0, 1.0, 0.0, 7.0, 1.0])


@pytest.fixture
def tokenizer(tmp_path) -> UASIDTokenizer:
    SIDIndex(IDS, CODES, PRIORITY, {"title": [f"Title {i}" for i in IDS]}).save(tmp_path / "items.parquet")
    quantizer = MGMRQuantizer([3, "4*"])
    quantizer.fit(np.random.default_rng(0).normal(size=(9, 2)), [str(n) for n in range(9)])
    quantizer.save(tmp_path / "codebooks.safetensors")
    return UASIDTokenizer(
        str(tmp_path / "items.parquet"),
        str(tmp_path / "codebooks.safetensors"),
        codebook_sizes=[3, "4*"],
        business_fields=["account_id"],
        event_names=["click", "conversion"],
        user_features={"age": ["18-24", "25-34"], "city": ["x"]},
        value_bucket_edges=[1.0, 5.0],
        value_bucket_means=[0.0, 2.0, 9.0],
        value_unit="EUR",
        num_time_buckets=6,
        num_cross_domain_items=100,
    )


def test_vocabulary_is_laid_out_as_the_model_expects(tokenizer):
    config = GR4ADConfig(codebook_sizes=tokenizer.level_sizes, num_value_buckets=3)
    assert tokenizer.vocab_size == config.vocab_size == len(tokenizer.get_vocab()) == len(tokenizer)
    assert tokenizer.level_offsets.tolist() == config.level_offsets
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (config.pad_token_id, config.bos_token_id, config.eos_token_id, 3) == (0, 1, 2, 3)
    assert tokenizer.convert_ids_to_tokens([4, 6, 7, 10, 11, 13]) == [
        "<a_0>",
        "<a_2>",
        "<b_0>",
        "<b_3>",
        "<value_0>",
        "<value_2>",
    ]
    assert tokenizer.convert_tokens_to_ids("<value_0>") == config.value_offset
    assert tokenizer.convert_tokens_to_ids("<c_0>") == tokenizer.unk_token_id


def test_items_and_text_round_trip(tokenizer):
    encoded = tokenizer.encode_items(IDS)
    assert encoded.tolist() == (CODES + [4, 7]).tolist()
    decoded = tokenizer.decode_items(encoded)
    assert decoded == [["a"], ["d", "b", "e"], ["c"], ["d", "b", "e"], ["d", "b", "e"]]  # by priority, then by id
    assert tokenizer.decode_items([[5, 7], [4, 7]]) == [[], ["a"]]
    text = tokenizer.decode(encoded[1])
    assert text == "<a_2><b_3>" and tokenizer(text)["input_ids"] == encoded[1].tolist()
    assert tokenizer("<bos><a_1> noise <b_9>")["input_ids"] == [1, 5, 3]


def test_unknown_items_are_named(tokenizer):
    for act in (tokenizer.encode_items, tokenizer.item_rows, lambda items: tokenizer.encode_histories([["a"], items])):
        with pytest.raises(KeyError, match="item 'nope' is not in the item table of 5 items"):
            act(["a", "nope"])


def test_histories_become_the_documented_tensors(tokenizer):
    batch = tokenizer.encode_histories(
        [["b", "a"], ["e", "c", "a", "d"], ["c"]],
        events=[["click", "conversion"], ["conversion"] * 4, ["click"]],
        values=[[0.0, 5.0], [9.9, 1.0, 4.9, 0.5], [100.0]],
        user_features={"age": ["25-34", None, "18-24"], "city": ["new", "x", "x"]},
        max_items=3,
        return_tensors="pt",
    )
    expected = {
        "input_ids": [[6, 10, 4, 7, 0, 0], [5, 8, 4, 7, 6, 10], [5, 8, 0, 0, 0, 0]],
        "attention_mask": [[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]],
        "item_ids": [[2, 1, 0], [3, 1, 4], [3, 0, 0]],
        "event_ids": [[0, 1, 0], [1, 1, 1], [0, 0, 0]],
        "value_ids": [[1, 3, 0], [2, 2, 1], [3, 0, 0]],
        "user_feature_ids": [[2, 0], [0, 1], [1, 1]],
    }
    assert {name: value.tolist() for name, value in batch.items()} == expected
    assert all(value.dtype == torch.int64 for value in batch.values())
    rows = tokenizer.encode_histories([np.array([1, 0]), np.array([2])])
    assert rows["item_ids"].tolist() == [[2, 1], [3, 0]]
    assert set(rows) == {"input_ids", "attention_mask", "item_ids", "user_feature_ids"}


def test_user_features_that_are_not_given_are_missing(tokenizer):
    assert tokenizer.encode_histories([["a"], ["b"]])["user_feature_ids"].tolist() == [[0, 0], [0, 0]]
    some = tokenizer.encode_histories([["a"], ["b"]], user_features={"city": ["x", None]})
    assert some["user_feature_ids"].tolist() == [[0, 1], [0, 0]]
    with pytest.raises(HistoryError, match=r"`user_features` names 'town'. Allowed: age, city"):
        tokenizer.encode_histories([["a"], ["b"]], user_features={"town": ["x", "x"]})
    with pytest.raises(HistoryError, match=r"`city` needs one entry for each of the 2 histories. Received: 1"):
        tokenizer.encode_histories([["a"], ["b"]], user_features={"city": ["x"]})


def test_empty_histories_are_refused(tokenizer):
    for histories in ([["a"], []], [np.array([0]), np.array([], dtype=np.int64)]):
        with pytest.raises(ValueError, match="Row 1: The history is empty"):
            tokenizer.encode_histories(histories)


@pytest.mark.parametrize("auto", [False, True])
def test_save_and_load(tokenizer, tmp_path, auto):
    folder = tmp_path / "saved"
    tokenizer.save_pretrained(folder)
    if auto:
        GR4ADConfig(codebook_sizes=[3, 4]).save_pretrained(folder)
    again = (AutoTokenizer if auto else UASIDTokenizer).from_pretrained(folder)
    assert type(again) is UASIDTokenizer
    assert again.get_vocab() == tokenizer.get_vocab()
    names = ("codebook_sizes", "business_fields", "event_names", "user_features", "value_unit")
    for name in (*names, "num_time_buckets", "num_cross_domain_items"):
        assert getattr(again, name) == getattr(tokenizer, name), name
    assert (again.value_bucket_edges, again.value_bucket_means) == ([1.0, 5.0], [0.0, 2.0, 9.0])
    assert again.index.columns == tokenizer.index.columns
    assert again.decode_items(again.encode_items(["b"])) == [["d", "b", "e"]]
    again.save_pretrained(folder)  # onto itself: the files it reads stay whole
    codebooks = UASIDTokenizer.from_pretrained(folder).codebooks_file
    assert len(MGMRQuantizer.load(codebooks, [3, "4*"]).codebooks) == 1


def test_a_folder_from_before_a_feature_loads_without_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "old")
    path = tmp_path / "old" / "tokenizer_config.json"
    saved = json.loads(path.read_text())
    assert (saved.pop("num_time_buckets"), saved.pop("num_cross_domain_items")) == (6, 100)
    path.write_text(json.dumps(saved))
    old = UASIDTokenizer.from_pretrained(tmp_path / "old")
    assert (old.num_time_buckets, old.num_cross_domain_items) == (0, 0)
    batch = old.encode_histories([["a"]], times=[[1.0]], cross_domain=[["v"]], cross_domain_times=[[1.0]])
    assert set(batch) == {"input_ids", "attention_mask", "item_ids", "user_feature_ids"}


REMOTE = """
import sys

class Blocker:
    names = ["gr4ad", "xxhash"]

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"blocked: {name}")

sys.meta_path.insert(0, Blocker())
from transformers import AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], trust_remote_code=True)
print(tokenizer.encode_histories([["a", "b"]], times=[[0, 3]])["time_ids"].tolist())
try:
    tokenizer.encode_histories([["a"]], cross_domain=[["video 1"]])
except ImportError as error:
    print(error)
Blocker.names = ["gr4ad"]
print(tokenizer.encode_histories([["a"]], cross_domain=[["video 1"]])["cross_domain_ids"].tolist())
"""


def test_remote_code_needs_xxhash_only_for_the_cross_domain_sequence(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "saved")
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", REMOTE, str(tmp_path / "saved")]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [
        "[[0, 3]]",
        "`cross_domain` is hashed with xxhash, which is missing: pip install xxhash.",
        "[[22]]",
    ]


def test_a_table_that_does_not_fit_is_refused(tmp_path):
    SIDIndex(IDS, CODES).save(tmp_path / "items.parquet")
    for sizes in ([3, 3], [3, 4, 2]):
        with pytest.raises(ValueError, match="the SIDs of the item table do not fit `codebook_sizes`"):
            UASIDTokenizer(str(tmp_path / "items.parquet"), codebook_sizes=sizes)
    with pytest.raises(ValueError, match="at most 26 levels. Received: 27"):
        UASIDTokenizer(codebook_sizes=[2] * 27)


def test_sizes_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="`num_time_buckets` must be 0 .none. or more. Received: -1"):
        UASIDTokenizer(num_time_buckets=-1)
    for size in (-1, 1):
        with pytest.raises(ValueError, match=f"`num_cross_domain_items` must be 0 .* Received: {size}"):
            UASIDTokenizer(num_cross_domain_items=size)


def test_times_and_cross_domain_become_the_documented_tensors(tokenizer):
    batch = tokenizer.encode_histories(
        [["b", "a"], ["e", "c", "a", "d"], ["c"]],
        times=[[10, 10.5], [0, 100, 103, 102], [None]],
        cross_domain=[[], ["video 1", "page 2", "video 1"], ["page 2"]],
        cross_domain_times=[[], [50, 102.5, 200], [7]],
        max_items=3,
        max_cross_domain=2,
        return_tensors="pt",
    )
    assert batch["time_ids"].tolist() == [[0, 1, 0], [6, 3, 0], [0, 0, 0]]  # the kept 100 knows its gap, of 100 s
    assert batch["cross_domain_ids"].tolist() == [[0, 0], [78, 22], [78, 0]]
    # Of the kept 100, 103, 102: 102.5 is before the second by the clock, but not before the third.
    assert batch["cross_domain_places"].tolist() == [[0, 0], [3, 3], [1, 0]]
    assert all(value.dtype == torch.int64 for value in batch.values())
    rows = [np.array([1, 0]), np.array([4, 2, 0, 3]), np.array([2])]
    served = tokenizer.encode_histories(rows, cross_domain=[["x"], [], ["y", "z"]])
    assert served["cross_domain_ids"].shape == (3, 2) and not served["cross_domain_places"].any()
    assert "time_ids" not in served
    nowhere = tokenizer.encode_histories(rows, cross_domain=[[], [], []])
    assert nowhere["cross_domain_ids"].shape == nowhere["cross_domain_places"].shape == (3, 0)


def test_cross_domain_rows_are_the_same_everywhere(tokenizer):
    ids = [f"video {n}" for n in range(5000)] + ["", "vidéo"]
    rows = tokenizer.cross_domain_indices(ids)
    assert rows.dtype == np.int64 and set(rows) == set(range(1, 100))  # row 0 is padding
    assert tokenizer.cross_domain_indices(["video 1", "page 2", ""]).tolist() == [22, 78, 40]  # of any release
    np.testing.assert_array_equal(UASIDTokenizer(num_cross_domain_items=2).cross_domain_indices(ids), 1)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"times": [[1.0, 2.0], [3.0, 4.0]]}, "Row 1: `times` must be as long as `items`, 1. Received: 2 entries"),
        ({"times": [[1.0, 2.0]]}, "`times` needs one entry for each of the 2 histories. Received: 1"),
        ({"values": [[1.0], [3.0]]}, "Row 0: `values` must be as long as `items`, 2. Received: 1 entries"),
        ({"cross_domain": [["x"]]}, "`cross_domain` needs one entry for each of the 2 histories. Received: 1"),
        (
            {"cross_domain": [["x"], []], "cross_domain_times": [[1.0], []]},
            "`cross_domain_times` are compared with `times`. Received: no `times`",
        ),
        (
            {"times": [[1.0, 2.0], [3.0]], "cross_domain": [["x"], []], "cross_domain_times": [[1.0], [1.0]]},
            "Row 1: `cross_domain_times` must be as long as `cross_domain`, 0. Received: 1 entries",
        ),
    ],
)
def test_lists_that_do_not_fit_are_named(tokenizer, features, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode_histories([["a", "b"], ["c"]], **features)


def test_time_buckets_by_hand():
    tokenizer = UASIDTokenizer(codebook_sizes=[2], num_time_buckets=4)
    gaps = [0, 0.99, 1, 2.99, 3, 6.99, 7, 14.99, 15, 1e9]
    expected = [1, 1, 2, 2, 3, 3, 4, 4, 4, 4]
    assert tokenizer.time_indices(np.cumsum([5.0, *gaps])).tolist() == [0, *expected]
    for unknown in (None, np.nan, np.inf, -np.inf):
        assert tokenizer.time_indices([0.0, 1.0, unknown, 2.0, 9.0]).tolist() == [0, 2, 0, 0, 4]
    assert tokenizer.time_indices([5, 4, 4]).tolist() == [0, 0, 1]
    assert tokenizer.time_indices([1e308, -1e308, 1e308]).tolist() == [0, 0, 0]


TIME = st.integers(0, 12) | st.integers(-(2**40), 2**40)


@settings(max_examples=200, deadline=None)
@given(st.lists(TIME | st.none(), min_size=1, max_size=8), st.integers(1, 45))
def test_time_buckets_are_the_documented_rule(times, buckets):
    expected = [0]
    for before, now in zip(times, times[1:], strict=False):
        known = before is not None and now is not None and now >= before
        expected.append(min((1 + now - before).bit_length() - 1, buckets - 1) + 1 if known else 0)
    tokenizer = UASIDTokenizer(codebook_sizes=[2], num_time_buckets=buckets)
    assert tokenizer.time_indices(times).tolist() == expected
    assert all(0 <= index <= buckets for index in expected)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(TIME | st.none(), min_size=1, max_size=7),
    st.lists(TIME | st.none(), max_size=7),
    st.booleans(),
    st.integers(1, 8),
)
def test_no_prefix_sees_what_could_follow_a_target(times, moments, sort, kept):
    if sort:
        times = sorted(time for time in times if time is not None) or [0]
    times = times[-kept:]
    places = history_places(times, moments)
    assert places.dtype == np.int64 and len(places) == len(moments)
    for place, moment in zip(places.tolist(), moments, strict=True):
        for prefix in range(len(times) + 1):
            later = times[prefix:]  # what a prefix of so many items may have as its target
            before_all = moment is not None and all(time is not None and moment < time for time in later)
            assert (place <= prefix) == (before_all or not later)


def test_without_value_buckets_and_events_nothing_is_added(tmp_path):
    SIDIndex(IDS, CODES).save(tmp_path / "items.parquet")
    bare = UASIDTokenizer(str(tmp_path / "items.parquet"), codebook_sizes=[3, 4])
    batch = bare.encode_histories([["a"]], events=[["click"]], values=[[1.0]], user_features={"age": ["x"]})
    assert set(batch) == {"input_ids", "attention_mask", "item_ids"} and bare.vocab_size == 11


@settings(max_examples=80, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.5]) | st.floats(0, 1e6), max_size=40), st.integers(1, 8))
def test_value_buckets_cover_the_values(values, count):
    edges, means = fit_value_buckets(np.array(values), count)
    if count == 1 or len(set(values)) < 2:
        assert edges == means == []
        return
    assert edges == sorted(set(edges)) and len(means) in (0, len(edges) + 1) and len(means) <= count
    tokenizer = UASIDTokenizer(codebook_sizes=[2], value_bucket_edges=edges, value_bucket_means=means)
    buckets = tokenizer.value_buckets(values)
    for bucket, mean in enumerate(means):
        held = np.array(values)[buckets == bucket]
        assert len(held) and held.mean() == pytest.approx(mean)
        assert (bucket == 0 or held.min() >= edges[bucket - 1]) and (
            bucket == len(edges) or held.max() < edges[bucket]
        )


def test_value_buckets_by_hand():
    edges, means = fit_value_buckets(np.array([0.0] * 6 + [1.0, 2.0, 3.0, 4.0]), 4)
    assert edges == [2.0] and means == [1 / 7, 3.0]  # the zeros fill two of the four buckets: ties leave fewer
    edges, means = fit_value_buckets(np.arange(100.0), 4)
    assert (len(edges), len(means)) == (3, 4) and np.diff(np.searchsorted(np.arange(100.0), edges)).tolist() == [
        25,
        25,
    ]
    assert fit_value_buckets(np.ones(50), 4) == fit_value_buckets(np.zeros(0), 4) == ([], [])


def test_histories_may_name_events_as_the_log_does(tmp_path, tokenizer):
    """Requests could only say `conversion`, where the recipe had mapped the log's `kauf`."""
    SIDIndex(IDS, CODES).save(tmp_path / "items.parquet")
    settings = {"codebook_sizes": [3, "4*"], "event_names": ["click", "conversion"]}
    aliases = {"kauf": "conversion", "order": "conversion", "view": "click", "conversion": "click"}
    named = UASIDTokenizer(str(tmp_path / "items.parquet"), event_aliases=aliases, **settings)
    named.save_pretrained(tmp_path / "saved")
    for again in (named, UASIDTokenizer.from_pretrained(tmp_path / "saved")):
        assert again.event_aliases == aliases
        # A name that is ours too is ours, whatever the log means by it.
        for names in (
            ["click", "conversion", "conversion"],
            ["view", "kauf", "order"],
            ["view", "conversion", "kauf"],
        ):
            batch = again.encode_histories([["a", "b", "c"]], events=[names])
            assert np.asarray(batch["event_ids"]).tolist() == [[0, 1, 1]]
            assert list(map(again.own_event, names)) == ["click", "conversion", "conversion"]
    with pytest.raises(HistoryError, match=r"holds 'buy'. Allowed: click \(view\), conversion \(kauf, order\). Use"):
        named.encode_histories([["a"]], events=[["buy"]])
    with pytest.raises(HistoryError, match="`events` holds 'kauf'. Allowed: click, conversion. Use"):
        tokenizer.encode_histories([["a"]], events=[["kauf"]])  # one without names of a log
    with pytest.raises(ValueError, match="`event_aliases` should map to click, conversion. Received: 'impression'"):
        UASIDTokenizer(event_aliases={"view": "impression"}, **settings)
