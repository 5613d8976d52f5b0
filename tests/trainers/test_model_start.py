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
from gr4ad.trainers.vsl import start_item_embeddings, start_item_head, start_model, start_prefix_vectors
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
    assert model.item_head.repeat_bias.item() == model.history_sids.repeat_bias.item() == 0
    model = fresh_model(ads)
    assert start_model(model, ads, LOG, 0.0)
    np.testing.assert_allclose(model.item_head.bias[1:].detach(), counts - counts.mean(), rtol=1e-5)
    # 3 of 5 events after a first one repeat an item; one more of each, so that a log without repeats has a logarithm.
    for part in (model.item_head, model.history_sids):
        assert part.repeat_bias.item() == np.float32(math.log((3 + 1) / (5 + 1)))


@pytest.mark.parametrize(("item_head_repeat", "sid_repeat"), [(True, False), (False, True), (False, False)])
def test_only_a_part_that_tells_repeats_apart_starts_from_them(tmp_path, item_head_repeat, sid_repeat):
    ads = tokenizer(tmp_path)
    model = fresh_model(ads, item_head_repeat=item_head_repeat, sid_repeat=sid_repeat)
    start_model(model, ads, LOG, 0.0)
    started = {name for name, value in model.named_parameters() if name.endswith("repeat_bias") and value.item() < 0}
    parts = {"item_head.repeat_bias": item_head_repeat, "history_sids.repeat_bias": sid_repeat}
    assert started == {name for name, there in parts.items() if there}


def shared_tokenizer(folder) -> tuple[UASIDTokenizer, list[tuple[int, int]], np.ndarray]:
    """A tokenizer of 9 items of which some share SIDs and one was removed, their SIDs, and their training events."""
    codes = [(0, 1), (2, 3), (0, 1), (2, 0), (0, 2), (2, 3), (2, 3), (0, 0), (2, 1)]
    events = np.array([5.0, 0.0, 2.0, 1.0, 30.0, 4.0, 0.0, 0.0, 7.0])
    index = SIDIndex([f"ad_{n}" for n in range(9)], np.array(codes), events)
    index.remove(["ad_8"])
    index.save(folder / "shared.parquet")
    return UASIDTokenizer(str(folder / "shared.parquet"), codebook_sizes=[3, 4]), codes, events


@pytest.mark.parametrize(("most", "size"), [(1000, 0), (1000, 5), (3, 5)])
@pytest.mark.parametrize("from_items", [True, False])
def test_prefix_vectors_start_from_the_events_and_items_below_each_prefix(tmp_path, most, size, from_items):
    ads, codes, events = shared_tokenizer(tmp_path)
    model = fresh_model(ads, prefix_vectors=most, prefix_size=size)
    table, head = model.prefix_vectors, model.sid_heads[0].weight.detach().clone()
    below: dict[tuple[int, ...], list[int]] = {}
    for item, sid in enumerate(codes):  # what was removed was trained on as well
        for length in (1, 2):
            below.setdefault(sid[:length], []).append(item)
    assert len(below) == 8 and len(table.keys) == min(most, 8)
    start_prefix_vectors(model, ads, from_items)
    width = size or 8
    assert table.vectors.shape == (min(most, 8) + 1, width)
    assert not table.vectors[0].any() and table.bias[0] == 0, "what the table does not hold starts at nothing"
    trie = model.build_trie(ads, removed=True)
    held = {}
    for sid, path in zip(codes, trie.paths(torch.tensor(codes)).tolist(), strict=True):
        for length, rows in enumerate(table.rows(trie), start=1):
            held[sid[:length]] = int(rows[path[length - 1]])
    ranked = sorted(below, key=lambda prefix: -events[below[prefix]].sum())
    assert {prefix for prefix, row in held.items() if row} == set(ranked[:most])
    items = model.item_table[1:].detach().numpy()
    for prefix in ranked[:most]:
        row, places = held[prefix], below[prefix]
        assert table.bias[row].item() == pytest.approx(math.log1p(events[places].sum()), rel=1e-6)
        mean = items[places, :width].mean(0) if from_items else np.zeros(width)
        np.testing.assert_allclose(table.vectors[row].detach(), mean, rtol=1e-5, atol=1e-8)
        if from_items and len(prefix) == 1:
            np.testing.assert_allclose(
                model.sid_heads[0].weight[prefix[0], :width].detach(), mean, rtol=1e-5, atol=1e-8
            )
            head[prefix[0], :width] = model.sid_heads[0].weight[prefix[0], :width].detach()
    # All else of the first level's head stays as it was: codes without a row, columns beyond the vectors.
    assert torch.equal(model.sid_heads[0].weight, head)


def test_codes_of_a_table_on_a_model_without_items(tmp_path):
    ads, _, events = shared_tokenizer(tmp_path)
    model = fresh_model(ads, item_embeddings=False, item_head=False, item_head_repeat=False)
    head = model.sid_heads[0].weight.detach().clone()
    assert start_model(model, ads, LOG, 0.1)
    assert not model.prefix_vectors.vectors.any() and torch.equal(model.sid_heads[0].weight, head)
    assert model.prefix_vectors.bias.max().item() == pytest.approx(math.log1p(events[[0, 2, 4, 7]].sum()), rel=1e-6)


def test_a_fresh_model_asks_for_sids_as_often_as_the_log_holds_them(tmp_path):
    """With heads at zero, the bias of the prefixes alone makes p(SID): its share of the events, one more of each."""
    ads, codes, events = shared_tokenizer(tmp_path)
    model = fresh_model(ads, sid_copy=False, sid_repeat=False).eval()
    start_prefix_vectors(model, ads, from_items=False)
    for head in model.sid_heads:
        torch.nn.init.zeros_(head.weight)
    trie = model.build_trie(ads, removed=True)
    sids = sorted(set(codes))
    tokens = torch.tensor(sids) + torch.tensor(model.config.level_offsets)
    history = ads.encode_histories([["ad_1", "ad_2"]], return_tensors="pt")
    scores = model(**history, candidate_ids=tokens.unsqueeze(0), trie=trie).candidate_logps[0].exp()
    counts = {sid: sum(e for c, e in zip(codes, events, strict=True) if c == sid) + 1 for sid in sids}
    first = {code: sum(e for c, e in zip(codes, events, strict=True) if c[0] == code) + 1 for code in (0, 2)}
    for sid, score in zip(sids, scores.tolist(), strict=True):
        siblings = sum(counts[other] for other in sids if other[0] == sid[0])
        assert score == pytest.approx(first[sid[0]] / sum(first.values()) * counts[sid] / siblings, rel=1e-5)


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
    start_prefix_vectors(wanted, ads, from_items=True)
    for part in (wanted.item_head, wanted.history_sids):
        torch.nn.init.constant_(part.repeat_bias, math.log((3 + 1) / (5 + 1)))
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


VALUES = [[1.0, 4.0, 3.0], [0.0, 2.0, 5.0, 10.0], [0.5]]


@pytest.mark.parametrize("streamed", [False, True])
def test_items_are_worth_what_their_events_were(tmp_path, streamed):
    ads = tokenizer(tmp_path)
    ads.value_bucket_edges, ads.value_bucket_means = [1.0], [0.2, 5.0]
    model = fresh_model(ads)
    log = LOG.add_column("values", VALUES)
    start_model(model, ads, log.to_iterable_dataset() if streamed else log, 0.0)
    assert model.item_values.events.tolist() == [0, 2, 1, 3, 1, 1, *[0] * 7]
    assert model.item_values.means.tolist() == pytest.approx([0, 2, 4, 7 / 3, 10, 0.5, *[0] * 7])
    within = (2 * 1.0**2 + (0 - 7 / 3) ** 2 + (2 - 7 / 3) ** 2 + (5 - 7 / 3) ** 2) / (8 - 5)
    means, events = np.array([2, 4, 7 / 3, 10, 0.5]), np.array([2, 1, 3, 1, 1])
    spread = (events * (means - 25.5 / 8) ** 2).sum() - 4 * within
    between = spread / (8 - (events**2).sum() / 8)
    assert float(model.item_values.prior) == pytest.approx(within / between, rel=1e-5)


def test_users_without_values_are_not_counted(tmp_path):
    ads = tokenizer(tmp_path)
    ads.value_bucket_edges, ads.value_bucket_means = [1.0], [0.2, 5.0]
    model = fresh_model(ads)
    start_model(model, ads, LOG.add_column("values", [VALUES[0], None, VALUES[2]]), 0.0)
    assert model.item_values.events.tolist() == [0, 2, 1, 0, 0, 1, *[0] * 7] and model.item_values.means.sum() == 6.5
    model = fresh_model(ads)
    start_model(model, ads, LOG.add_column("values", [None, None, None]), 0.0)
    assert not model.item_values.events.any() and model.item_values.prior == 1


def test_what_items_are_worth_cannot_be_counted_without_values(tmp_path):
    ads = tokenizer(tmp_path)
    ads.value_bucket_edges, ads.value_bucket_means = [1.0], [0.2, 5.0]
    with pytest.raises(ValueError, match="`item_values` needs the column `values`.*Received: items"):
        start_model(fresh_model(ads), ads, LOG, 0.0)
    start_model(fresh_model(ads, item_values=False), ads, LOG, 0.0)


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1.0, float("nan"), 3.0], r"Row 2: `values\[1\]` is nan. Allowed: finite numbers >= 0, up to 1e\+30"),
        ([1.0, None, 3.0], r"Row 2: `values\[1\]` is nan"),
        ([1.0, 2.0, -3.0], r"Row 2: `values\[2\]` is -3.0"),
        ([1e39, 2.0, 3.0], r"Row 2: `values\[0\]` is 1e\+39"),
        ([1.0], "Row 2: `values` must hold one value for each of `items`. Received: 1 for 3 items"),
    ],
)
def test_values_of_a_log_that_are_none_are_named_with_their_row(tmp_path, streamed, row, message):
    ads = tokenizer(tmp_path)
    ads.value_bucket_edges, ads.value_bucket_means = [1.0], [0.2, 5.0]
    log = Dataset.from_dict({"items": [["ad_4"], ["ad_1"], ["ad_0", "ad_1", "ad_2"]], "values": [[1.0], None, row]})
    with pytest.raises(ValueError, match=message):
        start_model(fresh_model(ads), ads, log.to_iterable_dataset() if streamed else log, 0.0)


def test_a_stream_that_is_not_read_ahead_leaves_counts_and_repeats_as_they_are(tmp_path, caplog):
    ads = tokenizer(tmp_path)
    ads.value_bucket_edges, ads.value_bucket_means = [1.0], [0.2, 5.0]
    model = fresh_model(ads, item_head_repeat=True)
    with caplog.at_level(logging.WARNING):
        assert start_model(model, ads, None, 0.0)
    assert "values of items are not counted" in caplog.text
    assert not model.item_values.events.any() and not model.item_head.repeat_bias.any() and model.item_head.bias.any()
