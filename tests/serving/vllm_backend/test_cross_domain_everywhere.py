"""What users did elsewhere, from a log to every place that ranks: recipe, training, HTTP, vLLM, online."""

import json

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient
from safetensors.torch import load_file

from gr4ad import GR4ADForRecommendation, Recommender
from gr4ad.data import load_prepared
from gr4ad.online import OnlineConfig, OnlineLoop
from gr4ad.pipeline import load_recipe, run_recipe
from gr4ad.serving import ServerConfig, create_app, load_recommender
from gr4ad.serving.published_model import PublishedModel
from gr4ad.trainers.continual import ContinualConfig

pytestmark = pytest.mark.needs_vllm

TABLE = "model.context_processor.cross_domain_embeddings.weight"
RECIPE = """
data: {{split: leave_one_out, cross_domain: videos.parquet, cross_domain_columns: {{item_id: video}}}}
embed: {{encoder: {encoder}, text_columns: [title]}}
cooccurrence: {{epochs: 1, dimension: 8, batch_size: 32}}
tokenize: {{codebook_sizes: ["8", "8", "8*"], num_value_buckets: 4, num_time_buckets: 8, num_cross_domain_items: 64}}
model: {{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 2, num_parallel_layers: 1, num_attention_heads: 2,
  max_context_items: 8, max_cross_domain_items: 4}}
train: {{num_train_epochs: 2, per_device_train_batch_size: 32, save_strategy: "no", learning_rate: 0.01}}
evaluate: {{beam_widths: [4, 16, 32], item_weights: [0.5], tuning_users: 40}}
"""


def write_log(folder):
    """Users who watch video n just before they take ad n."""
    rng = np.random.default_rng(0)
    events, videos = [], []
    for user in range(120):
        for visit in range(int(rng.integers(4, 8))):
            ad, moment = int(rng.integers(60)), 1_700_000_000 + 86_400 * visit + user
            videos.append((f"user_{user}", f"video_{ad}", moment - 60))
            events.append((f"user_{user}", f"ad_{ad}", moment, float(rng.integers(1, 9))))
    folder.mkdir()
    pd.DataFrame({"item_id": [f"ad_{n}" for n in range(60)], "title": [f"thing {n}" for n in range(60)]}).to_parquet(
        folder / "catalog.parquet"
    )
    pd.DataFrame(events, columns=["user_id", "item_id", "timestamp", "value"]).to_parquet(folder / "events.parquet")
    pd.DataFrame(videos, columns=["user_id", "video", "timestamp"]).to_parquet(folder / "videos.parquet")


def ask_vllm(artifact: str, histories: list, columns: dict) -> list:
    recommender = load_recommender(artifact, backend="vllm", max_num_seqs=16)
    return [[(ad.item_id, ad.score) for ad in ads] for ads in recommender.recommend(histories, **columns)]


def pairs(answer: dict) -> list:
    return [(ad["item_id"], ad["score"]) for ad in answer["recommendations"]]


def test_cross_domain_from_the_log_to_every_place_that_ranks(tiny_encoder, tmp_path, engine_process):
    write_log(tmp_path / "shop")
    (tmp_path / "videos.yaml").write_text(RECIPE.format(encoder=tiny_encoder))
    out = tmp_path / "out"
    run_recipe(load_recipe(tmp_path / "videos.yaml", data_root=tmp_path / "shop"), out)

    # data: what came before the targets, no more
    test = load_prepared(out / "stages" / "data" / "prepared").test
    for row in test:
        [target] = row["target_items"]
        watched = [item.replace("ad", "video") for item in (*row["items"], target)]
        assert row["cross_domain"] == watched and row["cross_domain_times"][-2] < row["times"][-1]

    # training: the videos that users watched have moved away from their start, which is the same for all
    model = GR4ADForRecommendation.from_pretrained(out)
    rows = test[:3]
    history = {name: rows[name] for name in ("items", "events", "values", "times", "cross_domain")}
    recommender = Recommender.from_pretrained(out)
    seen = recommender.tokenizer.cross_domain_indices([entry for part in rows["cross_domain"] for entry in part])
    table = model.state_dict()[TABLE]
    assert table[seen].norm(dim=1).min() > 3 * model.config.initializer_range

    # torch
    names = [name for name in ("values", "times", "cross_domain") if name in history]
    columns = {name: history[name] for name in names}
    expected = [[(ad.item_id, ad.score) for ad in ads] for ads in recommender.recommend(history["items"], **columns)]
    blind = recommender.recommend(history["items"], **{**columns, "cross_domain": None})
    assert expected != [[(ad.item_id, ad.score) for ad in ads] for ads in blind]

    # HTTP and Open Inference
    bodies = [
        {"history": history["items"][user], **{name: columns[name][user] for name in columns}} for user in range(3)
    ]
    with TestClient(create_app(recommender, ServerConfig(max_batch=4))) as client:
        answers = client.post("/v1/recommend", json={"requests": bodies}).json()["responses"]
        user = min(range(3), key=lambda place: len(history["items"][place]))
        tensors = [
            {"name": "history", "datatype": "BYTES", "data": history["items"][user]},
            {"name": "values", "datatype": "FP32", "data": columns["values"][user]},
            {"name": "times", "datatype": "FP64", "data": columns["times"][user]},
            {"name": "cross_domain", "datatype": "BYTES", "data": columns["cross_domain"][user]},
        ]
        for tensor in tensors:
            tensor["shape"] = [1, len(tensor["data"])]
        inferred = client.post(f"/v2/models/{recommender.name}/infer", json={"inputs": tensors}).json()
    for answer, ranked in zip(answers, expected, strict=True):
        same_ranking(pairs(answer), ranked)
    outputs = {output["name"]: output["data"] for output in inferred["outputs"]}
    same_ranking(list(zip(outputs["item_id"], outputs["score"], strict=True)), expected[user])

    # vLLM
    for got, ranked in zip(engine_process(ask_vllm, str(out), history["items"], columns), expected, strict=True):
        same_ranking(got, ranked)

    # online: a step of learning from what users did elsewhere moves these very entries
    log = tmp_path / "logs" / "vsl"
    log.mkdir(parents=True)
    records = [
        {
            "items": ["ad_1", "ad_2"], "values": [1.0, 2.0], "events": ["conversion"] * 2, "times": [10, 20],
            "cross_domain": ["video_7", "video_8"], "cross_domain_times": [15, 25],
            "target_items": ["ad_8"], "target_values": [3.0], "target_events": ["conversion"], "target_times": [30],
        }
    ] * 8  # fmt: skip
    (log / "000001.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = OnlineConfig(
        out=str(tmp_path / "state"), root=str(tmp_path / "live"), model=str(out), vsl=str(log), vsl_batch_size=8,
        publish_steps=1, guard_users=1, max_ndcg_loss=1.0, idle_seconds=0.01, max_wait_seconds=0.0, poll_seconds=0.01,
    )  # fmt: skip
    with OnlineLoop(config, ContinualConfig(unified=False, learning_rate=0.01, warmup_steps=0)) as loop:
        loop.run()
        assert loop.state.used["vsl"] == 8 and not loop.state.refused.get("vsl")
    _, version = PublishedModel(tmp_path / "live").current()
    moved = (load_file(version / "model.safetensors")[TABLE] - table).abs().sum(1).nonzero().flatten().tolist()
    assert moved == sorted(recommender.tokenizer.cross_domain_indices(["video_7", "video_8"]).tolist())


def same_ranking(got: list, expected: list) -> None:
    assert [item for item, _ in got] == [item for item, _ in expected]
    assert [score for _, score in got] == pytest.approx([score for _, score in expected], abs=1e-4)
