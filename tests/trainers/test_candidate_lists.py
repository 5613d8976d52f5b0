"""Lists out of a policy's beams: who is in them, how likely, and at what reward."""

import numpy as np
import pytest
import torch
from datasets import Dataset

from gr4ad.trainers import RewardModel, RSPOConfig, RSPOTrainer
from gr4ad.trainers.reward import ExposureCollator, candidate_lists
from gr4ad.trainers.reward.proposed_lists import draw_candidates
from gr4ad.trainers.rspo import RSPOCollator

WIDE = {"beam_widths": [4, 24], "list_size": 8}


@pytest.fixture(scope="module")
def policy(build_ring_model):
    return build_ring_model(initializer_range=0.5).eval()  # scores far enough apart to rank alike in any batch


@pytest.fixture(scope="module")
def reward(policy):
    torch.manual_seed(0)
    return RewardModel.from_policy(policy, num_positions=4, value_scale=3.0).eval()


@pytest.fixture(scope="module")
def contexts(ring_log) -> Dataset:
    return ring_log.select(range(20))


@pytest.fixture(scope="module")
def lists(policy, reward, ring_tokenizer, contexts):
    return candidate_lists(policy, reward, ring_tokenizer, contexts, exploration=0.25, seed=3, **WIDE)


def test_lists_hold_the_top_and_a_few_drawn_ones(policy, ring_tokenizer, contexts, lists):
    assert lists.column_names == [*contexts.column_names, "candidates", "rewards", "ref_logps", "propensities"]
    trie = policy.build_trie(ring_tokenizer)
    collate = RSPOCollator(ring_tokenizer, policy.config.max_context_items)
    drawn = set()
    for row in lists:
        batch = collate([row])
        history = {
            name: batch[name]
            for name in ("input_ids", "attention_mask", "item_ids", "event_ids", "value_ids", "user_feature_ids")
        }
        ranking = policy.recommend(**history, beam_widths=[4, 24], trie=trie, top_k=24)
        names = [str(ring_tokenizer.index.item_ids[n]) for n in ranking.items[0]]
        assert row["candidates"][:6] == names[:6] and set(row["candidates"][6:]) <= set(names[6:])
        assert len(set(row["candidates"])) == 8
        assert row["propensities"] == [1.0] * 6 + [2 / 18] * 2
        drawn |= set(row["candidates"][6:])
    assert len(drawn) > 10


def test_rewards_and_log_probabilities_are_those_of_the_models(policy, reward, ring_tokenizer, lists):
    rows = lists.to_list()
    batch = RSPOCollator(ring_tokenizer, policy.config.max_context_items)(rows)
    for name in ("labels", "item_labels", "value_labels", "rewards", "candidate_mask"):
        batch.pop(name)
    logged = batch.pop("ref_logps")
    with torch.no_grad():
        trie = policy.build_trie(ring_tokenizer)
        torch.testing.assert_close(policy(**batch, trie=trie).candidate_logps, logged, rtol=1e-4, atol=1e-4)
        shown = ExposureCollator(ring_tokenizer, 6)(
            [{name: part for name, part in row.items() if name not in ("rewards", "ref_logps")} for row in rows]
        )
        worth = reward(**shown).expected_values
    np.testing.assert_allclose(worth.numpy(), np.array(lists["rewards"]), rtol=1e-4)


def test_draws_depend_on_the_seed_and_the_row_alone(policy, reward, ring_tokenizer, contexts, lists):
    again = candidate_lists(policy, reward, ring_tokenizer, contexts, seed=3, batch_size=3, **WIDE)
    assert again["candidates"][:] == lists["candidates"][:]
    other = candidate_lists(policy, reward, ring_tokenizer, contexts, seed=4, **WIDE)
    assert other["candidates"][:] != lists["candidates"][:]
    greedy = candidate_lists(policy, reward, ring_tokenizer, contexts, exploration=0.0, **WIDE)
    assert all(chances == [1.0] * 8 for chances in greedy["propensities"])


def test_each_is_drawn_as_often_as_its_propensity_says():
    rng = np.random.default_rng(0)
    counts, draws = np.zeros(20), 4000
    for _ in range(draws):
        places, propensities = draw_candidates(np.arange(20), 8, 0.5, rng)
        assert (np.diff(places) > 0).all() and len(places) == 8
        counts[places] += 1
    np.testing.assert_allclose(counts[:4], draws)
    np.testing.assert_allclose(counts[4:] / draws, 4 / 16, atol=0.03)
    np.testing.assert_allclose(propensities, [1] * 4 + [0.25] * 4)


def test_a_beam_that_found_too_few_is_taken_whole():
    places, propensities = draw_candidates(np.arange(5), 8, 0.5, np.random.default_rng(0))
    assert places.tolist() == [0, 1, 2, 3, 4] and propensities.tolist() == [1.0] * 5


def test_a_policy_aligns_with_what_the_reward_model_says(build_ring_model, reward, ring_tokenizer, lists, tmp_path):
    settings = {"num_train_epochs": 8, "per_device_train_batch_size": 10, "learning_rate": 3e-3, "beta": 0.5}
    trainer = RSPOTrainer(
        model=build_ring_model(initializer_range=0.5),
        args=RSPOConfig(
            str(tmp_path), reference="logged", use_cpu=True, bf16=False, save_strategy="no", logging_steps=2,
            disable_tqdm=True, **settings,
        ),
        train_dataset=lists,
        processing_class=ring_tokenizer,
    )  # fmt: skip
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert logs[-1]["rspo/reward"] > logs[0]["rspo/reward"] and logs[-1]["rspo/accuracy"] > logs[0]["rspo/accuracy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exploration": 1.5}, r"`exploration` is a share in \[0, 1\]. Received: 1.5"),
        ({"list_size": 25}, r"`list_size` must be in 2..24, the last of `beam_widths`. Received: 25"),
        ({"list_size": 1}, r"`list_size` must be in 2..24"),
    ],
)
def test_bad_settings(policy, reward, ring_tokenizer, contexts, changes, message):
    with pytest.raises(ValueError, match=message):
        candidate_lists(policy, reward, ring_tokenizer, contexts, **{**WIDE, **changes})
