"""The catalog that p(SID) is defined over while a model is trained: all items of the index, removed ones too."""

import math

import pytest
import torch
from datasets import Dataset
from transformers import Trainer, TrainingArguments

from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.tokenization import SIDIndex
from gr4ad.trainers import RSPOConfig, RSPOTrainer, VSLConfig, VSLTrainer
from gr4ad.trainers.continual import ContinualConfig, ContinualTrainer, LogRecords
from gr4ad.trainers.vsl import VSLCollator, start_prefix_vectors, tokenize_histories

QUICK = {"use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no"}
GONE = [f"ad_{n}" for n in range(6)]  # all items below the first code: served, it has no node


@pytest.fixture
def tokenizer(build_ring_tokenizer):
    """The ring's, from whose index GONE were removed."""
    tokenizer = build_ring_tokenizer()
    index: SIDIndex = tokenizer.index.snapshot()
    index.remove(GONE)
    tokenizer.index = index
    assert SIDTrie.from_index(index).num_sids == 18
    return tokenizer


@pytest.fixture
def lists(ring_log) -> Dataset:
    """Lists in which only items pay that were removed."""
    kept = [{name: row[name] for name in ("items", "events", "values", "city")} for row in ring_log]
    return Dataset.from_list(
        [{**row, "candidates": ["ad_1", "ad_9", "ad_2"], "rewards": [3.0, 0.0, 1.0]} for row in kept]
    )


def log_prob(model, tokenizer, item: str, removed: bool) -> float:
    history = tokenizer.encode_histories([["ad_7", "ad_12"]], values=[[1.0, 1.0]], events=[["click", "click"]],
                                         user_features={"city": ["x"]}, return_tensors="pt")  # fmt: skip
    sids = torch.from_numpy(tokenizer.encode_items([item])).unsqueeze(0)
    trie = model.build_trie(tokenizer, removed=removed)
    with torch.no_grad():
        return model.eval()(**history, candidate_ids=sids, trie=trie).candidate_logps.item()


def test_supervised_learning_learns_what_is_no_longer_served(build_ring_model, tokenizer, ring_log, tmp_path):
    model = build_ring_model()
    log = Dataset.from_list([row for row in ring_log if set(row["items"][1:]) & set(GONE)])
    assert 20 < len(log) < 80
    args = VSLConfig(str(tmp_path), max_steps=12, learning_rate=1e-2, **QUICK)
    trainer = VSLTrainer(model=model, args=args, train_dataset=log, processing_class=tokenizer)
    assert trainer.trie.num_sids == 24 and trainer.trie is trainer.trie, "built once"
    before = log_prob(model, tokenizer, "ad_1", True)
    trainer.train()
    losses = [log["loss_sid"] for log in trainer.state.log_history if "loss_sid" in log]
    assert all(map(math.isfinite, losses)) and losses[-1] < losses[0]
    assert log_prob(model, tokenizer, "ad_1", True) > before
    assert log_prob(model, tokenizer, "ad_1", False) == -math.inf, "what is served has no place for it"


@pytest.mark.parametrize("reference", ["frozen", "none"])
def test_alignment_ranks_what_is_no_longer_served(build_ring_model, tokenizer, lists, tmp_path, reference):
    model = build_ring_model()
    args = RSPOConfig(str(tmp_path), max_steps=10, learning_rate=1e-2, reference=reference, vsl_weight=0.1, **QUICK)
    trainer = RSPOTrainer(model=model, args=args, train_dataset=lists, processing_class=tokenizer)
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert all(math.isfinite(log["loss"]) for log in logs)
    assert logs[-1]["rspo/accuracy"] > 0.9 > logs[0]["rspo/accuracy"] - 0.5


def test_a_loop_learns_ads_that_are_gone_and_ads_that_came(build_ring_model, tokenizer):
    config = ContinualConfig(learning_rate=1e-2, warmup_steps=0)
    trainer = ContinualTrainer(build_ring_model(), tokenizer, config)
    records = LogRecords(tokenizer, config, trainer.max_items)
    record = {"items": ["ad_7", "ad_12"], "values": [1.0, 1.0], "events": ["click", "click"], "city": "x",
              "target_items": ["ad_1"], "target_values": [1.0], "target_events": ["click"]}  # fmt: skip
    shown = {"items": ["ad_7"], "candidates": ["ad_1", "ad_9", "ad_2"], "rewards": [3.0, 0.0, 1.0], "city": "x"}
    before = log_prob(trainer.model, tokenizer, "ad_1", True)
    for _ in range(5):
        logs = trainer.step([records.engagement(record)[0]], [records.preference_list(shown)])
        assert all(map(math.isfinite, logs.values())), logs
    assert log_prob(trainer.model, tokenizer, "ad_1", True) > before
    grown = tokenizer.index.snapshot()
    grown.remove(["ad_9"])
    # As the ring fills its codebooks, a new ad shares an SID with one that is gone.
    grown.add(["new"], [[0, 4]])
    trainer.adopt(grown)
    assert trainer.trie.num_sids == 24 and 24 in trainer.trie.leaf_items, "of what was removed and what came"
    before = log_prob(trainer.model, tokenizer, "new", True)
    for _ in range(5):
        trainer.step([records.engagement({**record, "target_items": ["new"]})[0]], [])
    assert log_prob(trainer.model, tokenizer, "new", True) > before


def test_a_new_ad_below_a_new_prefix_can_be_learned(build_ring_model, build_ring_tokenizer):
    """Its prefix has no vector of its own: it is told apart by its codes."""
    tokenizer = build_ring_tokenizer()
    kept = SIDIndex([f"ad_{n}" for n in range(6, 24)], tokenizer.index.codes[6:])
    tokenizer.index = kept
    model = build_ring_model(num_items=19)
    start_prefix_vectors(model, tokenizer, from_items=True)
    trainer = ContinualTrainer(model, tokenizer, ContinualConfig(learning_rate=1e-2, warmup_steps=0))
    grown = kept.snapshot()
    grown.add(["new"], [[0, 4]])
    records = LogRecords(tokenizer, trainer.config, trainer.max_items)
    record = {"items": ["ad_7", "ad_12"], "values": [1.0, 1.0], "events": ["click", "click"], "city": "x",
              "target_items": ["new"], "target_values": [1.0], "target_events": ["click"]}  # fmt: skip
    trainer.adopt(grown)
    assert [rows[0].item() for rows in model.prefix_rows(trainer.trie)] == [0, 0]
    before = log_prob(trainer.model, tokenizer, "new", False)
    for _ in range(10):
        trainer.step([records.engagement(record)[0]], [])
    assert log_prob(trainer.model, tokenizer, "new", False) > before + 0.5


@pytest.mark.parametrize("codebook", [False, True])
def test_a_trainer_of_ones_own_is_told_what_to_pass(build_ring_model, ring_tokenizer, ring_log, tmp_path, codebook):
    rows = tokenize_histories(ring_log, ring_tokenizer, max_items=6)
    args = TrainingArguments(str(tmp_path), max_steps=2, remove_unused_columns=False, **QUICK)
    given = {"args": args, "train_dataset": rows, "data_collator": VSLCollator(ring_tokenizer)}
    plain = Trainer(build_ring_model(codebook=codebook), **given)
    if codebook:  # models of earlier versions need no catalog
        assert plain.train().global_step == 2
        return
    with pytest.raises(ValueError, match=r"pass `trie=model.build_trie\(tokenizer\)`; to train, with `removed=True`"):
        plain.train()

    class WithTrie(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs, num_items_in_batch=num_items_in_batch, trie=trie)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    model = build_ring_model()
    trie = model.build_trie(ring_tokenizer, removed=True)
    assert WithTrie(model, **given).train().global_step == 2
