"""New ads of the catalog stream by their attributes, and what a poison record does to the loop: nothing."""

import datetime
import json
import shutil
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from online_runs import write_records

from gr4ad.online import CatalogChanges, OnlineConfig, OnlineLoop
from gr4ad.serving import PublishedModel, Recommender
from gr4ad.tokenization import UASIDTokenizer
from gr4ad.tokenization.ad_encoder import AdEncoder
from gr4ad.trainers.continual import ContinualConfig


@pytest.fixture
def artifact(encoding_artifact, tmp_path) -> Path:
    shutil.copytree(encoding_artifact, tmp_path / "artifact")
    return tmp_path / "artifact"


def by_attributes(record: dict) -> dict:
    return {"item_id": record["item_id"], "attributes": {name: record[name] for name in record if name != "item_id"}}


def config(tmp_path: Path, artifact: Path, **more) -> OnlineConfig:
    return OnlineConfig(
        out=str(tmp_path / "run"),
        root=str(tmp_path / "live"),
        model=str(artifact),
        catalog=str(tmp_path / "catalog"),
        **{"idle_seconds": 0.01, "poll_seconds": 0.01, "catalog_batch_size": 4, **more},
    )


def test_a_published_version_embeds_ads_as_the_artifact_does(artifact, ad_records, tmp_path):
    """Twelve ads by their attributes; the version that is published afterwards holds encoder and categories."""
    write_records(tmp_path / "catalog/000.jsonl", [by_attributes(ad_records(number)) for number in range(60, 72)])
    encoder = AdEncoder.load(artifact, device="cpu")
    ads = encoder.embed([ad_records(number) for number in range(60, 72)])
    expected = encoder.quantizer.encode(ads.vectors, ads.keys, taken=encoder.tokenizer.index.codes).tolist()
    with OnlineLoop(config(tmp_path, artifact), ContinualConfig()) as loop:
        loop.run()
        index = loop.artifact.tokenizer.index
        assert [list(index.sid_of(item)) for item in ads.item_ids] == expected
        assert loop.state.used == {"catalog": 12} and not loop.state.refused
    shutil.rmtree(artifact)  # all that is needed lies in the version
    _, version = PublishedModel(tmp_path / "live").current()
    published = AdEncoder.load(version, device="cpu")
    assert published.encoding.encoder == "./encoder"
    again = published.embed([ad_records(number) for number in range(60, 72)])
    assert (again.vectors == ads.vectors).all() and again.keys == ads.keys
    server = Recommender.from_pretrained(version)
    server.add_ads([ad_records(90)])
    assert "ad_90" in server.tokenizer.index.rows
    # A second run goes on from the folder, which still embeds.
    write_records(tmp_path / "catalog/001.jsonl", [by_attributes(ad_records(80))])
    with OnlineLoop(config(tmp_path, artifact), ContinualConfig()) as loop:
        loop.run()
        assert "ad_80" in loop.artifact.tokenizer.index.rows
    PublishedModel(tmp_path / "live").verify(1)


def poison() -> list[dict]:
    """Records that are no ads, each for a reason of its own."""
    good = {"title": "red lamp", "brand": "acme", "account_id": "0000001"}
    return [
        {"item_id": "p1", "attributes": {**good, "account_id": 1}},
        {"item_id": "p2", "attributes": {**good, "launched": "2024-01-02"}},
        {"item_id": "p3", "attributes": {**good, "title": None, "brand": None}},
        {"item_id": "p4", "embedding": [10**400] * 19, "business_key": "k"},
        {"item_id": "p5", "embedding": [0.5] * 19, "business_key": {"a": 1}},
        {"item_id": "p6", "attributes": good, "priority": 10**400},
        {"item_id": "p7", "codes": [[1], 2, 3]},
        {"item_id": "p8", "codes": [1, 2, 3], "attributes": {"title": 7}},
        {"item_id": "p9", "codes": [1, 2, 3], "attributes": {"title": {"en": "x"}}},
        {"item_id": "p10", "codes": "abc"},
        {"item_id": "p11", "embedding": {"encoder": [0.5] * 19}, "attributes": good},
        {"item_id": "p12", "attributes": {**good, "title": ["a", "b"]}},
        {"item_id": ["p13"], "attributes": good},
        {"item_id": "p14"},
        {"item_id": "p15", "attributes": {**good, "title": "half \ud800"}},
        {"item_id": "", "attributes": good},
        {"item_id": "x" * 2000, "attributes": good},
    ]


def test_poison_records_are_set_aside_and_counted(artifact, ad_records, tmp_path):
    bad, good = poison(), [by_attributes(ad_records(number)) for number in (60, 61)]
    write_records(tmp_path / "catalog/000.jsonl", [good[0], *bad, good[1]])
    odd = {
        "item_id": ["q1", "q2"],
        "attributes": [
            {"title": "blue soap", "brand": None, "account_id": "0000002", "when": datetime.date(2024, 1, 2)},
            {"title": "blue soap", "brand": None, "account_id": "0000002", "when": None},
        ],
        "priority": [Decimal("1.5"), Decimal("2")],
    }
    pq.write_table(pa.table(odd), tmp_path / "catalog/001.parquet")
    with OnlineLoop(config(tmp_path, artifact), ContinualConfig()) as loop:
        loop.run()
        assert loop.state.used["catalog"] == 3 and loop.state.refused["catalog"] == len(bad) + 1
        index = loop.artifact.tokenizer.index
        assert {"ad_60", "ad_61", "q2"} <= set(index.rows) and len(index) == 63
        assert index.priority[index.rows["q2"]] == 2.0
        lines = [json.loads(line) for line in (tmp_path / "run" / "refused.jsonl").read_text().splitlines()]
    assert len(lines) == len(bad) + 1 and all(line["reason"] and line["record"] for line in lines)
    reasons = {str(line["record"]["item_id"]): line["reason"] for line in lines}
    assert "`account_id` is text in the catalog. Received: 1" in reasons["p1"]
    assert "`when` is no column of the catalog" in reasons["q1"]
    # The checkpoint that holds what was good can be read again.
    [place] = (tmp_path / "run").glob("checkpoint-*")
    assert len(UASIDTokenizer.from_pretrained(place).index) == 63


def test_dates_in_attributes_become_text(tiny_artifact, tmp_path):
    tokenizer = UASIDTokenizer.from_pretrained(tiny_artifact)
    changes = CatalogChanges(tokenizer, tiny_artifact)
    record = {"item_id": "x", "codes": [1, 2, 3], "attributes": {"title": datetime.date(2024, 1, 2)}}
    assert changes.change(record, tokenizer.index).attributes == {"title": ["2024-01-02"]}


def test_the_later_of_two_records_of_one_ad_counts(artifact, ad_records, tmp_path):
    tokenizer = UASIDTokenizer.from_pretrained(artifact)
    changes, published = CatalogChanges(tokenizer, artifact), PublishedModel(tmp_path / "live")
    first, second = by_attributes(ad_records(60)), by_attributes(ad_records(61) | {"item_id": "ad_60"})
    told: list = []
    assert (
        changes.append(published, [first, second, first, second], tokenizer.index, lambda *said: told.append(said))
        == 0
    )
    after = changes.followed(published, tokenizer.index, 0)
    assert after.columns["title"][after.rows["ad_60"]] == ad_records(61)["title"] and not told


def test_an_artifact_that_cannot_embed_refuses_by_name_and_goes_on(tiny_artifact, tmp_path):
    tokenizer = UASIDTokenizer.from_pretrained(tiny_artifact)
    changes, published = CatalogChanges(tokenizer, tiny_artifact), PublishedModel(tmp_path / "live")
    records = [
        {"item_id": "x", "attributes": {"title": "T"}},
        {"item_id": "y", "codes": [1, 2, 3], "attributes": {"title": "T"}},
    ]
    told: list = []
    assert changes.append(published, records, tokenizer.index, lambda error, record: told.append((error, record))) == 1
    [(error, record)] = told
    assert "ad_encoding.json" in str(error) and record == records[0] and published.last_change == 1
