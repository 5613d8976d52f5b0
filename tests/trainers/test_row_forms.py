"""Rows in every form, with every feature of a history and with none, are read alike by every trainer."""

import pytest
import torch
from datasets import Dataset

from gr4ad.modeling_gr4ad import SIDTrie, VSLLossWeights
from gr4ad.trainers import RewardModel, RSPOConfig, RSPOTrainer, VSLConfig, VSLTrainer
from gr4ad.trainers.reward import ExposureCollator, candidate_lists
from gr4ad.trainers.row_datasets import as_dataset, as_table
from gr4ad.trainers.rspo import RSPOCollator, beam_lists, check_lists
from gr4ad.trainers.vsl import VSLCollator, tokenize_histories

ALL_INPUTS = {"item_ids", "event_ids", "value_ids", "time_ids", "cross_domain_ids", "cross_domain_places"}
ALL_INPUTS |= {"user_feature_ids"}
SHOWN = {"candidates": ["ad_1", "ad_9", "ad_4"], "rewards": [1.0, 0.0, 3.0], "ref_logps": [-2.0, -1.0, -3.0]}
SHOWN |= {"outcomes": ["click", "impression", "conversion"]}


@pytest.fixture(scope="module")
def mixed_rows(timed_log) -> list[dict]:
    """Histories of which one has everything, one no values, one no times, one nothing but items."""
    rows = [dict(row) for row in timed_log if len(row["items"]) > 3][:4]
    rows[1].pop("values")
    for name in ("times", "cross_domain", "cross_domain_times"):
        rows[2].pop(name)
    rows[3] = {"items": rows[3]["items"], "city": None}
    return rows


@pytest.fixture(scope="module")
def timed_model(build_ring_model):
    shape = {"num_time_buckets": 8, "num_cross_domain_items": 50, "initializer_range": 0.5}
    return build_ring_model(**shape).eval()


def batched(kind: str, tokenizer, rows: list[dict]) -> dict[str, torch.Tensor]:
    if kind == "vsl":
        return VSLCollator(tokenizer)(list(tokenize_histories(as_table(rows, "rows"), tokenizer, max_items=6)))
    lists = list(as_table([{**row, **SHOWN} for row in rows], "rows"))
    return {"rspo": RSPOCollator, "reward": ExposureCollator}[kind](tokenizer, max_items=6)(lists)


def answers(kind: str, model, batch: dict[str, torch.Tensor], trie: SIDTrie) -> list[torch.Tensor]:
    """What a model makes of each row of a batch."""
    with torch.no_grad():
        if kind == "vsl":
            lengths = (batch["labels"][..., 0] >= 0).sum(1).tolist()
            return list(torch.cat(model(**batch, trie=trie).logits, 1).split(lengths))
        if kind == "rspo":
            names = {"input_ids", "attention_mask", "candidate_ids", *ALL_INPUTS} & batch.keys()
            return list(model(**{name: batch[name] for name in names}, trie=trie).candidate_logps)
        return list(RewardModel.from_policy(model).eval()(**batch).value_logs)


@pytest.mark.parametrize("kind", ["vsl", "rspo", "reward"])
def test_rows_of_one_batch_may_differ_in_what_they_have(kind, mixed_rows, timed_tokenizer, timed_model):
    batch = batched(kind, timed_tokenizer, mixed_rows)
    assert batch.keys() >= ALL_INPUTS
    torch.manual_seed(0)
    trie = timed_model.build_trie(timed_tokenizer)
    together = answers(kind, timed_model, batch, trie)
    for row, answer in zip(mixed_rows, together, strict=True):
        torch.manual_seed(0)
        [alone] = answers(kind, timed_model, batched(kind, timed_tokenizer, [row]), trie)
        torch.testing.assert_close(answer, alone, rtol=1e-4, atol=1e-5)


def test_lists_of_a_log_keep_every_feature(timed_log, timed_tokenizer, timed_model):
    log = timed_log.filter(lambda items: len(items) > 3, input_columns="items")
    features = ("events", "values", "times", "cross_domain", "cross_domain_times", "city")
    weights = RSPOConfig("out", use_cpu=True, bf16=False, eval_item_weight=0.5, eval_score_history=True).eval_weights
    lists = beam_lists(log, timed_model, timed_tokenizer, weights=weights, list_size=5)
    assert len(lists) == len(log) and set(features) <= set(lists.column_names)
    assert all(len(row["times"]) == len(row["items"]) < 8 and len(row["candidates"]) == 5 for row in lists)
    for row, known in zip(lists, log, strict=True):
        count = len(row["items"])
        assert row["events"] == known["events"][:count] and row["times"] == known["times"][:count]
        # What was done elsewhere before the item that came next.
        seen = sum(moment < known["times"][count] for moment in known["cross_domain_times"])
        assert row["cross_domain"] == known["cross_domain"][:seen] and row["city"] == known["city"]
    assert len(check_lists(lists, "frozen"))
    valued = candidate_lists(
        timed_model, RewardModel.from_policy(timed_model), timed_tokenizer, lists, beam_widths=[4, 8], list_size=4
    )
    assert set(features) <= set(valued.column_names)


@pytest.mark.parametrize("form", ["stream", "frame", "dicts"])
def test_trainers_take_rows_in_every_form(form, ring_log, build_ring_model, ring_tokenizer, tmp_path):
    def in_form(dataset: Dataset):
        return {"stream": dataset.to_iterable_dataset, "frame": dataset.to_pandas, "dicts": dataset.to_list}[form]()

    settings = {"use_cpu": True, "max_steps": 3, "save_strategy": "no", "disable_tqdm": True, "eval_users": 5}
    settings |= {"eval_beam_widths": [4, 8], "eval_strategy": "steps", "eval_steps": 2}
    validation = ring_log.select(range(9)).add_column("target_items", [["ad_3"]] * 9)
    validation = validation.add_column("target_values", [[2.0]] * 9)
    lists = ring_log.add_column("candidates", [SHOWN["candidates"]] * len(ring_log))
    lists = lists.add_column("rewards", [SHOWN["rewards"]] * len(ring_log))
    weights = []
    for rows, shown in ((ring_log, lists), (in_form(ring_log), in_form(lists))):
        held_out = validation.to_pandas() if form == "frame" else validation.to_list()
        model = build_ring_model()
        args = VSLConfig(str(tmp_path), shuffle_buffer=10_000, **settings)
        VSLTrainer(model, args, rows, ring_tokenizer, held_out).train()
        if form == "stream":  # VSL reads it in an order of its own
            model = build_ring_model()
        args = RSPOConfig(str(tmp_path), bf16=False, guard_patience=0, max_ndcg_loss=0.99, **settings)
        trainer = RSPOTrainer(model, args, shown, ring_tokenizer, held_out)
        trainer.train()
        weights.append({name: value.clone() for name, value in trainer.model.state_dict().items()})
    assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())


def test_rows_that_are_none_are_named():
    with pytest.raises(ValueError, match="`train_dataset` must be a `Dataset`.* Received: str"):
        as_dataset("log.parquet", "train_dataset")
    with pytest.raises(ValueError, match="`train_dataset` holds a column whose rows are not of one type"):
        as_dataset([{"items": ["a"]}, {"items": 3}], "train_dataset")
    assert as_dataset([{"a": 1}, {"b": 2}], "rows").to_list() == [{"a": 1, "b": None}, {"a": None, "b": 2}]


def test_loss_weights_are_the_arguments_and_the_config_stays(build_ring_model, ring_tokenizer, ring_log, tmp_path):
    model = build_ring_model()
    before = VSLLossWeights.of(model.config)
    args = VSLConfig(
        str(tmp_path), use_cpu=True, value_loss_weight=0.7, mtp_loss_weight=0.2, item_loss_weight=2.0,
        label_smoothing=0.1,
    )  # fmt: skip
    trainer = VSLTrainer(model, args, ring_log, ring_tokenizer)
    assert trainer.loss_weights == VSLLossWeights(0.7, 0.2, 2.0, 0.1) != before == VSLLossWeights.of(model.config)
    batch = trainer.data_collator(list(tokenize_histories(ring_log, ring_tokenizer, max_items=6)))
    model.train()
    found = trainer.compute_loss(model, batch)
    trie = model.build_trie(ring_tokenizer)
    wanted = model(**batch, loss_weights=trainer.loss_weights, trie=trie)
    torch.testing.assert_close(found, wanted.loss)
    assert found > model(**batch, trie=trie).loss


def test_what_validation_cannot_rank_by_is_refused_before_training(build_ring_model, ring_tokenizer, ring_log):
    held_out = ring_log.add_column("target_items", [["ad_1"]] * len(ring_log))
    for config, trainer, message in (
        (VSLConfig, VSLTrainer, "`neighbour_weight` = 0.5 needs a model with item neighbours"),
        (RSPOConfig, RSPOTrainer, "`neighbour_weight` = 0.5 needs a model with item neighbours"),
    ):
        args = config("out", use_cpu=True, bf16=False, eval_strategy="epoch", eval_beam_widths=[4, 4],
                      eval_item_weight=0.5, eval_neighbour_weight=0.5)  # fmt: skip
        rows = [{**row, **SHOWN} for row in ring_log]
        with pytest.raises(ValueError, match=message):
            trainer(build_ring_model(), args, rows, ring_tokenizer, held_out)
