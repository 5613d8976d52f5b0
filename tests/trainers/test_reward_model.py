"""The reward model on planted exposures: what it must learn, and what it must not."""

import json

import numpy as np
import pytest
import torch
from datasets import Dataset

from gr4ad.trainers import RewardConfig, RewardModel, RewardTrainer
from gr4ad.trainers.reward import ExposureCollator, RewardModelConfig, predict_exposures, reward_metrics
from gr4ad.trainers.reward.exposure_lists import examination_of
from gr4ad.trainers.reward.score_calibration import fit_calibration

SHOWN = 4


def planted(lists: int, seed: int, examination=(1.0, 0.5, 0.25, 0.125)) -> Dataset:
    """Lists of four of 24 ads. An ad of number i is clicked at 0.6 if i is even, else at 0.2, where it is looked at;
    every second click of an even ad is a conversion; a value is twice the click rate in the mean. Three lists
    of four have ads of 0..11 at the top and of 12..23 below, the others any order."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(lists):
        ads = np.r_[rng.choice(12, 2, replace=False), 12 + rng.choice(12, 2, replace=False)]
        ads = ads if rng.random() < 0.75 else rng.permutation(ads)
        rate = np.where(ads % 2 == 0, 0.6, 0.2)
        clicked = (rng.random(SHOWN) < rate) & (rng.random(SHOWN) < examination)
        bought = clicked & (ads % 2 == 0) & (rng.random(SHOWN) < 0.5)
        names = np.where(bought, "conversion", np.where(clicked, "click", "impression"))
        length = rng.integers(1, 6)
        rows.append(
            {
                "items": [f"ad_{n}" for n in rng.integers(0, 24, length)],
                "events": rng.choice(["click", "conversion"], length).tolist(),
                "values": rng.integers(0, 5, length).astype(float).tolist(),
                "city": str(rng.choice(["x", "y"])),
                "candidates": [f"ad_{n}" for n in ads],
                "outcomes": names.tolist(),
                "rewards": (2 * rate * rng.exponential(1, SHOWN)).tolist(),
            }
        )
    return Dataset.from_list(rows)


# An ad has one position: a softmax over one key has no gradient, but for noise on some processors.
WITHOUT_GRADIENT = ("self_attn.q_proj.weight", "self_attn.k_proj.weight")


def arguments(folder, **changes) -> RewardConfig:
    given = {"num_train_epochs": 4, "per_device_train_batch_size": 64, "learning_rate": 1e-2, "save_strategy": "no"}
    given |= {"use_cpu": True, "bf16": False, "disable_tqdm": True, "logging_steps": 10, "seed": 1}
    given |= {"train_context": True, **changes}
    return RewardConfig(output_dir=str(folder), **given)


@pytest.fixture(scope="module")
def build(build_ring_model):
    return lambda **changes: RewardModel.from_policy(build_ring_model(), **{"num_positions": SHOWN, **changes})


@pytest.fixture(scope="module")
def trained(build, ring_tokenizer, tmp_path_factory):
    """Model, its parameters before, its trainer and what an evaluation says of other exposures."""
    model = build()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    trainer = RewardTrainer(
        model=model,
        args=arguments(tmp_path_factory.mktemp("reward")),
        train_dataset=planted(1200, 0),
        eval_dataset=planted(1200, 1),
        processing_class=ring_tokenizer,
    )
    trainer.train()
    trainer.calibrate(planted(1200, 2))
    return model, before, trainer, trainer.evaluate()


@torch.no_grad()
def scored(model, tokenizer, ads: list[str]):
    rows = [{"items": ["ad_3", "ad_7"], "candidates": ads, "city": "x"}]
    return model.eval()(**ExposureCollator(tokenizer, 6)(rows))


def test_every_parameter_moves_and_the_loss_falls(trained):
    model, before, trainer, _ = trained
    still = [name for name, parameter in model.named_parameters() if torch.equal(before[name], parameter)]
    assert [name for name in still if not name.endswith(WITHOUT_GRADIENT)] == []
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["loss"] < logs[0]["loss"]
    for log in logs:
        assert log["loss"] == pytest.approx(log["loss_click"] + log["loss_conversion"] + log["loss_value"], abs=1e-4)


def test_it_learns_what_came_of_exposures(trained, ring_tokenizer):
    model, _, _, metrics = trained
    assert metrics["eval_click_auc"] > 0.7 and metrics["eval_click_logloss"] < metrics["eval_click_entropy"] - 0.05
    assert metrics["eval_conversion_auc"] > 0.6
    assert metrics["eval_click_ece"] < 0.12 and abs(metrics["eval_value_bias"]) < 0.1
    output = scored(model, ring_tokenizer, [f"ad_{n}" for n in range(24)])
    even, odd = slice(0, None, 2), slice(1, None, 2)
    assert output.click_probs[0, even].mean() > 2 * output.click_probs[0, odd].mean()
    assert output.conversion_probs[0, even].mean() > 0.4 > 0.1 > output.conversion_probs[0, odd].mean()
    torch.testing.assert_close(output.expected_values[0, even].mean(), torch.tensor(1.2), rtol=0.15, atol=0)
    torch.testing.assert_close(output.expected_values[0, odd].mean(), torch.tensor(0.4), rtol=0.25, atol=0)


def test_being_on_top_is_no_merit(trained, ring_tokenizer):
    """Ads 0..11 were clicked more than twice as often as 12..23, for no other reason than where they stood."""
    model, _, trainer, _ = trained
    shown = trainer.eval_dataset
    first = np.array([int(ad[3:]) < 12 for ads in shown["candidates"] for ad in ads])
    clicked = np.array([name != "impression" for came in shown["outcomes"] for name in came])
    assert clicked[first].mean() > 2 * clicked[~first].mean()
    probs = scored(model, ring_tokenizer, [f"ad_{n}" for n in range(24)]).click_probs[0]
    assert 0.75 < probs[:12].mean() / probs[12:].mean() < 1.33
    bias = model.position_bias.weight[:, 0]
    assert bias[0] == 0 and (bias.diff() < 0).all()


def test_places_start_from_how_likely_they_are_looked_at(ring_tokenizer):
    """Clicks by place alone would say 1 : 0.5 : 0.1 : 0.05, since the better ads stand at the top."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(4000):
        ads = rng.choice(24, SHOWN, replace=False)
        ads = ads[np.argsort(ads + rng.normal(0, 6, SHOWN))]
        clicked = rng.random(SHOWN) < np.where(ads < 12, 0.4, 0.1) * np.array([1.0, 0.8, 0.4, 0.2])
        rows.append({"candidates": ads, "outcomes": np.where(clicked, "click", "impression").tolist()})
    seen = examination_of(Dataset.from_list(rows), [row["candidates"] for row in rows], SHOWN)
    np.testing.assert_allclose(seen, [1.0, 0.8, 0.4, 0.2], rtol=0.12)
    by_place = np.array([[name == "click" for name in row["outcomes"]] for row in rows]).mean(0)
    assert by_place[3] / by_place[0] < 0.12


def test_a_new_ad_has_a_score(trained, ring_tokenizer):
    model, *_ = trained
    batch = ExposureCollator(ring_tokenizer, 6)([{"items": ["ad_3"], "candidates": ["ad_2", "ad_5"], "city": "x"}])
    known, new = model(**batch), model(**batch | {"candidate_item_ids": torch.tensor([[0, 999]])})
    without = model(**{name: part for name, part in batch.items() if name != "candidate_item_ids"})
    assert torch.equal(new.expected_values, without.expected_values)
    assert not torch.equal(new.expected_values, known.expected_values)
    # The SIDs of even and odd ads differ in their last code, which speaks for ads that have no row.
    assert (
        new.click_probs[0, 0] > 1.5 * new.click_probs[0, 1] and new.expected_values[0, 0] > new.expected_values[0, 1]
    )


def test_a_saved_model_answers_in_the_same_bits(trained, ring_tokenizer, tmp_path):
    model, *_ = trained
    model.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"}
    again = RewardModel.from_pretrained(tmp_path)
    assert again.config.calibration == model.config.calibration
    ads = [f"ad_{n}" for n in range(24)]
    for name, one in scored(model, ring_tokenizer, ads).items():
        assert torch.equal(one, scored(again, ring_tokenizer, ads)[name]), name


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_calibration_mends_planted_miscalibration(build, ring_tokenizer, trained, tmp_path, method):
    model = build()
    model.load_state_dict(trained[0].state_dict())
    with torch.no_grad():  # scores too steep, and a click, a conversion and a value too likely
        model.heads.weight.mul_(2.0)
        model.heads.bias.mul_(2.0).add_(torch.tensor([1.5, -1.0, 0.7]))
    trainer = RewardTrainer(
        model=model,
        args=arguments(tmp_path, calibration=method),
        train_dataset=planted(50, 0),
        eval_dataset=planted(1200, 3),
        processing_class=ring_tokenizer,
    )
    model.config.value_scale = trained[0].config.value_scale
    before = trainer.evaluate()
    maps = trainer.calibrate(planted(1200, 4))
    after = trainer.evaluate()
    assert abs(trainer.evaluate(planted(1200, 4))["eval_value_bias"]) < 1e-3  # exact where it was fitted
    assert set(maps) == {"click", "conversion", "value"} and json.dumps(model.config.calibration)
    for name in ("click_ece", "conversion_ece", "value_ece"):
        assert after[f"eval_{name}"] < 0.5 * before[f"eval_{name}"], name
    assert abs(after["eval_value_bias"]) < 0.1 < abs(before["eval_value_bias"])
    assert after["eval_click_logloss"] < before["eval_click_logloss"]
    if method == "platt":  # keeps every order
        assert after["eval_click_auc"] == pytest.approx(before["eval_click_auc"])


def test_a_frozen_context_stays_the_policys(build, ring_tokenizer, tmp_path):
    model = build()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    RewardTrainer(
        model=model,
        args=arguments(tmp_path, num_train_epochs=1, train_context=False),
        train_dataset=planted(200, 0),
        processing_class=ring_tokenizer,
    ).train()
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("embed_tokens.", "context_processor."))
        if not name.endswith(WITHOUT_GRADIENT):
            assert torch.equal(before[name], parameter) == frozen, name


def test_accumulated_batches_train_as_whole_ones(build, ring_tokenizer, tmp_path):
    """Lists of different lengths: a mean of means would weigh exposures unlike the mean over all."""
    rows = [row | {name: row[name][: 2 + n % 3] for name in ("candidates", "outcomes", "rewards")}
            for n, row in enumerate(planted(64, 0))]  # fmt: skip
    results = []
    for size, steps in ((8, 1), (1, 8)):
        model = build(dropout=0.0)
        settings = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "item_dropout": 0.0}
        trainer = RewardTrainer(
            model=model,
            args=arguments(tmp_path, num_train_epochs=1, logging_steps=1, learning_rate=1e-3, **settings),
            train_dataset=Dataset.from_list(rows),
            processing_class=ring_tokenizer,
        )
        trainer.train()
        results.append((model, [log for log in trainer.state.log_history if "loss" in log]))
    (one, logs), (other, same) = results
    for log, others in zip(logs, same, strict=True):
        for name in ("loss", "loss_click", "loss_conversion", "loss_value"):
            assert log[name] == pytest.approx(others[name], rel=1e-3, abs=1e-4), name
    for (name, value), theirs in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(value, theirs, rtol=1e-3, atol=5e-4, msg=name)


def test_values_of_clicks_are_worth_their_chance(build, ring_tokenizer):
    for given, names in (("click", ["click_probs"]), ("conversion", ["click_probs", "conversion_probs"])):
        model = build(value_given=given, value_scale=5.0)
        output = scored(model, ring_tokenizer, ["ad_1", "ad_2"])
        expected = 5 * output.value_logs.exp()
        for name in names:
            expected = expected * output[name]
        torch.testing.assert_close(output.expected_values, expected)


def test_collator_makes_the_documented_tensors(ring_tokenizer):
    rows = [
        {"items": ["ad_1", "ad_2"], "candidates": ["ad_0", "ad_23"], "outcomes": ["conversion", "impression"],
         "rewards": [0.5, 2.0], "city": "x"},
        {"items": ["ad_4"], "candidates": ["ad_7"], "outcomes": ["click"], "rewards": [1.0], "city": None},
    ]  # fmt: skip
    batch = ExposureCollator(ring_tokenizer, 6)(rows)
    assert batch["candidate_ids"].tolist() == [[[4, 8], [7, 13]], [[5, 9], [5, 9]]]
    assert batch["candidate_item_ids"].tolist() == [[1, 24], [8, 0]]
    assert batch["candidate_mask"].tolist() == [[True, True], [True, False]]
    assert batch["positions"].tolist() == [[0, 1], [0, 1]] and batch["outcomes"].tolist() == [[2, 0], [1, 0]]
    assert batch["values"].tolist() == [[0.5, 2.0], [1.0, 0.0]]
    torch.manual_seed(0)
    dropped = ExposureCollator(ring_tokenizer, 6, item_dropout=0.5)(rows * 50)["candidate_item_ids"]
    assert 0.3 < (dropped[:, 0] == 0).float().mean() < 0.7


def test_padding_counts_for_nothing(build, ring_tokenizer):
    rows = planted(2, 0).to_list()
    short = rows[1] | {name: rows[1][name][:2] for name in ("candidates", "outcomes", "rewards")}
    collate, model = ExposureCollator(ring_tokenizer, 6), build().eval()
    together = model(**collate([rows[0], short]), num_items_in_batch=6).loss
    alone = [model(**collate([row]), num_items_in_batch=6).loss for row in (rows[0], short)]
    torch.testing.assert_close(together, sum(alone))


def test_metrics_of_known_numbers():
    outcomes, values = np.array([0, 1, 2, 0]), np.array([1.0, 2.0, 3.0, 2.0])
    metrics = reward_metrics(outcomes, values, np.array([0.1, 0.9, 0.8, 0.2]), np.full(4, 0.5), 1.5 * values)
    assert metrics["click_auc"] == 1 and metrics["value_bias"] == pytest.approx(0.5)
    assert metrics["click_logloss"] == pytest.approx(-np.log([0.9, 0.9, 0.8, 0.8]).mean())
    assert metrics["conversion_auc"] == 0.5 and metrics["value_rank"] == pytest.approx(1)
    assert (metrics["exposures"], metrics["clicks"], metrics["conversions"]) == (4, 2, 1)
    silent = reward_metrics(np.zeros(3, int), np.zeros(3), np.full(3, 0.1), np.full(3, 0.1), np.zeros(3))
    assert set(silent) == {"exposures", "clicks", "conversions"}


def test_predictions_keep_the_order_of_rows(trained, ring_tokenizer):
    model, *_ = trained
    exposures = planted(20, 5)
    scores = predict_exposures(model, ring_tokenizer, exposures, batch_size=7)
    line = predict_exposures(model, ring_tokenizer, exposures.select([11]))
    np.testing.assert_allclose(scores.click_probs[44:48], line.click_probs, rtol=1e-4)
    assert scores.outcomes[44:48].tolist() == line.outcomes.tolist()


def test_an_order_that_outcomes_contradict_is_left(caplog):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=2000)
    clicks = (rng.random(2000) < 1 / (1 + np.exp(scores))).astype(float)
    fitted = fit_calibration("platt", scores, clicks, probability=True)
    assert fitted["slope"] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"outcomes": None}, "The log of exposures needs the column `outcomes`"),
        ({"outcomes": [["impression"] * 2]}, "The exposures hold no click in 1 lists"),
        (
            {"outcomes": [["click"]]},
            "`outcomes` of row 0 must have one entry for each of its 2 candidates",
        ),
        (
            {"outcomes": [["click", "view"]]},
            "`outcomes` of row 0 must be of impression, click, conversion. Rece",
        ),
        ({"rewards": [[1.0, -2.0]]}, "`rewards` of row 0 must be finite and >= 0. Received: -2.0"),
        ({"rewards": [[1.0, float("nan")]]}, "`rewards` of row 0 must be finite and >= 0. Received: nan"),
    ],
)
def test_bad_exposures(build, ring_tokenizer, tmp_path, changes, message):
    rows = {"items": [["ad_1"]], "candidates": [["ad_2", "ad_3"]], "outcomes": [["click", "impression"]],
            "rewards": [[1.0, 2.0]], "city": ["x"], **changes}  # fmt: skip
    dataset = Dataset.from_dict({name: part for name, part in rows.items() if part is not None})
    with pytest.raises(ValueError, match=message):
        RewardTrainer(model=build(), args=arguments(tmp_path), train_dataset=dataset, processing_class=ring_tokenizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value_given": "sale"}, "`value_given` must be one of impression, click, conversion. Received: 'sale'"),
        ({"num_reward_layers": 0}, r"`num_reward_layers` must be in 1..2 \(`num_hidden_layers`\). Received: 0"),
        ({"num_positions": 0}, "`num_positions` must be at least 1. Received: 0"),
        ({"value_scale": 0.0}, "`value_scale` must be above 0 and finite. Received: 0.0"),
        ({"calibration": {"click": {"slope": 1.0}}}, "`calibration` must map click, conversion and value to slope"),
        ({"calibration": {"click": {"x": [0.0], "y": [float("inf")]}}}, "`calibration` must hold finite numbers"),
    ],
)
def test_bad_model_settings(changes, message):
    with pytest.raises(Exception, match=message):
        RewardModelConfig(num_hidden_layers=2, num_parallel_layers=1, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"item_dropout": 1.0}, r"`item_dropout` is a share in \[0, 1\). Received: 1.0"),
        ({"calibration": "beta"}, "`calibration` must be one of platt, isotonic, none. Received: 'beta'"),
        ({"max_items": 0}, "`max_items` must be >= 1. Received: 0"),
        ({"remove_unused_columns": True}, "`remove_unused_columns` must be False"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **changes)


def test_too_few_outcomes_leave_a_head_as_it_is(build, ring_tokenizer, tmp_path, caplog):
    trainer = RewardTrainer(
        model=build(), args=arguments(tmp_path), train_dataset=planted(30, 0), processing_class=ring_tokenizer
    )
    held_out = planted(40, 1).map(lambda row: {"outcomes": ["click", *row["outcomes"][1:]]})
    held_out = held_out.map(lambda row: {"outcomes": [n.replace("conversion", "click") for n in row["outcomes"]]})
    assert set(trainer.calibrate(held_out)) == {"click", "value"}
    assert "conversion stays uncalibrated. A calibration needs at least 10 held-out outcomes above 0" in caplog.text
