"""RSPO of adapters: what moves, what the reference is, and what comes of merging."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig

from gr4ad import GR4ADForRecommendation
from gr4ad.modeling_gr4ad import SIDTrie
from gr4ad.trainers import RSPOConfig, RSPOTrainer
from gr4ad.trainers.rspo import RSPOCollator

UPPER = r"model\.layers\.1\.(cross_attn|self_attn|mlp)\..*_proj"


@pytest.fixture(scope="module")
def lists(ring_log) -> Dataset:
    """Even ads pay."""
    rng, rows = np.random.default_rng(1), []
    for row in ring_log:
        ads = rng.choice(24, 5, replace=False)
        kept = {name: row[name] for name in ("items", "events", "values", "city")}
        rows.append(kept | {"candidates": [f"ad_{n}" for n in ads], "rewards": [4.0 * (n % 2 == 0) for n in ads]})
    return Dataset.from_list(rows)


def arguments(folder, **changes) -> RSPOConfig:
    given = {"num_train_epochs": 6, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "save_strategy": "no"}
    given |= {"use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_steps": 5, "beta": 0.5, **changes}
    return RSPOConfig(output_dir=str(folder), **given)


def lora(**changes) -> LoraConfig:
    return LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": UPPER, **changes})


def logps(model, tokenizer, rows) -> torch.Tensor:
    batch = RSPOCollator(tokenizer, 6)(rows)
    for name in ("labels", "item_labels", "value_labels", "rewards", "candidate_mask"):
        batch.pop(name)
    with torch.no_grad():
        return model.eval()(**batch, trie=SIDTrie.from_index(tokenizer.index)).candidate_logps


def test_adapters_alone_move_and_the_merged_model_equals(build_ring_model, ring_tokenizer, lists, tmp_path):
    model = build_ring_model()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    start = logps(model, ring_tokenizer, lists.to_list()[:8])
    trainer = RSPOTrainer(
        model=model,
        args=arguments(tmp_path),
        train_dataset=lists,
        processing_class=ring_tokenizer,
        peft_config=lora(),
    )
    assert trainer.ref_model is None
    trainable = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 2 * 9 and all(".lora_" in name and ".layers.1." in name for name in trainable)
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        original = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if ".lora_" in name:
            assert parameter.abs().sum() > 0, name  # lora_B started at 0
        else:
            assert torch.equal(parameter, before[original]), name
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["rspo/accuracy"] > logs[0]["rspo/accuracy"] + 0.05
    # The reference is the model as it was, whatever the adapters have become.
    assert logs[0]["rspo/drift"] < logs[-1]["rspo/drift"]
    with trainer.model.disable_adapter():
        torch.testing.assert_close(logps(trainer.model, ring_tokenizer, lists.to_list()[:8]), start)

    adapted = logps(trainer.model, ring_tokenizer, lists.to_list()[:8])
    merged = trainer.model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    again = GR4ADForRecommendation.from_pretrained(tmp_path / "merged")
    assert {name for name, _ in again.named_parameters()} == set(before)
    torch.testing.assert_close(logps(again, ring_tokenizer, lists.to_list()[:8]), adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - start).abs().max() > 0.1


def test_adapters_are_guarded(build_ring_model, ring_tokenizer, ring_log, lists, tmp_path):
    """A learning rate that ruins rankings: the run ends with the adapters of its start, which do nothing."""
    rows = [
        {**{n: row[n][:-1] for n in ("items", "events", "values")}, "city": row["city"], "user_id": row["user_id"],
         "target_items": row["items"][-1:], "target_values": [1.0]}
        for row in ring_log if len(row["items"]) > 2
    ]  # fmt: skip
    model = build_ring_model()
    start = logps(model, ring_tokenizer, lists.to_list()[:8])
    trainer = RSPOTrainer(
        model=model,
        args=arguments(
            tmp_path, eval_strategy="steps", eval_steps=5, eval_beam_widths=[4, 24], eval_users=0, learning_rate=1.0,
            max_ndcg_loss=0.0,
        ),
        train_dataset=lists,
        eval_dataset=Dataset.from_list(rows),
        processing_class=ring_tokenizer,
        peft_config=lora(),
    )  # fmt: skip
    trainer.train()
    assert (tmp_path / "best_policy" / "adapter_model.safetensors").is_file()
    kept = trainer.guard.state.best_step
    now = logps(trainer.model, ring_tokenizer, lists.to_list()[:8])
    if kept == 0:
        torch.testing.assert_close(now, start)
    metrics = trainer.evaluate()
    assert metrics["eval_ndcg@10"] == pytest.approx(trainer.guard.state.best_ndcg, abs=1e-6)


@pytest.mark.parametrize(
    ("peft", "settings", "message"),
    [
        ({}, {"sync_ref_model": True}, "`sync_ref_model` moves a copy of the policy, and with `peft_config` there is"),
        ({"init_lora_weights": "gaussian"}, {}, "`init_lora_weights` of `peft_config` must be True"),
    ],
)
def test_what_cannot_be_adapted(build_ring_model, ring_tokenizer, lists, tmp_path, peft, settings, message):
    with pytest.raises(ValueError, match=message):
        RSPOTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, **settings),
            train_dataset=lists,
            processing_class=ring_tokenizer,
            peft_config=lora(**peft),
        )
