import json
import os
import shutil
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from online_runs import engagements, finished, outcome, write_records
from safetensors.torch import load_file, save_file

from gr4ad.commands.online import online
from gr4ad.online import LostRecordsError, OnlineLoop, open_stream
from gr4ad.serving import IndexChange, PublishedModel, Recommender
from gr4ad.trainers.vsl import NonFiniteTrainingError


def test_a_run_uses_every_record_once_and_publishes(build_config, learning, logs):
    passes = []
    config = build_config()
    loop = OnlineLoop(config, learning)
    before = {name: tensor.clone() for name, tensor in loop.artifact.model.state_dict().items()}
    loop.run(passes.append)
    assert loop.state.used == {"vsl": 40, "rl": 15, "catalog": 5} and loop.state.refused["catalog"] == 1
    assert loop.state.steps == 10 and [metrics["step"] for metrics in passes] == list(range(1, 11))
    written = [json.loads(line) for line in (Path(config.out) / "metrics.jsonl").read_text().splitlines()]
    assert written == json.loads(json.dumps(passes))
    for name, tensor in loop.artifact.model.state_dict().items():
        same = torch.equal(tensor[: len(before[name])], before[name])
        # Which prefixes have a row, and how values are estimated.
        assert same == (name in ("prefix_vectors.keys", "prefix_vectors.places", "item_values.prior")), name
    index = loop.artifact.tokenizer.index
    assert len(index) == 124 == len(loop.artifact.model.item_table) - 1 == len(loop.trainer.reference.item_table) - 1
    assert index.sid_of("new_3") == (1, 2, 3) and index.columns["title"][-1] == "New 3"
    published = PublishedModel(config.root)
    number, folder = published.current()
    published.verify(number)
    assert published.about(number)["step"] == loop.state.steps_published > 0
    assert published.last_change == 4  # one each: the ad that came twice changed nothing
    recommender = Recommender.from_pretrained(folder)
    assert recommender.tokenizer.index.item_ids.tolist() == index.item_ids.tolist()
    found = recommender.recommend([["new_3"]], top_k=128, beam_widths=[128] * 3)[0]
    assert "new_0" in {ad.item_id for ad in found}


def test_the_published_weights_are_those_of_their_step(build_config, learning):
    config = build_config(max_steps=3)
    loop = OnlineLoop(config, learning)
    loop.run()
    _, folder = PublishedModel(config.root).current()
    published = load_file(folder / "model.safetensors")
    for name, tensor in loop.artifact.model.state_dict().items():
        assert torch.equal(tensor, published[name])
        assert torch.equal(tensor, loop.trainer.reference.state_dict()[name])


def test_it_does_not_end_while_records_wait(build_config, learning):
    config = build_config(rl=None, catalog=None, vsl_batch_size=64, max_wait_seconds=0.5, idle_seconds=0.01)
    loop = OnlineLoop(config, learning)
    loop.run()
    assert loop.state.used == {"vsl": 40} and loop.state.steps == 1


def test_the_command_ends_with_what_is_published(build_config, caplog):
    config = build_config(rl=None, catalog=None, publish_steps=50, max_steps=1)
    caplog.set_level("INFO")
    given = vars(config) | {"rl": None, "catalog": None}
    flags = [word for name, value in given.items() if value is not None for word in (f"--{name}", str(value))]
    online(flags)
    assert "Ended after 1 steps; records used: vsl 4. Servers have the weights of step 0" in caplog.text
    assert "after 50 steps (`publish_steps`) and 8 users" in caplog.text


def test_it_goes_on_with_new_files(build_config, learning, logs, tmp_path):
    own = tmp_path / "logs"
    shutil.copytree(logs, own)
    config = build_config(vsl=str(own / "vsl"))
    finished(config, learning)
    write_records(own / "vsl/002.jsonl", engagements(6, 9))
    loop = OnlineLoop(config, learning)
    loop.run()
    assert loop.state.used["vsl"] == 46 and loop.state.steps == 12


def test_batches_that_were_not_full_are_the_same_after_a_kill(build_config, learning, logs, tmp_path):
    """What had arrived by when is in the journal alone: records that come later must not join a batch that was
    taken."""
    own = tmp_path / "logs"
    shutil.copytree(logs / "vsl", own / "vsl")
    write_records(own / "more.jsonl", engagements(7, 9))
    (own / "vsl/001.jsonl").unlink()  # 25 are left: the last batch has one record

    def went(name: str, *, killed: bool) -> dict:
        folder = tmp_path / f"{name} logs"
        shutil.copytree(own / "vsl", folder)
        config = build_config(name, vsl=str(folder), rl=None, catalog=None, save_steps=100, publish_steps=100)
        loop = OnlineLoop(config, learning)
        while loop.advance() is not None:
            pass
        shutil.copyfile(own / "more.jsonl", folder / "more.jsonl")
        if killed:  # without a checkpoint since the start
            loop.close()
            loop = OnlineLoop(config, learning)
            assert loop.state.steps == 0 and len(loop.replayed) == 7
        loop.run()
        assert loop.state.used["vsl"] == 32 and loop.state.steps == 9
        return outcome(config) | {"state": loop.state.used}

    assert went("one", killed=False) == went("other", killed=True)


def test_the_files_of_a_run_keep_their_form(build_config, learning):
    """A run that an earlier version began goes on: it reads these names and fields."""
    config = build_config(save_steps=2, publish_steps=100)
    loop = OnlineLoop(config, learning)
    for _ in range(3):
        loop.advance()
    loop.close()
    folder = Path(config.out)
    files = {path.name for path in folder.iterdir()}
    assert files == {".lock", "checkpoint-00000002", "fixed", "journal.jsonl", "metrics.jsonl", "refused.jsonl"}
    [refused] = [json.loads(line) for line in (folder / "refused.jsonl").read_text().splitlines()]
    assert refused == {
        "stream": "catalog", "reason": "`item_id` must be a string. Received: 7.", "record": {"item_id": 7}
    }  # fmt: skip
    [plan] = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    assert plan == {
        "number": 3,
        "taken": {"vsl": 4, "rl": 2, "catalog": 2},
        "offsets": {
            "vsl": {"file": "000.jsonl", "row": 12, "rows": 25, "earlier": 0},
            "rl": {"file": "000.jsonl", "row": 6, "rows": 15, "earlier": 0},
            "catalog": {"file": "000.jsonl", "row": 6, "rows": 6, "earlier": 0},
        },
        "changes": 4,
        "refused": {"catalog": 1},
    }
    state = json.loads((folder / "checkpoint-00000002/online_state.json").read_text())
    assert len(state.pop("run")) == 32 and len(state.pop("validated")[0]) == 2
    assert state.pop("offsets").keys() == {"vsl", "rl", "catalog"}
    assert state == {
        "number": 2, "steps": 2, "used": {"vsl": 8, "rl": 4, "catalog": 4}, "refused": {}, "changes": 4,
        "published": 0, "steps_published": 0, "attempted": 0, "alarms": 0,
    }  # fmt: skip
    names = set(load_file(folder / "checkpoint-00000002/online_state.safetensors"))
    parameters = {name for name, _ in loop.trainer.model.named_parameters()}
    moments = {f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq", "step") for name in parameters}
    assert names == {"rng", "steps"} | moments | {f"reference/{name}" for name in loop.trainer.model.state_dict()}


def test_vectors_that_a_training_starts_from_are_not_published(build_config, learning, tiny_artifact, tmp_path):
    model = tmp_path / "artifact"
    shutil.copytree(tiny_artifact, model)
    save_file({"item_vectors": torch.zeros(120, 4)}, model / "item_vectors.safetensors")
    config = build_config(model=str(model))
    finished(config, learning)  # through several checkpoints, each in the place of the one before
    assert not (PublishedModel(config.root).current()[1] / "item_vectors.safetensors").exists()


# --- the guard, bad input
# ---------------------------------------------------------------------------------------------------


def test_weights_that_rank_worse_are_not_published(build_config, learning, caplog):
    config = build_config(max_ndcg_loss=0.05, guard_window=40, publish_steps=2, rl=None, catalog=None)
    loop = OnlineLoop(config, learning)
    loop.run(lambda _: loop.validation.scores.extend([(0.1, 0.2)] * 4))  # what a bad reward would lead to
    assert loop.state.steps_published == 0 and loop.state.alarms >= 3
    assert PublishedModel(config.root).current()[0] == 1
    assert "not published. NDCG@10 of the new weights" in caplog.text
    alarms = loop.state.alarms
    loop.close()
    assert OnlineLoop(config, learning).state.alarms == alarms


def test_weights_wait_for_enough_users(build_config, learning):
    config = build_config(guard_users=20)
    passes = []
    OnlineLoop(config, learning).run(passes.append)
    published = [metrics["published_step"] for metrics in passes]
    assert published == [0, 0, 0, 0, 5, 5, 5, 5, 5, 10]


def test_a_loss_that_is_not_finite_leaves_checkpoint_and_version(build_config, learning):
    config = build_config()
    loop = OnlineLoop(config, learning)
    for _ in range(4):
        loop.advance()
    loop.artifact.model.sid_heads[0].weight.data.fill_(float("nan"))
    with pytest.raises(NonFiniteTrainingError, match="Step 5"):
        loop.run()
    loop.close()
    again = OnlineLoop(config, learning)
    assert all(tensor.isfinite().all() for tensor in again.artifact.model.state_dict().values())
    again.run()
    assert again.state.steps == 10 and again.state.used["vsl"] == 40


def test_useless_records_are_counted_and_named(build_config, learning, tmp_path, caplog):
    good = engagements(2, 0)
    bad = [
        ({**good[0], "items": ["nobody"], "values": [0.0]}, "`items`: no item of the history is in the index"),
        ({**good[0], "target_items": ["new"]}, "`target_items`: no target is in the index"),
        ({**good[0], "target_values": [-1.0]}, "`target_values[0]` is -1.0. Allowed: finite numbers >= 0"),
        ({**good[0], "target_values": [1.0, 2.0]}, "`target_values` must be as long as `target_items`, 1"),
        ({**good[0], "items": "ad_1"}, "`items` must be a list. Received: 'ad_1'"),
        ({name: part for name, part in good[0].items() if name != "values"}, "`values` and `target_values` come tog"),
    ]
    write_records(tmp_path / "vsl/0.jsonl", [*good, *(record for record, _ in bad)])
    lists = [
        {"items": ["ad_1"], "candidates": ["ad_1", "ad_2"], "rewards": [1.0, 1.0]},
        {"items": ["ad_1"], "candidates": ["ad_1", "new"], "rewards": [1.0, 2.0]},
        {"items": ["ad_1"], "candidates": ["ad_1", "ad_2"], "rewards": [1.0, float("nan")]},
        {"items": ["ad_1"], "candidates": ["ad_1", "ad_2", "new"], "rewards": [1.0, 2.0, 3.0]},
    ]
    write_records(tmp_path / "rl/0.jsonl", lists)
    config = build_config(vsl=str(tmp_path / "vsl"), rl=str(tmp_path / "rl"), catalog=None, vsl_batch_size=8)
    loop = OnlineLoop(config, learning)
    loop.run()
    assert loop.state.used == {"vsl": 2, "rl": 1} and loop.state.refused == {"vsl": 6, "rl": 3}
    for _, reason in bad:
        assert reason in caplog.text
    assert (
        "`rewards` are all alike" in caplog.text
        and "`rewards` must be a list, its entries finite and >= 0. Received: nan" in caplog.text
    )


def test_redis_streams_and_one_that_is_away_for_a_while(build_config, learning, start_redis, tmp_path, caplog):
    folder = tmp_path / "redis"
    folder.mkdir()
    records = engagements(8, 0)
    with start_redis(folder) as port:
        stream = open_stream(f"redis://127.0.0.1:{port}/0/vsl")
        for record in records:
            stream.client.xadd("vsl", {"record": json.dumps(record)})
        loop = OnlineLoop(build_config(vsl=f"redis://127.0.0.1:{port}/0/vsl", rl=None, catalog=None), learning)
        loop.advance()
        assert loop.state.used["vsl"] == 4
    waiting = threading.Thread(target=loop.run)
    waiting.start()
    while "Waiting for it" not in caplog.text:
        time.sleep(0.01)
    assert waiting.is_alive()
    with start_redis(folder, port):
        waiting.join(60)
        assert not waiting.is_alive()
    assert loop.state.used["vsl"] == 8 and loop.state.offsets["vsl"]["read"] == 8
    write_records(tmp_path / "vsl/0.jsonl", records)
    other = build_config("folder", vsl=str(tmp_path / "vsl"), rl=None, catalog=None)
    finished(other, learning)
    for name, tensor in outcome(build_config()).pop("tensors").items():
        assert outcome(other)["tensors"][name] == tensor, name


def test_changes_of_others_reach_the_trainer(build_config, learning):
    config = build_config(catalog=None)
    loop = OnlineLoop(config, learning)
    published = PublishedModel(config.root)
    published.append_change(IndexChange("add", ["other"], [[1, 2, 3]]))
    published.append_change(IndexChange("add", ["misfit"], [[1, 2]]))  # left out by servers, too
    published.append_change(IndexChange("add", ["misfit"], [[1, 2, 99]]))
    published.append_change(IndexChange("remove", ["ad_5"]))
    loop.run()
    index = loop.artifact.tokenizer.index
    assert index.sid_of("other") == (1, 2, 3) and "misfit" not in index.rows
    assert not index.active[index.rows["ad_5"]] and loop.state.changes == 4
    assert published.changes_of(published.current()[0]) == 4


def test_a_new_run_starts_from_what_is_published(build_config, learning):
    first = build_config("one")
    finished(first, learning)
    second = replace(first, out=f"{first.out} 2", model=None, catalog=None)
    loop = OnlineLoop(second, learning)
    assert loop.state.changes == 4 and len(loop.artifact.tokenizer.index) == 124
    loop.run()
    assert PublishedModel(first.root).current()[0] == 7
    with pytest.raises(ValueError, match="`model` is needed"):
        OnlineLoop(build_config("new", model=None), learning)


def test_one_loop_at_a_time_uses_a_folder(build_config, learning):
    config = build_config()
    loop = OnlineLoop(config, learning)
    with pytest.raises(ValueError, match="is used by another `gr4ad online`"):
        OnlineLoop(config, learning)
    loop.close()
    OnlineLoop(config, learning)


def test_a_journal_whose_records_are_gone_is_refused(build_config, learning, logs, tmp_path):
    own = tmp_path / "vsl"
    shutil.copytree(logs / "vsl", own)
    config = build_config(vsl=str(own), save_steps=100, publish_steps=100)
    loop = OnlineLoop(config, learning)
    loop.advance()
    loop.close()
    shutil.rmtree(own)
    again = OnlineLoop(config, learning)
    with pytest.raises(LostRecordsError, match="Restore the stream"):
        again.run()


def test_a_damaged_checkpoint_is_refused(build_config, learning):
    config = build_config(max_steps=3)
    finished(config, learning)
    [place] = Path(config.out).glob("checkpoint-*")
    os.truncate(place / "online_state.safetensors", 100)
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        OnlineLoop(config, learning)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vsl": None, "rl": None, "catalog": None}, "must name a stream"),
        ({"guard_users": 30}, "`guard_window` must be at least `guard_users`, 30"),
        ({"max_ndcg_loss": 1.1}, r"`max_ndcg_loss` is a share in \[0, 1\]"),
        ({"save_steps": 0}, "`save_steps` must be 1 or more"),
        ({"poll_seconds": float("inf")}, "`poll_seconds` must be >= 0 and finite"),
    ],
)
def test_bad_settings_are_refused_by_name(build_config, changes, message):
    with pytest.raises(ValueError, match=message):
        build_config(**changes)


def test_the_state_of_a_checkpoint_is_all_of_it(build_config, learning):
    config = build_config(max_steps=5)
    loop = OnlineLoop(config, learning)
    loop.run()
    loop.close()
    again = OnlineLoop(config, learning)
    assert asdict(again.state) == asdict(loop.state)
    for name, tensor in loop.trainer.state_tensors().items():
        np.testing.assert_array_equal(tensor.numpy(), again.trainer.state_tensors()[name].numpy(), err_msg=name)
