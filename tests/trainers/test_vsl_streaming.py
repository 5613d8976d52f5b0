"""Training on logs that are read as a stream: what is trained on, in which order, and where a run resumes."""

import json
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset, load_dataset
from transformers import TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from gr4ad.trainers import VSLConfig, VSLTrainer
from gr4ad.trainers.vsl.history_stream import HistoryStream, StreamPosition
from gr4ad.trainers.vsl.vsl_rows import RowTokenizer, ValueMeans


class StopAfter(TrainerCallback):
    def __init__(self, steps: int):
        self.steps = steps

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop |= state.global_step >= self.steps


@pytest.fixture(scope="module")
def long_log(ring_log) -> Dataset:
    """347 users by number in `user_id`, some of one event and some of 30."""
    rows = []
    for number in range(347):
        row = dict(ring_log[number % len(ring_log)])
        repeat = 4 if number % 50 == 1 else 1
        for name in ("items", "events", "values"):
            row[name] = (row[name] * repeat)[: 1 if number % 17 == 0 else None]
        rows.append({**row, "user_id": str(number)})
    return Dataset.from_list(rows)


@pytest.fixture(scope="module")
def parquet_files(long_log, tmp_path_factory) -> list[str]:
    """Its rows in three files of groups of 10, 25 and 40 rows."""
    folder = tmp_path_factory.mktemp("log")
    paths = []
    for number, (first, last, group) in enumerate([(0, 100, 10), (100, 230, 25), (230, 347, 40)]):
        paths.append(str(folder / f"part_{number}.parquet"))
        long_log.select(range(first, last)).to_parquet(paths[-1], batch_size=group)
    return paths


def streamed(parquet_files):
    return load_dataset("parquet", data_files=parquet_files, split="train", streaming=True)


def stream(source, tokenizer, collate=list, **changes) -> HistoryStream:
    given = {"batch_size": 8, "buffer": 40, "seed": 3, **changes}
    tokenize = RowTokenizer(tokenizer, max_items=6, means=ValueMeans(10.0, 2.0))
    return HistoryStream(source, tokenize, collate, **given)


def arguments(folder, **changes) -> VSLConfig:
    given = {"per_device_train_batch_size": 8, "learning_rate": 5e-3, "save_strategy": "no", "shuffle_buffer": 40}
    given |= {"use_cpu": True, "disable_tqdm": True, "logging_steps": 1, "max_steps": 12, **changes}
    return VSLConfig(output_dir=str(folder), **given)


def users(batches: list[list[dict]]) -> list[tuple]:
    return [row["draw"] for batch in batches for row in batch]


def test_a_pass_holds_every_user_with_a_target_once(parquet_files, ring_tokenizer, long_log):
    wanted = [items[-7:] for items in long_log["items"] if len(items) > 1]
    per_pass = -(-len(wanted) // 8)
    source = stream(streamed(parquet_files), ring_tokenizer, limit=2 * per_pass)
    batches = list(source)
    assert len(batches) == 2 * per_pass and all(len(batch) == 8 for batch in batches)
    ids = np.array([f"ad_{row}" for row in range(24)])
    for batch in (batches[:per_pass], batches[per_pass:]):
        seen = Counter(tuple(ids[row["item_ids"] - 1]) for rows in batch for row in rows)
        expected = Counter(map(tuple, wanted))
        assert all(seen[items] >= count for items, count in expected.items()) and seen.keys() == expected.keys()
        assert seen.total() == -(-len(wanted) // 8) * 8  # the last batch is filled up, by less than a batch
    assert users(batches) == users(list(stream(streamed(parquet_files), ring_tokenizer, limit=2 * per_pass)))
    spread = np.mean([np.ptp([row["length"] for row in batch]) for batch in batches])
    assert spread < 1.5 < np.std([row["length"] for batch in batches for row in batch]) * 2
    assert source.position(per_pass - 1).number == 0 and source.position(2 * per_pass - 1).number == 1


def test_rows_are_those_of_a_log_in_memory(parquet_files, ring_tokenizer, long_log):
    from gr4ad.trainers.vsl import tokenize_histories

    means = ValueMeans(10.0, 2.0)
    rows = tokenize_histories(long_log, ring_tokenizer, max_items=6, means=means)
    fields = ("item_ids", "event_ids", "value_ids", "user_feature_ids", "weights")
    expected = Counter(json.dumps([row[name] for name in fields]) for row in rows)
    one_pass = stream(streamed(parquet_files), ring_tokenizer, batch_size=1, limit=len(rows))
    seen = Counter(json.dumps([np.asarray(row[name]).tolist() for name in fields]) for [row] in one_pass)
    assert seen == expected


@pytest.mark.parametrize("buffer", [8, 40])
@pytest.mark.parametrize("stop", [0, 1, 4, 5, 6, 40, 41, 42, 60])
def test_a_stream_goes_on_where_it_stood(parquet_files, ring_tokenizer, stop, buffer):
    whole = list(stream(streamed(parquet_files), ring_tokenizer, limit=70, buffer=buffer))
    part = stream(streamed(parquet_files), ring_tokenizer, limit=70, buffer=buffer)
    drawn = iter(part)
    for _ in range(stop + (2 if stop % 2 else 0)):  # a loader may be ahead of the training
        next(drawn)
    position = json.loads(json.dumps(part.position(stop).__dict__))
    resumed = stream(streamed(parquet_files), ring_tokenizer, limit=70, buffer=buffer)
    resumed.start = StreamPosition(**position)
    again = list(resumed)
    assert again[:stop] == [{}] * stop and users(again[stop:]) == users(whole[stop:])
    assert resumed.position(65).batches == 65


@pytest.mark.parametrize(("size", "accumulation", "processes"), [(8, 2, 1), (4, 2, 2), (4, 4, 1), (2, 2, 4)])
def test_a_step_holds_the_same_users_however_it_is_shared(
    parquet_files, ring_tokenizer, size, accumulation, processes
):
    whole = list(stream(streamed(parquet_files), ring_tokenizer, batch_size=16, limit=30))
    parts = [
        list(stream(streamed(parquet_files), ring_tokenizer, batch_size=size, accumulation=accumulation,
                    processes=processes, rank=rank, limit=30 * accumulation))
        for rank in range(processes)
    ]  # fmt: skip
    for step, rows in enumerate(whole):
        shared = [row for part in parts for row in part[step * accumulation : (step + 1) * accumulation]]
        assert sorted(users(shared)) == sorted(users([rows]))


@pytest.mark.parametrize(
    "changes",
    [{"per_device_train_batch_size": 16}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8}],
)
def test_a_resumed_streaming_run_ends_as_an_uninterrupted_one(
    parquet_files, ring_tokenizer, build_ring_model, tmp_path, changes
):
    def trainer(folder: str, callbacks=None) -> VSLTrainer:
        return VSLTrainer(
            model=build_ring_model(dropout=0.2),
            args=arguments(tmp_path / folder, max_steps=26, save_strategy="steps", save_steps=11, target_window=2,
                           logging_steps=7, **changes),
            train_dataset=streamed(parquet_files),
            processing_class=ring_tokenizer,
            callbacks=callbacks,
        )  # fmt: skip

    whole = trainer("whole")
    whole.train()
    trainer("part", [StopAfter(23)]).train()  # in the second pass over the log
    last = get_last_checkpoint(str(tmp_path / "part"))
    assert last.endswith("checkpoint-22") and StreamPosition.load(tmp_path / last, whole.train_dataset.shape).number
    resumed = trainer("part")
    resumed.train(resume_from_checkpoint=last)
    assert resumed.state.global_step == whole.state.global_step == 26
    assert resumed.state.epoch == whole.state.epoch
    state = resumed.model.state_dict()
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, state[name]), name
    finished = trainer("part")
    finished.train(resume_from_checkpoint=True)
    assert finished.state.global_step == 26
    assert all(torch.equal(value, state[name]) for name, value in finished.model.state_dict().items())


def test_a_stream_in_memory_trains_as_the_dataset_it_comes_from(long_log, ring_tokenizer, build_ring_model, tmp_path):
    trainer = VSLTrainer(
        model=build_ring_model(),
        args=arguments(
            tmp_path, max_steps=150, learning_rate=1e-2, per_device_train_batch_size=16, shuffle_buffer=10_000
        ),
        train_dataset=long_log.to_iterable_dataset(num_shards=4),
        processing_class=ring_tokenizer,
    )
    trainer.train()
    losses = [log["loss_sid"] for log in trainer.state.log_history if "loss_sid" in log]
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:5])


def test_means_of_a_stream_are_those_of_the_log(parquet_files, long_log, ring_tokenizer, build_ring_model, tmp_path):
    def means(**changes) -> ValueMeans:
        trainer = VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, **changes),
            train_dataset=streamed(parquet_files),
            processing_class=ring_tokenizer,
        )
        return trainer.train_dataset.tokenize.means

    totals = [sum(values) for values in long_log["values"]]
    user, event = np.mean(totals), sum(totals) / sum(map(len, long_log["values"]))
    assert means() == ValueMeans(pytest.approx(user), pytest.approx(event))
    assert means(user_value_mean=3.0, target_value_power=1.0) == ValueMeans(3.0, pytest.approx(event))
    assert means(user_value_mean=3.0) == ValueMeans(3.0, 0.0)  # no pass over the log: nothing else is used


def test_another_batch_size_or_no_position_is_refused(parquet_files, ring_tokenizer, build_ring_model, tmp_path):
    def trainer(**changes) -> VSLTrainer:
        return VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=1, **changes),
            train_dataset=streamed(parquet_files),
            processing_class=ring_tokenizer,
        )

    trainer().train()
    with pytest.raises(ValueError, match="`users of a step` must stay 8 .* Received: 4"):
        trainer(per_device_train_batch_size=4).train(resume_from_checkpoint=True)
    (tmp_path / "checkpoint-2" / "data_position.json").unlink()
    with pytest.raises(ValueError, match="holds no data_position.json"):
        trainer().train(resume_from_checkpoint=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": -1}, "`max_steps` must be above 0: the length of a stream is not known. Received: -1"),
        ({"dataloader_num_workers": 1}, "`dataloader_num_workers` must be 0"),
        ({"auto_find_batch_size": True}, "`auto_find_batch_size` must be False"),
    ],
)
def test_settings_a_stream_cannot_follow(parquet_files, ring_tokenizer, build_ring_model, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        VSLTrainer(
            model=build_ring_model(),
            args=arguments(tmp_path, **changes),
            train_dataset=streamed(parquet_files),
            processing_class=ring_tokenizer,
        )


def test_a_stream_names_what_is_wrong_with_its_rows(ring_tokenizer):
    single = Dataset.from_dict({"items": [["ad_1"]], "events": [["click"]], "values": [[1.0]], "city": ["x"]})
    with pytest.raises(ValueError, match="The training stream holds no user with two or more events"):
        next(iter(stream(single.to_iterable_dataset(), ring_tokenizer)))
    uneven = Dataset.from_dict(
        {"items": [["ad_1", "ad_2"]], "events": [["click"]], "values": [[1.0, 2.0]], "city": ["x"]}
    )
    with pytest.raises(ValueError, match=r"`events` must be as long as `items`, 2. Received: 1 entries.*'ad_1'"):
        next(iter(stream(uneven.to_iterable_dataset(), ring_tokenizer)))
