import pytest
import torch

from gr4ad.tokenization import SIDIndex
from gr4ad.trainers.continual import ContinualConfig, ContinualTrainer, LogRecords, ProgressiveValidation, RecordError
from gr4ad.trainers.vsl.vsl_collator import VSLCollator
from gr4ad.trainers.vsl.vsl_rows import tokenize_histories

ENGAGEMENT = {
    "items": ["ad_0", "ad_5", "ad_10"],
    "values": [1.0, 0.0, 4.0],
    "events": ["click", "click", "conversion"],
    "target_items": ["ad_15", "ad_20"],
    "target_values": [2.0, 0.0],
    "target_events": ["click", "conversion"],
    "city": "x",
}
LIST = {"items": ["ad_0", "ad_5"], "candidates": ["ad_10", "ad_1", "ad_2"], "rewards": [5.0, 1.0, 0.0], "city": "y"}


@pytest.fixture
def build(build_ring_model, build_ring_tokenizer):
    def built(**changes) -> tuple[ContinualTrainer, LogRecords]:
        tokenizer = build_ring_tokenizer()
        config = ContinualConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, **changes})
        trainer = ContinualTrainer(build_ring_model(), tokenizer, config)
        return trainer, LogRecords(tokenizer, config, trainer.max_items)

    return built


def test_only_new_targets_are_learned(build, ring_log):
    trainer, records = build()
    row, ranked = records.engagement(ENGAGEMENT)
    assert row["fresh"] == 2 and ranked["items"] == ENGAGEMENT["items"] and ranked["target_values"] == [2.0, 0.0]
    loss, parts = trainer.vsl_loss([row])
    whole = ring_log.from_list(
        [{n: ENGAGEMENT[n] + ENGAGEMENT[f"target_{n}"] for n in ("items", "values", "events")} | {"city": "x"}]
    )
    rows = list(tokenize_histories(whole, trainer.tokenizer, max_items=6, user_weight_clip=1))
    batch = VSLCollator(trainer.tokenizer)(rows)
    expected = []
    for place in (2, 3):  # the prefixes of three and of four items
        one = {name: tensor.clone() for name, tensor in batch.items()}
        for name in ("labels", "item_labels", "value_labels"):
            one[name][:, :place] = one[name][:, place + 1 :] = -100
        expected.append(float(trainer.model(**one).loss.detach()))
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert parts.keys() == {"vsl", "vsl_sid", "vsl_value", "vsl_mtp", "vsl_item"}


def test_a_long_history_keeps_its_newest_items_and_all_its_targets(build):
    trainer, records = build()
    history = [f"ad_{n}" for n in range(20)]
    row, _ = records.engagement({"items": history, "target_items": ["ad_21", "ad_22"]})
    assert row["items"].tolist() == [15, 16, 17, 18, 19, 21, 22] and row["fresh"] == 2
    row, _ = records.engagement({"items": ["ad_1"], "target_items": history})
    assert row["fresh"] == 6 == len(row["items"]) - 1


def test_records_of_other_columns_share_a_step(build):
    trainer, records = build()
    plain = {name: ENGAGEMENT[name] for name in ("items", "target_items")}
    rows = [records.engagement(record)[0] for record in (ENGAGEMENT, plain, ENGAGEMENT)]
    loss = float(trainer.vsl_loss(rows)[0].detach())
    each = [float(trainer.vsl_loss([row])[0].detach()) for row in rows]
    assert loss == pytest.approx(sum(each) / 3, rel=1e-5)
    lists = [records.preference_list(record) for record in (LIST, {**LIST, "values": [1.0, 2.0]})]
    both = float(trainer.rl_loss(lists)[0].detach())
    each = [float(trainer.rl_loss([row])[0].detach()) for row in lists]
    assert both == pytest.approx(sum(each) / 2, rel=1e-5)


def test_a_step_moves_every_parameter_and_lowers_the_loss(build):
    trainer, records = build()
    before = {name: tensor.clone() for name, tensor in trainer.model.named_parameters()}
    engagements = [records.engagement({**ENGAGEMENT, "city": city})[0] for city in ("x", "y", None)]
    lists = [records.preference_list(LIST)]
    losses = [trainer.step(engagements, lists)["loss"] for _ in range(15)]
    assert losses[-1] < 0.7 * losses[0]
    for name, tensor in trainer.model.named_parameters():
        assert not torch.equal(tensor, before[name]), name
    with pytest.raises(ValueError, match="A step needs records"):
        trainer.step([], [])


def test_new_ads_keep_the_moments_of_the_others(build):
    trainer, records = build()
    row = records.engagement(ENGAGEMENT)[0]
    trainer.step([row], [])
    table = trainer.model.item_table
    moment = trainer.optimizer.state[table]["exp_avg"].clone()
    vector = table[1].detach()  # of the ad that has this very SID
    index: SIDIndex = trainer.tokenizer.index.snapshot()
    index.add(["new"], [[0, 0]])
    trainer.adopt(index)
    grown = trainer.model.item_table
    state = trainer.optimizer.state[grown]
    assert len(grown) == 26 == len(trainer.reference.item_table)
    assert torch.equal(state["exp_avg"][:25], moment) and not state["exp_avg"][25].any() and state["step"] == 1
    torch.testing.assert_close(grown[25].detach(), vector)
    record = {**ENGAGEMENT, "target_items": ["new", "ad_20"]}
    trainer.step(
        [records.engagement(record)[0]], [records.preference_list({**LIST, "candidates": ["new", "ad_1", "ad_2"]})]
    )
    assert trainer.optimizer.state[grown]["exp_avg"][25].any()
    with pytest.raises(RecordError, match="no target is in the index"):
        records.engagement({**ENGAGEMENT, "target_items": ["unknown", "unknown"]})


def test_state_restores_what_follows(build):
    one, records = build()
    row, wish = records.engagement(ENGAGEMENT)[0], records.preference_list(LIST)
    one.step([row], [wish])
    one.refresh_reference()
    tensors = one.state_tensors()
    other, _ = build()
    other.model.load_state_dict(one.model.state_dict())
    other.load_state_tensors(tensors)
    assert one.step([row], [wish]) == other.step([row], [wish])
    for (name, a), b in zip(one.model.state_dict().items(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    del tensors["rng"]
    with pytest.raises(ValueError, match="not that of this model"):
        other.load_state_tensors(tensors)


def test_the_reference_is_what_was_published(build):
    trainer, records = build()
    wish = records.preference_list(LIST)
    assert trainer.step([], [wish])["rl_drift"] == 0
    drift = trainer.step([], [wish])["rl_drift"]
    assert drift > 0
    trainer.refresh_reference()
    assert trainer.step([], [wish])["rl_drift"] == 0
    without, records = build(reference="none")
    assert "rl_drift" not in without.step([], [records.preference_list({**LIST, "ref_logps": [-1.0, -2.0, -3.0]})])
    logged, records = build(reference="logged")
    assert "rl_drift" in logged.step([], [records.preference_list({**LIST, "ref_logps": [-1.0, -2.0, -3.0]})])


def test_the_verdict_compares_both_weights_on_the_same_users():
    validation = ProgressiveValidation(window=4, needed=3, max_ndcg_loss=0.1)
    assert validation.verdict().good is None
    validation.scores.extend([(0.2, 0.2), (0.0, 0.1)])
    assert validation.verdict().good is None
    validation.scores.extend([(0.2, 0.2), (0.4, 0.4)])
    verdict = validation.verdict()
    assert (verdict.users, verdict.candidate, verdict.published) == (4, pytest.approx(0.2), pytest.approx(0.225))
    assert verdict.good is False
    validation.scores.append((0.5, 0.3))  # the first user leaves the window
    assert validation.verdict().good is True
    validation.begin_anew()
    assert validation.verdict().users == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "frozen"}, "`reference` must be one of published, logged, none"),
        ({"loss_type": "dpo"}, "`unified` mixes VSL with RSPO"),
        ({"loss_type": "grpo", "unified": False, "reference": "none"}, "`reference` must be published or logged"),
        ({"user_weight_clip": 5.0}, "needs `user_value_mean`"),
        ({"target_value_power": 1.0}, "needs `event_value_mean`"),
        ({"learning_rate": float("nan")}, "`learning_rate` must be > 0"),
        ({"max_items": 0}, "`max_items` must be >= 1"),
    ],
)
def test_bad_settings_are_refused_by_name(changes, message):
    with pytest.raises(ValueError, match=message):
        ContinualConfig(**changes)
