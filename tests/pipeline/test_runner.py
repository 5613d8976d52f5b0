import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from gr4ad.pipeline.runner import DONE_FILE, StageRunner, file_digest, read_json, stage_key, write_json


@dataclass
class Setting:
    size: int = 3


def work(done: list[str], name: str):
    def run(folder: Path) -> dict:
        done.append(name)
        (folder / "result.txt").write_text(name)
        return {"name": name}

    return run


def chain(out: Path, done: list[str], first: Setting, second: dict) -> StageRunner:
    runner = StageRunner(out)
    runner.run("one", work(done, "one"), settings=first)
    runner.run("two", work(done, "two"), settings=[second, first.__class__()], after=("one",))
    runner.run("side", work(done, "side"), settings=0)
    return runner


def test_finished_stages_are_kept_and_changes_run_what_follows(tmp_path):
    done: list[str] = []
    chain(tmp_path, done, Setting(), {"a": 1})
    assert done == ["one", "two", "side"]
    kept = chain(tmp_path, done, Setting(), {"a": 1})
    assert len(done) == 3
    assert kept.records["two"].summary == {"name": "two"} and set(kept.seconds) == {"one", "two", "side"}
    chain(tmp_path, done, Setting(), {"a": 2})
    assert done[3:] == ["two"]
    chain(tmp_path, done, Setting(4), {"a": 2})
    assert done[4:] == ["one", "two"]  # its own settings did not change, but those of the stage it reads did
    (tmp_path / "stages" / "side" / DONE_FILE).write_text('{"key": "half')
    chain(tmp_path, done, Setting(4), {"a": 2})
    assert done[6:] == ["side"]


def test_a_stage_that_failed_is_resumed_in_its_folder(tmp_path):
    def fails(folder: Path) -> None:
        (folder / "checkpoint").write_text("half way")
        raise RuntimeError("power cut")

    seen: list[bool] = []

    def resumes(folder: Path) -> None:
        seen.append((folder / "checkpoint").is_file())

    for settings, expected in ((1, True), (2, False)):
        out = tmp_path / str(settings)
        runner = StageRunner(out)
        with pytest.raises(RuntimeError, match="power cut"):
            runner.run("train", fails, settings=1)
        assert not (runner.folder("train") / DONE_FILE).exists()
        assert StageRunner(out).run("train", resumes, settings=settings) == {}
        assert seen.pop() is expected  # under other settings the started folder is of no use


def test_a_finished_stage_is_kept_until_its_successor_is_finished(tmp_path):
    runner, done = StageRunner(tmp_path), []
    folder = runner.folder("train")
    before = folder.with_name("train.before")

    def fails(folder: Path) -> None:
        assert not list(folder.glob("*.txt"))
        raise RuntimeError("power cut")

    runner.run("train", work(done, "first"), settings=1)
    for settings in (2, 3):
        with pytest.raises(RuntimeError, match="power cut"):
            runner.run("train", fails, settings=settings)
        assert (before / "result.txt").read_text() == "first"
    assert runner.run("train", work(done, "never"), settings=1) == {"name": "first"}  # its settings are back
    assert done == ["first"] and not before.exists() and (folder / "result.txt").read_text() == "first"
    runner.run("train", work(done, "second"), settings=2)
    assert not before.exists() and (folder / "result.txt").read_text() == "second"


def test_keys_depend_on_everything_and_on_nothing_else():
    base = stage_key("train", {"a": Setting(), "b": [1, (2, 3)]}, ["k"])
    assert base == stage_key("train", {"b": [1, [2, 3]], "a": {"size": 3}}, ["k"]) and len(base) == 32
    others = [
        stage_key("align", {"a": Setting(), "b": [1, (2, 3)]}, ["k"]),
        stage_key("train", {"a": Setting(4), "b": [1, (2, 3)]}, ["k"]),
        stage_key("train", {"a": Setting(), "b": [1, (3, 2)]}, ["k"]),
        stage_key("train", {"a": Setting(), "b": [1, (2, 3)]}, ["l"]),
    ]
    assert len({base, *others}) == 5


def test_files_are_read_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    assert read_json(path) == {}
    write_json(path, {"a": 1})
    assert read_json(path) == {"a": 1} and [p.name for p in tmp_path.iterdir()] == ["x.json"]
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_digest_is_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").write_bytes(b"x")
    assert file_digest(tmp_path / "a") == file_digest(tmp_path / "b") != file_digest(tmp_path / "none")
    assert file_digest("hub/id") == "hub/id"
