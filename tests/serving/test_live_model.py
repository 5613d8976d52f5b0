import shutil
import threading

import pytest
import torch

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.serving import IndexChange, PublishedModel, Recommender
from gr4ad.serving.live_model import LiveModel
from gr4ad.serving.request_types import ReloadError

HISTORY = [["ad_1", "ad_7"]]
WIDE = {"top_k": 128, "beam_widths": [128] * 3}


def save(recommender: Recommender, folder) -> None:
    for part in (recommender.model, recommender.tokenizer, recommender.weights):
        part.save_pretrained(folder)


def served_ids(live: LiveModel) -> set[str]:
    return {ad.item_id for ad in live.recommender.recommend(HISTORY, **WIDE)[0]}


@pytest.fixture
def root(tiny_artifact, tmp_path):
    published = PublishedModel(tmp_path / "live")
    published.publish(lambda folder: shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True), changes=0)
    return published


def new_ad(name: str, like: Recommender, of: str = "ad_3") -> IndexChange:
    return IndexChange("add", [name], codes=[list(like.tokenizer.index.sid_of(of))])


def test_changes_are_made_again_in_the_weights_that_come_after(tiny_artifact):
    live = LiveModel(tiny_artifact)
    live.change(new_ad("fresh", live.recommender))
    live.change(IndexChange("remove", ["ad_9"]))
    assert (live.served.version, live.served.changes) == (1, 2)
    before = live.recommender
    live.reload()
    assert live.recommender is not before
    assert (live.served.version, live.served.changes) == (2, 2)
    assert "fresh" in served_ids(live) and "ad_9" not in served_ids(live)


def test_a_change_that_is_refused_leaves_all_as_it_was(tiny_artifact, root):
    for live in (LiveModel(tiny_artifact), LiveModel(root.root)):
        before = live.served
        with pytest.raises(ValueError, match="'nobody' is not in the index"):
            live.change(IndexChange("remove", ["nobody"]))
        with pytest.raises(ValueError, match="whose codes are"):
            live.change(IndexChange("add", ["fresh"], codes=[[0, 10_000, 0]]))
        with pytest.raises(ValueError, match=r"at least one|no active item"):
            live.change(IndexChange("remove", live.recommender.tokenizer.index.item_ids.tolist()))
        assert live.served == before
        assert len(served_ids(live)) == 120
    assert root.last_change == 0


def test_changes_from_many_threads_are_all_applied(tiny_artifact, root):
    for live in (LiveModel(tiny_artifact), LiveModel(root.root)):
        errors = []

        def work(number: int, live=live, errors=errors) -> None:
            try:
                live.change(new_ad(f"fresh_{number}", live.recommender))
                if number % 2:
                    live.change(IndexChange("remove", [f"fresh_{number}"]))
            except Exception as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        assert {name for name in served_ids(live) if name.startswith("fresh")} == {
            f"fresh_{n}" for n in range(0, 20, 2)
        }
        assert live.served.changes == 30
    assert root.last_change == 30


def test_servers_of_one_root_see_each_others_changes_and_new_versions(root):
    one, other = LiveModel(root.root), LiveModel(root.root)
    assert not one.follow()
    one.change(new_ad("fresh", one.recommender))
    assert other.follow() and "fresh" in served_ids(other)
    assert not other.follow()
    # A version that includes the change, and one change more that it does not.
    root.publish(lambda folder: save(one.recommender, folder), changes=1)
    root.append_change(IndexChange("remove", ["ad_9"]))
    for live in (one, other):
        before = live.recommender
        assert live.follow()
        assert live.recommender is not before
        assert (live.served.version, live.served.changes) == (2, 2)
        assert "fresh" in served_ids(live) and "ad_9" not in served_ids(live)
    assert served_ids(LiveModel(root.root)) == served_ids(one)


def test_what_is_damaged_is_refused_and_what_is_served_stays(root, tiny_artifact, tmp_path):
    live = LiveModel(root.root)
    before = live.served
    number = root.publish(lambda folder: shutil.copytree(tiny_artifact, folder, dirs_exist_ok=True), changes=0)
    weights = next((root.versions / f"{number:06d}").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ValueError, match="is damaged"):
        live.follow()
    assert live.served == before
    with pytest.raises(ReloadError, match="follows .*leave `model` out"):
        live.reload(tiny_artifact)

    plain = LiveModel(tiny_artifact)
    broken = tmp_path / "broken"
    shutil.copytree(tiny_artifact, broken)
    (broken / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00{}")
    before = plain.served
    for place in (broken, tmp_path / "nowhere"):
        with pytest.raises(ReloadError, match="cannot be served"):
            plain.reload(place)
    assert plain.served == before


def test_weights_that_read_other_requests_are_refused(tiny_artifact, account_artifact, tmp_path):
    live = LiveModel(tiny_artifact)
    rich = Recommender.from_pretrained(tiny_artifact)
    rich.tokenizer.user_features = {"age": ["young"]}
    live = LiveModel("in memory", lambda _: rich)
    with pytest.raises(ReloadError, match="lacks user_features 'age'"):
        LiveModel.reload(Exchanged(live, Recommender.from_pretrained(tiny_artifact)).live)
    assert live.recommender is rich


class Exchanged:
    """A live model whose next load gives another recommender."""

    def __init__(self, live: LiveModel, recommender: Recommender):
        live._load = lambda _: recommender
        self.live = live


DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "garbage": lambda content: bytes(reversed(content)),
    "zeros": lambda content: bytes(len(content)),
    "a list": lambda content: b"[]",
}
FILES = ("config.json", "model.safetensors", "generation_config.json", "tokenizer_config.json", "items.parquet")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_files_are_refused_and_the_old_ones_stay(tiny_artifact, tmp_path, damage):
    live = LiveModel(tiny_artifact)
    before = live.served
    for name in FILES:
        other = tmp_path / name
        shutil.copytree(tiny_artifact, other)
        (other / name).write_bytes(damage((other / name).read_bytes()))
        with pytest.raises(ReloadError, match="cannot be served: .{8}"):
            live.reload(other)
    assert live.served == before
    assert len(served_ids(live)) == 120


def test_weights_that_give_no_numbers_are_refused(tiny_artifact, root, tmp_path):
    broken = Recommender.from_pretrained(tiny_artifact)
    for parameter in broken.model.parameters():
        torch.nn.init.constant_(parameter, torch.nan)
    live = LiveModel(tiny_artifact)
    save(broken, tmp_path / "broken")
    with pytest.raises(ReloadError, match=r"`model\.embed_tokens\.weight` holds 512 weights that are NaN or infinite"):
        live.reload(tmp_path / "broken")
    live = LiveModel(root.root)
    root.publish(lambda folder: save(broken, folder), changes=0)
    with pytest.raises(ReloadError, match=r"`model\.embed_tokens\.weight` holds 512 weights that are NaN or infinite"):
        live.follow()
    assert live.served.version == 1


def test_weights_that_overflow_are_refused(tiny_artifact, tmp_path):
    broken = Recommender.from_pretrained(tiny_artifact)
    with torch.no_grad():
        for head in broken.model.sid_heads:
            head.weight.fill_(3e38)
    save(broken, tmp_path / "broken")
    with pytest.raises(ReloadError, match="may be damaged|fails on a history"):
        LiveModel(tiny_artifact).reload(tmp_path / "broken")


def test_widths_of_another_depth_are_refused(tiny_artifact, tmp_path):
    other = Recommender.from_pretrained(tiny_artifact)
    other.weights = RankingWeights(beam_widths=(8, 16))
    save(other, tmp_path / "other")
    with pytest.raises(ReloadError, match=r"`beam_widths` must hold 3 numbers, one a level. Received: \(8, 16\)"):
        LiveModel(tiny_artifact).reload(tmp_path / "other")
