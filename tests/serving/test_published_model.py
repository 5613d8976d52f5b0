import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest

from gr4ad.serving import IndexChange, PublishedModel, PublishedModelError, Recommender
from gr4ad.serving.published_model import NEEDED_FILES

CHANGE = IndexChange("add", ["new"], [[1, 2, 3]])


@pytest.fixture
def save(tiny_artifact):
    return lambda folder: shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True)


@pytest.fixture
def published(tmp_path) -> PublishedModel:
    return PublishedModel(tmp_path / "live")


def test_versions_and_changes_are_numbered_and_found(published, save):
    assert not PublishedModel.exists_at(published.root)
    assert published.last_change == 0 and published.changes_after(0) == []
    assert published.publish(save, changes=0) == 1
    assert PublishedModel.exists_at(published.root)
    assert [published.append_change(CHANGE), published.append_change(IndexChange("remove", ["ad_1"]))] == [1, 2]
    assert published.publish(save, changes=1, about={"step": 40}) == 2
    number, folder = published.current()
    assert (number, folder) == (2, published.root / "versions/000002")
    assert published.changes_of(number) == 1 and published.about(number) == {"step": 40}
    published.verify(number)
    recommender = Recommender.from_pretrained(folder)
    assert [n for n, _ in published.changes_after(published.changes_of(number))] == [2]
    for _, change in published.changes_after(0):
        change.apply(recommender)
    index = recommender.tokenizer.index
    assert index.sid_of("new") == (1, 2, 3) and not index.active[index.rows["ad_1"]]


def test_an_empty_root_says_that_nothing_was_published(published):
    with pytest.raises(PublishedModelError, match="nothing was published there"):
        published.current()


def test_a_save_that_fails_or_lacks_a_file_leaves_the_version_before(published, save):
    published.publish(save, changes=0)

    def broken(folder: Path) -> None:
        save(folder)
        raise OSError("No space left on device")

    def lacking(folder: Path) -> None:
        save(folder)
        (folder / "model.safetensors").unlink()

    with pytest.raises(OSError, match="No space left"):
        published.publish(broken, changes=0)
    with pytest.raises(ValueError, match=r"It lacks: model\.safetensors"):
        published.publish(lacking, changes=0)
    with pytest.raises(ValueError, match=r"`changes` must be in 0\.\.0"):
        published.publish(save, changes=1)
    assert published.current()[0] == 1
    assert [path.name for path in published.versions.iterdir()] == ["000001"]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: (root / "CURRENT").write_text("../1"), "must hold a version's number"),
        (lambda root: (root / "CURRENT").write_text(""), "must hold a version's number"),
        (lambda root: (root / "CURRENT").write_text("9"), "Version 9 .* is not whole"),
        (lambda root: (root / "versions/000002/published.json").write_text('{"version": 2'), "is not whole"),
        (lambda root: (root / "versions/000002/published.json").write_text('{"version": 1}'), "is not whole"),
        (lambda root: (root / "versions/000002/config.json").unlink(), "config.json should have .* no such file"),
        (lambda root: os.truncate(root / "versions/000002/model.safetensors", 1000), "Received: 1000 bytes"),
    ],
)
def test_a_damaged_version_is_refused_and_the_one_before_can_be_served(published, save, damage, message):
    for _ in range(2):
        published.publish(save, changes=0)
    damage(published.root)
    with pytest.raises(PublishedModelError, match=message):
        published.current()
    (published.root / "CURRENT").write_text("1\n")
    assert published.current()[0] == 1
    assert published.publish(save, changes=0) == 3 == published.current()[0]


def test_damage_that_keeps_the_size_is_found_by_reading(published, save):
    published.publish(save, changes=0)
    weights = published.versions / "000001/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    published.current()
    with pytest.raises(PublishedModelError, match="model.safetensors is damaged"):
        published.verify(1)


def test_a_manifest_cannot_name_files_outside_its_folder(published, save):
    published.publish(save, changes=0)
    path = published.versions / "000001/published.json"
    manifest = json.loads(path.read_text())
    manifest["files"]["../../CURRENT"] = {"bytes": 2, "sha256": ""}
    path.write_text(json.dumps(manifest))
    with pytest.raises(PublishedModelError, match="is not whole"):
        published.current()


def test_a_damaged_change_is_named(published):
    for _ in range(3):
        published.append_change(CHANGE)
    (published.changes / "000002.json").write_text('{"op": "add"')
    with pytest.raises(PublishedModelError, match="000002.json is damaged"):
        published.changes_after(0)
    assert [number for number, _ in published.changes_after(2)] == [3]


def test_changes_of_many_writers_have_no_gaps(published):
    def write(name: int) -> None:
        own = PublishedModel(published.root)
        for n in range(20):
            own.append_change(IndexChange("remove", [f"{name}-{n}"]))

    writers = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = published.changes_after(0)
    assert [number for number, _ in found] == list(range(1, 81))
    for name in range(4):
        own = [change.item_ids[0] for _, change in found if change.item_ids[0].startswith(f"{name}-")]
        assert own == [f"{name}-{n}" for n in range(20)]
    assert len(list(published.changes.iterdir())) == 80


def test_prune_keeps_what_a_server_may_still_need(published, save):
    for included in range(5):
        published.publish(save, changes=included)
        published.append_change(CHANGE)
    published.prune(keep=3)
    assert sorted(path.name for path in published.versions.iterdir()) == ["000003", "000004", "000005"]
    assert [number for number, _ in published.changes_after(2)] == [3, 4, 5]
    with pytest.raises(PublishedModelError, match="Change 2 .* was pruned"):
        published.changes_after(1)
    published.publish(save, changes=5)
    published.prune(keep=1)
    assert published.changes_after(5) == [] and published.last_change == 5
    assert published.append_change(CHANGE) == 6
    with pytest.raises(ValueError, match="`keep` must be at least 1"):
        published.prune(keep=0)


def killed_at(place: int, work) -> int:
    """Runs `work` in a process of its own that is killed (SIGKILL) as it begins its call `place` that touches a disk;
    returns what the process ended with."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    calls = 0

    def deadly(plain):
        def wrapped(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == place:
                os.kill(os.getpid(), signal.SIGKILL)
            return plain(*args, **kwargs)

        return wrapped

    for owner, name in (
        (Path, "rename"), (Path, "mkdir"), (os, "replace"), (os, "link"), (os, "fsync"), (Path, "unlink"),
        (shutil, "rmtree"), (Path, "write_text"),
    ):  # fmt: skip
        setattr(owner, name, deadly(getattr(owner, name)))
    try:
        work()
    except BaseException:
        os._exit(1)
    os._exit(0)


def save_small(folder: Path) -> None:
    for name in (*NEEDED_FILES, "model.safetensors"):
        (folder / name).write_bytes(name.encode())


@pytest.mark.parametrize("step", ["publish", "append", "prune"])
def test_killed_at_any_call_the_folder_is_whole(published, step, tmp_path):
    save = save_small
    for _ in range(2):
        published.publish(save, changes=published.last_change)
        published.append_change(CHANGE)
    before = published.current()[0], published.last_change
    ends, place, ended = set(), 0, -1
    while ended != 0:
        place += 1
        root = tmp_path / f"{place}"
        shutil.copytree(published.root, root)
        own = PublishedModel(root)
        work = {
            "publish": lambda: own.publish(save, changes=2),  # noqa: B023 (called at once)
            "append": lambda: own.append_change(IndexChange("remove", ["ad_9"])),  # noqa: B023
            "prune": lambda: own.prune(keep=1),  # noqa: B023
        }[step]
        ended = killed_at(place, work)
        assert ended in (0, signal.SIGKILL)
        number, folder = own.current()
        own.verify(number)
        changes = own.changes_after(own.changes_of(number))
        assert [n for n, _ in changes] == list(range(own.changes_of(number) + 1, own.last_change + 1))
        ends.add((number, own.last_change))
        # Whatever was left half done, the next publisher and the next writer go on.
        assert own.append_change(CHANGE) == own.last_change
        assert own.publish(save, changes=own.last_change) > number
        own.prune(keep=1)
        assert [path.name for path in own.versions.iterdir()] == [own.current()[1].name]
        shutil.rmtree(root)
    after = {"publish": (3, 2), "append": (2, 3), "prune": (2, 2)}[step]
    assert place > 3 and ends == {before, after}
