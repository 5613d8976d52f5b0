import json
import logging
from collections import Counter
from pathlib import Path

import pytest
from datasets import Dataset

from gr4ad import MGMRQuantizer, Recommender
from gr4ad.data import load_prepared
from gr4ad.pipeline import Recipe, load_recipe, run_recipe
from gr4ad.pipeline.settings import ListConfig
from gr4ad.pipeline.training import beam_lists, impression_lists
from gr4ad.tokenization.ad_embedding import AdEmbedder
from gr4ad.tokenization.embedding_fusion import EmbeddingFusion

TEMPLATE = Path(__file__).with_name("tiny_recipe.yaml")
STAGES = ["market", "data", "tune", "embed", "tokenize", "train", "align", "evaluate"]


def recipe(folder: Path, encoder: Path, align_rate: float = 1e-3) -> Recipe:
    path = folder / "tiny.yaml"
    path.write_text(TEMPLATE.read_text().format(encoder=encoder, align_rate=align_rate))
    return load_recipe(path)


@pytest.fixture(scope="module")
def run(tiny_encoder, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("chain")
    return folder / "out", run_recipe(recipe(folder, tiny_encoder), folder / "out", command="gr4ad run tiny")


def test_the_artifact_is_whole(run):
    out, metrics = run
    files = {path.name for path in out.iterdir()}
    code = {
        "configuration_gr4ad.py",
        "modeling_gr4ad.py",
        "generation_gr4ad.py",
        "trie_gr4ad.py",
        "tokenization_ua_sid.py",
    }
    data = {"config.json", "model.safetensors", "generation_config.json", "tokenizer_config.json", "items.parquet"}
    embedding = {"codebooks.safetensors", "embedding_fusion.safetensors", "encoder"}
    assert files >= code | data | embedding | {"README.md", "report.html", "metrics.json", "stages"}
    assert not [name for name in files if name.endswith(".tmp") or name == ".artifact"]
    saved = json.loads((out / "metrics.json").read_text())
    assert set(saved) >= {"final", "metric", "serving", "users", "item_knn", "validation", "test"}
    assert set(saved) >= {"test_history_excluded", "sid_quality", "seconds", "sample_history"}
    assert saved["final"] in ("VSL", "VSL + RSPO") and saved["final"] == metrics["final"]
    assert {"VSL", "VSL + RSPO", "popularity by count", "item-kNN, tuned"} <= set(saved["test"])
    for table in ("test", "test_history_excluded"):
        for system, scores in saved[table].items():
            assert 0 <= scores["recall@10"] <= 1 and scores["recall@10_se"] >= 0, system
    final = saved["test"][saved["final"]]
    assert final["illegal_sids"] == 0 and final["sids_checked"] > 0
    assert list(saved["seconds"]) == STAGES
    assert len(saved["validation"]) == 4  # two models, two item weights
    best = max(saved["validation"], key=lambda row: row["recall@10"])
    assert saved["serving"]["item_weight"] in {
        row["item_weight"] for row in saved["validation"] if row["recall@10"] == best["recall@10"]
    }
    assert "tiny" in (out / "report.html").read_text() and "gr4ad run tiny" in (out / "README.md").read_text()


def test_the_artifact_recommends(run):
    out, metrics = run
    recommender = Recommender.from_pretrained(out)
    history = json.loads((out / "metrics.json").read_text())["sample_history"]
    [ads] = recommender.recommend([history], top_k=5)
    assert len(ads) == 5 and all(ad.item_id in recommender.tokenizer.index.rows for ad in ads)
    assert all(ad.attributes["title"] for ad in ads)
    assert recommender.beam_widths == metrics["serving"]["beam_widths"] == [4, 16, 32]
    everything = {"top_k": 120, "beam_widths": [8, 64, 200]}
    [few] = recommender.recommend([history], max_per_account=2, **everything)
    accounts = Counter(ad.attributes["account_id"] for ad in few)
    assert set(accounts.values()) == {2} and len(accounts) == 12


def test_times_are_part_of_the_model_from_the_log_to_the_answer(run):
    out, _ = run
    recommender = Recommender.from_pretrained(out)
    assert recommender.model.config.num_time_buckets == recommender.tokenizer.num_time_buckets == 20
    history = json.loads((out / "metrics.json").read_text())["sample_history"][-2:]
    [near], [far] = (recommender.recommend([history], times=[[0, gap]]) for gap in (1, 1e6))
    assert [ad.score for ad in near] != pytest.approx([ad.score for ad in far], abs=1e-6)

    data = load_prepared(out / "stages" / "data" / "prepared")
    tokenizer = recommender.tokenizer
    logs = dict(zip(data.train["user_id"], data.train["times"], strict=True))
    for lists in (impression_lists(data), beam_lists(data, recommender.model, tokenizer, ListConfig(list_size=8))):
        assert len(lists)
        for row in lists:
            assert len(row["times"]) == len(row["items"])
            assert "user_id" not in row or row["times"] == logs[row["user_id"]][: len(row["items"])]


def test_a_new_ad_is_embedded_encoded_and_served(run):
    out, _ = run
    recommender = Recommender.from_pretrained(out)
    tokenizer = recommender.tokenizer
    known = tokenizer.index.item_ids[0]
    new = Dataset.from_dict(
        {"item_id": ["new_ad"], "title": tokenizer.index.columns["title"][:1], "category": ["shoes"]}
    )
    content, _ = AdEmbedder(str(out / "encoder"), ["title", "category"]).embed(new, progress=False)
    vectors = EmbeddingFusion.load(out / "embedding_fusion.safetensors").transform(content)
    quantizer = MGMRQuantizer.load(tokenizer.codebooks_file, tokenizer.codebook_sizes)
    codes = quantizer.encode(vectors, ["account_00|new_ad"], taken=tokenizer.index.codes)
    assert tuple(codes[0]) not in {tuple(sid) for sid in tokenizer.index.codes}
    recommender.add_ads(["new_ad"], codes, attributes={"title": ["A new ad"]})
    [ads] = recommender.recommend([["new_ad", str(known)]], top_k=32, beam_widths=[8, 64, 200], exclude_history=False)
    assert recommender.tokenizer.decode_items(recommender.tokenizer.encode_items(["new_ad"])) == [["new_ad"]]
    assert len(ads) == 32
    [ads] = recommender.recommend([[str(known)]], top_k=121, beam_widths=[8, 64, 200])
    assert {"new_ad", str(known)} <= {ad.item_id for ad in ads}  # with beams as wide as the catalog


def test_a_second_run_keeps_and_a_change_reruns_what_follows(run, tiny_encoder, caplog):
    out, metrics = run

    def states(align_rate: float) -> dict[str, str]:
        caplog.clear()
        with caplog.at_level(logging.INFO, logger="gr4ad.pipeline.runner"):
            again = run_recipe(recipe(out.parent, tiny_encoder, align_rate), out)
        assert set(again) == set(metrics)
        lines = [record.getMessage() for record in caplog.records if record.name == "gr4ad.pipeline.runner"]
        return {stage: line.split(": ")[1].split(" ")[0] for line in lines for stage in [line.split(":")[0]]}

    assert states(1e-3) == dict.fromkeys(STAGES, "kept")
    changed = states(2e-3)
    kept = STAGES[: STAGES.index("align")]
    assert changed == {**dict.fromkeys(kept, "kept"), "align": "finished", "evaluate": "finished"}
