"""What a run logs, where the logs go, and what stops it early."""

import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import EarlyStoppingCallback

from gr4ad.trainers import VSLConfig, VSLTrainer
from gr4ad.trainers.vsl.training_metrics import StepMetrics, item_accuracy
from gr4ad.trainers.vsl.vsl_collator import VSLCollator
from gr4ad.trainers.vsl.vsl_rows import tokenize_histories

SCALARS = {"loss", "loss_sid", "loss_value", "loss_mtp", "loss_item", "grad_norm", "learning_rate", "acc_level_1",
           "acc_level_2", "acc_item", "value_ratio"}  # fmt: skip


def arguments(folder, **changes) -> VSLConfig:
    given = {"num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "save_strategy": "no"}
    given |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 5, **changes}
    return VSLConfig(output_dir=str(folder), **given)


def with_targets(log: Dataset, step: int = 5) -> Dataset:
    targets = [[f"ad_{(int(items[-1].removeprefix('ad_')) + step) % 24}"] for items in log["items"]]
    return log.add_column("target_items", targets).add_column("target_values", [[1.0]] * len(targets))


def test_accuracies_and_calibration_are_those_of_a_count(ring_log, ring_tokenizer, build_ring_model):
    model = build_ring_model(initializer_range=0.5).eval()
    rows = list(tokenize_histories(ring_log.select(range(20)), ring_tokenizer, max_items=6))
    collator = VSLCollator(ring_tokenizer)
    metrics = StepMetrics(model.config.level_offsets, model.config.value_bucket_means)
    hits, targets, expected, true = np.zeros(2), 0, 0.0, 0.0
    means = np.array(model.config.value_bucket_means)
    for part in (rows[:7], rows[7:]):
        batch = collator(part)
        with torch.no_grad():
            outputs = model(**batch, trie=model.build_trie(ring_tokenizer))
        metrics.add(outputs, batch)
        place = 0
        for labels, buckets in zip(batch["labels"].tolist(), batch["value_labels"].tolist(), strict=True):
            for sid, bucket in zip(labels, buckets, strict=True):
                if sid[0] < 0:
                    continue
                for level, offset in enumerate(model.config.level_offsets):
                    hits[level] += outputs.logits[level][place].argmax().item() == sid[level] - offset
                expected += float(outputs.value_logits[place].softmax(-1).numpy() @ means)
                true += means[bucket]
                targets, place = targets + 1, place + 1

    class OneProcess:
        def reduce(self, tensor, kind):
            return tensor

    logs = metrics.reduced(OneProcess(), steps=2)
    assert [logs["acc_level_1"], logs["acc_level_2"]] == pytest.approx(hits / targets)
    assert logs["value_ratio"] == pytest.approx(expected / true, rel=1e-5)
    assert 0 < hits.max() < targets

    batch = collator(rows)
    right = 0
    for row in rows:  # one history at a time, as it would be served
        alone = collator([row])
        features = {name: alone[name] for name in ("item_ids", "event_ids", "value_ids", "user_feature_ids")}
        with torch.no_grad():
            context = model.model.encode(alone["input_ids"], **features)
            ranked = model.item_head.log_probs(model.model.trunk(context), model.item_table, context)
        right += ranked.argmax().item() == row["item_ids"][-1]
    assert item_accuracy(model, batch) == (right, len(rows))


def test_learning_raises_the_accuracies(ring_log, ring_tokenizer, build_ring_model, tmp_path):
    trainer = VSLTrainer(
        model=build_ring_model(),
        args=arguments(tmp_path, num_train_epochs=20),
        train_dataset=ring_log,
        processing_class=ring_tokenizer,
    )
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert all(SCALARS <= log.keys() for log in logs)
    for name in ("acc_level_1", "acc_level_2", "acc_item"):
        assert 0 <= logs[0][name] < 0.5 < 0.7 < logs[-1][name] <= 1, name
    assert abs(logs[-1]["value_ratio"] - 1) < 0.1


def test_tensorboard_has_the_scalars(ring_log, ring_tokenizer, build_ring_model, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    trainer = VSLTrainer(
        model=build_ring_model(),
        args=arguments(tmp_path, num_train_epochs=2, report_to="tensorboard", eval_strategy="epoch",
                       eval_beam_widths=[4, 8]),
        train_dataset=ring_log,
        eval_dataset=with_targets(ring_log),
        processing_class=ring_tokenizer,
    )  # fmt: skip
    trainer.train()
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    tags = set(events.Tags()["scalars"])
    assert {f"train/{name}" for name in SCALARS} <= tags and {"eval/ndcg@10", "eval/recall@10"} <= tags
    logged = [log["acc_level_1"] for log in trainer.state.log_history if "acc_level_1" in log]
    assert [event.value for event in events.Scalars("train/acc_level_1")] == pytest.approx(logged)


def test_training_stops_once_validation_no_longer_improves(ring_log, ring_tokenizer, build_ring_model, tmp_path):
    def trainer(**changes) -> VSLTrainer:
        saving = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
        settings = {
            "num_train_epochs": 12,
            "metric_for_best_model": "ndcg@10",
            "early_stopping_patience": 2,
            **changes,
        }
        return VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, learning_rate=1e-9, eval_beam_widths=[4, 6], **saving, **settings),
            train_dataset=ring_log,
            eval_dataset=with_targets(ring_log),
            processing_class=ring_tokenizer,
        )  # fmt: skip

    stopped = trainer()
    stopped.train()
    # Nothing is learned at this rate: the first validation is the best, two more do not better it.
    assert stopped.state.epoch == 3 and stopped.state.best_global_step == 5
    assert stopped.state.best_model_checkpoint == str(tmp_path / "checkpoint-5")
    # One more epoch, from where two had passed: patience is not counted anew.
    resumed = trainer()
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-10"))
    assert resumed.state.epoch == 3
    [callback] = [c for c in resumed.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
    assert callback.early_stopping_patience_counter == 2
    never = trainer(early_stopping_patience=0, num_train_epochs=4)
    assert not any(isinstance(c, EarlyStoppingCallback) for c in never.callback_handler.callbacks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"early_stopping_patience": -1}, "`early_stopping_patience` must be 0"),
        ({"early_stopping_patience": 1}, "Received: eval_strategy = 'no', metric_for_best_model = None"),
        ({"early_stopping_patience": 1, "eval_strategy": "epoch"}, "metric_for_best_model = None. Set"),
        ({"logging_nan_inf_filter": True}, "`logging_nan_inf_filter` must be False"),
        ({"shuffle_buffer": 0}, "`shuffle_buffer` must be >= 1. Received: 0"),
        ({"max_items": 0}, "`max_items` must be >= 1. Received: 0"),
        ({"user_value_mean": 0.0}, "`user_value_mean` must be above 0 and finite. Received: 0.0"),
        ({"event_value_mean": float("nan")}, "`event_value_mean` must be above 0 and finite. Received: nan"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)
