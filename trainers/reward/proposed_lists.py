# Copyright 2026 The gr4ad authors. Licensed under the Apache License, Version 2.0.
"""Lists for list-wise alignment out of a policy's own wide beam, with controlled random exploration, valued by a
reward model: the RL logs of arXiv 2602.22732."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from datasets import Dataset

from gr4ad.modeling_gr4ad import GR4ADForRecommendation, RankingWeights
from gr4ad.tokenization import UASIDTokenizer

from ..candidate_columns import repeat_padded
from ..evaluation.model_ranking import history_batches, history_rows
from .reward_model import RewardModel


def draw_candidates(
    found: np.ndarray, size: int, exploration: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Which of a beam's items (int64 (W,), best first) make up a list of `size`, and how likely each was to.

    The first `size - e` are taken as they come, e = round(exploration * size); e more are drawn from the rest without
    replacement, each with the same chance. A beam that found no more than `size` is taken whole.

    Returns places in `found`, ascending (int64, (n,)), and propensities in (0, 1] (float64, (n,)), 1 for the certain.
    """
    if len(found) <= size:
        return np.arange(len(found)), np.ones(len(found))
    explored = round(exploration * size)
    certain = size - explored
    drawn = certain + np.sort(rng.permutation(len(found) - certain)[:explored])
    propensity = explored / (len(found) - certain)
    return np.r_[np.arange(certain), drawn], np.r_[np.ones(certain), np.full(explored, propensity)]


@torch.no_grad()
def candidate_lists(
    policy: GR4ADForRecommendation,
    reward: RewardModel,
    tokenizer: UASIDTokenizer,
    contexts: Dataset,
    *,
    beam_widths: Sequence[int],
    list_size: int = 16,
    exploration: float = 0.25,
    score_history: bool = False,
    batch_size: int = 64,
    seed: int = 0,
    progress: bool = False,
) -> Dataset:
    """What the policy would propose to each context, a part of it at random, and what the reward model makes of it.

    Args:
        contexts: Rows of `items` (history, item ids) and what else of a history the tokenizer reads; other columns are
            kept, in their order.
        beam_widths: W_t; the last, of more than `list_size`, is how far exploration reaches.
        list_size: n, candidates of a list; fewer where the beam found fewer.
        exploration: Share of a list, in [0, 1], that is drawn at random from the wider beam instead of from its top.
        score_history: Also propose what stands in the history, for logs in which users come back to an ad.
        seed: Of the draws, each of which is a function of it and the row.

    Returns:
        `contexts` with `candidates` (list of n item ids), `rewards` (list of n floats >= 0: expected value of an
        impression, in the unit of the log), `ref_logps` (list of n floats <= 0: log p of each under the policy),
        `propensities` (list of n floats in (0, 1]: the chance that each had to be in the list).

    Raises:
        ValueError: `exploration` is no share, `list_size` is below 2 or above the last beam width, or policy, reward
            model and tokenizer disagree.
    """
    if not 0 <= exploration <= 1:
        raise ValueError(f"`exploration` is a share in [0, 1]. Received: {exploration}.")
    if not 2 <= list_size <= beam_widths[-1]:
        raise ValueError(
            f"`list_size` must be in 2..{beam_widths[-1]}, the last of `beam_widths`. Received: {list_size}. Widen "
            "the beams, or shorten the lists."
        )
    reward.config.check_tokenizer(tokenizer)
    training = policy.training, reward.training
    policy.eval(), reward.eval()
    trie = policy.build_trie(tokenizer)
    histories = history_rows(tokenizer, contexts)
    weights = RankingWeights(tuple(beam_widths), score_history=score_history)
    ids = tokenizer.index.item_ids
    lists: list[dict[str, list]] = [{} for _ in histories]
    for chosen, batch in history_batches(policy, tokenizer, histories, batch_size, progress):
        ranking = policy.recommend(**batch, trie=trie, top_k=beam_widths[-1], weights=weights)
        found, scores = ranking.items.cpu().numpy(), ranking.scores.double().cpu().numpy()
        picked, propensities = [], []
        for row, items in zip(chosen, found, strict=True):
            rng = np.random.default_rng((seed, int(row)))
            places, chances = draw_candidates(items[items >= 0], list_size, exploration, rng)
            picked.append(places)
            propensities.append(chances)
        rows = repeat_padded([items[places] for items, places in zip(found, picked, strict=True)])
        output = reward(
            **batch,
            candidate_ids=torch.from_numpy(tokenizer.index.codes[rows] + tokenizer.level_offsets).to(reward.device),
            candidate_item_ids=torch.from_numpy(rows + 1).to(reward.device),
        )
        worth = output.expected_values.double().cpu().numpy()
        for line, row in enumerate(chosen):
            places = picked[line]
            lists[row] = {
                "candidates": [str(item) for item in ids[found[line][places]]],
                "rewards": worth[line, : len(places)].tolist(),
                "ref_logps": scores[line][places].tolist(),
                "propensities": propensities[line].tolist(),
            }
    policy.train(training[0]), reward.train(training[1])
    made = contexts.remove_columns([name for name in lists[0] if name in contexts.column_names])
    for name in ("candidates", "rewards", "ref_logps", "propensities"):
        made = made.add_column(name, [row[name] for row in lists])
    return made


__all__ = ["candidate_lists", "draw_candidates"]
