"""An alignment ends with a policy that ranks held-out users well, or says why not."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset

from gr4ad import GR4ADForRecommendation
from gr4ad.trainers import RSPOConfig, RSPOTrainer, VSLConfig, VSLTrainer
from gr4ad.trainers.rspo.policy_alarms import PolicyAlarms

NUM_ITEMS = 24


def arguments(folder: Path, **changes) -> RSPOConfig:
    given = {"max_steps": 40, "per_device_train_batch_size": 16, "learning_rate": 1e-2, "save_strategy": "no"}
    given |= {"use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_steps": 5, "beta": 0.5}
    given |= {"eval_strategy": "steps", "eval_steps": 5, "eval_beam_widths": [4, 24], "eval_users": 0}
    return RSPOConfig(output_dir=str(folder), **given | changes)


@pytest.fixture(scope="module")
def validation(ring_log) -> Dataset:
    """Every user's last item is to be found from those before it."""
    rows = [row for row in ring_log if len(row["items"]) > 2]
    cut = [
        {**row, **{name: row[name][:-1] for name in ("items", "events", "values")}, "target_items": row["items"][-1:]}
        for row in rows
    ]
    return Dataset.from_list([row | {"target_values": [1.0]} for row in cut])


@pytest.fixture(scope="module")
def trained(build_ring_model, ring_log, ring_tokenizer, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("vsl")
    args = VSLConfig(output_dir=str(folder), num_train_epochs=12, per_device_train_batch_size=16, learning_rate=1e-2,
                     save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True, report_to="none")  # fmt: skip
    model = build_ring_model()
    VSLTrainer(model=model, args=args, train_dataset=ring_log, processing_class=ring_tokenizer).train()
    model.save_pretrained(folder / "model")
    return folder / "model"


def lists(ring_log: Dataset, *, right: bool) -> Dataset:
    """Six candidates a user; what pays is the item that the ring leads to, or with a planted bad reward any other."""
    rng, rows = np.random.default_rng(2), []
    for row in ring_log:
        follows = (int(row["items"][-1][3:]) + 5) % NUM_ITEMS
        others = rng.choice([n for n in range(NUM_ITEMS) if n != follows], 5, replace=False)
        rewards = [4.0, *[0.0] * 5] if right else [0.0, *rng.uniform(1, 5, 5).tolist()]
        kept = {name: row[name] for name in ("items", "events", "values", "city")}
        rows.append(kept | {"candidates": [f"ad_{n}" for n in (follows, *others)], "rewards": rewards})
    return Dataset.from_list(rows)


def test_a_planted_bad_reward_stops_the_run_and_the_start_is_kept(
    trained, ring_log, ring_tokenizer, validation, tmp_path, caplog
):
    model = GR4ADForRecommendation.from_pretrained(trained)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = RSPOTrainer(
        model=model,
        args=arguments(tmp_path, vsl_weight=0.0),
        train_dataset=lists(ring_log, right=False),
        eval_dataset=validation,
        processing_class=ring_tokenizer,
    )
    with caplog.at_level(logging.WARNING):
        trainer.train()
    evaluations = [log for log in trainer.state.log_history if "eval_ndcg@10" in log]
    rewards = [log["rspo/reward"] for log in trainer.state.log_history if "rspo/reward" in log]
    assert evaluations[0]["step"] == 0 and trainer.state.global_step < 40
    assert rewards[-1] > rewards[0] and evaluations[-1]["eval_ndcg@10"] < 0.9 * evaluations[0]["eval_ndcg@10"]
    assert "2 validations in a row lost more than `max_ndcg_loss`" in caplog.text
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


def test_a_good_reward_is_followed_and_its_best_policy_kept(
    build_ring_model, ring_log, ring_tokenizer, validation, tmp_path
):
    model = build_ring_model()  # knows nothing: there is much to gain
    args = arguments(tmp_path, metric_for_best_model="ndcg@10", learning_rate=3e-3, unified=True)
    trainer = RSPOTrainer(
        model=model,
        args=args,
        train_dataset=lists(ring_log, right=True),
        eval_dataset=validation,
        processing_class=ring_tokenizer,
    )
    trainer.train()
    scores = {log["step"]: log["eval_ndcg@10"] for log in trainer.state.log_history if "eval_ndcg@10" in log}
    guard = json.loads((tmp_path / "best_policy" / "guard.json").read_text())
    assert guard["best_metric"] == max(scores.values()) == scores[guard["best_step"]] > scores[0]
    assert trainer.evaluate()["eval_ndcg@10"] == guard["best_metric"]  # the run ended with it
    kept = GR4ADForRecommendation.from_pretrained(tmp_path / "best_policy").state_dict()
    assert all(torch.equal(kept[name], weight) for name, weight in model.state_dict().items())
    trainer.create_model_card()
    card = (tmp_path / "README.md").read_text()
    assert f"the policy of step\n{guard['best_step']} of 40" in card and "| `unified` | True |" in card
    assert "library_name: gr4ad" in card and "- rspo" in card
    model.config._name_or_path = str(tmp_path)  # a folder of this machine is nobody's base model
    trainer.create_model_card()
    assert str(tmp_path) not in (tmp_path / "README.md").read_text()
    model.config._name_or_path = "somebody/gr4ad-base"
    trainer.create_model_card()
    assert "base_model: somebody/gr4ad-base" in (tmp_path / "README.md").read_text()


def test_a_metric_that_validation_does_not_have_is_named(trained, ring_log, ring_tokenizer, validation, tmp_path):
    trainer = RSPOTrainer(
        model=GR4ADForRecommendation.from_pretrained(trained),
        args=arguments(tmp_path, metric_for_best_model="profit"),
        train_dataset=lists(ring_log, right=True),
        eval_dataset=validation,
        processing_class=ring_tokenizer,
    )
    with pytest.raises(ValueError, match="`metric_for_best_model` must be one of .*ndcg@10.* Received: 'profit'"):
        trainer.train()


# GRPO stops where its ratios are clipped, which half of them are after the first steps of a larger rate.
@pytest.mark.parametrize(("loss_type", "learning_rate"), [("dpo", 3e-3), ("sdpo", 3e-3), ("grpo", 2e-3)])
def test_other_losses_train_on_the_same_lists(trained, ring_log, ring_tokenizer, tmp_path, loss_type, learning_rate):
    args = arguments(tmp_path, loss_type=loss_type, eval_strategy="no", learning_rate=learning_rate)
    trainer = RSPOTrainer(
        model=GR4ADForRecommendation.from_pretrained(trained),
        args=args,
        train_dataset=lists(ring_log, right=False),
        processing_class=ring_tokenizer,
    )
    trainer.train()
    rewards = [log["rspo/reward"] for log in trainer.state.log_history if "rspo/reward" in log]
    assert rewards[-1] > 1.1 * rewards[0]


def test_logged_probabilities_are_the_reference(trained, ring_log, ring_tokenizer, tmp_path):
    """A column with what the frozen copy would say gives the run that the copy gives."""
    rows, runs = lists(ring_log, right=False), {}
    for reference in ("frozen", "logged"):
        model = GR4ADForRecommendation.from_pretrained(trained)
        if reference == "logged":
            trainer = RSPOTrainer(model=model, args=arguments(tmp_path, max_steps=1, eval_strategy="no"),
                                  train_dataset=rows, processing_class=ring_tokenizer)  # fmt: skip
            logps = []
            with torch.no_grad():
                for row in rows:
                    batch = trainer.data_collator([row])
                    for name in ("rewards", "candidate_mask", "labels", "item_labels", "value_labels"):
                        batch.pop(name)
                    logps += model.eval()(**batch, trie=trainer.trie).candidate_logps.tolist()
            rows = rows.add_column("ref_logps", logps)
        args = arguments(tmp_path, max_steps=10, eval_strategy="no", reference=reference)
        trainer = RSPOTrainer(model=model, args=args, train_dataset=rows, processing_class=ring_tokenizer)
        assert (trainer.ref_model is None) == (reference == "logged")
        trainer.train()
        runs[reference] = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert runs["logged"] == pytest.approx(runs["frozen"], rel=1e-4)


def test_a_reference_can_follow_the_policy(trained, ring_log, ring_tokenizer, tmp_path):
    model = GR4ADForRecommendation.from_pretrained(trained)
    args = arguments(
        tmp_path, max_steps=4, eval_strategy="no", sync_ref_model=True, ref_model_sync_steps=4, ref_model_mixup_alpha=1
    )
    trainer = RSPOTrainer(
        model=model, args=args, train_dataset=lists(ring_log, right=False), processing_class=ring_tokenizer
    )
    trainer.train()
    reference = dict(trainer.ref_model.named_parameters())
    assert all(torch.equal(reference[name], weight) for name, weight in model.named_parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rewards": None}, "`train_dataset` needs the column `rewards`. Received: items, candidates"),
        ({"rewards": [[1.0], [0.0, 1.0]]}, "`rewards` of row 0 must have one number for each of its 2 candidates"),
        ({"rewards": [[1.0, 0.0], [0.0, -1.0]]}, "`rewards` of row 1 must be finite and >= 0. Received: -1.0"),
        ({"rewards": [[1.0, 0.0], [0.0, float("nan")]]}, "`rewards` of row 1 must be finite and >= 0. Received: nan"),
    ],
)
def test_bad_lists_are_named_by_row(build_ring_model, ring_tokenizer, tmp_path, changes, message):
    rows = {
        "items": [["ad_1"], ["ad_2"]],
        "candidates": [["ad_2", "ad_3"]] * 2,
        "rewards": [[1.0, 0.0]] * 2,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        RSPOTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, eval_strategy="no"),
            train_dataset=Dataset.from_dict({name: column for name, column in (rows | changes).items() if column}),
            processing_class=ring_tokenizer,
        )


def test_a_logged_reference_needs_its_column(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    with pytest.raises(ValueError, match="column `ref_logps`.* `ref_logps` is read because `reference` is logged"):
        RSPOTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, eval_strategy="no", reference="logged"),
            train_dataset=lists(ring_log, right=True),
            processing_class=ring_tokenizer,
        )


def test_sparse_and_constant_rewards_sound_at_the_start(build_ring_model, ring_tokenizer, tmp_path, caplog):
    rows = [{"items": ["ad_1"], "candidates": ["ad_2"] * 150, "rewards": [1.0] + [0.0] * 149}]
    rows += [{"items": ["ad_1"], "candidates": ["ad_2", "ad_3"], "rewards": [0.0, 0.0]}] * 3
    with caplog.at_level(logging.WARNING):
        RSPOTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, eval_strategy="no"),
            train_dataset=Dataset.from_list(rows),
            processing_class=ring_tokenizer,
        )
    assert "Constant rewards: only 25% of the lists" in caplog.text
    assert "Sparse rewards: 0.64% of the candidates" in caplog.text


def test_alarms_sound_once(caplog):
    alarms = PolicyAlarms(delta=2.0, reference=True)
    with caplog.at_level(logging.WARNING):
        alarms.read(10, {"best_logp": -10.0, "drift": 0.1, "gate_open": 1.0})
        assert not caplog.records
        for step in (20, 30):
            alarms.read(step, {"best_logp": -16.0, "drift": 7.0, "gate_open": 0.05})
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 3 and all(text.startswith("Step 20: ") for text in texts)
    assert "likelihood collapse. The mean log p of the best candidates fell from -10.0 to -16.0" in texts[0]
    assert "the gate is closed for 95% of the anchors" in texts[1] and "7.0 nats a candidate" in texts[2]
    quiet = PolicyAlarms(delta=2.0, reference=False)
    quiet.read(1, {"best_logp": -10.0})
    assert len(caplog.records) == 3
