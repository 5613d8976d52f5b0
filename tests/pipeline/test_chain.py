import json
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from gr4ad import GR4ADForRecommendation, MGMRQuantizer, Recommender, UASIDTokenizer
from gr4ad.cli import main
from gr4ad.data import load_prepared
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe, load_recipe, run_recipe
from gr4ad.tokenization.ad_embedding import AdEmbedder
from gr4ad.tokenization.category_vectors import CategoryVectors, labels_of
from gr4ad.tokenization.embedding_fusion import EmbeddingFusion
from gr4ad.trainers.evaluation import PerUserScores, SequenceTable
from gr4ad.trainers.evaluation.item_similarity import item_similarity
from gr4ad.trainers.evaluation.model_ranking import rank_users
from gr4ad.trainers.rspo import beam_lists

TEMPLATE = Path(__file__).parents[1] / "tiny_recipe.yaml"
STAGES = ["market", "data", "tune", "embed", "tokenize", "train", "neighbours", "align", "evaluate"]


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
    embedding = {"codebooks.safetensors", "embedding_fusion.safetensors", "category_vectors.safetensors", "encoder"}
    embedding |= {"ad_encoding.json", "ad_encoding.safetensors", "ad_neighbours.safetensors"}
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
    assert final["illegal_sids"] == 0 and final["sids_checked"] > 0 and final["illegal_sid_rate"] == 0
    assert list(saved["seconds"]) == STAGES
    # Of two models: the beams alone, the item head, and the item head with its neighbours.
    tried = [(row["item_weight"], row["neighbour_weight"]) for row in saved["validation"]]
    assert tried == [(0.0, 0.0), (1.0, 0.0), (1.0, 0.7)] * 2
    best = max(saved["validation"], key=lambda row: row["recall@10"])
    assert (saved["serving"]["item_weight"], saved["serving"]["neighbour_weight"]) in {
        weights
        for weights, row in zip(tried, saved["validation"], strict=True)
        if row["recall@10"] == best["recall@10"]
    }
    page = (out / "report.html").read_text()
    assert "tiny" in page and "gr4ad run tiny" in (out / "README.md").read_text()
    assert 'id="values"' in page and "This run against" in page and "training events" in page


def test_figures_come_with_intervals_and_paired_differences(run):
    out, metrics = run
    saved = json.loads((out / "metrics.json").read_text())
    kept = PerUserScores.load(out / "per_user.parquet")
    assert kept.facts["final"] == saved["final"] and kept.facts["seed"] == 1 and len(kept.facts["data"]) == 64
    for table in ("test", "test_history_excluded"):
        assert set(kept.scores[table]) == set(saved[table])
        for system, scores in saved[table].items():
            for name, values in kept.scores[table][system].items():
                if name in scores:
                    assert scores[name] == pytest.approx(np.nanmean(values)), (system, name)
                    assert scores[f"{name}_low"] <= scores[name] <= scores[f"{name}_high"], (system, name)
                else:
                    assert np.isnan(values).all()
        others = set(saved[table]) - {saved["final"]}
        assert set(saved["paired"][table]) == others
        for system in others:
            for name, found in saved["paired"][table][system].items():
                difference = saved[table][saved["final"]][name] - saved[table][system][name]
                assert found["difference"] == pytest.approx(difference, abs=1e-12)
                assert found["low"] <= difference + 1e-12 and difference - 1e-12 <= found["high"]
    final = saved["test"][saved["final"]]
    assert {"cold0_targets", "cold5_recall@10", "shared_sid_targets", "shared_sid@10", "coverage@10"} <= set(final)


def test_predicted_values_are_held_against_true_ones(run):
    out, metrics = run
    data = load_prepared(out / "stages" / "data" / "prepared")
    true = np.concatenate(data.test["target_values"])
    assert set(metrics["value_calibration"]) == {"VSL", "VSL + RSPO"} and metrics["values"]["unit"] == "fen eCPM"
    for calibration in metrics["value_calibration"].values():
        held_out = calibration["held_out"]
        assert held_out["pairs"] == len(true) and held_out["mean_true"] == pytest.approx(true.mean())
        assert held_out["ratio"] == pytest.approx(held_out["mean_predicted"] / held_out["mean_true"])
        assert held_out["ratio_low"] <= held_out["ratio"] <= held_out["ratio_high"]
        assert len(held_out["bins"]) == 10 and held_out["ece_relative"] > 0


def evaluate(run: tuple[Path, dict], out: Path, *more: str, data: Path | None = None) -> list[str]:
    stages = run[0] / "stages"
    return [
        "evaluate",
        *("--data", str(data or stages / "data" / "prepared"), "--tokenizer", str(stages / "tokenize")),
        *("--models", str(stages / "train"), "--out", str(out), "--beam_widths", "4", "8", "20"),
        *("--item_weights", "0.5", "--tuning_users", "20", *more),
    ]


def test_the_evaluate_command_prints_writes_and_compares(run, tmp_path, capsys):
    assert main(evaluate(run, tmp_path / "again", "--metric", "recall@10")) == 0
    shown = capsys.readouterr().out
    for text in ("Recall@10", "Value NDCG@10", "item-kNN", "differences on the same users", "ECE", "illegal"):
        assert text in shown, text
    files = {path.relative_to(tmp_path / "again").as_posix() for path in (tmp_path / "again").rglob("*")}
    plots = {"recall_at_10", "ndcg_at_10", "revenue_at_10", "value_ndcg_at_10", "reliability_held_out"}
    assert files >= {"metrics.json", "metrics.md", "per_user.parquet", *(f"plots/{name}.svg" for name in plots)}
    table = (tmp_path / "again" / "metrics.md").read_text()
    assert "| **GR4AD (this run)** |" in table and "Predicted / true" in table and "| item-kNN, tuned |" in table
    assert main(["compare", str(run[0]), str(tmp_path / "again")]) == 0
    assert "again" in capsys.readouterr().out


def test_a_log_without_values_is_measured_without_them(run, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(run[0] / "stages" / "data" / "prepared", data)
    for split in ("train", "validation", "test"):
        table = pq.read_table(data / f"{split}.parquet")
        for column in {"values", "target_values"} & set(table.column_names):
            ones = [[1.0] * len(row) for row in table[column].to_pylist()]
            table = table.set_column(
                table.column_names.index(column), column, pa.array(ones, table.schema.field(column).type)
            )
        pq.write_table(table, data / f"{split}.parquet")
    assert main(evaluate(run, tmp_path / "out", "--metric", "ndcg@10", data=data)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "the log has no values: value metrics are left out" in shown
    assert "NDCG@10" in shown and "Revenue@10" not in shown and "ECE" not in shown
    table = (tmp_path / "out" / "metrics.md").read_text()
    assert "The log has no values" in table and "Revenue" not in table and "Predicted / true" not in table
    saved = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert saved["values"]["logged"] is False and saved["value_calibration"] == {}
    assert not [name for name in saved["paired"]["test"]["item-kNN, tuned"] if name.startswith("revenue")]


def test_what_cannot_be_evaluated_is_refused_in_one_line(run, tmp_path, capsys):
    empty = tmp_path / "empty"
    shutil.copytree(run[0] / "stages" / "data" / "prepared", empty)
    pq.write_table(pq.read_table(empty / "test.parquet").slice(0, 0), empty / "test.parquet")
    capsys.readouterr()
    for arguments, message in (
        (evaluate(run, tmp_path / "x", data=empty), "the test split is empty (0 users)"),
        (evaluate(run, tmp_path / "x", "--metric", "ndcg@7"), "`metric` should be one of recall, hit, ndcg"),
        (evaluate(run, tmp_path / "x", "--models", str(tmp_path)), "holds no trained model"),
        (evaluate(run, tmp_path / "x", "--models", "a", "a"), "`models` should name each folder once"),
    ):
        assert main(arguments) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("gr4ad evaluate: ")]
        assert message in line


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
    proposed = beam_lists(data.train, recommender.model, tokenizer, weights=RankingWeights(), list_size=8)
    for lists in (data.impressions, proposed):
        assert len(lists)
        for row in lists:
            assert len(row["times"]) == len(row["items"])
            assert "user_id" not in row or row["times"] == logs[row["user_id"]][: len(row["items"])]


def test_lists_from_beams_hold_what_the_model_proposes_and_nothing_else(run):
    out, _ = run
    recommender = Recommender.from_pretrained(out)
    data = load_prepared(out / "stages" / "data" / "prepared")
    lists = beam_lists(
        data.train, recommender.model, recommender.tokenizer, weights=RankingWeights(), list_size=8, held_share=0.3
    )
    logs = [row for row in data.train if len(row["items"]) > 1]
    assert len(lists) == len(logs)
    for row, log in zip(lists, logs, strict=True):
        kept = len(row["items"])
        assert row["items"] == log["items"][:kept] and kept < len(log["items"])
        bought: dict[str, float] = {}
        for item, value in zip(log["items"][kept:], log["values"][kept:], strict=True):
            bought[item] = bought.get(item, 0.0) + value
        assert row["rewards"] == [bought.get(item, 0.0) for item in row["candidates"]]
        assert len(set(row["candidates"])) == len(row["candidates"]) == 8
    assert any(any(row["rewards"]) for row in lists)
    proposed = rank_users(recommender.model, recommender.tokenizer, lists, weights=RankingWeights((8, 8, 8)), top_k=8)
    ids = recommender.tokenizer.index.item_ids
    assert lists["candidates"][:] == [[ids[row] for row in line] for line in proposed.items]


def test_a_new_ad_is_embedded_encoded_and_served(run):
    out, _ = run
    recommender = Recommender.from_pretrained(out)
    tokenizer = recommender.tokenizer
    known = tokenizer.index.item_ids[0]
    new = Dataset.from_dict(
        {"item_id": ["new_ad"], "title": tokenizer.index.columns["title"][:1], "category": ["shoes"]}
    )
    content, _ = AdEmbedder(str(out / "encoder"), ["title", "category"]).embed(new, progress=False)
    categories = CategoryVectors.load(out / "category_vectors.safetensors").transform(labels_of([["shoes"], [None]]))
    assert categories.shape == (1, 4)
    vectors = EmbeddingFusion.load(out / "embedding_fusion.safetensors").transform(np.hstack([content, categories]))
    quantizer = MGMRQuantizer.load(tokenizer.codebooks_file, tokenizer.codebook_sizes)
    codes = quantizer.encode(vectors, ["account_00|new_ad"], taken=tokenizer.index.codes)
    assert tuple(codes[0]) not in {tuple(sid) for sid in tokenizer.index.codes}
    # The same by what the artifact says of itself.
    record = {**new[0], "account_id": "account_00"}
    ads = recommender.ad_encoder.embed([record])
    np.testing.assert_allclose(ads.vectors, vectors, atol=1e-6)
    assert ads.keys == ["account_00|new_ad"]
    np.testing.assert_array_equal(recommender.ad_encoder.codes(ads, tokenizer.index), codes)
    recommender.add_ads(["new_ad"], codes, attributes={"title": ["A new ad"]})
    [ads] = recommender.recommend([["new_ad", str(known)]], top_k=32, beam_widths=[8, 64, 200], exclude_history=False)
    assert recommender.tokenizer.decode_items(recommender.tokenizer.encode_items(["new_ad"])) == [["new_ad"]]
    assert len(ads) == 32
    [ads] = recommender.recommend([[str(known)]], top_k=121, beam_widths=[8, 64, 200])
    assert {"new_ad", str(known)} <= {ad.item_id for ad in ads}  # with beams as wide as the catalog


def test_the_artifact_holds_the_neighbours_of_the_training_log(run):
    out, _ = run
    tokenizer, model = UASIDTokenizer.from_pretrained(out), GR4ADForRecommendation.from_pretrained(out)
    assert (model.config.num_item_neighbours, model.config.neighbour_decay) == (5, 0.8)
    train = SequenceTable.from_dataset(
        load_prepared(out / "stages" / "data" / "prepared").train, tokenizer.index.item_ids
    )
    settings = {"shrinkage": 30.0, "distance_decay": 0.8, "backward": 0.25}
    expected = item_similarity(train.history, len(train.item_ids), neighbours=5, **settings).toarray()
    table = model.item_neighbours
    assert not table.similarity[0].any() and (table.similarity > 0).any()
    for row in range(1, len(table.items)):
        found = table.similarity[row][table.similarity[row] > 0]
        np.testing.assert_allclose(found.sort().values, np.sort(expected[row - 1][expected[row - 1] > 0]), rtol=1e-6)
        # Of equally similar items others may be kept: ties follow the ids here, and the catalog's rows there.
        for item, similar in zip(table.items[row].tolist(), table.similarity[row].tolist(), strict=True):
            if similar and similar > found.min():
                assert expected[row - 1, item - 1] == pytest.approx(similar)


def test_the_neighbours_command_replaces_the_table(run, tmp_path, capsys):
    stages = run[0] / "stages"
    folders = ["--data", f"{stages}/data/prepared", "--tokenizer", f"{stages}/tokenize"]
    command = ["neighbours", *folders, "--out", str(tmp_path)]
    assert main([*command, "--model", f"{stages}/train", "--neighbours", "3", "--decay", "0.5"]) == 0
    model = GR4ADForRecommendation.from_pretrained(tmp_path / "model")
    assert (model.config.num_item_neighbours, model.config.neighbour_decay) == (3, 0.5)
    summary = json.loads((tmp_path / "stage.json").read_text())["summary"]
    assert 0 < summary["neighbours"] <= 3 and summary["items_with_neighbours"] > 0
    assert main([*command, "--model", f"{stages}/train", "--decay", "1.5"]) == 2
    assert "`decay` should be above 0 and at most 1 (no decay). Received: 1.5" in capsys.readouterr().err


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
