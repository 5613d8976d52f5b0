"""Item-level metrics, honest baselines and the leakage check. Needs numpy, scipy, pandas and pyarrow only."""

from gr4ad.trainers.evaluation.baselines import (
    ItemKNN,
    KNNSettings,
    popularity_by_count,
    popularity_by_revenue,
    repeat_then_popularity,
    tune_item_knn,
)
from gr4ad.trainers.evaluation.calibration import ValueCalibration, value_calibration
from gr4ad.trainers.evaluation.intervals import PairedDifference, bootstrap_interval, paired_difference, seed_interval
from gr4ad.trainers.evaluation.item_exposure import cold_recall, shared_sid_exposure, shared_sids
from gr4ad.trainers.evaluation.leakage import check_no_leakage
from gr4ad.trainers.evaluation.metrics import evaluate_rankings, ranking_metrics
from gr4ad.trainers.evaluation.per_user import PerUserScores, data_digest
from gr4ad.trainers.evaluation.sequences import Sequences, SequenceTable
from gr4ad.trainers.evaluation.ties import tie_order

__all__ = [
    "ItemKNN",
    "KNNSettings",
    "PairedDifference",
    "PerUserScores",
    "SequenceTable",
    "Sequences",
    "ValueCalibration",
    "bootstrap_interval",
    "check_no_leakage",
    "cold_recall",
    "data_digest",
    "evaluate_rankings",
    "paired_difference",
    "popularity_by_count",
    "popularity_by_revenue",
    "ranking_metrics",
    "repeat_then_popularity",
    "seed_interval",
    "shared_sid_exposure",
    "shared_sids",
    "tie_order",
    "tune_item_knn",
    "value_calibration",
]
