"""Policies in a simulated market: the lists that they show, and what the market's ground truth says those earn."""

from pathlib import Path

import numpy as np
from opponents.dlrm import DLRM, DLRMSettings

from gr4ad import GR4ADForRecommendation
from gr4ad.data import PreparedData
from gr4ad.market import AdMarket
from gr4ad.modeling_gr4ad import RankingWeights
from gr4ad.pipeline import Recipe
from gr4ad.trainers.evaluation import ItemKNN, SequenceTable, popularity_by_revenue, tune_item_knn
from gr4ad.trainers.evaluation.choosing import KNN_GRID, sample_table, sample_users
from gr4ad.trainers.evaluation.model_ranking import rank_users
from measurement.runs import FinishedRun

BASELINE = "DLRM-style"
UNIT = "fen per 1,000 requests"


def served_lists(folder: Path, metrics: dict, data: PreparedData, recipe: Recipe, places: int) -> np.ndarray:
    """Rows of the catalog (int64, (U, places)) that the last model of a run serves to the test users."""
    trained = "train" if recipe.neighbours is None else "neighbours"
    stage, name = ("align", "VSL + RSPO") if recipe.align is not None else (trained, "VSL")
    run = FinishedRun(folder)
    return rank_users(
        GR4ADForRecommendation.from_pretrained(run.stage(stage) / "model"),
        run.tokenizer,
        data.test,
        weights=RankingWeights.from_dict(metrics["choices"][name]),
        top_k=places,
        batch_size=recipe.evaluate.batch_size,
    ).items


def baseline_lists(data: PreparedData, recipe: Recipe, places: int) -> dict[str, np.ndarray]:
    """The same of the baselines, tuned on validation by the recipe's metric."""
    ids = list(data.catalog["item_id"])
    train, validation, test = (SequenceTable.from_dataset(p, ids) for p in (data.train, data.validation, data.test))
    sample = sample_table(validation, recipe.evaluate.tuning_users, recipe.seed)
    grid = {**KNN_GRID, "value_power": (0.0, 0.5, 0.75, 1.0), "include_self": (False, True)}
    settings, _ = tune_item_knn(train, sample, metric=recipe.evaluate.metric, grid=grid)
    tuning = sample_users(data.validation, recipe.evaluate.tuning_users, recipe.seed)
    stack = DLRM(data, DLRMSettings(), recipe.evaluate.metric, tuning, recipe.seed)
    return {
        "popularity by revenue": popularity_by_revenue(train, test, places),
        "item-kNN + value, tuned": ItemKNN(settings).fit(train).rank(test, places),
        BASELINE: stack.rank(data.test, places),
    }


def earned(market: AdMarket, data: PreparedData, rankings: np.ndarray) -> np.ndarray:
    """What lists (int64, (U, n); -1 = empty place) earn, expected fen per 1,000 requests: float64 (U, days + 2), at
    the end of the log, and as they are on each further day of the horizon; then the share of shown places that
    hold ads without a training click, and what those alone would earn at the end of the log."""
    ids = np.array([*data.catalog["item_id"], ""], dtype=object)
    users = data.test["user_id"][:]
    moments = market.config.end_time + 86_400 * np.arange(market.config.horizon_days)
    days = [1000 * market.expected_revenue(users, ids[rankings], int(moment)) for moment in moments]
    clicked = {item for items in data.train["items"] for item in items}
    cold = np.array([*(item not in clicked for item in ids[:-1]), False])[rankings]
    shown = (rankings >= 0)[:, : market.config.positions]
    share = (cold[:, : shown.shape[1]] & shown).sum(1) / np.maximum(shown.sum(1), 1)
    alone = 1000 * market.expected_revenue(users, np.where(cold, ids[rankings], ""), market.config.end_time)
    return np.stack([*days, share, alone], axis=1)
