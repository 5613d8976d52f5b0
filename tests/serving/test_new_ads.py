import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastapi.testclient import TestClient

from gr4ad.cli import main
from gr4ad.online import CatalogChanges
from gr4ad.serving import IndexChange, PublishedModel, Recommender
from gr4ad.serving.http_server import create_app
from gr4ad.serving.live_model import LiveModel
from gr4ad.serving.new_ads import AdRecords
from gr4ad.serving.server_config import ServerConfig
from gr4ad.tokenization.ad_encoder import AdEncoder

TOKEN = "a token of enough characters"
ADMIN = {"authorization": f"Bearer {TOKEN}"}
NEW = range(60, 75)


@pytest.fixture
def artifact(encoding_artifact, tmp_path) -> Path:
    shutil.copytree(encoding_artifact, tmp_path / "artifact")
    return tmp_path / "artifact"


@pytest.fixture
def expected(encoding_artifact, ad_records) -> dict[str, list[int]]:
    """The codes of the new ads, by the quantizer itself."""
    encoder = AdEncoder.load(encoding_artifact, device="cpu")
    ads = encoder.embed([ad_records(number) for number in NEW])
    codes = encoder.quantizer.encode(ads.vectors, ads.keys, taken=encoder.tokenizer.index.codes)
    return dict(zip(ads.item_ids, codes.tolist(), strict=True))


def codes_of(recommender: Recommender, ids) -> dict[str, list[int]]:
    return {item: list(recommender.tokenizer.index.sid_of(item)) for item in ids}


def test_records_are_added_in_python(artifact, ad_records, expected):
    recommender = Recommender.from_pretrained(artifact)
    recommender.add_ads([ad_records(number) for number in NEW])
    assert codes_of(recommender, expected) == expected
    index = recommender.tokenizer.index
    assert index.columns["account_id"][index.rows["ad_63"]] == "0000003"
    assert index.columns["title"][index.rows["ad_63"]] == ad_records(63)["title"]
    assert set(index.columns) == {"title", "account_id"}
    ranked = recommender.recommend([["ad_63"]], top_k=64)[0]
    assert {ad.item_id for ad in ranked} & set(expected)
    # The same again changes nothing, and a changed title stays where it is if its codes do.
    version = index.version
    recommender.add_ads(ad_records(number) for number in NEW)
    assert recommender.tokenizer.index.version == version


@pytest.fixture
def many(artifact, ad_records) -> Recommender:
    """130 ads, of which 70 are new."""
    recommender = Recommender.from_pretrained(artifact)
    recommender.add_ads([ad_records(number) for number in range(60, 130)])
    return recommender


def scores_of(recommender: Recommender, history, **options) -> dict[str, float]:
    [ranked] = recommender.recommend([history], **options)
    return {ad.item_id: ad.score for ad in ranked}


@pytest.mark.parametrize(
    "lists",
    [
        {"allow_items": [f"ad_{n}" for n in range(60, 130)]},
        {"allow_items": ["ad_1", "ad_2", "ad_61", "ad_62", "ad_129"]},
        {"block_items": [f"ad_{n}" for n in range(40)]},
        {"max_per_account": 3},
        {"max_per_account": 2, "allow_items": [f"ad_{n}" for n in range(50, 130)]},
    ],
    ids=["new alone", "few", "most others blocked", "accounts", "accounts of new ones"],
)
def test_lists_do_not_change_what_new_ads_score(many, lists):
    """Although their place is told from the other ads of the request, of which lists leave few or none."""
    for history in (["ad_63"], ["ad_3", "ad_7", "ad_90"]):
        free, found = scores_of(many, history, top_k=64), scores_of(many, history, top_k=64, **lists)
        shared = sorted(free.keys() & found.keys())
        assert any(int(item[3:]) >= 60 for item in shared)
        assert [found[item] for item in shared] == pytest.approx([free[item] for item in shared], abs=1e-4)
        assert list(found.values()) == sorted(found.values(), reverse=True)


def test_a_bad_record_leaves_everything_as_it_was(artifact, ad_records):
    recommender = Recommender.from_pretrained(artifact)
    trie = recommender.trie
    for records, message in (
        ([ad_records(60), ad_records(61) | {"account_id": 1}], "`account_id` is text in the catalog. Received: 1"),
        ([ad_records(60) | {"colour": "red"}], "`colour` is no column of the catalog"),
        ([{"item_id": "x"}], "needs a `business_key`, or 'account_id'"),
        ([], "must be a list of records"),
        (["ad_60"], r"must be a list of records, e.g. \[{\"item_id\""),
        (60, "must be a list of records.*Received: 60"),
        (pd.DataFrame([ad_records(60)]), r"or frame.to_dict\(\"records\"\) of a data frame"),
    ):
        with pytest.raises(ValueError, match=message):
            recommender.add_ads(records)
    with pytest.raises(ValueError, match="`priority` stands in the records"):
        recommender.add_ads([ad_records(60)], priority=[1.0])
    assert recommender.trie is trie
    by_hand = Recommender(recommender.model, recommender.tokenizer, recommender.weights)
    with pytest.raises(ValueError, match="was not loaded from an artifact"):
        by_hand.add_ads([ad_records(60)])


def test_an_artifact_of_an_earlier_version_says_so(tiny_artifact):
    with pytest.raises(ValueError, match="has no ad_encoding.json: an earlier version built it"):
        Recommender.from_pretrained(tiny_artifact).add_ads([{"item_id": "x", "title": "y", "business_key": "k"}])


def test_attributes_over_http_instead_of_codes(artifact, ad_records, expected, monkeypatch):
    live = LiveModel(artifact)
    records = [ad_records(number) for number in NEW]
    columns = {name: [record[name] for record in records] for name in ("title", "brand", "account_id")}
    body = {"op": "add", "item_ids": list(expected), "attributes": columns}
    monkeypatch.setenv("GR4AD_ADMIN_TOKEN", TOKEN)
    with TestClient(create_app(live, ServerConfig())) as client:
        answer = client.post("/v1/index", headers=ADMIN, json=body)
        assert answer.raise_for_status().json()["ads"] == 60 + len(NEW)
        assert codes_of(live.recommender, expected) == expected
        for change, field, message in (
            ({"attributes": columns | {"brand": ["zen"]}}, None, "`attributes.brand` needs one value an ad, 15"),
            ({"attributes": {"title": columns["title"]}}, "account_id", "Ad 'ad_60': The last level is hashed"),
            ({"attributes": columns | {"title": [7] * 15}}, "title", "`title` is text in the catalog. Received: 7"),
            ({"attributes": columns | {"\ud800": [""] * 15}}, "\\ud800", "`\\ud800` is no column of the catalog"),
            ({"attributes": columns | {"priority": [1] * 15}}, None, "'priority', which has a field of its own"),
            ({"codes": [[0, 0, 0]] * 15, "embeddings": [None] * 15}, None, "`embeddings` is for ads that are added"),
            ({"embeddings": [[1.0]] * 15}, "embedding", "`embedding` must be of 19 numbers (the whole content) or 16"),
        ):
            content = json.dumps({**body, **change})  # half of a surrogate pair cannot be sent in UTF-8
            refused = client.post("/v1/index", headers=ADMIN | {"content-type": "application/json"}, content=content)
            assert refused.status_code == 422, refused.text
            assert message in refused.json()["detail"] and refused.json()["field"] == field
        reloaded = client.post("/v1/reload", headers=ADMIN)
        assert reloaded.raise_for_status().json()["ads"] == 60 + len(NEW)
    assert codes_of(live.recommender, expected) == expected


def published_at(root: Path, artifact: Path) -> PublishedModel:
    published = PublishedModel(root)
    published.publish(lambda folder: shutil.copytree(artifact, folder, dirs_exist_ok=True), changes=0)
    return published


def test_a_published_model_gets_the_codes(artifact, ad_records, expected, tmp_path):
    published = published_at(tmp_path / "live", artifact)
    one, other = LiveModel(tmp_path / "live"), LiveModel(tmp_path / "live")
    one.change(AdRecords([ad_records(number) for number in NEW]))
    [(number, change)] = published.changes_after(0)
    assert number == 1 and dict(zip(change.item_ids, change.codes, strict=True)) == expected
    assert other.follow() and codes_of(other.recommender, expected) == expected
    with pytest.raises(ValueError, match="`title` is text"):
        one.change(AdRecords([ad_records(80) | {"title": 3}]))
    assert published.last_change == 1


def test_the_catalog_stream_gives_the_same_codes(artifact, ad_records, expected):
    recommender = Recommender.from_pretrained(artifact)
    changes = CatalogChanges(recommender.tokenizer, artifact)
    index = recommender.tokenizer.index.snapshot()
    for number in NEW:
        record = ad_records(number)
        change = changes.change({"item_id": record.pop("item_id"), "attributes": record}, index)
        assert change.codes == [expected[change.item_ids[0]]]
        change.apply_to(index)


def test_vllm_workers_take_records(artifact, ad_records, expected):
    pytest.importorskip("vllm")
    from gr4ad.serving.vllm_backend.worker_extension import GR4ADWorkerExtension

    live = LiveModel(artifact)
    worker = GR4ADWorkerExtension()
    worker.gr4ad_live_model = lambda: live
    worker.gr4ad_administer("change_ads", {"records": [ad_records(number) for number in NEW]})
    assert codes_of(live.recommender, expected) == expected
    refused = worker.gr4ad_administer("change_ads", {"records": [{"item_id": 3}]})
    assert refused["status"] == 422 and "`item_id` must be a string" in refused["detail"]


def add(*words) -> int:
    return main(["add", *map(str, words)])


def written(folder: Path, records: list[dict]) -> Path:
    path = folder / "new.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_the_command_adds_to_a_folder(artifact, ad_records, expected, tmp_path, capsys):
    records = [ad_records(number) | {"colour": "red"} for number in NEW]
    bad = {**ad_records(90), "title": None, "brand": None, "colour": None}
    file = written(tmp_path, [*records, bad])
    before = {path.name for path in artifact.iterdir()}
    assert add("--model", artifact, "--ads", file, "--rejected", tmp_path / "bad.jsonl", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == 16 and told["columns_left_out"] == ["colour"] and list(told["added"]) == list(expected)
    assert [refused["row"] for refused in told["refused"]] == [15]
    [line] = (tmp_path / "bad.jsonl").read_text().splitlines()
    assert json.loads(line)["record"]["item_id"] == "ad_90" and "says nothing" in json.loads(line)["reason"]
    assert {path.name for path in artifact.iterdir()} == before
    saved = Recommender.from_pretrained(artifact)
    assert codes_of(saved, expected) == expected and saved.model.config.num_items == 76
    live = Recommender.from_pretrained(artifact.parent / "artifact")
    np.testing.assert_array_equal(live.model.item_table.detach(), saved.model.item_table.detach())
    assert add("--model", artifact, "--ads", file) == 0
    assert "ads added or changed: 0, as they were: 15, left out: 1" in capsys.readouterr().out


@pytest.mark.parametrize("packed", [False, True])
def test_one_bad_value_of_json_lines_is_set_aside_and_the_others_are_added(
    artifact, ad_records, expected, tmp_path, capsys, packed
):
    """A title that was a number refused the whole file."""
    records = [ad_records(number) for number in NEW]
    wrong = [{**ad_records(91), "title": 7}, {**ad_records(92), "brand": {"name": "acme"}}]
    lines = [json.dumps({"sku": record.pop("item_id"), **record}) for record in [*records, *wrong]]
    lines[5:5] = ["{not json", "[1]", ""]
    file = tmp_path / ("new.jsonl.gz" if packed else "new.jsonl")
    content = "\n".join(lines).encode("utf-8-sig")
    file.write_bytes(gzip.compress(content) if packed else content)
    words = ["--columns", '{"item_id": "sku"}', "--rejected", tmp_path / "bad.jsonl", "--json"]
    assert add("--model", artifact, "--ads", file, *words) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["added"]) == list(expected) and told["rows"] == 19
    assert [(one["row"], one["item_id"]) for one in told["refused"]] == [
        (5, None), (6, None), (17, "ad_91"), (18, "ad_92"),
    ]  # fmt: skip
    for one, reason in zip(told["refused"], ("not JSON", "not a JSON object", "`title` is text", "`brand` is text"),
                           strict=True):  # fmt: skip
        assert reason in one["reason"]
    assert len((tmp_path / "bad.jsonl").read_text().splitlines()) == 4
    assert codes_of(Recommender.from_pretrained(artifact), expected) == expected
    file.write_bytes(b"{\n[1]\n" if not packed else gzip.compress(b"{\n[1]\n"))  # no line is a record
    assert add("--model", artifact, "--ads", file) == 2
    assert "is not json" in capsys.readouterr().err


def test_the_command_ranks_as_the_running_recommender_does(artifact, ad_records, tmp_path):
    running = Recommender.from_pretrained(artifact)
    running.add_ads([ad_records(number) for number in NEW])
    assert add("--model", artifact, "--ads", written(tmp_path, [ad_records(number) for number in NEW])) == 0
    asked = [["ad_3", "ad_61"], ["ad_10"]]
    assert Recommender.from_pretrained(artifact).recommend(asked) == running.recommend(asked)


def test_the_command_adds_to_a_published_model(artifact, ad_records, expected, tmp_path, capsys):
    published = published_at(tmp_path / "live", artifact)
    published.append_change(IndexChange("remove", ["ad_3"]))
    server = LiveModel(tmp_path / "live")
    assert add("--model", tmp_path / "live", "--ads", written(tmp_path, [ad_records(number) for number in NEW])) == 0
    assert "ads added or changed: 15" in capsys.readouterr().out and published.last_change == 2
    server.follow()
    assert set(expected) <= set(server.recommender.tokenizer.index.rows)


@pytest.mark.parametrize(
    ("records", "words", "message"),
    [
        ([{"item_id": "x", "title": "y"}], [], "none of its 1 rows is an ad. The first: The last level is hashed"),
        ([{"sku": "x"}], [], "no column `item_id`"),
        ([{"item_id": "x"}], ["--columns", "{"], "`--columns` must be JSON"),
        ([{"item_id": "x"}], ["--columns", "[]"], "`--columns` must map names to names"),
    ],
)
def test_the_command_refuses_in_one_line(artifact, tmp_path, capsys, records, words, message):
    assert add("--model", artifact, "--ads", written(tmp_path, records), *words) == 2
    assert message in capsys.readouterr().err
    assert add("--model", tmp_path, "--ads", written(tmp_path, records), *words) == 2


def test_a_new_ad_starts_from_its_peers_on_every_server(artifact, ad_records, tmp_path):
    published_at(tmp_path / "live", artifact)
    one, other = LiveModel(tmp_path / "live"), LiveModel(tmp_path / "live")
    model, index = one.recommender.model, one.recommender.tokenizer.index
    table, bias = model.item_table.detach().clone(), model.item_head.bias.detach().clone()
    ads = one.recommender.ad_encoder.embed([ad_records(60)])
    [peers] = one.recommender.ad_encoder.peers(ads, index)
    rows = [index.rows[item] + 1 for item in peers]
    said = one.recommender.ad_encoder.neighbours.vectors
    events = index.priority + 1.0
    popular = float(events[[row - 1 for row in rows]].mean())
    share = min(0.05, 0.5 * popular / (float(events.sum()) + popular))
    one.change(AdRecords([ad_records(60)]))
    mean = table[rows].mean(0)
    expected = mean / mean.norm() * table[rows].norm(dim=1).mean()
    for live in (one, other):
        live.follow()
        torch.testing.assert_close(live.recommender.model.item_table[61], expected)
        torch.testing.assert_close(live.recommender.model.item_head.bias[61], bias[rows].exp().mean().log())
        new = live.recommender.model.new_items
        direction = new.contents[rows].float().mean(0)
        assert new.first == 60 and torch.equal(new.contents[1:61], torch.from_numpy(said))
        torch.testing.assert_close(new.contents[61].float(), direction / direction.norm(), atol=1e-3, rtol=0)
        assert float(new.share) == pytest.approx(share)
    # What was changed over HTTP is changed again in the weights that come after, peers included.
    here = LiveModel(artifact)
    here.change(AdRecords([ad_records(60)]))
    here.reload()
    torch.testing.assert_close(here.recommender.model.item_table[61], expected)


def test_a_csv_gives_the_same_codes_as_its_records(artifact, ad_records, expected, tmp_path, capsys):
    """Zeros of business keys, other names of columns, and a line without an id."""
    lines = ["sku,title,brand,account_id"]
    for record in (ad_records(number) for number in NEW):
        lines.append(",".join(record[name] for name in ("item_id", "title", "brand", "account_id")))
    file = tmp_path / "new.csv"
    file.write_text("\n".join([*lines, ",no id,acme,0000001"]) + "\n")
    assert add("--model", artifact, "--ads", file) == 2
    assert """`--columns '{"item_id": "YOUR NAME"}'`""" in capsys.readouterr().err
    assert add("--model", artifact, "--ads", file, "--columns", '{"item_id": "sku"}') == 0
    assert "rows: 16; ads added or changed: 15, as they were: 0, left out: 1" in capsys.readouterr().out
    assert codes_of(Recommender.from_pretrained(artifact), expected) == expected
