import numpy as np
import pytest
import torch
from datasets import Dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from gr4ad.trainers import VSLConfig, VSLTrainer
from gr4ad.trainers.vsl import VSLCollator, tokenize_histories
from gr4ad.trainers.vsl.epoch_sampler import LengthGroupedEpochSampler


def arguments(folder, **changes) -> VSLConfig:
    given = {"num_train_epochs": 4, "per_device_train_batch_size": 16, "learning_rate": 5e-3, "save_strategy": "no"}
    given |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 5, **changes}
    return VSLConfig(output_dir=str(folder), **given)


@pytest.mark.parametrize("codebook", [False, True])
def test_training_moves_every_parameter_and_learns_the_ring(
    build_ring_model, ring_tokenizer, ring_log, tmp_path, codebook
):
    model = build_ring_model(codebook=codebook)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    targets = [f"ad_{(int(items[-1].removeprefix('ad_')) + 5) % 24}" for items in ring_log["items"]]
    evaluation = ring_log.add_column("target_items", [[t] for t in targets])
    evaluation = evaluation.add_column("target_values", [[1.0]] * len(targets))
    trainer = VSLTrainer(
        model=model,
        args=arguments(tmp_path, num_train_epochs=16, eval_beam_widths=[4, 8], eval_users=30),
        train_dataset=ring_log,
        eval_dataset=evaluation,
        processing_class=ring_tokenizer,
    )
    start = trainer.evaluate()
    trainer.train()
    end = trainer.evaluate()
    moved = {name: not torch.equal(before[name], parameter) for name, parameter in model.named_parameters()}
    assert all(moved.values()), [name for name, was in moved.items() if not was]
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["loss"] < 0.6 * logs[0]["loss"] and logs[-1]["loss_sid"] < 0.6 * logs[0]["loss_sid"]
    assert {"loss_sid", "loss_value", "loss_mtp", "loss_item"} <= set(logs[0])
    assert end["eval_ndcg@10"] > 0.6 > 0.3 > start["eval_ndcg@10"]


def test_training_moves_what_reads_times_and_cross_domain(build_ring_model, timed_tokenizer, timed_log, tmp_path):
    model = build_ring_model(num_time_buckets=8, num_cross_domain_items=50, max_cross_domain_items=3)
    parts = [name for name, _ in model.named_parameters() if ".time_" in name or ".cross_domain_" in name]
    assert len(parts) == 3
    before = {name: model.get_parameter(name).detach().clone() for name in parts}
    trainer = VSLTrainer(
        model=model,
        args=arguments(tmp_path, max_steps=5, per_device_train_batch_size=80),
        train_dataset=timed_log,
        processing_class=timed_tokenizer,
    )
    trainer.train()
    assert all(not torch.equal(before[name], model.get_parameter(name)) for name in parts)


def test_rows_keep_the_last_items_and_weigh_users_and_behaviour(ring_tokenizer):
    log = Dataset.from_dict(
        {
            "user_id": ["u", "v", "w"],
            "items": [["ad_1", "ad_2", "ad_3", "ad_4"], ["ad_5"], ["ad_6", "ad_7"]],
            "events": [["click", "click", "conversion", "click"], ["click"], ["click", "conversion"]],
            "values": [[1.0, 1.0, 4.0, 0.0], [2.0], [0.0, 1.0]],
            "city": ["x", "y", "new"],
        }
    )
    rows = tokenize_histories(
        log, ring_tokenizer, max_items=2, user_weight_clip=1.5, behavior_weights={"conversion": 3.0}
    )
    assert [row["item_ids"] for row in rows] == [[3, 4, 5], [7, 8]]  # "v" has nothing to predict
    assert rows["length"] == [3, 2] and rows["user_feature_ids"] == [[1], [0]]
    assert rows["event_ids"] == [[0, 1, 0], [0, 1]] and rows["value_ids"] == [[2, 3, 1], [1, 2]]
    user = [1.5, 1 / 1.5]  # totals 6, 2 and 1 over their mean 3, clipped
    assert rows[0]["weights"] == pytest.approx([user[0], 3 * user[0], user[0]])
    assert rows[1]["weights"] == pytest.approx([user[1], 3 * user[1]])
    by_value = tokenize_histories(log, ring_tokenizer, max_items=2, user_weight_clip=1.0, target_value_power=1.0)
    assert by_value[0]["weights"] == pytest.approx([v / (9 / 7) for v in (1.0, 4.0, 0.0)])
    with pytest.raises(ValueError, match="no user with two or more events"):
        tokenize_histories(log.select([1]), ring_tokenizer, max_items=2)
    with pytest.raises(KeyError, match="ad_99"):
        tokenize_histories(
            Dataset.from_dict({"items": [["ad_1", "ad_99"]], "city": ["x"]}), ring_tokenizer, max_items=2
        )


def test_collator_makes_the_documented_tensors(ring_tokenizer):
    rows = [
        {"item_ids": [3, 8, 5], "event_ids": [0, 1, 0], "value_ids": [1, 2, 3], "user_feature_ids": [2],
         "weights": [1.0, 0.5, 2.0], "length": 3},
        {"item_ids": [10, 2], "event_ids": [1, 0], "value_ids": [2, 3], "user_feature_ids": [0],
         "weights": [3.0, 4.0], "length": 2},
    ]  # fmt: skip
    batch = VSLCollator(ring_tokenizer)(rows)
    sid = {row: [4 + row // 6, 8 + row % 6] for row in range(24)}
    expected = {
        "input_ids": [[*sid[2], *sid[7]], [*sid[9], 0, 0]],
        "attention_mask": [[1, 1, 1, 1], [1, 1, 0, 0]],
        "item_ids": [[3, 8], [10, 0]],
        "event_ids": [[0, 1], [1, 0]],
        "value_ids": [[1, 2], [2, 0]],
        "user_feature_ids": [[2], [0]],
        "labels": [[sid[7], sid[4]], [sid[1], [-100, -100]]],
        "item_labels": [[8, 5], [2, -100]],
        "value_labels": [[1, 2], [2, -100]],
        "sample_weight": [[0.5, 2.0], [4.0, 0.0]],
    }
    assert {name: value.tolist() for name, value in batch.items()} == expected
    floats = {name for name, value in batch.items() if value.dtype == torch.float32}
    assert floats == {"sample_weight"} and all(v.dtype == torch.int64 for n, v in batch.items() if n not in floats)


def test_rows_keep_gaps_and_what_happened_before_a_target(timed_tokenizer):
    log = Dataset.from_dict(
        {
            "items": [["ad_1", "ad_2"], ["ad_1", "ad_2", "ad_3", "ad_4"]],
            "times": [[5, 5], [0, 100, 103, 103]],
            "cross_domain": [[], ["a", "b", "c", "d", "e", "f"]],
            "cross_domain_times": [[], [-1.0, 50.0, 100.0, 102.9, 103.0, 200.0]],
            "city": ["x", "x"],
        }
    )
    rows = tokenize_histories(log, timed_tokenizer, max_items=2, max_cross_domain=3)
    assert [row["item_ids"] for row in rows] == [[2, 3], [3, 4, 5]]
    assert [row["time_ids"] for row in rows] == [[0, 1], [7, 3, 1]]  # the first kept item knows its gap
    # Kept are 100, 103 and 103, the last only as a target: "e" and "f" no prefix may see; of the rest the last three.
    assert [row["cross_domain_places"] for row in rows] == [[], [0, 1, 1]]
    assert rows[1]["cross_domain_ids"] == timed_tokenizer.cross_domain_indices(["b", "c", "d"]).tolist()

    batch = VSLCollator(timed_tokenizer)(list(rows))
    assert batch["time_ids"].tolist() == [[0, 0], [7, 3]]
    assert batch["cross_domain_ids"].tolist() == [[0, 0, 0], rows[1]["cross_domain_ids"]]
    assert batch["cross_domain_places"].tolist() == [[0, 0, 0], [0, 1, 1]]
    assert all(batch[name].dtype == torch.int64 for name in ("time_ids", "cross_domain_ids", "cross_domain_places"))

    assert len(tokenize_histories(log, timed_tokenizer, max_items=3)[1]["cross_domain_ids"]) == 4  # no limit
    without = tokenize_histories(
        log.remove_columns(["times", "cross_domain", "cross_domain_times"]), timed_tokenizer, max_items=2
    )
    assert set(without.column_names) == {"item_ids", "user_feature_ids", "weights", "length"}


def test_cross_domain_is_not_trained_on_without_times(timed_tokenizer, timed_log):
    for missing, message in (
        ("times", "Row 0: `cross_domain_times` are compared with `times`. Received: no `times`"),
        ("cross_domain_times", "Row 0: `cross_domain` needs the columns `times` and `cross_domain_times`"),
    ):
        with pytest.raises(ValueError, match=message):
            tokenize_histories(timed_log.remove_columns(missing), timed_tokenizer, max_items=6)
    short = timed_log.remove_columns("times").add_column("times", [[1.0]] * len(timed_log))
    with pytest.raises(ValueError, match="`times` must be as long as `items`"):
        tokenize_histories(short, timed_tokenizer, max_items=6)


def test_no_target_is_predicted_from_what_followed_it(timed_tokenizer, timed_log, build_ring_model):
    """Each prefix's logits, with all that happened elsewhere at the time of its target or later told apart."""
    model = build_ring_model(num_time_buckets=8, num_cross_domain_items=50, initializer_range=0.5).eval()

    trie = model.build_trie(timed_tokenizer)

    def logits(log: Dataset) -> list[torch.Tensor]:
        rows = tokenize_histories(log, timed_tokenizer, max_items=6)
        batch = VSLCollator(timed_tokenizer)(list(rows))
        lengths = (batch["labels"][..., 0] >= 0).sum(1).tolist()
        with torch.no_grad():
            return list(torch.cat(model(**batch, trie=trie).logits, 1).split(lengths))

    log = timed_log.select(range(20))
    before = logits(log)
    hidden = shown = 0
    for prefix in range(1, 7):

        def changed(row: dict, *, prefix: int = prefix, future: bool = True) -> dict:
            target = row["times"][-7:][prefix] if len(row["times"][-7:]) > prefix else np.inf
            entries = zip(row["cross_domain"], row["cross_domain_times"], strict=True)
            return {"cross_domain": [f"other {v}" if (t >= target) == future else v for v, t in entries]}

        after = logits(log.map(changed, keep_in_memory=True))
        past = logits(log.map(changed, fn_kwargs={"future": False}, keep_in_memory=True))
        for old, new, other in zip(before, after, past, strict=True):
            if len(old) >= prefix:
                torch.testing.assert_close(new[:prefix], old[:prefix])
                hidden += int(not torch.allclose(new, old))
                shown += int(not torch.allclose(other[prefix - 1], old[prefix - 1]))
    assert hidden > 20 and shown > 20  # later prefixes see the one, this prefix sees the other


def test_target_window_draws_all_later_places_and_no_others(ring_tokenizer):
    collator = VSLCollator(ring_tokenizer, target_window=3)
    drawn = np.stack([collator.target_places(6, (0, user)) for user in range(400)])
    for prefix in range(1, 7):
        allowed = list(range(prefix, min(prefix + 3, 7)))
        places, counts = np.unique(drawn[:, prefix - 1], return_counts=True)
        assert places.tolist() == allowed and counts.min() > 400 / len(allowed) * 0.75
    np.testing.assert_array_equal(collator.target_places(6, (0, 7)), drawn[7])
    others = [collator.target_places(6, (1, 7)), VSLCollator(ring_tokenizer, 3, seed=1).target_places(6, (0, 7))]
    assert all((other != drawn[7]).any() for other in others)


@pytest.mark.parametrize(("count", "batch"), [(1, 4), (7, 4), (8, 4), (1003, 4)])
def test_sampler_covers_all_rows_once_by_seed_and_epoch(count, batch):
    lengths = np.random.default_rng(0).integers(1, 50, count)
    sampler = LengthGroupedEpochSampler(lengths, batch, seed=3)
    first = list(sampler)
    assert sorted(first) == list(range(count)) and len(sampler) == count
    np.random.seed(9)
    torch.manual_seed(9)
    assert list(sampler) == first == list(LengthGroupedEpochSampler(lengths, batch, seed=3))
    sampler.set_epoch(1)
    assert sorted(sampler) == list(range(count, 2 * count))  # keys tell the epoch
    if count > 100:
        order = [key - count for key in sampler]
        assert order != first != list(LengthGroupedEpochSampler(lengths, batch, seed=4))
        batches = np.array(first[: count // batch * batch]).reshape(-1, batch)
        spread = np.ptp(lengths[batches], axis=1).mean()
        shuffled = lengths[np.random.default_rng(1).permutation(count)[: batches.size]].reshape(-1, batch)
        assert spread < 0.2 * np.ptp(shuffled, axis=1).mean()
    sampler.set_epoch(0)
    assert list(sampler) == first


class StopAfter(TrainerCallback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.steps


@pytest.mark.parametrize(
    ("saving", "stop"),
    [({"save_strategy": "epoch"}, 10), ({"save_strategy": "steps", "save_steps": 7}, 7)],
    ids=["after an epoch", "within an epoch"],
)
def test_a_resumed_run_ends_as_an_uninterrupted_one(
    build_ring_model, ring_tokenizer, ring_log, tmp_path, saving, stop
):
    def trainer(folder: str, callbacks=None) -> VSLTrainer:
        return VSLTrainer(
            model=build_ring_model(dropout=0.2),
            args=arguments(tmp_path / folder, num_train_epochs=3, lr_scheduler_type="cosine", **saving),
            train_dataset=ring_log,
            processing_class=ring_tokenizer,
            callbacks=callbacks,
        )

    whole = trainer("whole")
    whole.train()
    part = trainer("part", [StopAfter(stop)])
    part.train()
    assert part.state.global_step == stop < whole.state.global_step == 15
    resumed = trainer("part")
    resumed.train(resume_from_checkpoint=get_last_checkpoint(str(tmp_path / "part")))
    assert resumed.state.global_step == whole.state.global_step
    state = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_accumulated_steps_equal_whole_batches(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    pairs = Dataset.from_list(  # of one length: four batches of 4 then hold the rows of one of 16
        [
            {**row, **{name: row[name][:2] for name in ("items", "events", "values")}}
            for row in ring_log.select(range(16))
        ]
    )
    models = []
    for size, steps in ((16, 1), (4, 4)):
        batches = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps}
        trainer = VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, max_steps=3, logging_steps=1, **batches),
            train_dataset=pairs,
            processing_class=ring_tokenizer,
        )
        trainer.train()
        models.append((trainer.model.state_dict(), [log for log in trainer.state.log_history if "loss" in log]))
    for name, value in models[0][0].items():
        torch.testing.assert_close(value, models[1][0][name], rtol=1e-3, atol=2e-4, msg=name)
    for whole, parts in zip(models[0][1], models[1][1], strict=True):
        assert whole["loss"] == pytest.approx(parts["loss"], rel=1e-3)
        assert whole["loss_sid"] == pytest.approx(parts["loss_sid"], rel=1e-3)


def test_model_and_tokenizer_must_agree(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation

    for changes, message in (
        ({"codebook_sizes": [4, 7]}, r"`codebook_sizes` of the model is \[4, 7\], but the tokenizer has \[4, 6\]"),
        ({"num_value_buckets": 2}, "`num_value_buckets` of the model is 2, but the tokenizer has 3"),
        ({"num_time_buckets": 9}, "`num_time_buckets` of the model is 9, but the tokenizer has 0"),
    ):
        shape = {"codebook_sizes": [4, 6], "num_hidden_layers": 1, "num_parallel_layers": 0, **changes}
        model = GR4ADForRecommendation(GR4ADConfig(**shape))
        with pytest.raises(ValueError, match=message):
            VSLTrainer(model=model, args=arguments(tmp_path), train_dataset=ring_log, processing_class=ring_tokenizer)


def test_a_model_may_leave_out_what_its_tokenizer_and_log_have(timed_tokenizer, timed_log, tmp_path):
    from gr4ad.modeling_gr4ad import GR4ADConfig, GR4ADForRecommendation

    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_parallel_layers": 0}
    bare = GR4ADForRecommendation(GR4ADConfig(codebook_sizes=[4, 6], **shape))
    trainer = VSLTrainer(
        model=bare, args=arguments(tmp_path, max_steps=2), train_dataset=timed_log, processing_class=timed_tokenizer
    )
    assert trainer.train().global_step == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user_weight_clip": 0.5}, "`user_weight_clip` must be >= 1. Received: 0.5"),
        ({"target_window": 0}, "`target_window` must be >= 1. Received: 0"),
        ({"eval_item_weight": 4.0}, r"`eval_item_weight` is a share in \[0, 1\]. Received: 4.0"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be False"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_weights_of_behavior_hold_for_the_names_of_the_log_too(build_ring_tokenizer, ring_log):
    tokenizer = build_ring_tokenizer(event_aliases={"kauf": "conversion"})
    logged = ring_log.map(lambda row: {"events": ["kauf" if e == "conversion" else e for e in row["events"]]})
    wanted = tokenize_histories(ring_log, tokenizer, max_items=4, behavior_weights={"conversion": 3.0})
    for log, name in ((logged, "conversion"), (logged, "kauf"), (ring_log, "kauf")):
        rows = tokenize_histories(log, tokenizer, max_items=4, behavior_weights={name: 3.0})
        assert rows.to_list() == wanted.to_list()
