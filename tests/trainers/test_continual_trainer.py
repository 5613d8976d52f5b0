import subprocess
import sys

import numpy as np
import pytest
import torch

from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.tokenization import HISTORY_COLUMNS, HISTORY_FEATURES, ITEM_COLUMNS, SIDIndex, UserHistory
from gr4ad.trainers.continual import ContinualConfig, ContinualTrainer, LogRecords, ProgressiveValidation, RecordError
from gr4ad.trainers.vsl import start_prefix_vectors
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

EVERYTHING = {
    **ENGAGEMENT,
    "times": [100, 160.0, 400.0],
    "target_times": [401.0, 900.0],
    "cross_domain": ["film 1", "film 2", "film 3", "film 4"],
    "cross_domain_times": [50.0, 120.0, 410.0, 950.0],  # the last after all targets: nothing may see it
}
CROSSING = {"num_time_buckets": 8, "num_cross_domain_items": 50}


@pytest.fixture
def build(build_ring_model, build_ring_tokenizer):
    def built(**changes) -> tuple[ContinualTrainer, LogRecords]:
        tokenizer = build_ring_tokenizer()
        config = ContinualConfig(**{"learning_rate": 1e-2, "warmup_steps": 0, **changes})
        model = build_ring_model()
        start_prefix_vectors(model, tokenizer, from_items=True)
        trainer = ContinualTrainer(model, tokenizer, config)
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
        expected.append(float(trainer.model(**one, trie=trainer.trie).loss.detach()))
    assert float(loss.detach()) == pytest.approx(sum(expected) / 2, rel=1e-5)
    assert parts.keys() == {"vsl", "vsl_sid", "vsl_value", "vsl_mtp", "vsl_item"}


def test_a_long_history_keeps_its_newest_items_and_all_its_targets(build):
    trainer, records = build()
    history = [f"ad_{n}" for n in range(20)]
    row, _ = records.engagement({"items": history, "target_items": ["ad_21", "ad_22"]})
    assert (row["item_ids"] - 1).tolist() == [15, 16, 17, 18, 19, 21, 22] and row["fresh"] == 2
    row, _ = records.engagement({"items": ["ad_1"], "target_items": history})
    assert row["fresh"] == 6 == len(row["item_ids"]) - 1


def test_a_step_counts_what_its_new_targets_were_worth(build_ring_model, build_ring_tokenizer):
    tokenizer, model = build_ring_tokenizer(), build_ring_model(item_values=True)
    start_prefix_vectors(model, tokenizer, from_items=True)
    trainer = ContinualTrainer(model, tokenizer, ContinualConfig())
    records = LogRecords(tokenizer, trainer.config, trainer.max_items)
    without = {name: part for name, part in ENGAGEMENT.items() if "values" not in name}
    trainer.step([records.engagement(record)[0] for record in (ENGAGEMENT, without, ENGAGEMENT)], [])
    counted = {row: float(events) for row, events in enumerate(model.item_values.events) if events}
    assert counted == {16: 2.0, 21: 2.0} and model.item_values.means[[16, 21]].tolist() == [2.0, 0.0]


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


@pytest.fixture
def build_crossing(build_ring_model, build_ring_tokenizer):
    """A trainer and its records, whose tokenizer and model have every feature of a history."""

    def built(**changes) -> tuple[ContinualTrainer, LogRecords]:
        tokenizer, config = build_ring_tokenizer(**CROSSING), ContinualConfig(**changes)
        trainer = ContinualTrainer(build_ring_model(**CROSSING, max_cross_domain_items=3), tokenizer, config)
        return trainer, LogRecords(tokenizer, config, trainer.max_items, trainer.max_cross_domain)

    return built


def same_inputs(batch, expected) -> None:
    """That a batch holds all of a history's inputs, and nothing is lost."""
    assert {feature.model_input for feature in HISTORY_FEATURES} | {"user_feature_ids"} <= expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(batch[name], tensor, err_msg=name)


def test_every_feature_of_an_engagement_reaches_the_model(build_crossing):
    trainer, records = build_crossing()
    assert set(HISTORY_COLUMNS) | {f"target_{name}" for name in ITEM_COLUMNS} <= EVERYTHING.keys()
    row, ranked = records.engagement(EVERYTHING)
    whole = {name: EVERYTHING[name] + EVERYTHING[f"target_{name}"] for name in ("items", *ITEM_COLUMNS)}
    log = UserHistory.from_row({**EVERYTHING, **whole}, ["city"])
    before_the_last = log.first(4)  # what the prefix of the last target may see
    expected = trainer.tokenizer.encode_rows([before_the_last], max_cross_domain=3, return_tensors="np")
    assert expected["cross_domain_places"].tolist() == [[0, 1, 4]]
    same_inputs(trainer.vsl_collator([row]), expected)
    seen = {"cross_domain": ["film 1", "film 2"], "cross_domain_times": [50.0, 120.0]}  # before the first target
    targets = {"target_items": EVERYTHING["target_items"], "target_values": EVERYTHING["target_values"]}
    assert ranked == {name: EVERYTHING[name] for name in (*HISTORY_COLUMNS, "city")} | seen | targets
    loss = float(trainer.vsl_loss([row])[0].detach())
    for name in (*(feature.name for feature in HISTORY_FEATURES), "city"):
        gone = {name, f"target_{name}", *({"cross_domain_times"} if name in ("times", "cross_domain") else ())}
        gone |= {"cross_domain"} if "cross_domain_times" in gone else set()
        without = {name: part for name, part in EVERYTHING.items() if name not in gone}
        assert float(trainer.vsl_loss([records.engagement(without)[0]])[0].detach()) != loss, name


def test_every_feature_of_a_list_reaches_the_model(build_crossing):
    trainer, records = build_crossing()
    history = {name: EVERYTHING[name] for name in (*HISTORY_COLUMNS, "city")}
    row = records.preference_list({**LIST, **history})
    expected = trainer.tokenizer.encode_rows([history], max_cross_domain=3, return_tensors="np")
    same_inputs(trainer.rspo_collator([row]), expected)


def test_columns_that_do_not_fit_are_refused_by_their_name(build_crossing):
    _, records = build_crossing()
    for changes, message in (
        ({"target_events": ["click", "view"]}, "`target_events` holds 'view'. Allowed: click, conversion"),
        ({"target_times": ["now", 1.0]}, r"`target_times\[0\]` is 'now'"),
        ({"events": ["click"]}, "`events` must be as long as `items`, 3"),
        ({"cross_domain_times": [1.0]}, "`cross_domain_times` must be as long as `cross_domain`, 4"),
        ({"cross_domain": "film 1"}, "`cross_domain` must be a list"),
        ({"target_items": ["ad_1"] * 4097}, "`target_items` may have 4096 entries. Received: 4097"),
        ({"city": 7}, "`city` must be text or None"),
        ({"cross_domain_times": None}, "`cross_domain` needs the columns `times` and `cross_domain_times`"),
        ({"target_times": None}, "`times` and `target_times` come together"),
        ({"items": ["ad_1", 2, "ad_3"]}, r"`items\[1\]` must be text"),
    ):
        with pytest.raises(RecordError, match=message):
            records.engagement({**EVERYTHING, **changes})
    for changes, message in (
        ({"rewards": None}, "`rewards` is missing"),
        ({"rewards": 1.0}, "`rewards` must be a list"),
        ({"items": []}, "`items`: no item of the history is in the index"),
        ({"rewards": [1.0, 2.0]}, "`rewards` must be as long as `candidates`, 3"),
        ({"candidates": ["ad_1", ["ad_2"], "ad_3"]}, "`candidates` must be a list, its entries text"),
        ({"ref_logps": [-1.0, 0.5, -1.0]}, "`ref_logps` must be a list, its entries finite and <= 0"),
    ):
        with pytest.raises(RecordError, match=message):
            records.preference_list({**LIST, **changes})


def test_targets_that_are_weighted_by_value_need_values(build):
    _, records = build(target_value_power=1.0, event_value_mean=2.0)
    assert records.engagement(ENGAGEMENT)[0]["weights"] == [0.5, 0.0, 2.0, 1.0, 0.0]
    with pytest.raises(RecordError, match="needs the column `values`"):
        records.engagement({name: ENGAGEMENT[name] for name in ("items", "target_items")})


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
    # With VSL the policy scores one row more than the reference, and may round otherwise.
    trainer, records = build(vsl_weight=0.0, unified=False)
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


def test_lists_with_and_without_logged_probabilities_share_a_step(build):
    trainer, records = build(reference="logged")
    lists = [records.preference_list(record) for record in (LIST, {**LIST, "ref_logps": [-1.0, -2.0, -3.0]})]
    both = float(trainer.rl_loss(lists)[0].detach())
    each = [float(trainer.rl_loss([row])[0].detach()) for row in lists]
    assert each[0] != each[1] and both == pytest.approx(sum(each) / 2, rel=1e-5)


@pytest.mark.parametrize("neighbour_weight", [0.0, 5.0])
def test_the_guard_ranks_exactly_as_servers_do(build, neighbour_weight):
    trainer, records = build()
    ring = torch.arange(1, 25).roll(-5)  # the neighbour of an item is the one that follows it on the ring
    items = torch.cat([torch.zeros(1, dtype=torch.long), ring]).unsqueeze(1)
    for model in (trainer.model, trainer.reference):
        model.set_item_neighbours(items, (items > 0).float(), 0.5)
    plain = {name: ENGAGEMENT[name] for name in ("items", "target_items")}
    rows = [records.engagement(record)[1] for record in (ENGAGEMENT, plain)]
    serving = RankingWeights((4, 24), 0.5, neighbour_weight=neighbour_weight, exclude_history=True)
    found = ProgressiveValidation(10, 1, 0.1).measure(
        trainer.model, trainer.reference, trainer.tokenizer, rows, serving
    )
    scores = []
    trainer.model.eval()
    for row in rows:
        batch = trainer.tokenizer.encode_rows([UserHistory.from_row(row, ["city"])], return_tensors="pt")
        seen = torch.from_numpy(trainer.tokenizer.item_rows(row["items"])).unsqueeze(0)
        trie = trainer.model.build_trie(trainer.tokenizer)
        ranking = trainer.model.recommend(**batch, trie=trie, top_k=10, weights=serving, exclude_items=seen)
        places = [ranking.items[0].tolist().index(number) for number in (15, 20) if number in ranking.items[0]]
        gain = sum(1 / np.log2(place + 2) for place in places)
        scores.append(gain / sum(1 / np.log2(place + 2) for place in range(2)))
    assert found == pytest.approx((np.mean(scores),) * 2)
    if neighbour_weight:
        assert found[0] > 0.5  # ad_15 follows ad_10


def test_settings_are_read_without_torch():
    code = (
        "import sys; from gr4ad.online import OnlineConfig; from gr4ad.trainers.continual import ContinualConfig; "
        "ContinualConfig(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


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
